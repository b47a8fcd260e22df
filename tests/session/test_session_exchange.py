"""Tasks over REST, by transcript: what the reply to a POST means, and what its loss means."""

from __future__ import annotations

import pytest
from session_conversation import (
    ask,
    done,
    errors,
    image,
    item,
    look,
    playbook,
    problem,
    processing,
    reply,
    submit,
    sync_task,
    task,
    text,
)

from runware_flow.session.commands import Deliver, Lane, Log, Refused, Send, SessionReady, SetTimer, Settle
from runware_flow.session.events import (
    ConnectRequested,
    ExchangeFailed,
    ExchangeFinished,
    SessionClosed,
    TaskSubmitted,
    TaskWithdrawn,
    TimerFired,
)
from runware_flow.testing.playbook import ANY
from runware_flow.wire.frames import decode_reply


def rest(**changes):
    return playbook(duplex=False, **changes)


def submitted(at, frame, status=200, ids=("t1",), retry_after=None):
    return ExchangeFinished(at, ids, Lane.SUBMIT, status, frame, retry_after)


def asked(at, frame, status=200, ids=("t1",), retry_after=None):
    return ExchangeFinished(at, ids, Lane.POLL, status, frame, retry_after)


def polled(submission=None, **changes):
    """A session whose async task was acknowledged and is polled at 0.1."""
    play = rest(**changes)
    play >> TaskSubmitted(0.0, submission or task()) << Send((ANY,))
    play >> submitted(0.05, reply(200, item())) << SetTimer(0.1)
    play >> TimerFired(0.1) << Send((ask(),))
    play.check()
    return play


def fire(play, events=1):
    """Let the timer fire as often as said, at its time."""
    for _ in range(events):
        play >> TimerFired(play.commands(SetTimer)[-1].at)


def reached(**changes):
    """A session that the service has answered before."""
    play = rest(**changes)
    play >> TaskSubmitted(-1.0, task("t0")) >> submitted(-0.9, reply(200, item("t0")), ids=("t0",))
    play >> TaskWithdrawn(-0.8, "t0")
    return play


def moment(play):
    """The time of the last timer that was set."""
    times = [timer.at for timer in play.commands(SetTimer) if timer.at is not None]
    return times[-1] if times else 0.1


@pytest.mark.parametrize("told", ["ping", "authentication", "textInference"])
def test_item_of_another_type_that_names_no_task_is_no_result(told):
    with rest() as play:
        play >> TaskSubmitted(0.0, sync_task()) << Send((ANY,))
        play >> submitted(0.1, decode_reply(200, b'{"data":[{"taskType":"%s","pong":true}]}' % told.encode()))
        play << SetTimer(ANY)  # to look it up


@pytest.mark.parametrize("told", ["imageInference", None])
def test_item_of_the_same_type_that_names_no_task_is_its_result(told):
    kind = b"" if told is None else b'"taskType":"%s",' % told.encode()
    with rest() as play:
        play >> TaskSubmitted(0.0, sync_task()) << Send((ANY,))
        play >> submitted(0.1, decode_reply(200, b'{"data":[{%s"imageUUID":"i1","imageURL":"u"}]}' % kind))
        play << Deliver("t1", 0, item=ANY) << Settle("t1")


def test_async_task_is_acknowledged_polled_and_settled():
    with polled() as play:
        play >> asked(0.2, reply(200, processing())) << ANY << SetTimer(ANY)
        fire(play)
        play << Send((ask(),))
        play >> asked(0.4, reply(200, done())) << Deliver("t1", 0, item=ANY) << Settle("t1", pending_at=0.2)


def test_sync_reply_is_the_whole_answer_whatever_it_holds():
    with rest() as play:
        play >> TaskSubmitted(0.0, sync_task(slots=3)) << Send((submit(sync_task(), joins=False),))
        play >> submitted(1.0, reply(200, image(uuid="a"), errors=[problem("providerError")]))
        play << Deliver("t1", 0, item=ANY) << Deliver("t1", 1, error=ANY) << Settle("t1", ANY)


def test_connecting_is_nothing_by_rest():
    with rest() as play:
        play >> ConnectRequested(0.0) << SessionReady()
        play >> SessionClosed(1.0)


def test_empty_acknowledgement_is_unconfirmed_not_failed():
    with rest() as play:
        play >> TaskSubmitted(0.0, task()) << Send((submit(task()),))
        play >> submitted(0.05, reply(200)) << SetTimer(0.1)
        play >> TimerFired(0.1) << Send((ask(),))
        play >> asked(0.2, reply(200)) << SetTimer(0.2)
        play >> TimerFired(0.2) << Send((look(),))
    for _ in range(3):
        play >> ExchangeFinished(1.0, ("t1",), Lane.LOOKUP, 404, reply(404, errors=[problem("taskNotFound", None)]))
        if play.machine.statistics().resends:
            break
        fire(play)
        play >> asked(2.0, reply(200))
        fire(play)
    assert play.commands(Send)[-1] == Send((submit(task()),))


def test_batch_reply_is_read_task_by_task():
    play = rest()
    for name in ("a", "b", "c"):
        play >> TaskSubmitted(0.0, task(name))
    both = reply(200, item("a"), errors=[problem("invalidModel", "b")])
    play >> submitted(0.1, both, ids=("a", "b", "c"))
    assert errors(play) == {"b": ("validation", "invalidModel")}
    assert play.machine.statistics().in_flight == 2


def test_refused_batch_is_sent_again_task_by_task():
    play = rest()
    for name in ("a", "b"):
        play >> TaskSubmitted(0.0, task(name))
    play >> submitted(0.1, reply(400, errors=[problem("invalidParameter", None)]), 400, ids=("a", "b"))
    assert play.commands(Send)[-1] == Send((submit(task("a"), joins=False), submit(task("b"), joins=False)))
    play >> submitted(0.2, reply(400, errors=[problem("invalidParameter", None)]), 400, ids=("a",))
    play >> submitted(0.2, reply(200, item("b")), ids=("b",))
    assert errors(play) == {"a": ("validation", "invalidParameter")}


def test_nameless_reply_to_a_single_task_belongs_to_it():
    play = rest()
    play >> TaskSubmitted(0.0, sync_task(task_type="imageUpload"))
    play >> submitted(0.1, decode_reply(200, b'{"data":{"imageUUID":"u","imageURL":"https://im/u.jpg"}}'))
    assert errors(play) == {"t1": None}
    assert len(play.commands(Deliver)) == 1


@pytest.mark.parametrize(
    ("body", "code"), [(b"", "auth"), (b"<html>", "auth"), (b'{"errors":[{"code":"invalidApiKey"}]}', "auth")]
)
def test_bad_key_is_an_auth_error_whatever_its_body(body, code):
    play = rest()
    play >> TaskSubmitted(0.0, sync_task()) >> submitted(0.1, decode_reply(401, body), 401)
    assert errors(play)["t1"][0] == code


def test_refusal_with_status_200_is_a_refusal():
    play = rest()
    play >> TaskSubmitted(0.0, task()) >> submitted(0.1, reply(200, errors=[problem("unsupportedDuration")]))
    assert errors(play) == {"t1": ("validation", "unsupportedDuration")}


def test_overload_is_sent_again_under_the_same_id_after_the_time_asked_for_whatever_the_retries():
    play = rest(max_retries=0)
    play >> TaskSubmitted(0.0, sync_task()) << Send((submit(sync_task(), joins=False),))
    play >> submitted(0.1, decode_reply(429, b""), 429, retry_after=7.0) << Refused("t1", ANY, 1) << SetTimer(7.1)
    play >> TimerFired(7.1) << Send((submit(sync_task(), joins=False),))
    play >> submitted(7.2, decode_reply(429, b""), 429, retry_after=7.0) << Refused("t1", ANY, 1) << SetTimer(14.2)
    play.check()
    error = play.commands(Refused)[0].error
    assert (error.code, error.status_code, error.retry_after) == ("rateLimit", 429, 7.0)


@pytest.mark.parametrize("status", [408, 500, 502, 504])
def test_failure_of_the_server_retries_async_and_looks_up_sync(status):
    play = rest()
    play >> TaskSubmitted(0.0, task("a")) >> submitted(0.1, decode_reply(status, b"oops"), status, ids=("a",))
    fire(play)
    assert play.commands(Send)[-1] == Send((submit(task("a")),))
    play = rest()
    play >> TaskSubmitted(0.0, sync_task("s")) >> submitted(0.1, decode_reply(status, b"oops"), status, ids=("s",))
    fire(play)
    assert play.commands(Send)[-1] == Send((ask("s"),))


def test_conflict_after_a_retry_means_accepted():
    play = rest()
    play >> TaskSubmitted(0.0, task()) >> ExchangeFailed(0.1, ("t1",), Lane.SUBMIT, "cut off", sent=True)
    fire(play)
    play >> submitted(2.0, reply(400, errors=[problem("conflictTaskUUID")]), 400)
    fire(play)
    play >> asked(2.5, reply(200, done()))
    assert errors(play) == {"t1": None}


def test_lost_reply_to_a_sync_task_is_looked_up_never_bought_twice():
    with rest() as play:
        play >> TaskSubmitted(0.0, sync_task()) << Send((submit(sync_task(), joins=False),))
        play >> ExchangeFailed(9.0, ("t1",), Lane.SUBMIT, "cut off", sent=True) << SetTimer(9.0)
        play >> TimerFired(9.0) << Send((ask(),))
        play >> asked(9.1, reply(200, done())) << Deliver("t1", 0, item=ANY) << Settle("t1")


def test_first_contact_refused_is_an_error_at_once():
    play = rest()
    play >> TaskSubmitted(0.0, task()) >> ExchangeFailed(0.1, ("t1",), Lane.SUBMIT, "no such host", sent=False)
    assert errors(play) == {"t1": ("connection", "connectionFailed")}
    assert "no such host" in play.commands(Settle)[0].error.message


def test_later_refusals_are_retried_and_then_an_error():
    play = rest(max_retries=2)
    play >> TaskSubmitted(0.0, sync_task("x")) >> submitted(0.1, reply(200, image("x")), ids=("x",))
    play >> TaskSubmitted(1.0, task())
    at = 1.0
    for _ in range(3):
        play >> ExchangeFailed(at, ("t1",), Lane.SUBMIT, "refused", sent=False)
        if play.machine.statistics().in_flight:
            fire(play)
            at = play.commands(SetTimer)[-1].at
    assert errors(play)["t1"] == ("connection", "connectionFailed")


@pytest.mark.parametrize("make", [task, sync_task])
def test_task_whose_first_request_left_is_not_said_to_be_unsent_by_a_later_failure_to_connect(make):
    play = rest(max_retries=1, max_reconnect_attempts=1)
    play >> TaskSubmitted(0.0, make()) >> ExchangeFailed(0.1, ("t1",), Lane.SUBMIT, "cut off", sent=True)
    while not play.commands(Settle):
        lane = play.commands(Send)[-1].entries[0].lane
        play >> ExchangeFailed(play.commands(SetTimer)[-1].at, ("t1",), lane, "refused", sent=False)
        if not play.commands(Settle):
            play >> TimerFired(play.commands(SetTimer)[-1].at)
    assert play.commands(Settle)[-1].error.raw_code == "connectionLost"


def test_poll_without_a_reply_is_repeated_as_long_as_the_caller_waits():
    play = polled(max_retries=1)
    for _ in range(10):
        play >> ExchangeFailed(play.commands(SetTimer)[-1].at, ("t1",), Lane.POLL, "refused", sent=False)
        fire(play)
    assert play.machine.statistics().in_flight == 1
    play >> asked(1000.0, reply(200, done()))
    assert errors(play) == {"t1": None}


def test_lookup_without_any_reply_ends_for_an_unconfirmed_task():
    play = reached(max_retries=2)
    play >> TaskSubmitted(0.0, sync_task()) >> ExchangeFailed(1.0, ("t1",), Lane.SUBMIT, "cut off", sent=True)
    for _ in range(11):
        assert errors(play) == {}
        fire(play)
        play >> ExchangeFailed(play.commands(SetTimer)[-1].at, ("t1",), Lane.POLL, "refused", sent=False)
    assert errors(play) == {"t1": ("connection", "connectionLost")}


@pytest.mark.parametrize("make", [task, sync_task])
def test_service_that_was_never_reached_is_given_up_soon(make):
    play = rest(max_retries=2)
    play >> TaskSubmitted(0.0, make())
    for _ in range(4):
        if not errors(play):
            lane = play.commands(Send)[-1].entries[0].lane
            play >> ExchangeFailed(moment(play), ("t1",), lane, "reset", sent=True)
            fire(play)
    assert errors(play) == {"t1": ("connection", "connectionLost")}


def test_async_task_whose_replies_are_all_lost_is_polled_when_no_retries_are_left():
    play = reached(max_retries=2)
    play >> TaskSubmitted(0.0, task())
    for _ in range(3):
        play >> ExchangeFailed(moment(play), ("t1",), Lane.SUBMIT, "cut off", sent=True)
        fire(play)
    assert [sent.entries[0].lane for sent in play.commands(Send)][1:] == [Lane.SUBMIT] * 3 + [Lane.POLL]
    play >> asked(9.0, reply(200, done()))
    assert errors(play) == {"t1": None}


def test_async_task_that_never_arrived_fails_when_no_retries_are_left():
    play = reached(max_retries=2)
    play >> TaskSubmitted(0.0, task())
    for _ in range(3):
        play >> ExchangeFailed(moment(play), ("t1",), Lane.SUBMIT, "refused", sent=False)
        fire(play)
    assert errors(play) == {"t1": ("connection", "connectionFailed")}


def test_refused_batch_of_polls_is_repeated_task_by_task():
    play = rest()
    for name in ("a", "b"):
        play >> TaskSubmitted(0.0, task(name))
    play >> submitted(0.05, reply(200, item("a"), item("b")), ids=("a", "b"))
    fire(play)
    assert play.commands(Send)[-1] == Send((ask("a"), ask("b")))
    play >> asked(0.2, reply(400, errors=[problem("invalidTask", None)]), 400, ids=("a", "b"))
    fire(play)
    assert play.commands(Send)[-1] == Send((ask("a", joins=False), ask("b", joins=False)))


def test_server_that_refuses_batches_of_polls_gets_single_ones():
    play = rest()
    for step in range(3):
        pair = (f"a{step}", f"b{step}")
        for name in pair:
            play >> TaskSubmitted(float(step), task(name))
        play >> submitted(step + 0.05, reply(200, *map(item, pair)), ids=pair) >> TimerFired(step + 0.2)
        play >> asked(step + 0.3, reply(400, errors=[problem("invalidTask", None)]), 400, ids=pair)
        play >> TaskWithdrawn(step + 0.4, pair[0]) >> TaskWithdrawn(step + 0.4, pair[1])
    play >> TaskSubmitted(9.0, task("z")) >> submitted(9.05, reply(200, item("z")), ids=("z",)) >> TimerFired(9.2)
    assert play.commands(Send)[-1] == Send((ask("z", joins=False),))


@pytest.mark.parametrize("status", [429, 503])
def test_pressure_on_a_poll_slows_all_polling(status):
    play = polled()
    play >> asked(0.2, decode_reply(status, b""), status, retry_after=5.0)
    assert play.machine.statistics().pressure == 2.0
    assert play.commands(SetTimer)[-1].at == pytest.approx(5.2)


def test_archive_is_not_asked_before_the_time_that_the_service_said():
    play = rest()
    for name in ("a", "b"):
        play >> TaskSubmitted(0.0, task(name))
        play >> submitted(0.05, reply(200, item(name)), ids=(name,))
    play >> TimerFired(0.1)
    play >> asked(0.2, decode_reply(503, b""), 503, ids=("a",), retry_after=5.0)
    unknown = {"taskType": "getResponse", "taskUUID": "b", "status": "processing"}
    play >> asked(0.3, reply(200, unknown), ids=("b",))
    for at in (0.3, 5.1):
        play >> TimerFired(at)
        assert Lane.LOOKUP not in [entry.lane for sent in play.commands(Send) for entry in sent.entries]
    play >> TimerFired(5.2)
    assert look("b") in play.commands(Send)[-1].entries


def test_key_revoked_while_polling_is_an_auth_error():
    play = polled()
    play >> asked(0.2, reply(401, errors=[problem("tokenRevoked", None)]), 401)
    assert errors(play) == {"t1": ("auth", "tokenRevoked")}


def test_reply_with_a_task_of_another_request_is_dropped():
    play = polled()
    play >> asked(0.2, reply(200, done("other"), processing()))
    assert play.machine.statistics().in_flight == 1
    assert play.commands(Deliver) == []


def test_outcome_of_an_older_post_for_the_same_id_is_ignored():
    play = polled()
    play >> submitted(0.15, reply(200, image()))
    assert play.commands(Deliver) == []


@pytest.mark.parametrize("sent_before", ["no", "maybe", "yes"])
@pytest.mark.parametrize("is_answered", [True, False])
def test_search_is_never_polled_for(is_answered, sent_before):
    machine = rest(max_retries=2).machine
    said = machine.handle(TaskSubmitted(0.0, sync_task(task_type="modelSearch", sent_before=sent_before)))
    for at in range(1, 4):
        assert [entry.lane for entry in said[0].entries] == [Lane.SUBMIT]
        if is_answered:
            machine.handle(submitted(10.0 * at, reply(500), status=500))
        else:
            machine.handle(ExchangeFailed(10.0 * at, ("t1",), Lane.SUBMIT, "cut", sent=True))
        said = machine.handle(TimerFired(10.0 * at + 9.0))
    assert said == []
    assert machine.statistics().in_flight == 0


def test_search_without_a_result_settles():
    play = rest()
    play >> TaskSubmitted(0.0, sync_task(task_type="modelSearch")) >> submitted(0.1, reply(200))
    assert errors(play) == {"t1": None}


def test_sync_reply_that_holds_only_an_acknowledgement_is_polled():
    play = rest()
    play >> TaskSubmitted(0.0, sync_task()) >> submitted(0.05, reply(200, item()))
    fire(play)
    assert play.commands(Send)[-1] == Send((ask(),))


def test_sync_reply_that_says_processing_is_polled():
    play = rest()
    play >> TaskSubmitted(0.0, sync_task()) >> submitted(0.05, reply(200, processing()))
    fire(play)
    assert play.commands(Send)[-1] == Send((ask(),))


def test_sync_texts_without_ids_are_all_delivered():
    play = rest()
    play >> TaskSubmitted(0.0, sync_task(task_type="promptEnhance", slots=3))
    play >> submitted(0.1, reply(200, text("same"), text("same"), text("other")))
    assert [deliver.position for deliver in play.commands(Deliver)] == [0, 1, 2]
    assert errors(play) == {"t1": None}


def test_log_says_nothing_of_prompts_or_results():
    from session_conversation import options

    from runware_flow.session.machine import SessionMachine

    machine = SessionMachine(options(duplex=False))
    lines = machine.handle(TaskSubmitted(0.0, task()))
    lines += machine.handle(submitted(0.1, decode_reply(500, b"oops"), 500))
    assert [line.category for line in lines if isinstance(line, Log)] == ["retry"]


def test_reply_that_is_too_large_is_had_task_by_task_and_ends_the_one_that_it_is():
    play = rest()
    play >> TaskSubmitted(0.0, task()) >> TaskSubmitted(0.0, task("t2"))
    play >> submitted(0.05, reply(200, item(), item("t2")), ids=("t1", "t2")) >> TimerFired(0.1)
    play >> ExchangeFailed(0.2, ("t1", "t2"), Lane.POLL, "too large", sent=True, is_reply_too_large=True)
    assert errors(play) == {}
    fire(play)
    assert play.commands(Send)[-1] == Send((ask(joins=False), ask("t2", joins=False)))
    play >> ExchangeFailed(0.4, ("t1",), Lane.POLL, "too large", sent=True, is_reply_too_large=True)
    play >> asked(0.5, reply(200, done("t2")), ids=("t2",))
    assert errors(play) == {"t1": ("connection", "replyTooLarge"), "t2": None}
