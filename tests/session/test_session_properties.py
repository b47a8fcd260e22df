"""Whatever the network does: each task settles once, is bought once, and fails only if the service failed it."""

from __future__ import annotations

import json
from math import inf
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from session_world import KEY, Faults, Plan, World, submission

from runware_flow.errors import ClientStateError
from runware_flow.secret import Secret
from runware_flow.session.commands import Deliver, Lane, Settle
from runware_flow.session.events import (
    READ_ONLY,
    ConnectionOpened,
    ExchangeFinished,
    FrameReceived,
    SessionClosed,
    TaskSubmitted,
    TimerFired,
    WebhookReceived,
)
from runware_flow.session.inflight import TaskState
from runware_flow.session.machine import SessionMachine
from runware_flow.session.options import SessionOptions
from runware_flow.wire.frames import decode_frame, decode_reply
from runware_flow.wire.webhooks import decode_webhook

CALM = 3000.0
"""Virtual seconds in which everything must settle once the network behaves."""


class SessionRules(RuleBasedStateMachine):
    """Callers, the network and time, in any order; `teardown` calms the network and settles the accounts."""

    duplex = True

    @initialize(
        seed=st.integers(0, 2**32),
        empty=st.booleans(),
        closes=st.booleans(),
        inside=st.booleans(),
    )
    def begin(self, seed: int, empty: bool, closes: bool, inside: bool) -> None:
        # Retries are what an unlucky network uses up; running out of them is tested by transcripts.
        options = SessionOptions(api_key=Secret(KEY), duplex=self.duplex, max_retries=10**6, ack_timeout=5.0)
        self.world = World(options, seed)
        self.world.service.empty_for_unknown = empty
        self.world.service.closes_sync = closes
        self.world.service.errors_in_items = inside
        self.count = 0
        self.has_lost = False
        # The first connection is made in peace: before the first authentication a failure is an error, by design.
        self.world.submit(submission("first"), Plan([0.1]))
        assert self.world.run_until_settled(CALM)

    @rule(
        delivery=st.sampled_from(["sync", "async"]),
        durations=st.lists(st.sampled_from([0.0, 0.05, 0.5, 2.0, 40.0]), min_size=1, max_size=3),
        failing=st.sets(st.integers(0, 2), max_size=2),
        named=st.booleans(),
    )
    def submit(self, delivery: str, durations: list[float], failing: set[int], named: bool) -> None:
        self.count += 1
        failures = {index for index in failing if index < len(durations)}
        task = submission(f"task-{self.count}", delivery, len(durations))
        self.world.submit(task, Plan(durations, failures, named))

    @rule()
    def search(self) -> None:
        self.count += 1
        self.world.submit(submission(f"task-{self.count}", "sync", task_type="modelSearch"), Plan([0.0]))

    @rule(number=st.integers(1, 5))
    def withdraw(self, number: int) -> None:
        self.world.withdraw(f"task-{max(1, self.count - number)}")

    @rule(seconds=st.sampled_from([0.001, 0.005, 0.02, 0.2, 1.0, 7.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(
        duplicate=st.sampled_from([0.0, 0.5]),
        split=st.sampled_from([0.0, 0.7]),
        delay=st.sampled_from([0.0, 0.5]),
        refuse=st.sampled_from([0.0, 0.5]),
        lose=st.sampled_from([0.0, 0.2]),
        status=st.sampled_from([0.0, 0.3]),
    )
    def weather(self, **faults: float) -> None:
        self.world.faults = Faults(**faults)
        self.has_lost |= faults["lose"] > 0
        self.world.is_ambiguous |= self.world.service.empty_for_unknown and faults["lose"] + faults["delay"] > 0

    @precondition(lambda self: self.duplex)
    @rule()
    def kill(self) -> None:
        self.world.kill()

    @invariant()
    def bought_once(self) -> None:
        if hasattr(self, "world"):
            assert all(bill == 1 for bill in self.world.service.bills.values())
            assert self.world.service.bills.keys() <= self.world.submissions.keys()

    @invariant()
    def timers_fit_the_states(self) -> None:
        """`_forget` drops the one timer that a task can have, so a task without one of the other kind is needed."""
        if hasattr(self, "world"):
            tracker = self.world.machine._tracker
            polled = {entry.task_id for entry in tracker.entries.values() if entry.state is TaskState.POLLED}
            assert set(tracker._polls) <= polled
            assert set(tracker._deadlines) <= tracker.entries.keys() - polled
            assert not any(tracker.entries[task_id].is_read_only for task_id in polled)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.faults = Faults()
        assert world.run_until_settled(CALM), f"still in flight: {world.machine!r}"
        assert world.settled.keys() == world.submissions.keys() - world.withdrawn
        for task_id, settled in world.settled.items():
            self._check_account(task_id, settled)
        world.feed(SessionClosed(world.now))
        assert world.machine.statistics().in_flight == 0
        assert world.timer is None

    def _check_account(self, task_id: str, settled: Settle) -> None:
        task, plan = self.world.submissions[task_id], self.world.plans[task_id]
        delivered = self.world.delivered.get(task_id, [])
        if task.task_type in READ_ONLY:
            # Two lost answers in a row are an error: reading is repeated once, and the caller may repeat it at will.
            is_excused = self.has_lost and settled.error is not None and settled.error.raw_code == "timeout"
            assert is_excused or (settled.error is None and len(delivered) == 1)
            return
        assert [bool(each.item) != bool(each.error) for each in delivered] == [True] * len(delivered)
        failed = [each for each in delivered if each.error is not None]
        results = [each.item.raw for each in delivered if each.item is not None]
        # A network that loses single frames, as no TCP does, may hide for two seconds that a result is still made while
        # another one of its task has failed: then it is taken for one that never comes.
        is_given_up = self.has_lost and plan.failures and len(plan.durations) > 1
        expected = len(plan.durations) - len(plan.failures)
        assert len(results) == expected or (is_given_up and len(results) < expected), (delivered, plan)
        texts = [json.loads(raw).get("text") or json.loads(raw)["imageUUID"] for raw in results]
        assert len(set(texts)) == len(texts), "a result was delivered twice"
        assert bool(failed) == bool(plan.failures)
        assert (settled.error is not None) == bool(plan.failures), "an innocent task failed"
        assert settled.error is None or settled.error.raw_code == "providerError"


class ExchangeRules(SessionRules):
    """The same by REST."""

    duplex = False


_STATEFUL = settings(
    stateful_step_count=30,
    report_multiple_bugs=False,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestWebSocket = SessionRules.TestCase
TestWebSocket.settings = _STATEFUL
TestRest = ExchangeRules.TestCase
TestRest.settings = _STATEFUL


@given(
    faults=st.one_of(
        st.builds(Faults, kill_every=st.integers(3, 10)),
        # Longer than the handshake and one question with its answer take: 5 times the latency.
        st.builds(Faults, life=st.sampled_from([0.06, 0.1, 0.3, 1.0, 3.0])),
    ),
    kinds=st.lists(st.tuples(st.sampled_from(["sync", "async"]), st.floats(0.0, 1.0)), min_size=1, max_size=60),
    closes=st.booleans(),
    empty=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_session_whose_connections_never_last_loses_nothing(faults, kinds, closes, empty, seed) -> None:
    world = World(SessionOptions(api_key=Secret(KEY)), seed)
    world.submit(submission("first"), Plan([0.1]))
    assert world.run_until_settled(CALM)
    world.faults = faults
    world.service.closes_sync, world.service.empty_for_unknown = closes, empty
    for number, (delivery, duration) in enumerate(kinds):
        world.submit(submission(f"t{number}", delivery), Plan([duration]))
        world.run(duration / 20)
    assert world.run_until_settled(300.0), f"{world.machine.statistics()}"
    assert all(settled.error is None for settled in world.settled.values())
    assert all(bill == 1 for bill in world.service.bills.values())
    assert len(world.service.bills) == len(kinds) + 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("t1", "t2", "gone", "", None, 7)
MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "taskUUID": st.sampled_from(NAMES),
        "taskType": st.sampled_from(
            ["imageInference", "getResponse", "getTaskDetails", "authentication", "ping", None]
        ),
        "status": st.sampled_from(["success", "processing", "error", "ready", "validated", "strange", None, 3]),
        "progress": st.sampled_from([0, 50.5, "x", None]),
        "imageUUID": st.sampled_from(["a", "b", 5]),
        "text": JSON,
        "error": JSON,
        "code": st.sampled_from(
            ["conflictTaskUUID", "taskNotFound", "rateLimitExceeded", "timeout", "invalidApiKey", 1]
        ),
        "message": st.text(max_size=5),
        "request": JSON,
        "response": JSON,
        "connectionSessionUUID": st.sampled_from(["s", 1, None]),
    },
)
FRAMES = st.fixed_dictionaries(
    {}, optional={"data": st.lists(MEMBERS, max_size=3) | JSON, "errors": st.lists(MEMBERS, max_size=3) | JSON}
)


def assert_nothing_is_forgotten(machine: SessionMachine, *, duplex: bool) -> None:
    """Each task in flight waits for something that is sure to come: a time, or by REST the outcome of a POST."""
    tracker = machine._tracker
    if not tracker.is_open:
        return
    for task_id, entry in tracker.entries.items():
        is_posted = not duplex and (entry.state is TaskState.SENT or entry.open_poll is not None)
        waits = task_id in entry.window.waiting and entry.window.next_at(has_connection=True) < inf
        is_due = task_id in tracker._polls or task_id in tracker._deadlines
        is_awaited = any(entry in tracker._awaited(polled, entry.reply_by) for polled in tracker._replies)
        assert is_posted or waits or is_due or is_awaited, entry


TASKS = st.tuples(
    st.sampled_from(["sync", "async", "search"]),
    st.booleans(),
    st.sampled_from([0.05, 0.3, 2.0]),
    st.sampled_from([0.0, 0.0, 0.1, 1.0, 5.0]),
    st.integers(1, 2),
)
"""How a task is delivered, whether its results are too large, its duration, when it is submitted, and its results."""


@pytest.mark.parametrize("duplex", [True, False])
@given(tasks=st.lists(TASKS, min_size=1, max_size=10), seed=st.integers(0, 2**32))
def test_answer_that_is_too_large_ends_its_task_alone_after_few_tries(
    duplex: bool, tasks: list[Any], seed: int
) -> None:
    world = World(SessionOptions(api_key=Secret(KEY), duplex=duplex), seed)
    world.submit(submission("first"), Plan([0.1]))
    assert world.run_until_settled(CALM)
    world.faults.largest = 1_000
    large: set[str] = set()
    for number, (kind, is_large, duration, pause, slots) in enumerate(tasks):
        world.run(pause)
        delivery = "async" if kind == "async" else "sync"
        more = {"task_type": "modelSearch"} if kind == "search" else {}
        world.submit(
            submission(f"t{number}", delivery, slots, **more),
            Plan([duration] * slots, size=1_500 if is_large else 100),
        )
        if is_large and kind != "search":
            large.add(f"t{number}")
    assert world.run_until_settled(CALM)
    told = {name: settled.error and settled.error.raw_code for name, settled in world.settled.items()}
    assert {name for name, code in told.items() if code == "replyTooLarge"} == large
    assert set(told.values()) <= {None, "replyTooLarge"}
    assert world.losses <= 1 + 3 * len(large) + len(tasks)
    assert set(world.service.bills.values()) == {1}


@pytest.mark.parametrize("duplex", [True, False])
@given(frames=st.lists(FRAMES, max_size=6), status=st.sampled_from([200, 400, 404, 429, 500]))
def test_machine_any_frames_never_crash_it(duplex: bool, frames: list[Any], status: int) -> None:
    machine = SessionMachine(SessionOptions(api_key=Secret(KEY), duplex=duplex))
    commands: list[Any] = []
    at = 0.0
    for task in (submission("t1", "async", 2), submission("t2", "sync")):
        commands += machine.handle(TaskSubmitted(at, task))
    if duplex:
        commands += machine.handle(ConnectionOpened(at))
        welcome = b'{"data":[{"taskType":"authentication","connectionSessionUUID":"s"}]}'
        commands += machine.handle(FrameReceived(at, decode_frame(welcome)))
    for index, whole in enumerate(frames):
        at += 1.0
        raw = json.dumps(whole).encode()
        if duplex:
            commands += machine.handle(FrameReceived(at, decode_frame(raw)))
        else:
            lane = [Lane.SUBMIT, Lane.POLL, Lane.LOOKUP][index % 3]
            ids = tuple(task.task_id for task in (submission("t1"), submission("t2")))[: 1 + index % 2]
            commands += machine.handle(ExchangeFinished(at, ids, lane, status, decode_reply(status, raw)))
        if index % 2:
            commands += machine.handle(WebhookReceived(at, decode_webhook(raw)))
        commands += machine.handle(TimerFired(at))
        assert_nothing_is_forgotten(machine, duplex=duplex)
    commands += machine.handle(SessionClosed(at))
    settled = [command.task_id for command in commands if isinstance(command, Settle)]
    assert sorted(settled) == ["t1", "t2"]
    assert all(command.task_id in ("t1", "t2") for command in commands if isinstance(command, Deliver))
    with pytest.raises(ClientStateError, match="CLOSED"):
        machine.handle(TaskSubmitted(at, submission("t3")))
