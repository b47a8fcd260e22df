"""What is said of a later send, of a poll or of the key is no verdict on a task that the service has, or may have.

Such an error ends the waiting only, and says so: a journal keeps the task open. Taken for a verdict, it would have the
task recorded as failed and free, and bought again by the next run.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from session_conversation import (
    ask,
    done,
    errors,
    item,
    look,
    opened,
    playbook,
    problem,
    received,
    reply,
    submit,
    sync_task,
    task,
    welcome,
)
from session_world import KEY, Plan, Service, World, submission

from runware_flow.graph.policies import is_verdict
from runware_flow.secret import Secret
from runware_flow.session.commands import Lane, Refused, Send, SetTimer, Settle
from runware_flow.session.events import (
    ConnectionLost,
    ConnectionOpened,
    ExchangeFailed,
    ExchangeFinished,
    TaskSubmitted,
    TimerFired,
)
from runware_flow.session.options import SessionOptions
from runware_flow.wire.frames import decode_reply


def finished(at, frame, status=200, lane=Lane.SUBMIT, retry_after=None):
    return ExchangeFinished(at, ("t1",), lane, status, frame, retry_after)


def lost(at, lane=Lane.SUBMIT):
    return ExchangeFailed(at, ("t1",), lane, "reset", sent=True)


def fire(play):
    play >> TimerFired(play.commands(SetTimer)[-1].at)


def moment(play):
    return play.commands(SetTimer)[-1].at + 0.01


def accepted(**changes):
    """A session by REST whose task is accepted and polled."""
    play = playbook(duplex=False, **changes)
    play >> TaskSubmitted(0.0, task()) >> finished(0.05, reply(200, item()))
    fire(play)
    return play


def settled(play):
    error = play.commands(Settle)[-1].error
    return error.code, error.raw_code, error.may_be_billed, is_verdict(error)


# Polls


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, b'{"errors":[{"code":"tokenRevoked","message":"no"}]}', ("auth", "tokenRevoked")),
        (402, b'{"errors":[{"code":"insufficientCredits"}]}', ("quota", "insufficientCredits")),
        (403, b"<html>", ("auth", None)),
        (400, b'{"errors":[{"code":"invalidRequest","message":"no"}]}', ("validation", "invalidRequest")),
        (407, b"", None),
        (413, b"", None),
    ],
)
def test_refusal_of_a_poll_says_nothing_of_the_task(status, body, told):
    play = accepted()
    play >> finished(0.2, decode_reply(status, body), status, Lane.POLL)
    for _ in range(40):  # a refusal that says nothing of the key is no reason to stop: it is polled on, or given up
        if play.commands(Settle):
            break
        fire(play)
        play >> finished(moment(play), decode_reply(status, body), status, Lane.POLL)
    assert settled(play)[2:] == (True, False)
    assert told is None or settled(play)[:2] == told


@pytest.mark.parametrize(
    ("status", "code"), [(402, "insufficientCredits"), (403, "contentPolicyViolation"), (400, "invalidSeedImage")]
)
def test_failure_of_the_task_itself_in_the_answer_to_a_poll_is_a_verdict(status, code):
    play = accepted()
    play >> finished(0.2, reply(status, errors=[problem(code)]), status, Lane.POLL)
    assert settled(play)[1:] == (code, False, True)


@pytest.mark.parametrize("is_acknowledged", [True, False])
def test_service_that_answers_no_poll_has_said_nothing_of_the_task(is_acknowledged):
    play = accepted(max_reconnect_attempts=3) if is_acknowledged else playbook(duplex=False, max_retries=0)
    down = decode_reply(500, b'{"errors":[{"code":"internalServerError","message":"down"}]}')
    if not is_acknowledged:
        play >> TaskSubmitted(0.0, task()) >> finished(0.05, down, 500)
        fire(play)
    for _ in range(20):
        if play.commands(Settle):
            break
        play >> finished(moment(play), down, 500, Lane.POLL)
        fire(play)
    assert settled(play) == ("serverError", "internalServerError", True, False)


def test_task_that_was_accepted_and_forgotten_does_not_fail_with_what_was_said_of_an_earlier_send():
    play = playbook(duplex=False)
    play >> TaskSubmitted(0.0, task()) >> finished(0.05, decode_reply(429, b""), 429)
    fire(play)
    play >> finished(moment(play), reply(200, item()))
    for _ in range(400):
        if play.commands(Settle):
            break
        fire(play)
        lane = Lane.LOOKUP if b"getTaskDetails" in play.commands(Send)[-1].entries[-1].body else Lane.POLL
        play >> finished(moment(play), reply(200), 200, lane)
    assert settled(play) == ("notFound", "taskNotFound", False, False)


@pytest.mark.parametrize("lane", [Lane.POLL, Lane.SUBMIT])
def test_wait_of_a_day_holds_back_no_poll_and_no_task_that_may_have_arrived_for_more_than_a_minute(lane):
    if lane is Lane.POLL:
        play = accepted()
        play >> finished(0.2, decode_reply(503, b""), 503, Lane.POLL, retry_after=86400.0)
    else:
        play = playbook(duplex=False)
        play >> TaskSubmitted(0.0, task())
        play >> finished(0.2, decode_reply(502, b""), 502, retry_after=86400.0)
    assert play.commands(SetTimer)[-1].at == pytest.approx(60.2)


@pytest.mark.parametrize("body", [b"<html>", b"", b'{"data":[{"taskUUID":"t1","imageU'])
@pytest.mark.parametrize("delivery", ["sync", "async"])
def test_reply_that_is_none_of_the_services_says_nothing_of_the_task(body, delivery):
    play = playbook(duplex=False, max_retries=0)
    play >> TaskSubmitted(-1.0, task("t0")) >> ExchangeFinished(-0.9, ("t0",), Lane.SUBMIT, 200, reply(200, item("t0")))
    play >> TaskSubmitted(0.0, task(delivery=delivery)) >> finished(0.1, decode_reply(200, body))
    fire(play)
    play >> finished(moment(play), decode_reply(200, body), lane=Lane.POLL)
    fire(play)
    play >> finished(moment(play), reply(200, done()), lane=Lane.POLL)
    assert errors(play) == {"t1": None}


# Sends after the first


@pytest.mark.parametrize("status", [400, 401, 402, 403, 503])
@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("named", [{"taskUUID": "t1"}, {}])
def test_refusal_of_a_second_send_is_no_verdict_on_the_first_one(status, is_known, named):
    play = playbook(duplex=False)
    play >> TaskSubmitted(-1.0, task("t0")) >> ExchangeFinished(-0.9, ("t0",), Lane.SUBMIT, 200, reply(200, item("t0")))
    play >> TaskSubmitted(0.0, task()) >> lost(0.1)
    fire(play)
    while play.commands(Send)[-1].entries[-1].lane is not Lane.SUBMIT:
        fire(play)
    refusal = [{"code": "providerUnavailable" if status == 503 else "insufficientCredits", "message": "no", **named}]
    play >> finished(moment(play), decode_reply(status, json.dumps({"errors": refusal}).encode()), status)
    assert not play.commands(Settle)
    fire(play)
    assert ask() in play.commands(Send)[-1].entries
    if is_known:
        play >> finished(moment(play), reply(200, done()), lane=Lane.POLL)
        assert errors(play) == {"t1": None}
        return
    for _ in range(6):
        if play.commands(Settle):
            break
        lane = Lane.LOOKUP if look() in play.commands(Send)[-1].entries else Lane.POLL
        play >> finished(moment(play), reply(200), lane=lane)
        fire(play)
    assert settled(play)[2:] == (False, True)


def test_refusal_of_a_second_send_on_a_new_connection_is_no_verdict_on_the_first_one():
    play = opened()
    play >> TaskSubmitted(1.0, task()) >> ConnectionLost(1.1) >> TimerFired(1.2) >> ConnectionOpened(1.3)
    play >> welcome(1.4)
    assert play.commands(Send)[-1] == Send((submit(task()),))
    play >> received(1.5, errors=[problem("insufficientCredits")])
    assert not play.commands(Settle)
    fire(play)
    assert play.commands(Send)[-1] == Send((ask(),))
    play >> received(2.0, done())
    assert errors(play) == {"t1": None}


def test_first_refusal_is_a_verdict():
    play = opened()
    play >> TaskSubmitted(1.0, task()) >> received(1.5, errors=[problem("insufficientCredits")])
    assert settled(play) == ("quota", "insufficientCredits", False, True)


def test_key_rejected_on_reconnect_is_a_verdict_on_what_never_left_alone():
    play = opened()
    play >> TaskSubmitted(1.0, task()) >> TaskSubmitted(1.0, sync_task("t2")) >> received(1.1, item())
    play >> ConnectionLost(2.0) >> TaskSubmitted(2.1, task("t3")) >> TimerFired(2.5) >> ConnectionOpened(2.6)
    play >> received(2.7, errors=[problem("invalidApiKey", None, taskType="authentication")])
    told = {settle.task_id: settle.error for settle in play.commands(Settle)}
    assert {task_id: (error.code, is_verdict(error)) for task_id, error in told.items()} == {
        "t1": ("auth", False),
        "t2": ("auth", False),
        "t3": ("auth", True),
    }


def test_refusal_without_a_name_leaves_in_doubt_all_that_is_not_acknowledged():
    play = opened()
    play >> TaskSubmitted(1.0, task(parks=True)) >> TaskSubmitted(1.0, task("t2", parks=True))
    play >> TaskSubmitted(1.0, task("t3", parks=True)) >> received(1.1, item("t3"))
    play >> received(1.5, errors=[problem("rateLimitExceeded", None)])
    refused = {one.task_id: one.may_have_arrived for one in play.commands(Refused)}
    assert refused == {"t1": True, "t2": True}


# Whatever is answered


STATUSES = [400, 401, 402, 403, 404, 407, 408, 413, 418, 429, 500, 502, 503, 504]
CODES = [None, "insufficientCredits", "invalidApiKey", "internalServerError", "rateLimitExceeded", "odd"]


class MoodyService(Service):
    """Refuses sends by a code, also of what it knows, before it looks who asks."""

    refuses: str | None = None

    def answer(self, body: dict[str, Any], now: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        is_question = body["taskType"] in ("getResponse", "getTaskDetails")
        if self.refuses is not None and not is_question:
            return [], [{"code": self.refuses, "message": "no", "taskUUID": body["taskUUID"]}]
        return super().answer(body, now)


class MoodyWorld(World):
    """A gateway stands before the service by REST; on a WebSocket, the service may reject the key after a loss."""

    def __init__(self, options: SessionOptions, seed: int) -> None:
        super().__init__(options, seed)
        self.service: MoodyService = MoodyService(self.plans)
        self.gateway: tuple[int, str | None, bool] | None = None
        """Its status, its code, and whether it passes a request on before it answers for the service."""
        self.loses = False
        self.rejects_key = False
        self.is_ambiguous = True  # a gateway answers in the place of the service

    def _post(self, group: Any, bodies: Any) -> None:
        ids = tuple(entry.task_id for entry in group if entry.task_id is not None)
        lane = group[0].lane
        if self.gateway is None and not self.loses:
            super()._post(group, bodies)
            return
        if self.loses:
            self.after(self.latency, lambda: self._carry_out(bodies))
            failed = ExchangeFailed(self.now + 2 * self.latency, ids, lane, "reset", sent=True)
            self.after(2 * self.latency, lambda: self.feed(failed))
            return
        assert self.gateway is not None
        status, code, passes = self.gateway
        is_refusal = status not in (408, 500, 502, 504) or code == "rateLimitExceeded"  # nothing was accepted
        if passes and not is_refusal:
            self.after(self.latency, lambda: self._carry_out(bodies))
        body = b"<html>" if code is None else json.dumps({"errors": [{"code": code, "message": "no"}]}).encode()
        self.after(2 * self.latency, lambda: self._finish(ids, lane, status, body))

    def _carry_out(self, bodies: Any) -> None:
        for body in bodies:
            self.service.answer(body, self.now)

    def _authenticate(self, body: dict[str, Any]) -> None:
        if not self.rejects_key:
            super()._authenticate(body)
            return
        refusal = {"code": "invalidApiKey", "message": "no", "taskType": "authentication"}
        self._transmit(json.dumps({"errors": [refusal]}).encode())


STEPS = st.tuples(
    st.sampled_from(["task", "task", "gateway", "calm", "lose", "refuse", "kill", "reject"]),
    st.sampled_from(["sync", "async"]),
    st.tuples(st.sampled_from(STATUSES), st.sampled_from(CODES), st.booleans()),
    st.sampled_from([0.0, 0.02, 0.3, 2.0, 20.0]),
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(STEPS, min_size=2, max_size=14),
    duplex=st.booleans(),
    retries=st.sampled_from([0, 1, 3]),
    seed=st.integers(0, 99),
)
def test_no_error_of_a_task_that_the_service_has_is_a_verdict(steps, duplex, retries, seed) -> None:
    options = SessionOptions(
        api_key=Secret(KEY), duplex=duplex, max_retries=retries, max_reconnect_attempts=2, ack_timeout=5.0
    )
    world = MoodyWorld(options, seed)
    world.submit(submission("first"), Plan([0.1]))
    assert world.run_until_settled(100.0)
    for number, (what, delivery, gateway, seconds) in enumerate(steps):
        match what:
            case "task":
                world.submit(submission(f"t{number}", delivery), Plan([0.5]))
            case "gateway":
                world.gateway = gateway
            case "lose":
                world.loses = True
            case "refuse":
                world.service.refuses = gateway[1]
            case "kill" if duplex:
                world.kill()
            case "reject":
                world.rejects_key = True
            case _:
                world.gateway, world.loses, world.service.refuses = None, False, None
        world.run(seconds)
    world.gateway, world.loses, world.service.refuses = None, False, None
    world.run_until_settled(3000.0)
    for task_id, settle in world.settled.items():
        if settle.error is not None and is_verdict(settle.error):
            assert task_id not in world.service.known, (task_id, settle.error)
        assert settle.error is not None or world.delivered[task_id]
