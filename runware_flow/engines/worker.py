"""The part of an engine in a worker process: one batch run with a client of its own, which is given shards.

Each run has a thread with an event loop, so that runs do not wait for each other or for the engine's own event loop.
The client and the journal are opened there, from the environment of this process, before the first shard.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections import deque
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
from anyio.from_thread import BlockingPortal

from runware_flow.batch.report import BatchReport, Outbox
from runware_flow.batch.run import BatchRun, BatchSpec, BatchState, open_run
from runware_flow.batch.source import FedSource, Pulled
from runware_flow.batch.watch import BatchWatch
from runware_flow.errors import JournalError, RunwareError, RunwareFlowError
from runware_flow.graph.events import NodeSettled, RunFinished, RunStarted
from runware_flow.graph.outcomes import Failed, Ok
from runware_flow.graph.tolerance import Tolerance
from runware_flow.journal.postgres import PostgresStore
from runware_flow.lifetime import find_single
from runware_flow.runner.accounts import Accounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runware_flow.batch.item import BatchItem
    from runware_flow.graph.events import Event
    from runware_flow.graph.outcomes import Outcome
    from runware_flow.session.window import WindowState
    from runware_flow.view.progress import StageCounts

__all__ = (
    "CONCURRENCY",
    "Job",
    "Reply",
    "RunMissing",
    "ShardItem",
    "attend",
    "end_run",
    "packed",
    "packed_event",
    "run_shard",
)

_LOGGER = logging.getLogger("runware_flow")

CONCURRENCY = ""
"""The key of `concurrency` among the limits, none of which can have this name."""
_MOST_EVENTS = 1024
"""The most events that wait here for the driver; as many again may be in the stream that they come from."""
_MOST_BYTES = 1 << 20
"""The most bytes of the events of one reply, not counting the last event."""
_MOST_SHOWN = 1000
"""The most characters of the text that replaces a value that cannot be sent."""
_ORPHANED = 10.0
"""Seconds without a message from the driver after which a run begins no more items."""


class Job(NamedTuple):
    """What a worker needs to take part in a run. It holds no secret.

    Attributes:
        run_id: of this run.
        name: the batch and its journal; runs of equal names share what their workers may have in use.
        spec: how an item is done; without its journal.
        journal: the address of the database, without a password.
        lease, patience: see `PostgresStore`.
        progress: what the driver is sent besides outcomes: `"events"` of nodes, `"counts"` of stages, or nothing.
    """

    run_id: str
    name: str
    spec: BatchSpec
    journal: str
    lease: float
    patience: float
    progress: str = ""


class ShardItem(NamedTuple):
    """The outcome of an item, on its way to the driver.

    Attributes:
        outcome: pickled.
        accounts: what it cost.
        stages: how many nodes it had, by stage, if stages are counted.
    """

    position: int
    outcome: bytes
    is_restored: bool
    accounts: Accounts
    stages: dict[str, StageCounts]


class Reply(NamedTuple):
    """The state of a run in a worker.

    Attributes:
        is_missing: it has no such run.
        in_use: what all runs of that name have in use in this process, by limit.
        error: why the run has failed.
        time: seconds since the run was opened here.
        refused_count: how many nodes wait because the service refuses their tasks.
        windows: the state of the send windows that had a refusal.
        stages: what was counted, if stages are.
        events: some events of nodes, packed, the oldest first.
        has_more: there are more of them.
    """

    is_missing: bool
    in_use: dict[str, int]
    error: Exception | None = None
    time: float = 0.0
    refused_count: int = 0
    windows: dict[str, WindowState] = {}  # noqa: RUF012
    stages: dict[str, StageCounts] = {}  # noqa: RUF012 - never changed
    events: list[bytes] = []  # noqa: RUF012
    has_more: bool = False


class RunMissing(RunwareFlowError):
    """A worker has no such run: it is a new process, or has had no message from the driver for too long."""


class _Shard:
    """Items that were sent together."""

    __slots__ = ("done", "items", "left")

    def __init__(self, left: set[int]) -> None:
        self.left = left
        self.items: list[ShardItem] = []
        self.done = anyio.Event()


class _ShardOutbox(Outbox[Any, Any]):
    """Hands each outcome to the shard of its item. There is room: the driver sends no more than it takes back."""

    def __init__(self, report: BatchReport, name: str, watch: BatchWatch) -> None:
        super().__init__(report, name, 1)
        self.shards: dict[int, _Shard] = {}
        self._watch = watch

    async def room(self) -> None:
        return

    def put(self, item: BatchItem[Any, Any], accounts: Accounts) -> None:
        shard = self.shards.pop(item.index, None)
        stages = self._watch.take_item_counts(item.index)
        if shard is None:
            return
        outcome = packed(item.outcome)
        shard.items.append(ShardItem(item.index, outcome, item.is_restored, accounts.without_whole(), stages))
        shard.left.discard(item.index)
        if not shard.left:
            shard.done.set()

    def release(self) -> None:
        """There will be no more outcomes: who waits gets those that there are."""
        for shard in set(self.shards.values()):
            shard.done.set()
        self.shards.clear()


class _WorkerRun:
    """One run in this process, in a thread of its own."""

    def __init__(self, job: bytes, run_id: str, name: str, share: Mapping[str, int]) -> None:
        self.run_id = run_id
        self.name = name
        self.received_at = time.monotonic()
        self.error: Exception | None = None
        self.ended = threading.Event()
        self.abandoned: list[tuple[int, Outcome[Any]]] = []
        """The first hundred items that were in flight when the run was cancelled, by position."""
        self._opened = threading.Event()
        self._job = job
        self._share = dict(share)
        self._peaks: dict[str, int] = {}
        self._portal: BlockingPortal | None = None
        self._run: BatchRun | None = None
        self._is_left = False
        self._is_cancelled = False
        self._watch: BatchWatch | None = None
        self._events: deque[bytes] = deque()
        self._taken = anyio.Event()
        self._drops_events = False
        self._thread = threading.Thread(target=self._main, name=f"runware_flow {name}", daemon=True)
        self._thread.start()

    # Called from other threads

    def in_use(self) -> dict[str, int]:
        """What this run has in use, by limit."""
        run = self._run
        return {} if run is None else {CONCURRENCY: run.runner.worker_count, **run.admission.in_use()}

    def reply(self, in_use: dict[str, int], most_events: int) -> Reply:
        """Return the state of the run, with some of its events."""
        watch, run = self._watch, self._run
        if watch is None:
            return Reply(is_missing=False, in_use=in_use, error=self.error)
        has_unread = watch.has_unread  # asked first: what is told meanwhile is among those that are taken now
        events: list[bytes] = []
        size = 0
        while self._events and len(events) < most_events and size < _MOST_BYTES:
            events.append(self._events.popleft())
            size += len(events[-1])
        if events:
            self._post(self._note_taken)
        return Reply(
            is_missing=False,
            in_use=in_use,
            error=self.error,
            time=watch.time(),
            refused_count=watch.refused_count(),
            windows={} if run is None else run.admission.window_states(),
            stages=watch.counts(),
            events=events,
            has_more=has_unread or bool(self._events),
        )

    def resize(self, share: Mapping[str, int]) -> None:
        """Use no more than that from now on."""
        self.received_at = time.monotonic()
        if share != self._share:
            self._share = dict(share)
            self._post(self._apply)

    def hold(self, peaks: Mapping[str, int]) -> None:
        """Hold the send windows of these models, since another worker has the turn."""
        if peaks != self._peaks:
            self._peaks = dict(peaks)
            self._post(self._apply)

    def leave(self, *, is_cancelled: bool = False, is_over: bool = False) -> None:
        """Begin no more items; with `is_cancelled` those in flight are abandoned, too.

        Args:
            is_over: the driver asks for nothing more, events included.
        """
        self._is_left = True
        self._drops_events = self._drops_events or is_over
        self._is_cancelled = self._is_cancelled or is_cancelled
        self._post(self._leave)

    def work(self, items: Sequence[Pulled]) -> list[ShardItem]:
        """Work on items to their outcomes; fewer come back of a run that has been stopped."""
        self._opened.wait()
        if self.error is not None:
            raise self.error
        try:
            assert self._portal is not None
            done: list[ShardItem] = self._portal.call(self._work, items)
        except RuntimeError as error:
            # The portal takes calls for as long as the run lives, so the run has ended, or will in a moment.
            if self.ended.wait(_ORPHANED):
                raise RunMissing("the run has ended in this worker") from error
            raise
        if self.error is not None:
            raise self.error
        return done

    def _post(self, function: Any) -> None:
        portal = self._portal
        if portal is not None and self._opened.is_set() and not self.ended.is_set():
            try:
                portal.start_task_soon(function)
            except RuntimeError:  # it has ended meanwhile
                return

    # In its own thread

    def _main(self) -> None:
        try:
            anyio.run(self._live)
        except BaseException as error:  # noqa: BLE001 - reported to the driver
            self.error = self.error or _portable_error(error)
        finally:
            self._opened.set()
            self.ended.set()

    async def _live(self) -> None:
        job: Job = pickle.loads(self._job)
        self._wake = anyio.Event()
        source, accounts = FedSource(), Accounts()
        report = BatchReport(accounts, name=job.spec.name)
        self._source = source
        store = PostgresStore(job.journal, lease=job.lease, patience=job.patience)
        settings = msgspec.structs.replace(
            job.spec.settings,
            journal=store,
            on_error="continue",
            progress=self._pass_on if job.progress == "events" else None,
        )
        watch = BatchWatch(job.spec.name, settings, None, accounts, counts_items=job.progress == "counts")
        self._watch = watch
        self._outbox = outbox = _ShardOutbox(report, job.spec.name, watch)
        state = BatchState(source, accounts, report, outbox, watch, Tolerance(1.0))
        try:
            async with BlockingPortal() as self._portal:
                try:
                    with anyio.CancelScope() as self._scope:
                        spec = job.spec._replace(settings=settings, tolerate=1.0)
                        async with open_run(spec, state, has_item_accounts=True) as self._run:
                            await self._apply()
                            self._opened.set()
                            await self._wait_for_end()
                except Exception as error:  # noqa: BLE001 - reported to the driver
                    self.error = _portable_error(error)
                finally:
                    outbox.release()
        finally:
            self.abandoned = [(item.index, item.outcome) for item in report.abandoned]
            self._run = None

    async def _wait_for_end(self) -> None:
        while not self._outbox.ended.is_set() and not self._is_left:
            with anyio.move_on_after(1.0):
                await self._wake.wait()
            if time.monotonic() - self.received_at > _ORPHANED:
                what = "batch %s: no message from the driver for %g s: this worker begins no more items"
                _LOGGER.warning(what, self.name, _ORPHANED)
                self._drops_events = True
                self._taken.set()
                return
        if self._is_cancelled:
            self._scope.cancel()
            await anyio.lowlevel.checkpoint()

    async def _pass_on(self, event: Event) -> None:
        """Keep an event until the driver takes it. While there are too many, wait: then no more items begin here."""
        if isinstance(event, (RunStarted, RunFinished)):
            return
        while len(self._events) >= _MOST_EVENTS and not self._drops_events:
            self._taken = anyio.Event()
            await self._taken.wait()
        if not self._drops_events:
            self._events.append(packed_event(event))

    async def _note_taken(self) -> None:
        self._taken.set()

    async def _leave(self) -> None:
        self._wake.set()
        self._taken.set()
        if self._is_cancelled:
            self._scope.cancel()

    async def _apply(self) -> None:
        if self._run is not None:
            self._run.admission.resize({name: size for name, size in self._share.items() if name != CONCURRENCY})
            self._run.runner.resize(self._share[CONCURRENCY])
            self._run.admission.hold_windows(self._peaks)

    async def _work(self, items: Sequence[Pulled]) -> list[ShardItem]:
        shard = _Shard({item.position for item in items})
        if self._is_left or self._run is None:
            return []
        for item in items:
            self._outbox.shards[item.position] = shard
        self._source.feed(items)
        await shard.done.wait()
        return shard.items


_RUNS: dict[str, _WorkerRun] = {}
"""The runs of this process. They are used by the event loop of the engine's worker alone, and by shards."""


def attend(
    run_id: str,
    name: str,
    job: bytes | None,
    share: dict[str, int],
    is_stopped: bool,
    most_events: int,
    held: dict[str, int],
) -> Reply:
    """Take a message of a run's driver, which says how much this process may use, and reply how much it uses.

    Args:
        job: a pickled `Job`, with which the run is opened if it is not there.
        share: how much may be used, by limit.
        is_stopped: no more items are to be begun.
        most_events: how many events of nodes may come back.
        held: the models whose send windows are to be held, each with the largest peak that a worker has met.
    """
    for old in [run for run in _RUNS.values() if run.ended.is_set() and run.run_id != run_id]:
        del _RUNS[old.run_id]
    others = [run for run in _RUNS.values() if run.name == name and run.run_id != run_id]
    used = {limit: sum(run.in_use().get(limit, 0) for run in others) for limit in share}
    left = {limit: max(0, size - used[limit]) for limit, size in share.items()}
    run = _RUNS.get(run_id)
    if run is not None and run.ended.is_set() and run.error is None and not is_stopped:
        # No message from the driver came for too long: the process was frozen, or cut off. The run begins anew.
        del _RUNS[run_id]
        run = None
    if run is None:
        if job is None:
            return Reply(is_missing=True, in_use=used)
        run = _RUNS[run_id] = _WorkerRun(job, run_id, name, left)
    run.resize(left)
    run.hold(held)
    if is_stopped:
        run.leave()
    own = run.in_use()
    return run.reply({limit: used[limit] + own.get(limit, 0) for limit in share}, most_events)


def run_shard(run_id: str, items: list[Pulled]) -> bytes:
    """Work on the items of a shard; the engine's task. Its slot in the worker is free for others meanwhile.

    Returns its `ShardItem`s, pickled: Dask would look at each member of a list.

    Raises:
        RunMissing: this process has no such run.
        RunwareFlowError: the run has failed here.
    """
    distributed: Any = import_module("distributed")  # not needed to read this
    distributed.secede()
    run = _RUNS.get(run_id)
    if run is None:
        raise RunMissing(f"this worker has no run {run_id}")
    return pickle.dumps(run.work(items))


async def end_run(run_id: str, is_cancelled: bool) -> list[tuple[int, Outcome[Any]]]:
    """End a run, let what is in flight end or abandon it, and return the first items that were abandoned."""
    run = _RUNS.get(run_id)
    if run is None:
        return []
    run.leave(is_cancelled=is_cancelled, is_over=True)
    await anyio.to_thread.run_sync(run.ended.wait, abandon_on_cancel=True)
    del _RUNS[run_id]
    return run.abandoned


def packed(outcome: Any) -> bytes:
    """Pickle an outcome; one that cannot be pickled becomes a failure that says so."""
    cloudpickle: Any = import_module("cloudpickle")  # it has no types
    try:
        packed = _quickly_packed(outcome) or cloudpickle.dumps(outcome)
        if not isinstance(outcome, Ok):
            pickle.loads(packed)  # exceptions of users often cannot be made again
    except Exception as error:  # noqa: BLE001 - of any kind, from code of any kind
        if isinstance(outcome, Failed):
            lost: Exception = RunwareError(f"{type(outcome.error).__name__}: {outcome.error}")
        else:
            lost = RunwareError(f"the outcome of an item cannot be sent to the driver: {error}")
        packed = cloudpickle.dumps(Failed(lost))
    return packed


def _quickly_packed(outcome: Any) -> bytes | None:
    """Pickle an outcome in a quarter of the time that cloudpickle needs; `None` if only cloudpickle can."""
    try:
        packed = pickle.dumps(outcome)
    except Exception:  # noqa: BLE001 - of any kind, from objects of any kind
        return None
    return None if b"__main__" in packed else packed  # `__main__` is another module in the driver


def packed_event(event: Event) -> bytes:
    """Pickle an event; a value that cannot be pickled is replaced by its text."""
    cloudpickle: Any = import_module("cloudpickle")  # it has no types
    if isinstance(event, NodeSettled) and not isinstance(event.outcome, Ok):
        event = msgspec.structs.replace(event, outcome=pickle.loads(packed(event.outcome)))
    try:
        sent: bytes = cloudpickle.dumps(event)
    except Exception:  # noqa: BLE001 - of any kind, from objects of any kind
        assert isinstance(event, NodeSettled)
        assert isinstance(event.outcome, Ok)
        shown = repr(event.outcome.value)[:_MOST_SHOWN]
        sent = cloudpickle.dumps(msgspec.structs.replace(event, outcome=Ok(shown)))
    return sent


def _portable_error(error: BaseException) -> Exception:
    """The failure of a run as it is sent to the driver, without its traceback."""
    single = find_single(error) or error
    if isinstance(single, RunwareFlowError):
        try:
            made: Exception = pickle.loads(pickle.dumps(single))
        except Exception:  # noqa: BLE001 - it cannot be pickled: its text is sent
            return JournalError(str(single)) if isinstance(single, JournalError) else RunwareError(str(single))
        return made
    return RunwareError(f"in a worker: {type(single).__name__}: {single}")
