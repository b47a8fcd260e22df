"""Tasks over a WebSocket, by transcript: acknowledged, polled, pushed, sent again, settled."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_conversation import (
    SESSION,
    ask,
    auth,
    done,
    errors,
    image,
    item,
    look,
    opened,
    options,
    problem,
    processing,
    received,
    submit,
    sync_task,
    task,
    text,
    welcome,
)

from runware_flow.errors import ClientStateError, RunwareError
from runware_flow.session.commands import (
    CloseConnection,
    Deliver,
    Lane,
    OpenConnection,
    Progress,
    Send,
    SessionReady,
    SetTimer,
    Settle,
)
from runware_flow.session.delivery import ResultSlots
from runware_flow.session.events import ConnectionLost, ConnectionOpened, TaskSubmitted, TaskWithdrawn, TimerFired
from runware_flow.session.inflight import TRANSITIONS, Entry, TaskState
from runware_flow.session.polling import Durations
from runware_flow.session.reading import read_parts
from runware_flow.session.window import Window
from runware_flow.testing.playbook import ANY
from runware_flow.types import TaskId
from runware_flow.wire.items import PENDING


def polled(submission=None, **changes):
    """A session with one async task that was acknowledged and is polled at 1.1; the transcript so far accepted."""
    play = opened(**changes)
    submission = submission or task()
    play >> TaskSubmitted(1.0, submission) << Send((submit(submission),))
    if changes.get("ack_timeout"):
        play << SetTimer(1.0 + changes["ack_timeout"])
    play >> received(1.01, item()) << SetTimer(1.1)
    play >> TimerFired(1.1) << Send((ask(),)) << SetTimer(3.1)
    play.check()
    return play


def test_async_task_is_acknowledged_polled_and_settled_by_websocket():
    with polled() as play:
        play >> received(1.15, processing(progress=20)) << Progress("t1", 20.0, "processing") << SetTimer(ANY)
        play >> TimerFired(1.25) << Send((ask(),)) << SetTimer(3.25)
        play >> received(1.3, processing(progress=20)) << SetTimer(1.35)
        play >> TimerFired(1.4) << Send((ask(),)) << SetTimer(3.4)
        play >> received(1.5, done()) << Deliver("t1", 0, item=ANY) << Settle("t1", pending_at=1.3) << SetTimer(30.2)
    assert play.machine.statistics().in_flight == 0
    assert play.machine.statistics().polls == 3


def test_each_poll_of_a_frame_has_its_own_reply_though_they_are_awaited_together():
    play = opened()
    for number in range(3):
        play >> TaskSubmitted(1.0 + number / 1000, task(f"t{number}")) >> received(1.05, item(f"t{number}"))
    play >> TimerFired(1.102) >> received(1.2, done("t0"))
    play >> received(1.3, processing("t2"))
    assert (play.commands(SetTimer)[-1].at or 9.0) < 2.0, "t2 is polled again before the reply for t1 is overdue"
    play >> TimerFired(1.4) >> received(1.5, done("t2"))
    assert play.commands(SetTimer)[-1].at == pytest.approx(3.102), "only t1 has no reply"
    play >> TimerFired(3.103)
    assert play.commands(Send)[-1] == Send((ask("t1"),))
    assert [command.task_id for command in play.commands(Settle)] == ["t0", "t2"]


@given(st.lists(st.tuples(st.sampled_from(sorted(PENDING)), st.none() | st.integers(0, 100)), min_size=1, max_size=4))
def test_reply_that_a_task_still_runs_is_read_in_few_steps_as_it_is_part_by_part(
    replies: list[tuple[str, int | None]],
) -> None:
    short, parted = opened(), opened()
    for play in (short, parted):
        play >> TaskSubmitted(1.0, task()) >> received(1.01, item())
    at = 1.1
    for status, progress in replies:
        for play in (short, parted):
            play >> TimerFired(at)
        reply = item(status=status) if progress is None else item(status=status, progress=progress)
        event = received(at + 0.05, reply)
        short >> event
        tracker = parted.machine._tracker
        read_parts(tracker, tracker.entries[TaskId("t1")], event.frame.items, event.at)
        parted >> received(event.at, {"taskType": "ping", "pong": True})  # so that the commands are given
        (ours,), (theirs,) = short.machine._tracker.entries.values(), tracker.entries.values()
        for field in fields(Entry):
            if field.name not in ("submission", "result_slots", "window", "durations"):
                assert getattr(ours, field.name) == getattr(theirs, field.name), field.name
        assert short.commands(Progress) == parted.commands(Progress)
        assert short.commands(SetTimer)[-1] == parted.commands(SetTimer)[-1]
        at = short.commands(SetTimer)[-1].at or at


def test_sync_task_is_settled_by_what_is_pushed():
    with opened() as play:
        play >> TaskSubmitted(1.0, sync_task(slots=2)) << Send((submit(sync_task()),))
        play >> received(2.0, image(uuid="i1")) << Deliver("t1", 0, item=ANY)
        play >> received(2.1, image(uuid="i1"))
        play >> received(3.0, image(uuid="i2")) << Deliver("t1", 1, item=ANY) << Settle("t1")


def test_results_with_an_index_are_delivered_with_their_place():
    with opened() as play:
        play >> TaskSubmitted(1.0, sync_task(slots=2)) << Send((submit(sync_task()),))
        play >> received(2.0, image(resultIndex=1)) << Deliver("t1", 1, item=ANY)
        play >> received(3.0, image(resultIndex=0)) << Deliver("t1", 0, item=ANY) << Settle("t1")


def test_all_due_polls_leave_in_one_send():
    play = opened()
    for number in range(3):
        play >> TaskSubmitted(1.0 + number / 1000, task(f"t{number}")) >> received(1.05, item(f"t{number}"))
    play >> TimerFired(1.102)
    assert play.commands(Send)[-1] == Send((ask("t0"), ask("t1"), ask("t2")))


def test_poll_reply_is_cumulative_and_places_results():
    with polled(task(slots=3)) as play:
        play >> received(1.2, processing(), done(uuid="b"), processing())
        play << Progress("t1", None, "processing") << Deliver("t1", 1, item=ANY) << SetTimer(ANY)
        play >> TimerFired(1.3) << Send((ask(),)) << SetTimer(3.3)
        play >> received(1.4, done(uuid="a"), done(uuid="b"), done(uuid="c"))
        play << Deliver("t1", 0, item=ANY) << Deliver("t1", 2, item=ANY) << Settle("t1", pending_at=1.2)
        play << SetTimer(30.2)


def test_results_without_ids_are_counted_not_merged():
    prompt = task(task_type="promptEnhance", slots=3)
    play = polled(prompt)
    play >> received(1.2, text("same", status="success"), text("other", status="success"), processing())
    play >> TimerFired(1.35)
    play >> received(
        1.4, text("same", status="success"), text("other", status="success"), text("same", status="success")
    )
    words = [b'"same"' in deliver.item.raw for deliver in play.commands(Deliver)]
    assert words == [True, False, True]
    assert errors(play) == {"t1": None}


def test_one_failed_result_fills_one_slot_and_its_error_ends_the_task():
    play = polled(task(slots=2))
    play >> received(1.2, done(uuid="a"), errors=[problem("timeoutProvider", status="error")])
    assert [deliver.error and deliver.error.raw_code for deliver in play.commands(Deliver)] == [None, "timeoutProvider"]
    assert errors(play) == {"t1": ("timeout", "timeoutProvider")}


def test_failure_inside_an_item_fills_its_slot():
    play = polled(task(slots=2))
    play >> received(1.2, item(status="error", error=problem("providerError", None)), done(uuid="b"))
    assert [deliver.position for deliver in play.commands(Deliver)] == [0, 1]
    assert errors(play) == {"t1": ("provider", "providerError")}


def test_one_error_for_several_failures_ends_the_task_when_nothing_is_pending():
    play = polled(task(slots=3))
    at = 1.1
    while play.machine.statistics().in_flight and at < 60:
        play >> received(at, errors=[problem("timeoutProvider", status="error")])
        at += 0.5
        play >> TimerFired(at)
    assert at < 5
    assert len(play.commands(Deliver)) == 1
    assert errors(play) == {"t1": ("timeout", "timeoutProvider")}


def test_fewer_results_than_requested_settle_after_a_while_without_an_error():
    play = polled(task(slots=3))
    at = 1.1
    while play.machine.statistics().in_flight and at < 100:
        play >> received(at, done(uuid="a"))
        at += 1.0
        play >> TimerFired(at)
    assert 15 < at < 40
    assert errors(play) == {"t1": None}


def test_refused_submit_fails_the_whole_task_at_once():
    play = opened()
    play >> TaskSubmitted(1.0, task(slots=4)) >> received(1.1, errors=[problem("invalidWidth", parameter="width")])
    assert errors(play) == {"t1": ("validation", "invalidWidth")}
    assert play.commands(Settle)[0].error.parameter == "width"


def test_refused_sync_task_of_several_results_fails_at_once():
    play = opened()
    play >> TaskSubmitted(1.0, sync_task(slots=4)) >> received(1.1, errors=[problem("insufficientCredits")])
    assert errors(play) == {"t1": ("quota", "insufficientCredits")}


def test_sync_task_with_one_failed_result_waits_for_the_others_and_polls():
    with opened() as play:
        play >> TaskSubmitted(1.0, sync_task(slots=2)) << Send((submit(sync_task()),))
        play >> received(2.0, errors=[problem("providerError")]) << Deliver("t1", 0, error=ANY) << SetTimer(4.0)
        play >> TimerFired(4.0) << Send((ask(),)) << SetTimer(6.0)
        play >> received(4.1, done(), errors=[problem("providerError", status="error")])
        play << Deliver("t1", 0, item=ANY) << Settle("t1", ANY) << SetTimer(30.2)
    assert errors(play) == {"t1": ("provider", "providerError")}


def test_error_without_a_known_task_fails_no_task():
    with polled() as play:
        play >> received(1.2, errors=[problem("providerError", None), problem("providerError", "somebody")])
    assert play.machine.statistics().dropped == 1


def test_withdrawn_task_gets_nothing_more():
    with polled() as play:
        play >> TaskWithdrawn(1.2, "t1") << SetTimer(30.2)
        play >> received(1.3, done())
        play >> TaskWithdrawn(1.4, "t1")


def test_withdrawn_task_may_be_submitted_again():
    play = polled()
    play >> TaskWithdrawn(1.2, "t1") >> TaskSubmitted(1.3, task(sent_before="maybe"))
    play >> received(1.4, errors=[problem("conflictTaskUUID")]) >> TimerFired(1.5) >> received(1.6, done())
    assert errors(play) == {"t1": None}


def test_same_id_twice_is_refused_and_changes_nothing():
    play = polled()
    with pytest.raises(RunwareError, match="in flight already") as caught:
        play.machine.handle(TaskSubmitted(1.2, task()))
    assert caught.value.raw_code == "conflictTaskUUID"
    assert play.machine.statistics().in_flight == 1


def unacknowledged():
    """A session whose async task was sent twice without an acknowledgement, and is looked up at 11."""
    play = opened(ack_timeout=5.0)
    play >> TaskSubmitted(1.0, task()) << Send((submit(task()),)) << SetTimer(6.0)
    play >> TimerFired(6.0) << Send((submit(task(), joins=False),)) << SetTimer(11.0)
    play >> TimerFired(11.0) << Send((ask(joins=False),)) << SetTimer(13.0)
    play.check()
    return play


def test_lost_acknowledgements_are_made_up_for_by_a_poll():
    with unacknowledged() as play:
        play >> received(11.1, done()) << Deliver("t1", 0, item=ANY) << Settle("t1") << SetTimer(30.2)


def test_task_that_is_neither_acknowledged_nor_known_fails():
    play = unacknowledged()
    at = 11.0
    while play.machine.statistics().in_flight and at < 60:
        play >> received(at, errors=[problem("taskNotFound")]) >> TimerFired(at + 0.4)
        at += 0.5
    assert at < 20
    assert errors(play) == {"t1": ("timeout", "timeout")}


def test_task_that_the_service_never_mentions_fails():
    play = unacknowledged()
    while play.machine.statistics().in_flight:
        play >> received(play.commands(SetTimer)[-1].at, {"taskType": "ping", "pong": True})
        play >> TimerFired(play.commands(SetTimer)[-1].at)
    assert errors(play) == {"t1": ("timeout", "timeout")}
    [settled] = play.commands(Settle)
    assert isinstance(settled.error, TimeoutError), "our patience ended; the service has judged nothing"


def test_search_without_an_answer_is_sent_once_more_then_fails():
    search = sync_task(task_type="modelSearch")
    play = opened(ack_timeout=5.0)
    play >> TaskSubmitted(1.0, search) >> TimerFired(6.0) >> TimerFired(11.0)
    assert errors(play) == {"t1": ("timeout", "timeout")}
    assert play.machine.statistics().resends == 1


def test_conflict_on_a_resend_is_an_acknowledgement():
    with opened(ack_timeout=5.0) as play:
        play >> TaskSubmitted(1.0, task()) << Send((submit(task()),)) << SetTimer(6.0)
        play >> TimerFired(6.0) << Send((submit(task(), joins=False),)) << SetTimer(11.0)
        play >> received(6.1, errors=[problem("conflictTaskUUID")]) << SetTimer(6.1)
        play >> TimerFired(6.1) << Send((ask(joins=False),)) << SetTimer(8.1)


def test_conflict_on_a_first_send_is_an_error():
    play = opened()
    play >> TaskSubmitted(1.0, task()) >> received(1.1, errors=[problem("conflictTaskUUID")])
    assert errors(play) == {"t1": ("validation", "conflictTaskUUID")}


def test_acknowledgement_window_counts_connected_time_only():
    with opened(ack_timeout=5.0) as play:
        play >> TaskSubmitted(1.0, task()) << Send((submit(task()),)) << SetTimer(6.0)
        play >> ConnectionLost(2.0, jitter=0.0) << SetTimer(2.0)
        play >> TimerFired(2.0) << OpenConnection() << SetTimer(17.0)
        play >> ConnectionOpened(16.0) << Send((auth(SESSION),))
        play >> welcome(16.5) << SessionReady() << Send((submit(task()),)) << SetTimer(21.5)


def test_lost_connection_async_and_reading_tasks_are_sent_again_and_others_looked_up():
    search = sync_task("s1", task_type="modelSearch")
    with opened() as play:
        play >> TaskSubmitted(1.0, task("a1")) << Send((submit(task("a1")),))
        play >> TaskSubmitted(1.0, search) << Send((submit(search),))
        play >> TaskSubmitted(1.0, sync_task("y1")) << Send((submit(sync_task("y1")),))
        play >> TaskSubmitted(1.0, task("p1")) << Send((submit(task("p1")),))
        play >> received(1.05, item("p1")) << SetTimer(1.1)
        play >> ConnectionLost(1.09, jitter=0.0) << SetTimer(1.09)
        play >> TimerFired(1.09) << OpenConnection() << SetTimer(16.09)
        play >> ConnectionOpened(1.1) << Send((auth(SESSION),))
        play >> welcome(1.2) << SessionReady() << Send((submit(task("a1")), submit(search))) << SetTimer(1.1)
        play >> TimerFired(1.2) << Send((ask("p1"),)) << SetTimer(1.45)
        play >> TimerFired(1.45) << Send((ask("y1"),)) << SetTimer(3.2)


def lost_sync_task(**changes):
    """A session resumed at 2.2 after a loss, whose sync task is looked up at 2.45."""
    play = opened(**changes)
    play >> TaskSubmitted(1.0, sync_task()) << Send((submit(sync_task()),))
    play >> ConnectionLost(2.0, jitter=0.0) << SetTimer(2.0)
    play >> TimerFired(2.0) << OpenConnection() << SetTimer(17.0)
    play >> ConnectionOpened(2.1) << Send((auth(SESSION),))
    play >> welcome(2.2) << SessionReady() << SetTimer(2.45)
    play >> TimerFired(2.45) << Send((ask(),)) << SetTimer(4.45)
    play.check()
    return play


def test_lost_sync_answer_is_replayed():
    with lost_sync_task() as play:
        play >> received(2.5, image()) << Deliver("t1", 0, item=ANY) << Settle("t1") << SetTimer(32.2)


def test_lost_sync_answer_is_found_by_polling():
    with lost_sync_task() as play:
        play >> received(2.5, done()) << Deliver("t1", 0, item=ANY) << Settle("t1") << SetTimer(32.2)


def test_lost_sync_answer_is_found_in_the_archive():
    unknown = {"taskType": "getResponse", "taskUUID": "t1", "status": "processing"}
    details = {
        "taskType": "getTaskDetails",
        "taskUUID": "t1",
        "request": [item()],
        "response": {"data": [image()]},
    }
    with lost_sync_task() as play:
        play >> received(2.5, unknown) << SetTimer(2.5)
        play >> TimerFired(2.5) << Send((look(),)) << SetTimer(4.5)
        play >> received(2.6, details) << Deliver("t1", 0, item=ANY) << Settle("t1") << SetTimer(32.2)


def test_archive_without_a_response_shows_that_the_task_runs():
    unknown = {"taskType": "getResponse", "taskUUID": "t1", "status": "processing"}
    details = {"taskType": "getTaskDetails", "taskUUID": "t1", "request": [item()], "response": {"data": []}}
    play = lost_sync_task()
    for step in range(20):
        at = 2.5 + step * 11
        play >> received(at, unknown) >> received(at + 0.1, details) >> TimerFired(at + 11)
    sent = [entry for send in play.commands(Send) for entry in send.entries if entry.lane is Lane.SUBMIT]
    assert len(sent) == 1
    assert play.machine.statistics().in_flight == 1


@pytest.mark.parametrize("shape", ["item", "error", "empty"])
def test_lost_sync_task_that_the_service_never_met_is_sent_again_under_its_id(shape):
    play = lost_sync_task()
    at = 2.5
    while play.machine.statistics().resends == 0 and at < 60:
        match shape:
            case "item":
                play >> received(at, {"taskType": "getResponse", "taskUUID": "t1", "status": "processing"})
                play >> received(at, {"taskType": "getTaskDetails", "taskUUID": "t1", "request": [], "response": None})
            case "error":
                play >> received(at, errors=[problem("taskNotFound")])
            case "empty":
                play >> received(at)
        at += 0.5
        play >> TimerFired(at)
    assert at < 40
    sent = [entry for send in play.commands(Send) for entry in send.entries if entry.lane is Lane.SUBMIT]
    assert [entry.task_id for entry in sent] == ["t1", "t1"]
    lookups = [entry for send in play.commands(Send) for entry in send.entries if entry.lane is Lane.LOOKUP]
    assert len(lookups) >= 3
    assert at - 2.5 >= 5.0
    play >> received(at, image())
    assert errors(play) == {"t1": None}


def breaks_and_resumes(play, at):
    """The connection is lost at `at`; returns when the session stands again."""
    play >> ConnectionLost(at, jitter=0.0)
    at = play.commands(SetTimer)[-1].at
    play >> TimerFired(at) >> ConnectionOpened(at + 0.01) >> welcome(at + 0.02)
    return at + 0.02


NOT_HERE = {"taskType": "getResponse", "taskUUID": "t1", "status": "processing"}
NOT_IN_ARCHIVE = {"taskType": "getTaskDetails", "taskUUID": "t1", "request": []}


def test_lookup_that_is_interrupted_again_and_again_goes_on_where_it_stood():
    # Each connection brings one answer and breaks before the next: a lookup that began anew would never end.
    play = lost_sync_task()
    at = 2.5
    lanes = []
    while at < 60:
        lanes.append(play.commands(Send)[-1].entries[-1].lane)
        play >> received(at, NOT_HERE if lanes[-1] is Lane.POLL else NOT_IN_ARCHIVE)
        if play.machine.statistics().resends:
            break
        at = breaks_and_resumes(play, at + 0.01) + 2.1
        play >> TimerFired(at)
    assert lanes[:6] == [Lane.POLL, Lane.LOOKUP] * 3
    play >> received(at, image())
    assert errors(play) == {"t1": None}


def test_answer_to_a_lookup_counts_when_it_is_replayed():
    play = lost_sync_task()
    at = breaks_and_resumes(play, 2.46)
    play >> received(at, NOT_HERE) >> TimerFired(at)
    assert play.commands(Send)[-1] == Send((look(),))
    at = breaks_and_resumes(play, at)
    play >> received(at, NOT_IN_ARCHIVE)
    polls = play.machine.statistics().polls
    play >> TimerFired(at + 0.24)
    assert play.machine.statistics().polls == polls, "a round is over, the next begins after its wait"
    play >> TimerFired(at + 0.25)
    assert play.commands(Send)[-1] == Send((ask(),))


def test_copy_of_an_answer_does_not_answer_the_other_question():
    with lost_sync_task() as play:
        play >> received(2.5, NOT_HERE) << SetTimer(2.5)
        play >> TimerFired(2.5) << Send((look(),)) << SetTimer(4.5)
        play >> received(2.51, NOT_HERE)
        play >> received(2.6, errors=[problem("taskNotFound", taskType="getTaskDetails")]) << SetTimer(2.85)


def test_send_that_was_lost_with_its_connection_uses_up_no_retry():
    play = lost_sync_task(max_retries=0)
    at = 2.5
    while play.machine.statistics().resends == 0 and at < 60:
        play >> received(at, errors=[problem("taskNotFound")])
        at += 0.5
        play >> TimerFired(at)
    play >> received(at, image())
    assert errors(play) == {"t1": None}


def test_late_copy_of_an_unknown_answer_does_not_fail_the_task_that_was_sent_again():
    play = lost_sync_task()
    at = 2.5
    while play.machine.statistics().resends == 0:
        play >> received(at, errors=[problem("taskNotFound")])
        at += 0.5
        play >> TimerFired(at)
    play >> received(at, errors=[problem("taskNotFound")]) >> received(at, image())
    assert errors(play) == {"t1": None}


def test_accepted_task_that_the_service_forgets_ends_with_a_clear_error():
    play = polled()
    at = 1.2
    while play.machine.statistics().in_flight and at < 300:
        play >> received(at, errors=[problem("taskNotFound")]) >> TimerFired(at + 0.4)
        at += 0.5
    assert 150 < at < 180
    assert errors(play) == {"t1": ("notFound", "taskNotFound")}
    assert "had accepted it" in play.commands(Settle)[0].error.message
    assert play.machine.statistics().resends == 0


def test_poll_whose_reply_was_lost_is_repeated_alone_after_a_while():
    with polled() as play:
        play >> TimerFired(3.1) << Send((ask(),)) << SetTimer(6.1)
        play >> TimerFired(6.1) << Send((ask(joins=False),)) << SetTimer(10.6)
        play >> received(7.2, done()) << Deliver("t1", 0, item=ANY) << Settle("t1") << SetTimer(30.2)


def test_task_of_an_earlier_process_is_only_looked_up():
    old = task(sent_before="yes", slots=1)
    with opened() as play:
        play >> TaskSubmitted(1.0, old) << SetTimer(1.0)
        play >> TimerFired(1.0) << Send((ask(),)) << SetTimer(3.0)
        play >> received(1.1, done()) << Deliver("t1", 0, item=ANY) << Settle("t1") << SetTimer(30.2)
    assert play.machine.statistics().submits == 0


def test_task_of_an_earlier_process_that_is_unknown_is_not_bought():
    play = opened()
    play >> TaskSubmitted(1.0, task(sent_before="yes"))
    at = 1.0
    while play.machine.statistics().in_flight and at < 60:
        play >> TimerFired(at) >> received(at, errors=[problem("taskNotFound")])
        play >> received(at, errors=[problem("taskNotFound")])
        at += 0.5
    assert errors(play) == {"t1": ("notFound", "taskNotFound")}
    assert play.machine.statistics().submits == 0


def test_stream_that_broke_off_is_polled_for_while_the_service_may_still_write_it():
    """Whether `getResponse` knows it before it is done is not documented, and its fallback is another purchase."""
    play = opened()
    play >> TaskSubmitted(1.0, sync_task(sent_before="yes"))
    at = 1.0
    while play.machine.statistics().in_flight and at < 60:
        play >> TimerFired(at) >> received(at, errors=[problem("taskNotFound")])
        play >> received(at, errors=[problem("taskNotFound")])
        at += 0.5
    assert errors(play) == {"t1": ("notFound", "taskNotFound")}
    assert 5.0 <= at - 1.0 < 8.0
    assert play.machine.statistics().submits == 0


@pytest.mark.parametrize("max_retries", [0, 3])
def test_sync_task_of_an_earlier_process_is_looked_up_before_it_is_sent(max_retries):
    play = opened(max_retries=max_retries)
    play >> TaskSubmitted(1.0, sync_task(sent_before="maybe"))
    at = 1.0
    while play.machine.statistics().submits == 0 and at < 60:
        play >> TimerFired(at) >> received(at, errors=[problem("taskNotFound")])
        play >> received(at, errors=[problem("taskNotFound")])
        at += 0.5
    assert play.machine.statistics().polls == 6
    assert play.machine.statistics().submits == 1


def test_overdue_sync_task_is_looked_up_and_its_push_still_counts():
    with opened(sync_timeout=20.0) as play:
        play >> TaskSubmitted(1.0, sync_task()) << Send((submit(sync_task()),)) << SetTimer(21.0)
        play >> TimerFired(21.0) << Send((ask(),)) << SetTimer(23.0)
        play >> received(21.5, processing()) << Progress("t1", None, "processing")
        play >> received(22.0, image()) << Deliver("t1", 0, item=ANY) << Settle("t1", pending_at=21.5)
        play << SetTimer(30.2)


def test_sync_timeout_of_the_service_is_looked_up_and_its_error_kept_for_the_worst():
    play = opened()
    play >> TaskSubmitted(1.0, sync_task()) >> received(2.0, errors=[problem("timeout")])
    assert errors(play) == {}
    at = 2.0
    while play.machine.statistics().in_flight and at < 60:
        play >> TimerFired(at) >> received(at, errors=[problem("taskNotFound")])
        play >> received(at, errors=[problem("taskNotFound")])
        at += 0.5
    assert errors(play) == {"t1": ("timeout", "timeout")}
    assert play.machine.statistics().resends == 0


def test_provider_timeout_of_a_sync_task_is_its_failure():
    play = opened()
    play >> TaskSubmitted(1.0, sync_task()) >> received(2.0, errors=[problem("providerTimeout")])
    assert errors(play) == {"t1": ("timeout", "providerTimeout")}


def test_full_queue_is_tried_again_with_backoff_and_slows_no_polling():
    play = opened(max_retries=0)
    play >> TaskSubmitted(1.0, task()) >> received(1.1, errors=[problem("rateLimitExceeded")])
    assert play.machine.statistics().pressure == 1
    at = play.commands(SetTimer)[-1].at
    assert 2.1 <= at <= 2.5
    play >> TimerFired(at)
    assert play.commands(Send)[-1] == Send((submit(task()),))
    play >> received(at + 0.1, errors=[problem("rateLimitExceeded")])
    assert errors(play) == {}
    again = play.commands(SetTimer)[-1].at
    assert at + 2.1 <= again <= at + 2.8


def test_full_queue_on_a_poll_only_slows_down():
    play = polled()
    play >> received(1.2, errors=[problem("rateLimitExceeded")])
    assert play.machine.statistics().pressure > 1
    play >> TimerFired(play.commands(SetTimer)[-1].at)
    assert play.commands(Send)[-1] == Send((ask(),))


def test_sync_task_that_is_acknowledged_instead_of_answered_is_polled():
    with opened() as play:
        play >> TaskSubmitted(1.0, sync_task()) << Send((submit(sync_task()),))
        play >> received(1.05, item()) << SetTimer(1.1)
        play >> TimerFired(1.1) << Send((ask(),)) << SetTimer(3.1)


def test_model_upload_steps_are_progress_until_it_is_ready():
    upload = sync_task(task_type="modelUpload")

    def step(status, **members):
        return {"taskType": "modelUpload", "taskUUID": "t1", "status": status, **members}

    with opened() as play:
        play >> TaskSubmitted(1.0, upload) << Send((submit(upload),))
        play >> received(2.0, step("validated")) << Progress("t1", None, "validated")
        play >> received(3.0, step("downloaded")) << Progress("t1", None, "downloaded")
        play >> received(4.0, step("ready", air="a:1@1")) << Deliver("t1", 0, item=ANY)
        play << Settle("t1", pending_at=3.0)


def test_reading_task_takes_whatever_comes_as_its_answer():
    state = sync_task(task_type="getResponse")
    with opened() as play:
        play >> TaskSubmitted(1.0, state) << Send((submit(state),))
        play >> received(1.1, processing()) << Deliver("t1", 0, item=ANY) << Settle("t1")


def test_frames_that_come_while_closing_still_count():
    with polled() as play:
        play >> received(1.2, errors=[problem("unauthorized", None)]) << CloseConnection(ANY) << SetTimer(None)
        play >> received(1.3, done()) << Deliver("t1", 0, item=ANY) << Settle("t1")


def test_task_moves_are_those_of_the_table():
    window, durations = Window("runware:400@1", options()), Durations(1)
    entry = Entry(task().task_id, task(), ResultSlots(1), window, durations, is_read_only=False, resends_freely=True)
    with pytest.raises(ClientStateError, match="WAITING cannot take 'not acknowledged in time'"):
        entry.move("not acknowledged in time")
    assert {state for state, _ in TRANSITIONS} == set(TaskState)
    assert set(TRANSITIONS.values()) == set(TaskState)


def test_silence_to_a_poll_leads_to_the_archive_in_turns():
    """A service that answers a poll of a sync task that it has closed with nothing."""
    play = opened()
    play >> TaskSubmitted(1.0, sync_task()) >> ConnectionLost(1.5, jitter=0.0)
    play >> TimerFired(play.commands(SetTimer)[-1].at) >> ConnectionOpened(2.0) >> welcome(2.1)
    asked = []
    for _ in range(5):
        play >> TimerFired(play.commands(SetTimer)[-1].at)
        sent = play.commands(Send)[-1]
        asked.append(sent.entries[0].lane)
    assert asked == [Lane.POLL, Lane.LOOKUP, Lane.POLL, Lane.LOOKUP, Lane.POLL]
    request = [{"taskType": "imageInference", "taskUUID": "t1"}]
    found = {"taskType": "getTaskDetails", "taskUUID": "t1", "request": request, "response": {"data": [image()]}}
    play >> received(60.0, found)
    assert [type(command) for command in play.commands(Deliver)] == [Deliver]
    assert play.commands(Settle)[-1].error is None


@pytest.mark.parametrize("kind", [task, sync_task])
def test_frame_that_is_too_large_for_the_peer_ends_its_task_and_no_other(kind):
    play = opened()
    play >> TaskSubmitted(1.0, kind()) >> TaskSubmitted(1.0, kind("t2"))
    play >> ConnectionLost(1.1, "a frame was too large for it (code 1009).", 0.0, ("t1",))
    assert errors(play) == {"t1": ("validation", "valueTooLarge")}
    message = play.commands(Settle)[-1].error.message
    assert "are too many for one frame (a frame was too large for it (code 1009));" in message
    play >> TimerFired(play.commands(SetTimer)[-1].at) >> ConnectionOpened(2.0) >> welcome(2.1)
    play >> TimerFired(3.0) >> received(3.1, done("t2"))
    assert [settled.task_id for settled in play.commands(Settle)] == ["t1", "t2"]
    assert play.commands(Settle)[-1].error is None


def test_frame_of_several_tasks_that_is_too_large_is_sent_again_one_by_one():
    play = opened()
    play >> TaskSubmitted(1.0, task()) >> TaskSubmitted(1.0, task("t2"))
    play >> ConnectionLost(1.1, "too large", 0.0, ("t1", "t2"))
    play >> TimerFired(play.commands(SetTimer)[-1].at) >> ConnectionOpened(2.0) >> welcome(2.1)
    assert play.commands(Send)[-1] == Send((submit(task(), joins=False), submit(task("t2"), joins=False)))
    assert errors(play) == {}


@pytest.mark.parametrize("kind", [task, sync_task])
def test_conflict_on_the_first_send_of_a_journalled_task_acknowledges_it(kind):
    play = opened()
    play >> TaskSubmitted(1.0, kind(is_journalled=True)) >> received(1.1, errors=[problem("conflictTaskUUID")])
    assert errors(play) == {}
    play >> TimerFired(play.commands(SetTimer)[-1].at)
    assert play.commands(Send)[-1] == Send((ask(),))
    other = opened()
    other >> TaskSubmitted(1.0, kind()) >> received(1.1, errors=[problem("conflictTaskUUID")])
    assert errors(other) == {"t1": ("validation", "conflictTaskUUID")}


def lost_to_a_large_message(at):
    return ConnectionLost(at, "a message exceeds the limit", 0.0, (), is_reply_too_large=True)


@pytest.mark.parametrize("kind", [task, sync_task])
def test_answer_that_is_too_large_ends_the_only_task_that_is_out_at_once(kind):
    play = polled() if kind is task else opened() >> TaskSubmitted(1.0, kind())
    play >> lost_to_a_large_message(1.2)
    assert errors(play) == {"t1": ("connection", "replyTooLarge")}
    error = play.commands(Settle)[-1].error
    assert "its answer is too large to be read (a message exceeds the limit), so it is not fetched again" in str(error)
    assert not error.retryable
    play >> TimerFired(play.commands(SetTimer)[-1].at) >> ConnectionOpened(2.0)
    assert play.commands(Send)[-1] == Send((auth(),)), "in the old session the service would send it again"


@pytest.mark.parametrize("kind", [task, sync_task])
def test_large_answer_of_an_earlier_connection_is_not_laid_to_what_was_sent_since(kind):
    play = polled() if kind is task else opened() >> TaskSubmitted(1.0, kind())
    play >> ConnectionLost(1.2, "lost", 0.0) >> TaskSubmitted(1.25, kind("t2"))
    play >> TimerFired(play.commands(SetTimer)[-1].at) >> ConnectionOpened(2.0) >> welcome(2.1)
    assert play.commands(Send)[-1].entries[0].task_id == "t2"
    play >> lost_to_a_large_message(2.2)
    assert errors(play) == {}, "it may be the answer to the first one, which the service sends again"


def test_what_waits_for_the_search_for_a_large_answer_goes_on_though_the_last_poll_is_not_answered():
    play = opened()
    play >> TaskSubmitted(1.0, task()) >> TaskSubmitted(1.0, task("t2"))
    play >> received(1.01, item(), item("t2")) >> TimerFired(1.1) >> lost_to_a_large_message(1.2)
    play >> TimerFired(play.commands(SetTimer)[-1].at) >> ConnectionOpened(2.0) >> welcome(2.1) >> TimerFired(2.2)
    play >> TaskSubmitted(2.21, task("new")) >> received(2.4, done()) >> TimerFired(2.5)
    assert play.commands(Send)[-1] == Send((ask("t2", joins=False),))
    play >> TimerFired(play.commands(SetTimer)[-1].at)
    assert play.commands(Send)[-1] == Send((ask("t2", joins=False), submit(task("new"))))


def test_one_of_several_answers_that_is_too_large_is_found_by_polling_one_at_a_time():
    play = opened()
    play >> TaskSubmitted(1.0, task()) >> TaskSubmitted(1.0, task("t2")) >> TaskSubmitted(1.0, task("t3"))
    play >> received(1.01, item(), item("t2"), item("t3")) >> TimerFired(1.1)
    assert [entry.task_id for entry in play.commands(Send)[-1].entries] == ["t1", "t2", "t3"]
    play >> lost_to_a_large_message(1.2)
    assert errors(play) == {}
    play >> TimerFired(play.commands(SetTimer)[-1].at) >> ConnectionOpened(2.0) >> welcome(2.1) >> TimerFired(2.2)
    assert play.commands(Send)[-1] == Send((ask(joins=False),))
    play >> TaskSubmitted(2.21, task("new"))
    play >> TimerFired(2.3)
    assert play.commands(Send)[-1] == Send((ask(joins=False),)), "one at a time, and what is new waits"
    play >> received(2.4, done()) >> TimerFired(2.5)
    assert play.commands(Send)[-1] == Send((ask("t2", joins=False),))
    play >> lost_to_a_large_message(2.6)
    assert errors(play) == {"t1": None, "t2": ("connection", "replyTooLarge")}
    play >> TimerFired(play.commands(SetTimer)[-1].at) >> ConnectionOpened(4.0) >> welcome(4.1) >> TimerFired(4.2)
    assert play.commands(Send)[-1] == Send((ask("t3", joins=False),))
    play >> received(4.3, done("t3"))
    assert play.commands(Send)[-1] == Send((submit(task("new")),)), "all others go on"
