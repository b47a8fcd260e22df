"""The send window: closed by refusals, opened in steps; nothing is lost, overtaken or bought twice."""

from __future__ import annotations

from math import ceil, inf
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from session_conversation import image, opened, playbook, problem, received, reply, sync_task, task, welcome
from session_world import KEY, Plan, World, submission

from runware_flow.errors import RunwareError
from runware_flow.secret import Secret
from runware_flow.session.commands import Lane, Refused, Send, SetTimer, Settle, SlotOffered
from runware_flow.session.events import (
    ConnectionLost,
    ConnectionOpened,
    ExchangeFailed,
    ExchangeFinished,
    FrameReceived,
    SessionClosed,
    SlotReturned,
    SlotTaken,
    SlotUnwanted,
    SlotWanted,
    TaskSubmitted,
    TaskWithdrawn,
    TimerFired,
    WindowsHeld,
)
from runware_flow.session.options import SessionOptions
from runware_flow.session.window import ANSWER, STEP, Window
from runware_flow.types import TaskId
from runware_flow.wire.frames import decode_frame

if TYPE_CHECKING:
    from runware_flow.session.machine import SessionMachine

MODEL = "runware:400@1"
BUSY = (
    "rateLimitExceeded",
    "inferenceRateLimitExceeded",
    "serviceUnavailable",
    "serverUnavailable",
    "noAvailableServer",
)
MODELS = ("a:1@1", "b:1@1", "c:1@1", "d:1@1")
DUPLEX = pytest.mark.parametrize("duplex", [True, False], ids=["websocket", "rest"])
DELIVERY = pytest.mark.parametrize("delivery", ["async", "sync"])


def world(duplex=True, capacity=None, **more):
    made = World(SessionOptions(api_key=Secret(KEY), duplex=duplex, max_retries=0, **more), 1)
    made.submit(submission("first"), Plan([0.05]))
    assert made.run_until_settled(10.0)
    made.service.capacity = capacity
    made.service.accepted.clear()
    return made


def send_all(made, count, seconds, delivery="async"):
    began = made.now
    for number in range(count):
        made.submit(submission(f"t{number:04}", delivery), Plan([seconds]))
    assert made.run_until_settled(100_000.0)
    assert [settled.error for settled in made.settled.values() if settled.error] == []
    assert made.service.accepted == sorted(made.service.accepted), "a task was overtaken"
    return made.now - began, made.service.refusals


def window(made) -> Window:
    return made.machine._tracker.windows.of(MODEL)


# What it costs: the figures of docs/explanation/send-windows.md


@DUPLEX
@DELIVERY
@pytest.mark.parametrize(
    ("count", "seconds", "capacity", "most_wall", "most_refusals"),
    [(64, 1.0, 8, 8.4, 64), (300, 3.0, 8, 119.0, 340), (300, 0.05, 8, 3.2, 340), (64, 1.0, 1, 70.0, 130)],
)
def test_service_at_its_capacity_is_kept_busy(
    duplex, delivery, count, seconds, capacity, most_wall, most_refusals
) -> None:
    wall, refusals = send_all(world(duplex, capacity), count, seconds, delivery)
    assert ceil(count / capacity) * seconds <= wall <= most_wall
    assert sum(refusals.values()) <= most_refusals
    assert max(refusals.values()) <= 3


def test_refused_tasks_teach_how_long_they_take_once_they_are_taken() -> None:
    # They were taken for blurred, so nothing was learnt at a capacity, and each result was late by a tenth of its time.
    async_wall, _ = send_all(world(capacity=8), 300, 3.0, "async")
    sync_wall, _ = send_all(world(capacity=8), 300, 3.0, "sync")
    assert async_wall <= 1.04 * sync_wall


def test_long_tasks_are_refused_three_times_at_most_on_average() -> None:
    _, refusals = send_all(world(capacity=8), 64, 60.0)
    assert sum(refusals.values()) <= 3 * 64


@DUPLEX
@DELIVERY
def test_window_is_open_until_the_service_refuses(duplex, delivery) -> None:
    made = world(duplex)
    wall, refusals = send_all(made, 1000, 1.0, delivery)
    assert wall <= 1.2
    assert not refusals
    assert made.machine.statistics().models[MODEL].window is None


@pytest.mark.parametrize("capacity", [0, 1, 8])
@pytest.mark.parametrize("count", [64, 1000])
def test_window_is_open_within_half_a_minute_after_the_service_accepts_again(count, capacity) -> None:
    made = world(capacity=capacity)
    for number in range(count):
        made.submit(submission(f"t{number:04}"), Plan([40.0]))
    made.run(17.0)
    assert not window(made).is_open
    made.service.capacity = None
    made.run(30.0)
    assert window(made).is_open
    assert made.service.running(made.now) + len(made.settled) - 1 == count


def test_one_refusal_by_chance_costs_next_to_nothing() -> None:
    made = world(capacity=63)
    made.submit(submission("t0000"), Plan([1.0]))
    for number in range(1, 64):
        made.submit(submission(f"t{number:04}"), Plan([1.0]))
    made.run(0.05)
    made.service.capacity = None
    assert made.run_until_settled(100.0)
    assert made.now < 2.5


# What a refusal is


@pytest.mark.parametrize(
    "code",
    ["rateLimitExceeded", "inferenceRateLimitExceeded", "serviceUnavailable", "serverUnavailable", "noAvailableServer"],
)
@pytest.mark.parametrize("kind", [task, sync_task])
def test_refused_task_waits_raises_nothing_and_spends_no_retry(code, kind) -> None:
    play = opened(max_retries=0)
    play.machine.handle(TaskSubmitted(1.0, kind()))
    said = play.machine.handle(FrameReceived(1.1, decode_frame(reply_bytes(problem(code)))))
    assert [type(command) for command in said if isinstance(command, Settle)] == []
    assert any(isinstance(command, Refused) for command in said)
    again = play.machine.handle(TimerFired(2.6))
    assert [entry.task_id for command in again if isinstance(command, Send) for entry in command.entries] == ["t1"]


def reply_bytes(*errors):
    return msgspec.json.encode({"data": [], "errors": list(errors)})


@pytest.mark.parametrize(
    "error",
    [
        problem("providerRateLimitExceeded"),
        problem("providerUnavailable"),
        problem("inferenceRateLimitRequestTooLarge"),
        problem("invalidPositivePrompt"),
        problem("insufficientCredits"),
        problem("rateLimitExceeded", status="error"),
    ],
)
def test_error_about_the_task_or_its_provider_is_no_refusal(error) -> None:
    play = opened()
    play.machine.handle(TaskSubmitted(1.0, task()))
    said = play.machine.handle(FrameReceived(1.1, decode_frame(reply_bytes(error))))
    assert [command.task_id for command in said if isinstance(command, Settle)] == ["t1"]
    assert play.machine.statistics().models[MODEL].refusals == 0


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("errors", [[], [problem("rateLimitExceeded", None)], [problem("queueFull", None)]])
def test_refusal_that_names_no_task_refuses_its_whole_request_and_every_model_in_it(status, errors) -> None:
    play = playbook(duplex=False, max_retries=0)
    play.machine.handle(TaskSubmitted(0.0, task("a1")))
    play.machine.handle(TaskSubmitted(0.0, task("b1", model="runware:504@1")))
    play.machine.handle(TaskSubmitted(0.0, task("c1", model="runware:150@2")))
    ids = (TaskId("a1"), TaskId("b1"))
    said = play.machine.handle(ExchangeFinished(0.1, ids, Lane.SUBMIT, status, reply(status, errors=errors), None))
    assert [command.task_id for command in said if isinstance(command, Refused)] == ["a1", "b1"]
    models = play.machine.statistics().models
    assert [models[name].window for name in (MODEL, "runware:504@1", "runware:150@2")] == [1, 1, None]


def test_provider_at_its_limit_ends_a_request_that_names_no_task() -> None:
    play = playbook(duplex=False)
    play.machine.handle(TaskSubmitted(0.0, task()))
    errors = [problem("providerRateLimitExceeded", None)]
    said = play.machine.handle(
        ExchangeFinished(0.1, (TaskId("t1"),), Lane.SUBMIT, 429, reply(429, errors=errors), None)
    )
    assert [command.error.raw_code for command in said if isinstance(command, Settle)] == ["providerRateLimitExceeded"]


@DELIVERY
def test_refusals_that_name_no_task_lose_and_double_nothing_on_a_websocket(delivery) -> None:
    made = world(capacity=3)
    made.service.names_refused = False
    for number in range(20):
        made.submit(submission(f"t{number:04}", delivery), Plan([1.0]))
    assert made.run_until_settled(600.0)
    assert all(settled.error is None for settled in made.settled.values())
    assert set(made.service.bills.values()) == {1}
    assert len(made.service.bills) == 21


def test_acknowledged_task_is_not_refused_by_what_is_said_to_its_polls() -> None:
    play = opened()
    play.machine.handle(TaskSubmitted(1.0, task()))
    play.machine.handle(FrameReceived(1.1, decode_frame(b'{"data":[{"taskType":"imageInference","taskUUID":"t1"}]}')))
    play.machine.handle(FrameReceived(1.2, decode_frame(reply_bytes(problem("rateLimitExceeded")))))
    statistics = play.machine.statistics()
    assert (statistics.models[MODEL].refusals, statistics.models[MODEL].in_flight) == (0, 1)
    assert statistics.pressure > 1


@DUPLEX
def test_model_that_refuses_everything_ends_what_waits_with_one_sentence(duplex) -> None:
    made = world(duplex, capacity=0, refusal_timeout=60.0)
    for number in range(5):
        made.submit(submission(f"t{number}"), Plan([1.0]))
    made.run(80.0)
    errors = [made.settled[f"t{number}"].error for number in range(5)]
    assert {(type(error), error.code, error.raw_code) for error in errors} == {
        (RunwareError, "rateLimit", "rateLimitExceeded")
    }
    assert "refused every task of runware:400@1 for 60 s" in errors[0].message
    assert "nothing was billed" in errors[0].message
    made.service.capacity = None
    made.submit(submission("later"), Plan([1.0]))
    assert made.run_until_settled(30.0)
    assert made.settled["later"].error is None


def test_task_that_is_at_work_keeps_those_that_wait_from_being_given_up() -> None:
    made = world(capacity=1, refusal_timeout=60.0)
    made.submit(submission("long"), Plan([600.0]))
    made.run(1.0)
    made.submit(submission("next"), Plan([1.0]))
    assert made.run_until_settled(700.0)
    assert made.settled["next"].error is None


def test_time_that_the_service_asks_for_is_obeyed() -> None:
    play = playbook(duplex=False)
    play.machine.handle(TaskSubmitted(0.0, sync_task()))
    play.machine.handle(ExchangeFinished(0.1, (TaskId("t1"),), Lane.SUBMIT, 429, reply(429), 40.0))
    play.machine.handle(TaskSubmitted(0.2, sync_task("t2")))
    assert not sent(play.machine.handle(TimerFired(40.0)))
    assert sent(play.machine.handle(TimerFired(40.1))) == ["t1"], "one is tried first, and in its turn"


def test_time_that_the_service_asks_for_has_a_bound() -> None:
    play = playbook(duplex=False, refusal_timeout=60.0)
    play.machine.handle(TaskSubmitted(0.0, sync_task()))
    play.machine.handle(ExchangeFinished(0.1, (TaskId("t1"),), Lane.SUBMIT, 429, reply(429), 1e300))
    assert sent(play.machine.handle(TimerFired(60.1))) == ["t1"]


def sent(commands):
    return [entry.task_id for command in commands if isinstance(command, Send) for entry in command.entries]


def test_what_fits_leaves_together() -> None:
    play = playbook(duplex=False)
    for number in range(5):
        play.machine.handle(TaskSubmitted(0.0, task(f"t{number}")))
    ids = tuple(TaskId(f"t{number}") for number in range(5))
    play.machine.handle(ExchangeFinished(0.1, ids, Lane.SUBMIT, 429, reply(429), 5.0))
    frames = [sent(play.machine.handle(TimerFired(5.1 + number / 2))) for number in range(40)]
    frames = [frame for frame in frames if frame]
    assert frames == [["t0"], ["t1"], ["t2", "t3"], ["t4"]]


# Those who have tasks of their own


def test_task_that_parks_is_given_back_with_its_turn_and_leaves_no_trace() -> None:
    play = opened()
    play.machine.handle(TaskSubmitted(1.0, task(parks=True)))
    said = play.machine.handle(FrameReceived(1.1, decode_frame(reply_bytes(problem("rateLimitExceeded")))))
    [refused] = [command for command in said if isinstance(command, Refused)]
    assert (refused.task_id, refused.error.raw_code) == ("t1", "rateLimitExceeded")
    assert play.machine.statistics().in_flight == 0
    assert not play.machine.has_room(MODEL, 1.1)
    said = play.machine.handle(TaskSubmitted(1.2, task("t2", parks=True)))
    assert [type(command) for command in said] == [Refused], "there is no room: it is given back at once"
    play.machine.handle(SlotWanted(1.3, MODEL, 7, refused.number))
    said = play.machine.handle(TimerFired(3.0))
    assert [command for command in said if isinstance(command, SlotOffered)] == [SlotOffered(MODEL, 7)]
    assert play.machine.statistics().models[MODEL].in_flight == 1
    assert sent(play.machine.handle(TaskSubmitted(3.1, task(parks=True, has_slot=True)))) == ["t1"]
    play.machine.handle(TaskWithdrawn(3.2, TaskId("t1")))
    assert play.machine.statistics().models[MODEL].in_flight == 0


@pytest.mark.parametrize("is_lost", [True, False])
def test_task_that_parks_says_whether_an_earlier_send_may_have_been_accepted(is_lost: bool) -> None:
    play = opened()
    play >> TaskSubmitted(1.0, task(parks=True))
    if is_lost:
        play >> ConnectionLost(1.1, "lost", 0.0) >> TimerFired(play.commands(SetTimer)[-1].at)
        play >> ConnectionOpened(2.0) >> welcome(2.1)
        assert sent(play.commands(Send)).count("t1") == 2
    play >> received(2.2, errors=[problem("rateLimitExceeded")])
    assert [refused.may_have_arrived for refused in play.commands(Refused)] == [is_lost]


@pytest.mark.parametrize("is_lost", [True, False])
def test_task_that_is_refused_too_long_is_polled_first_if_an_earlier_send_was_not_answered(is_lost: bool) -> None:
    play = playbook(duplex=False, refusal_timeout=60.0)
    ids = (TaskId("t1"),)
    play >> TaskSubmitted(0.0, task())
    if is_lost:
        play >> ExchangeFailed(0.1, ids, Lane.SUBMIT, "cut off", sent=True)
        play >> TimerFired(play.commands(SetTimer)[-1].at)
    at, lanes = 1.0, []
    while not play.commands(Settle):
        lanes.append(play.commands(Send)[-1].entries[0].lane)
        refused = lanes[-1] is Lane.SUBMIT
        body = reply(429) if refused else reply(400, errors=[problem("taskNotFound")])
        play >> ExchangeFinished(at, ids, lanes[-1], 429 if refused else 400, body, None)
        while not play.commands(Settle) and len(play.commands(Send)) == len(lanes) + is_lost:
            at = max(at, play.commands(SetTimer)[-1].at)
            play >> TimerFired(at)
    assert (Lane.POLL in lanes) is is_lost
    assert play.commands(Settle)[-1].error.code == "rateLimit"


def test_single_refusal_that_is_read_long_after_it_was_sent_ends_nothing() -> None:
    """As after a process was stopped: nothing was tried in that time."""
    made = world(duplex=False, capacity=0)
    made.submit(submission("a"), Plan([0.1]))
    made.latency = 4000.0
    made.run(4000.02)
    made.latency, made.service.capacity = 0.01, None
    assert made.run_until_settled(5000.0)
    assert made.settled["a"].error is None


def test_window_that_opens_while_there_is_no_connection_lets_each_task_go_once() -> None:
    made = world(capacity=2)
    for number in range(6):
        made.submit(submission(f"t{number}"), Plan([100.0]))
    made.run(0.1)
    assert made.machine.statistics().models[MODEL].waiting == 4
    made.service.capacity = None
    made.faults.refuse = 1.0
    made.kill()
    made.run(25.0)
    made.faults.refuse = 0.0
    made.run(30.0)
    assert sorted(made.service.accepted) == [f"t{number}" for number in range(6)]
    made.service.capacity = 7
    for number in range(6, 9):
        made.submit(submission(f"t{number}"), Plan([1.0]))
    assert made.run_until_settled(300.0)
    assert not any(settled.error for settled in made.settled.values())
    assert len(made.service.accepted) == 9


def test_slot_that_is_given_back_goes_to_the_next() -> None:
    play = opened()
    play.machine.handle(TaskSubmitted(1.0, task()))
    play.machine.handle(FrameReceived(1.1, decode_frame(reply_bytes(problem("rateLimitExceeded")))))
    play.machine.handle(SlotWanted(1.2, MODEL, 1))
    play.machine.handle(SlotWanted(1.3, MODEL, 2))
    assert sent(play.machine.handle(TimerFired(2.5))) == ["t1"]
    play.machine.handle(TaskWithdrawn(2.6, TaskId("t1")))
    play.machine.handle(SlotUnwanted(2.6, MODEL, 1))
    said = play.machine.handle(SlotReturned(2.7, MODEL))
    assert SlotOffered(MODEL, 2) in said or play.machine.statistics().models[MODEL].in_flight == 1


@pytest.mark.parametrize("end", ["closed", "rejected"])
def test_waiter_for_a_slot_is_offered_one_when_the_session_has_ended(end) -> None:
    play = opened()
    play.machine.handle(TaskSubmitted(1.0, task()))
    play.machine.handle(FrameReceived(1.1, decode_frame(reply_bytes(problem("rateLimitExceeded")))))
    play.machine.handle(SlotWanted(1.2, MODEL, 1))
    if end == "closed":
        said = play.machine.handle(SessionClosed(1.3))
    else:
        play.machine._tracker.fail_all(RunwareError("no", code="connection"))
        said = play.machine.handle(TimerFired(1.3))
    assert SlotOffered(MODEL, 1) in said


def test_second_refusal_of_a_search_that_waits_is_no_error() -> None:
    machine = opened().machine
    machine.handle(TaskSubmitted(1.0, sync_task(task_type="modelSearch")))
    refusal = decode_frame(reply_bytes(problem("rateLimitExceeded")))
    machine.handle(FrameReceived(1.1, refusal))
    machine.handle(FrameReceived(1.2, refusal))
    assert machine.statistics().in_flight == 1
    assert sent(machine.handle(TimerFired(1.1 + STEP))) == ["t1"]


def test_sync_task_that_waits_to_be_sent_again_and_has_a_result_is_polled_for_the_others() -> None:
    machine = opened().machine
    machine.handle(TaskSubmitted(1.0, sync_task(slots=2)))
    machine.handle(FrameReceived(1.1, decode_frame(reply_bytes(problem("rateLimitExceeded")))))
    machine.handle(received(1.2, image()))
    said = [command for at in range(2, 20) for command in machine.handle(TimerFired(float(at)))]
    lanes = {entry.lane for command in said if isinstance(command, Send) for entry in command.entries}
    assert lanes == {Lane.POLL, Lane.LOOKUP}


def test_window_of_tasks_that_wait_for_a_connection_is_kept(monkeypatch) -> None:
    monkeypatch.setattr("runware_flow.session.window._KEPT", 2)
    machine = opened().machine
    machine.handle(ConnectionLost(1.0, "gone", 0.5))
    for number, model in enumerate("abca"):
        machine.handle(TaskSubmitted(1.1, task(f"t{number}", model=model)))
    assert machine.statistics().in_flight == 4
    machine.handle(TimerFired(10.0))
    machine.handle(ConnectionOpened(10.1))
    machine.handle(welcome(10.2))
    for task_id in ("t0", "t3"):
        machine.handle(FrameReceived(10.3, decode_frame(reply_bytes(problem("rateLimitExceeded", task_id)))))
    said = [*machine.handle(TimerFired(20.0)), *machine.handle(TimerFired(40.0))]
    assert [task_id for task_id in sent(said) if task_id is not None] == ["t0", "t3"]


@pytest.mark.parametrize("parks", [True, False])
def test_task_of_a_model_whose_window_is_held_waits_though_none_was_refused_here(parks) -> None:
    made = world()
    made.submit(submission("t1"), Plan([1.0]))
    made.feed(WindowsHeld(made.now, {MODEL: 4}))
    said = made.machine.handle(TaskSubmitted(made.now, submission("t2", parks=parks)))
    (refused,) = [command for command in said if isinstance(command, Refused)]
    assert (refused.task_id, refused.error.code) == ("t2", "rateLimit")
    assert window(made).statistics().waiting == (0 if parks else 1)


class WindowRules(RuleBasedStateMachine):
    """Callers of several models, direct ones and those with slots, against a service whose capacity changes."""

    duplex = True

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.world = World(SessionOptions(api_key=Secret(KEY), duplex=self.duplex, max_retries=0), seed)
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("runware_flow.session.window._KEPT", 2)
        self.count = 0
        self.slots: list[str] = []
        self.world.submit(submission("first"), Plan([0.1]))
        assert self.world.run_until_settled(100.0)

    @property
    def machine(self) -> SessionMachine:
        return self.world.machine

    @rule(
        delivery=st.sampled_from(["sync", "async"]),
        model=st.sampled_from(MODELS),
        durations=st.lists(st.sampled_from([0.0, 0.05, 1.0, 8.0]), min_size=1, max_size=8),
    )
    def submit(self, delivery: str, model: str, durations: list[float]) -> None:
        for duration in durations:
            self.count += 1
            self.world.submit(submission(f"t{self.count:04}", delivery, model=model), Plan([duration]))

    @rule(model=st.sampled_from(MODELS))
    def take(self, model: str) -> None:
        if self.machine.has_room(model, self.world.now):
            self.world.feed(SlotTaken(self.world.now, model))
            self.slots.append(model)

    @precondition(lambda self: self.slots)
    @rule(duration=st.sampled_from([0.05, 3.0]))
    def use_slot(self, duration: float) -> None:
        model = self.slots.pop()
        self.count += 1
        more = {"model": model, "has_slot": True}
        self.world.submit(submission(f"t{self.count:04}", **more), Plan([duration]))

    @precondition(lambda self: self.slots)
    @rule(has_ended=st.booleans())
    def return_slot(self, has_ended: bool) -> None:
        self.world.feed(SlotReturned(self.world.now, self.slots.pop(), has_ended=has_ended))

    @rule(number=st.integers(0, 9))
    def withdraw(self, number: int) -> None:
        self.world.withdraw(f"t{self.count - number:04}")

    @rule(seconds=st.sampled_from([0.005, 0.05, 1.0, 6.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(capacity=st.sampled_from([None, 0, 1, 2, 5, 20]))
    def change_capacity(self, capacity: int | None) -> None:
        self.world.service.capacity = capacity

    @rule(models=st.sets(st.sampled_from(MODELS)), peak=st.integers(0, 5))
    def hold(self, models: set[str], peak: int) -> None:
        self.world.feed(WindowsHeld(self.world.now, dict.fromkeys(models, peak)))

    @precondition(lambda self: self.duplex)
    @rule()
    def kill(self) -> None:
        self.world.kill()

    @precondition(lambda self: self.duplex)
    @rule(seconds=st.sampled_from([1.0, 20.0]))
    def stay_without_a_connection(self, seconds: float) -> None:
        self.world.faults.refuse = 1.0
        self.world.kill()
        self.world.run(seconds)
        self.world.faults.refuse = 0.0

    @invariant()
    def never_more_in_flight_than_the_window_allows(self) -> None:
        if not hasattr(self, "world"):
            return
        tracker = self.machine._tracker
        counts: dict[str, int] = {}
        for entry in tracker.entries.values():
            counts[entry.window.name] = counts.get(entry.window.name, 0) + entry.is_let_go
        for entry in tracker.entries.values():
            assert entry.window is tracker.windows.of(entry.window.name)
        for name, found in tracker.windows._by_name.items():
            assert found.in_flight == counts.get(name, 0) + self.slots.count(name)
            assert found.in_flight <= found.limit
            assert (found.is_open and not found.waiting) == (name not in tracker.windows.closed)
            assert found.limit == inf or found.limit >= 1
            assert not (found.is_open and found.waiting and tracker.is_open)
            # Whatever waits is woken: there is a timer, or something of it is in flight.
            if found.waiting and tracker.is_open and not found.is_held:
                assert found.next_at(has_connection=True) < inf

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.patch.undo()
        for model in self.slots:
            self.world.feed(SlotReturned(self.world.now, model))
        self.slots.clear()
        world = self.world
        if world.service.capacity == 0:
            world.service.capacity = 1
        world.feed(WindowsHeld(world.now, {}))
        assert world.run_until_settled(3000.0), f"still in flight: {world.machine.statistics()}"
        assert world.settled.keys() == world.submissions.keys() - world.withdrawn
        assert [settled.error for settled in world.settled.values() if settled.error] == []
        assert all(bill == 1 for bill in world.service.bills.values())
        world.run(60.0)
        world.service.capacity = None
        world.submit(submission("last", model="a:1@1"), Plan([0.1]))
        assert world.run_until_settled(30.0)


class RestWindowRules(WindowRules):
    """The same by REST."""

    duplex = False


_STATEFUL = settings(stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TestWebSocketWindows = WindowRules.TestCase
TestWebSocketWindows.settings = _STATEFUL
TestRestWindows = RestWindowRules.TestCase
TestRestWindows.settings = _STATEFUL


@given(
    durations=st.lists(st.floats(0.01, 5.0), min_size=1, max_size=60),
    capacity=st.integers(1, 10),
    duplex=st.booleans(),
    delivery=st.sampled_from(["async", "sync"]),
)
def test_tasks_of_a_model_are_accepted_in_their_order(durations, capacity, duplex, delivery) -> None:
    made = world(duplex, capacity)
    for number, duration in enumerate(durations):
        made.submit(submission(f"t{number:04}", delivery), Plan([duration]))
    assert made.run_until_settled(3000.0)
    assert made.service.accepted == sorted(made.service.accepted)
    assert len(made.service.accepted) == len(durations)
    most = sum(durations) / capacity + max(durations)
    refusals = sum(made.service.refusals.values())
    assert refusals <= len(durations) * 3 + most / STEP + 5
    assert ANSWER < STEP


def test_window_that_is_held_closes_to_what_is_in_flight_and_takes_no_steps():
    window = Window(MODEL, SessionOptions(api_key=Secret(KEY), duplex=True))
    window.in_flight = 3
    window.hold(peak=6)
    assert (window.limit, window.is_open) == (3, False)
    window.waiting.set(TaskId("next"), 1)
    assert window.next_waiting(100.0, has_connection=True) is None
    assert window.next_at(has_connection=True) == inf
    window.left(has_ended=True)
    assert window.next_waiting(101.0, has_connection=True) == "next"
    window.in_flight += 1
    window.waiting.set(TaskId("last"), 2)
    window.release(200.0)
    assert window.next_at(has_connection=True) == 200.0 + STEP
    assert window.next_waiting(200.0 + STEP, has_connection=True) == "last"
    window.next_waiting(200.0 + STEP + 3 * ANSWER, has_connection=True)
    assert window.is_open  # above the peak that the other client has met


def test_session_holds_and_releases_the_windows_of_the_models_that_it_is_told_of():
    made = world(capacity=2)
    machine = made.machine
    machine.handle(WindowsHeld(made.now, {MODEL: 4}))
    assert set(machine.closed_windows) == {MODEL}
    machine.handle(WindowsHeld(made.now, {}))
    machine.handle(TimerFired(made.now + STEP + 4 * ANSWER))
    assert not machine.closed_windows
    assert machine.window_states() == {}
