"""When to poll, in virtual time: no socket and no clock, so the figures are the same on every machine.

    python -m benchmarks.polling_rules [--workloads "50 ms chains" ...] [--seeds 4] [--set quantile=0.1 burst=100 ...]

The session machine is the library's own. Around it there is a service that answers after the latency each way (5 ms,
or 1 ms in the workloads called near), and a caller that submits the next task of a chain when the one before has
settled. "Delay" is the time from ready at the service to in hand, so the latency is the least. "Frames" are those that
hold polls. "Wall" is in times of the same workload with pushed results (sync), which no polling can beat. `--set`
changes fields of `PollPolicy`, to compare.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from runware_flow.secret import Secret
from runware_flow.session import commands, events
from runware_flow.session.commands import Lane
from runware_flow.session.machine import SessionMachine
from runware_flow.session.options import SessionOptions
from runware_flow.session.polling import PollPolicy
from runware_flow.types import TaskId
from runware_flow.wire.frames import ErrorItem, Frame, Item, decode_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

WELCOME = decode_frame(b'{"data":[{"taskType":"authentication","connectionSessionUUID":"s"}]}')

Draw = Callable[[random.Random, float], float]
"""The duration of a task: given random numbers, and which share of the tasks came before it."""


class Workload(NamedTuple):
    """Chains of tasks, so many at a time, at a service that takes, or works on, so many at once."""

    chains: int
    length: int
    at_once: int
    draw: Draw
    capacity: int | None = None
    """Tasks in flight that the service takes; it refuses more."""
    servers: int | None = None
    """Tasks that the service works on; more wait at the service."""
    latency: float = 0.005
    """Seconds each way."""


def drifting(rng: random.Random, share: float) -> float:
    """A model that becomes faster, and later slower than it was."""
    middle = 1.0 - 1.2 * share if share < 0.5 else 0.4 + 2.4 * (share - 0.5)
    return middle * rng.uniform(0.95, 1.05)


def cold(rng: random.Random, share: float) -> float:
    """A model whose first tasks wait until it is loaded."""
    return 30.0 if share < 0.1 else rng.uniform(0.28, 0.32)


WORKLOADS = {
    "50 ms chains": Workload(200, 3, 64, lambda rng, share: 0.05),
    "50 ms, near": Workload(800, 3, 64, lambda rng, share: 0.05, latency=0.001),
    "50-60 ms, near": Workload(800, 3, 64, lambda rng, share: rng.uniform(0.05, 0.06), latency=0.001),
    "0.2-1 s chains": Workload(200, 3, 64, lambda rng, share: rng.uniform(0.2, 1.0)),
    "0.5-3 s at once": Workload(1000, 1, 1000, lambda rng, share: rng.uniform(0.5, 3.0)),
    "0.5-3 s, 64": Workload(600, 1, 64, lambda rng, share: rng.uniform(0.5, 3.0)),
    "3 s, capacity 8": Workload(300, 1, 300, lambda rng, share: 3.0, capacity=8),
    "3 s, queue of 8": Workload(300, 1, 64, lambda rng, share: 3.0, servers=8),
    "0.3 or 2 s": Workload(600, 1, 64, lambda rng, share: rng.uniform(0.95, 1.05) * rng.choice((0.3, 0.3, 2.0))),
    "drift": Workload(1200, 1, 32, drifting),
    "30 s, then 0.3": Workload(640, 1, 64, cold),
    "30 s": Workload(60, 1, 8, lambda rng, share: rng.uniform(28.0, 32.0)),
}


class Figures(NamedTuple):
    """What one run came to."""

    wall: float
    mean: float
    p95: float
    frames: float
    polls: float


class Simulation:
    """One workload, one machine, one service."""

    def __init__(self, workload: Workload, delivery: Literal["sync", "async"], seed: int, policy: PollPolicy) -> None:
        self.machine = SessionMachine(SessionOptions(api_key=Secret("key"), poll=policy))
        self.workload = workload
        self.delivery = delivery
        rng = random.Random(seed)
        total = workload.chains * workload.length
        self.durations = [workload.draw(rng, number / total) for number in range(total)]
        self.now = 0.0
        self.timer: float | None = None
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.ready_at: dict[TaskId, float] = {}
        self.settled_at: dict[TaskId, float] = {}
        self.running: list[float] = []
        self.waiting = deque(range(workload.chains))
        self.frames = self.polls = 0
        self.started = 0

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.count += 1
        heappush(self.queue, (self.now + seconds, self.count, action))

    def feed(self, event: events.Event) -> None:
        for command in self.machine.handle(event):
            match command:
                case commands.Send(entries):
                    polls = sum(entry.lane is Lane.POLL for entry in entries)
                    self.polls += polls
                    self.frames += -(-polls // 100)
                    self.after(self.workload.latency, lambda entries=entries: self.arrive(entries))
                case commands.SetTimer(at):
                    self.timer = at
                case commands.OpenConnection():
                    self.after(0.0, lambda: self.feed(events.ConnectionOpened(self.now)))
                    self.after(0.0, lambda: self.feed(events.FrameReceived(self.now, WELCOME)))
                case commands.Settle(task_id, error):
                    assert error is None, error
                    self.settled_at[task_id] = self.now
                    self.after(0.0, lambda task_id=task_id: self.go_on(task_id))
                case _:
                    pass

    def run(self) -> Figures:
        self.feed(events.ConnectRequested(self.now))
        for _ in range(self.workload.at_once):
            self.after(0.0, self.begin)
        while len(self.settled_at) < len(self.durations):
            at = self.queue[0][0] if self.queue else float("inf")
            if self.timer is not None and self.timer < at:
                self.now, self.timer = max(self.now, self.timer), None
                self.feed(events.TimerFired(self.now))
            else:
                self.now, _, action = heappop(self.queue)
                action()
        delays = sorted(at - self.ready_at[task_id] for task_id, at in self.settled_at.items())
        total = len(delays)
        return Figures(
            self.now, statistics.fmean(delays), delays[int(0.95 * total)], float(self.frames), self.polls / total
        )

    def begin(self) -> None:
        if self.waiting:
            self.submit(self.waiting.popleft(), 0)

    def go_on(self, task_id: TaskId) -> None:
        chain, step = map(int, task_id.split("-"))
        if step + 1 < self.workload.length:
            self.submit(chain, step + 1)
        else:
            self.begin()

    def submit(self, chain: int, step: int) -> None:
        task_id = TaskId(f"{chain}-{step}")
        submission = events.Submission(
            task_id=task_id, body=b"{}", task_type=f"type{step}", model="m", delivery=self.delivery
        )
        self.feed(events.TaskSubmitted(self.now, submission))

    def arrive(self, entries: Sequence[commands.Outgoing]) -> None:
        items: list[Item] = []
        errors: list[ErrorItem] = []
        for entry in entries:
            task_id = entry.task_id
            if task_id is None:
                continue
            if entry.lane is Lane.SUBMIT:
                if not self.take(task_id):
                    errors.append(ErrorItem(code="rateLimitExceeded", task_id=task_id))
                elif self.delivery == "sync":
                    self.after(
                        self.ready_at[task_id] - self.now, lambda task_id=task_id: self.reply([self.result(task_id)])
                    )
                else:
                    items.append(Item(task_id=task_id, task_type="t"))
            elif self.ready_at[task_id] <= self.now:
                items.append(self.result(task_id))
            else:
                items.append(Item(task_id=task_id, task_type="t", status="processing"))
        if items or errors:
            self.reply(items, errors)

    def result(self, task_id: TaskId) -> Item:
        return Item(task_id=task_id, task_type="t", status="success", slot="0", is_result=True)

    def reply(self, items: Sequence[Item], errors: Sequence[ErrorItem] = ()) -> None:
        frame = Frame(tuple(items), tuple(errors))
        self.after(self.workload.latency, lambda: self.feed(events.FrameReceived(self.now, frame)))

    def take(self, task_id: TaskId) -> bool:
        """Take a task on, when there is room: the time at which it is ready is known then."""
        workload, running = self.workload, self.running
        while running and running[0] <= self.now:
            heappop(running)
        if workload.capacity is not None and len(running) >= workload.capacity:
            return False
        chain, step = map(int, task_id.split("-"))
        start = self.now
        if workload.servers is not None and len(running) >= workload.servers:
            start = sorted(running)[-workload.servers]
        self.ready_at[task_id] = start + self.durations[chain * workload.length + step]
        heappush(running, self.ready_at[task_id])
        return True


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=NUMBER")
    options = parser.parse_args()
    changes = dict(change.split("=", 1) for change in options.set)
    policy = msgspec.convert(changes, PollPolicy, strict=False)
    columns = ("wall / sync", "mean, ms", "p95, ms", "frames", "frames / s", "polls a task")
    print(f"{'workload':16} {' '.join(columns)}")
    for name in options.workloads:
        workload = WORKLOADS[name]
        pushed = [Simulation(workload, "sync", seed, policy).run().wall for seed in range(options.seeds)]
        runs = [Simulation(workload, "async", seed, policy).run() for seed in range(options.seeds)]
        wall, mean, p95, frames, polls = map(statistics.fmean, zip(*runs, strict=True))
        values = (wall / statistics.fmean(pushed), mean * 1000, p95 * 1000, frames, frames / wall, polls)
        shown = (
            f"{value:{len(column)}.{2 if column.startswith(('wall', 'polls')) else 0}f}"
            for column, value in zip(columns, values, strict=True)
        )
        print(f"{name:16} {' '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
