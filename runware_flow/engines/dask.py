"""`DaskEngine`: a batch on the workers of a Dask cluster.

The source is read here, and cut into shards of a few items. A shard is a task of Dask for one worker, whose outcome is
its items' outcomes; no more shards are out than keep the workers busy, so nothing grows with the length of the source,
neither here nor in the scheduler. Each worker process has one run of the batch, with its own client and its own
connection to the journal, for all its shards; every two seconds it is sent its share of `concurrency` and of the
limits. The journal alone guarantees that an item is made once: a shard that is lost with its worker is sent to another
worker, which takes its items once their leases have expired.
"""

from __future__ import annotations

import math
import pickle
import uuid
from collections import deque
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import msgspec

from runware_flow.batch.batch_runner import FailurePolicy
from runware_flow.batch.item import BatchItem
from runware_flow.batch.report import BatchOutcomes
from runware_flow.batch.run import open_state
from runware_flow.batch.source import Pulled
from runware_flow.engines.worker import CONCURRENCY, Job, RunMissing, attend, end_run, run_shard
from runware_flow.errors import ClientStateError, DeclarationError, RunwareError
from runware_flow.graph.shares import ShareMachine, WindowTurns
from runware_flow.journal.address import DatabaseAddress
from runware_flow.journal.postgres import PostgresStore
from runware_flow.lifetime import on_asyncio, open_task_group, stray_cancels
from runware_flow.runner.budget import Budget, read_budget
from runware_flow.view.progress import SharedStages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from anyio.abc import TaskGroup

    from runware_flow.batch.run import BatchSpec, BatchState
    from runware_flow.engines.worker import Reply, ShardItem
    from runware_flow.graph.events import Event

__all__ = ("DaskEngine",)

Shard: TypeAlias = list[Pulled]

_SHARDS_A_WORKER = 32
"""Tasks of Dask that a worker has at a time; each is a thread there that waits."""
_SHARD_SECONDS = 1 / 8
"""A shard has at least what the worker does in that time: a task of Dask costs scheduler and worker a millisecond."""
_MOST_ITEMS = 64
"""The most items of a shard: as many as are looked up in a journal together."""
_SETTLED_SECONDS, _UNSETTLED_SECONDS = 2.0, 0.25
"""Seconds between two messages with its share to a worker: usually, and while other workers must give up some first."""
_MOST_EVENTS = 512
"""The most events of one reply; none are requested while events of an earlier reply are unread."""
_LOOK_SECONDS = 0.5
"""Seconds between two queries for the workers of the scheduler."""
_SILENT = 2
"""A worker that has not answered for this multiple of a lease's length is given up."""
_CONNECT_SECONDS = 10.0
_END_SECONDS = 4.0


class DaskEngine:
    """Runs batches on a Dask cluster: `Batch(..., journal="postgresql://...").on(DaskEngine("tcp://scheduler:8786"))`.

    Each worker process takes the key of the service and the password of the database from its own environment. The
    program that calls `run` needs neither, and must run on asyncio. A cancel abandons what the workers have in flight,
    as `Batch.run` does; the next run with the same journal collects it.

    Args:
        address_or_client: the scheduler's address, or a `distributed.Client` or a cluster that has it.
        workers: the most workers to use, or the addresses of those to use; by default all.

    Raises:
        DeclarationError: an argument is wrong.
    """

    def __init__(self, address_or_client: Any, *, workers: int | Collection[str] | None = None) -> None:
        self._address, self._security = _read_address(address_or_client)
        if isinstance(workers, (bool, str)) or (isinstance(workers, int) and workers < 1):
            raise DeclarationError(f"workers= is how many workers are used, or their addresses, not {workers!r}")
        self._workers = workers

    def __repr__(self) -> str:
        return f"<DaskEngine {self._address}>"

    def check(self, spec: BatchSpec) -> None:
        """Check that a batch can run on workers.

        Raises:
            DeclarationError: its journal is not in a database, or the address of the journal has a password.
        """
        _journal_of(spec)

    @asynccontextmanager
    async def open_run(self, spec: BatchSpec, items: Any) -> AsyncGenerator[BatchOutcomes[Any, Any]]:
        """Run a batch for the time of a block; see `Batch.run`."""
        if not on_asyncio():
            raise ClientStateError("DaskEngine runs on asyncio alone, as Dask's client does: use backend='asyncio'")
        state = open_state(spec, items)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(state.source.aclose)
            client = await stack.enter_async_context(_connected(self._address, self._security))
            run = _ClusterRun(spec, state, client, self._workers)
            async with open_task_group() as group:
                state.watch.begin(group, run.stop)
                group.start_soon(run.run)
                try:
                    yield BatchOutcomes(state.outbox)
                except BaseException:
                    group.cancel_scope.cancel()
                    state.watch.close()
                    raise
                finally:
                    state.outbox.leave()
                    run.stop()


class _Worker:
    """A worker, and what it was sent."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.scope = anyio.CancelScope()
        self.share = 0
        self.item_count = 0
        self.shards: set[anyio.CancelScope] = set()
        self.in_use = 0
        self.last_reply_at = anyio.current_time()
        self.is_silent = False
        self.rate = 0.0
        self.refused_count = 0
        self.clock_offset = math.inf
        """What is added to its times, which count from when the run was opened there."""
        self.is_drained = False
        self._counted_at = anyio.current_time()
        self._counted = 0

    @property
    def room(self) -> int:
        """How many items it may have: those that run, as many again that wait, and what it does in a quarter second."""
        return 2 * self.share + math.ceil(self.rate / 4) if self.share else 0

    @property
    def shard_size(self) -> int:
        """How many items it is sent together."""
        return min(_MOST_ITEMS, math.ceil(max(self.room / _SHARDS_A_WORKER, self.rate * _SHARD_SECONDS)))

    @property
    def has_room(self) -> bool:
        """Whether it may be sent another shard."""
        return self.item_count < self.room and len(self.shards) < _SHARDS_A_WORKER

    def count(self, items: int) -> None:
        """Note the items that have come back."""
        self._counted += items
        now = anyio.current_time()
        if now - self._counted_at >= 1.0:
            self.rate = self._counted / (now - self._counted_at)
            self._counted_at, self._counted = now, 0


class _ClusterRun:
    """The driver of one run: it sends shards, and takes their outcomes."""

    def __init__(self, spec: BatchSpec, state: BatchState, client: Any, workers: int | Collection[str] | None) -> None:
        self._spec = spec
        self._state = state
        self._client = client
        self._wanted = workers
        self._run_id = uuid.uuid4().hex
        journal = _journal_of(spec)
        self._lease_seconds = journal.lease_seconds
        self._name = f"{spec.name} in {journal.address}"
        self._job = pack_job(spec, journal, self._run_id, self._name)
        self._shares = ShareMachine({CONCURRENCY: spec.settings.concurrency, **(spec.settings.limits or {})})
        self._workers: dict[str, _Worker] = {}
        self._again: deque[Shard] = deque()
        """What was lost with a worker."""
        self._pulled: deque[Pulled] = deque()
        self._out: dict[int, Pulled] = {}
        """The items that workers have."""
        self._is_over = False
        self._is_stopped = False
        self._changed = anyio.Event()
        self._shares_changed = anyio.Event()
        self._policy = FailurePolicy(state.outbox, spec.settings, state.tolerance)
        self._shard_count = 0
        self._stages = SharedStages()
        self._turns = WindowTurns()
        self._is_draining = False
        self._address = str(getattr(client.scheduler, "address", "its address"))
        self._is_scheduler_lost = False
        state.watch.look = lambda board: board.take_counts(self._stages.counts())
        state.watch.refused_count = lambda: sum(worker.refused_count for worker in self._workers.values())
        self._group: TaskGroup | None = None

    async def run(self) -> None:
        """Work through the source."""
        state = self._state
        is_cancelled = True
        try:
            async with open_task_group() as self._group:
                self._group.start_soon(self._watch_workers)
                self._group.start_soon(self._pull)
                await self._distribute()
                await self._drain()
                is_cancelled = False
                self._group.cancel_scope.cancel()
            if is_cancelled and not self._is_stopped:  # by Dask's client, which raises nothing then
                raise RunwareError(
                    f"the run of batch {self._spec.name!r} on {self._address} was ended by Dask's client: make the same"
                    " call again: it continues from the journal",
                    code="connection",
                )
            self._policy.end()
            for address in self._workers:
                self._stages.lose(address)  # nothing runs there any more
            end = "failed" if state.outbox.has_failed else "stopped" if self._is_stopped else "done"
            await state.watch.finish(end)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end(is_cancelled=is_cancelled)
            state.report.tick()
            state.outbox.close()

    def stop(self) -> None:
        """Begin no more items. Those that are in flight run to their end."""
        self._is_stopped = True
        self._state.source.stop()
        self._wake()
        self._wake_shares()

    # From the source to the workers

    async def _pull(self) -> None:
        source = self._state.source
        while not self._is_stopped:
            await self._state.outbox.room()
            await self._state.watch.admitted()
            if len(self._pulled) >= _MOST_ITEMS:
                self._wake()
                await self._changed.wait()
                continue
            pulled = await source.pull()
            if pulled is None:
                break
            self._pulled.append(pulled)
            if source.is_async:
                self._wake()
        self._is_over = True
        self._wake()

    async def _distribute(self) -> None:
        """Send what was pulled until all of it has come back."""
        while self._out or self._again or self._pulled or not self._is_over:
            if self._is_stopped:
                self._again.clear()
                self._pulled.clear()
                self._is_over = True
                if not self._out:
                    return
            worker = self._idlest()
            if worker is None or not (self._again or self._pulled):
                await self._changed.wait()
                continue
            self._send(worker)

    async def _drain(self) -> None:
        """Wait for the last events of all workers."""
        if not self._state.watch.wants_events:
            return
        self._is_draining = True
        self._wake_shares()
        while not all(worker.is_drained or worker.is_silent for worker in self._workers.values()):
            await self._changed.wait()

    def _idlest(self) -> _Worker | None:
        with_room = [worker for worker in self._workers.values() if worker.has_room]
        return min(with_room, key=lambda worker: worker.item_count / worker.share, default=None)

    def _send(self, worker: _Worker) -> None:
        if self._again:
            shard = self._again.popleft()
        else:
            shard = [self._pulled.popleft() for _ in range(min(worker.shard_size, len(self._pulled)))]
            self._wake()
        for item in shard:
            self._out[item.position] = item
        worker.item_count += len(shard)
        self._state.report.work()
        assert self._group is not None
        self._group.start_soon(self._await_shard, worker, shard)

    async def _await_shard(self, worker: _Worker, shard: Shard) -> None:
        self._shard_count += 1
        scope = anyio.CancelScope()
        worker.shards.add(scope)
        future: Any = None
        done: list[ShardItem] | None = None
        failure: Exception | None = None
        try:
            with scope, stray_cancels():
                future = self._client.submit(
                    run_shard,
                    self._run_id,
                    shard,
                    key=f"{self._spec.name}-{self._run_id[:8]}-{self._shard_count}",
                    workers=[worker.address],
                    allow_other_workers=False,
                    pure=False,
                )
                done = pickle.loads(await future)
        except RunMissing:
            worker.share = 0  # it is sent nothing until it has a run again
            self._wake_shares()
        except Exception as error:  # noqa: BLE001 - of Dask, or of the run in the worker
            failure = error
        finally:
            if future is not None:
                future.release()  # which cancels it, if it is not done
        worker.shards.discard(scope)
        worker.item_count -= len(shard)
        if failure is not None:
            self._fail_shard(worker, failure)
        if done is not None:
            worker.count(len(done))
            for outcome in done:
                self._settle(outcome, worker)
        left = [item for item in shard if item.position in self._out]
        for item in left:
            del self._out[item.position]
        if left and not self._is_stopped:
            self._again.append(left)
        self._wake()

    def _fail_shard(self, worker: _Worker, error: Exception) -> None:
        """A shard has failed as a whole: its worker is gone, which its items outlive, or its run has failed."""
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        if self._is_unreached(error, FutureCancelledError, KilledWorker, OSError):
            return
        if worker.scope.cancel_called:
            return
        raise error.with_traceback(None)

    def _is_unreached(self, error: Exception, *kinds: type[Exception]) -> bool:
        """Tell whether an error of Dask's client says no more than that a part is not reached, for now or for good.

        Args:
            kinds: those that say so while there is a scheduler. Without one the client raises errors of any kind.

        Raises:
            RunwareError: the scheduler is lost, and nothing has said so yet.
        """
        if self._client.status == "running":
            return isinstance(error, kinds)
        if self._client.status != "connecting" and not self._is_scheduler_lost:
            self._is_scheduler_lost = True
            raise RunwareError(
                f"the Dask scheduler at {self._address} cannot be reached: the workers finish what they have"
                " begun; start a scheduler and make the same call again: it continues from the journal",
                code="connection",
            ) from None
        return True

    # From the workers to the reader

    def _settle(self, done: ShardItem, worker: _Worker) -> None:
        pulled = self._out.pop(done.position, None)
        if pulled is None:
            return
        state = self._state
        item: BatchItem[Any, Any] = BatchItem(
            pulled.position, pulled.item, pulled.key, pickle.loads(done.outcome), done.is_restored
        )
        state.accounts.absorb(done.accounts)
        state.report.begin()
        state.report.count(item)
        state.watch.settled(item.outcome, is_restored=item.is_restored)
        self._stages.deliver(worker.address, done.stages)
        state.outbox.put(item, done.accounts)
        if self._policy.add(item) and not self._is_stopped:
            self.stop()
            if self._spec.settings.on_error == "cancel" and self._group is not None:
                self._group.cancel_scope.cancel()

    # The workers

    async def _watch_workers(self) -> None:
        """Take up workers as they come, and give up those that go."""
        assert self._group is not None
        while True:
            self._wake()
            try:
                with stray_cancels():
                    there = await self._client.nthreads()
            except Exception as error:
                if not self._is_unreached(error, OSError):
                    raise
                there = dict.fromkeys(self._workers)
            for address in [address for address in self._workers if address not in there]:
                self._lose(self._workers.pop(address))
            for address in there:
                if address not in self._workers and self._is_wanted(address):
                    worker = self._workers[address] = _Worker(address)
                    self._shares.join(address)
                    self._turns.join(address)
                    self._group.start_soon(self._attend, worker)
                    self._wake_shares()
            now = anyio.current_time()
            for worker in self._workers.values():
                if now - worker.last_reply_at > _SILENT * self._lease_seconds and not worker.is_silent:
                    self._silence(worker)
            await anyio.sleep(_LOOK_SECONDS)

    def _is_wanted(self, address: str) -> bool:
        if self._wanted is None:
            return True
        return len(self._workers) < self._wanted if isinstance(self._wanted, int) else address in self._wanted

    def _lose(self, worker: _Worker) -> None:
        """A worker is gone: its items go elsewhere, where they wait for their leases to expire."""
        worker.scope.cancel()
        self._stages.lose(worker.address)
        self._turns.leave(worker.address, anyio.current_time())
        self._shares.leave(worker.address, anyio.current_time() + self._lease_seconds)
        self._take_back(worker)

    def _silence(self, worker: _Worker) -> None:
        """A worker does not answer: others try its items. If it hangs its leases have expired, else it has them still.

        It keeps its share: what it has sent may be in flight.
        """
        worker.is_silent = True
        self._take_back(worker)

    def _take_back(self, worker: _Worker) -> None:
        worker.share = worker.in_use = 0
        for scope in worker.shards:
            scope.cancel()
        self._wake_shares()

    async def _attend(self, worker: _Worker) -> None:
        """Send a worker its share for as long as it is there."""
        job: bytes | None = self._job
        with worker.scope:
            while True:
                offered = self._shares.offer(worker.address, anyio.current_time())
                is_draining = self._is_draining
                reply = await self._send_share(worker, job, offered)
                if reply is None:
                    await anyio.sleep(_UNSETTLED_SECONDS)
                    continue
                if reply.error is not None:
                    raise reply.error
                if reply.is_missing:
                    if job is None:
                        self._stages.lose(worker.address)
                        worker.clock_offset = math.inf
                    job = self._job
                    continue
                job = None
                self._note_use(worker, offered, reply.in_use)
                self._receive(worker, reply)
                worker.is_drained = is_draining and not reply.has_more
                self._wake()
                changed = self._shares_changed
                if reply.has_more and reply.events:
                    continue
                is_quiet = (
                    self._shares.is_settled and not self._state.watch.wants_events and not self._turns.is_refusing
                )
                with anyio.move_on_after(_SETTLED_SECONDS if is_quiet else _UNSETTLED_SECONDS):
                    await changed.wait()

    def _note_use(self, worker: _Worker, offered: dict[str, int], in_use: dict[str, int]) -> None:
        """A worker has taken its share, and says how much of it is in use."""
        self._shares.note(worker.address, offered, in_use)
        if worker.share != offered[CONCURRENCY]:
            worker.share = offered[CONCURRENCY]
            self._wake_shares()
        worker.in_use = in_use[CONCURRENCY]
        running = sum(other.in_use for other in self._workers.values())
        self._state.report.note_running(running)
        self._state.watch.note_running(running)

    def _receive(self, worker: _Worker, reply: Reply) -> None:
        """Take what a worker tells of its nodes."""
        watch = self._state.watch
        worker.refused_count = reply.refused_count
        was_refusing = self._turns.is_refusing
        self._turns.note(worker.address, reply.windows, anyio.current_time())
        if self._turns.is_refusing and not was_refusing:
            self._wake_shares()
        self._stages.report(worker.address, reply.stages)
        worker.clock_offset = min(worker.clock_offset, watch.time() - reply.time)
        for packed in reply.events:
            event: Event = pickle.loads(packed)
            watch.notify(msgspec.structs.replace(event, time=max(0.0, event.time + worker.clock_offset)))

    async def _send_share(self, worker: _Worker, job: bytes | None, offered: dict[str, int]) -> Reply | None:
        """Send a worker its share; `None` if it is not reached."""
        watch = self._state.watch
        most_events = _MOST_EVENTS if watch.wants_events and not watch.is_held else 0
        try:
            with stray_cancels():
                answers = await self._client.run(
                    attend,
                    self._run_id,
                    self._name,
                    job,
                    offered,
                    self._is_stopped,
                    most_events,
                    self._turns.held(worker.address),
                    workers=[worker.address],
                )
            reply: Reply = answers[worker.address]
        except Exception as error:
            if self._is_unreached(error, OSError, KeyError, ValueError):
                return None  # it is gone: the scheduler says so soon
            raise
        worker.last_reply_at = anyio.current_time()
        worker.is_silent = False
        return reply

    async def _end(self, *, is_cancelled: bool) -> None:
        """End the run in all workers; note what was in flight there."""
        report = self._state.report
        reached = [worker.address for worker in self._workers.values() if not worker.is_silent]
        answers: dict[str, Any] = {}
        if reached and self._client.status == "running":
            with anyio.move_on_after(_END_SECONDS), suppress(OSError), stray_cancels():
                answers = await self._client.run(
                    end_run, self._run_id, is_cancelled, workers=reached, on_error="return"
                )
        left = dict(self._out)
        report.note_running(0)
        for answer in answers.values():
            for position, outcome in () if isinstance(answer, BaseException) else answer:
                pulled = left.pop(position, None)
                if pulled is not None:
                    report.begin()
                    report.abandon(BatchItem(pulled.position, pulled.item, pulled.key, outcome))

    # What the tasks of the driver wait for

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _wake_shares(self) -> None:
        changed, self._shares_changed = self._shares_changed, anyio.Event()
        changed.set()


@asynccontextmanager
async def _connected(address: str, security: Any) -> AsyncGenerator[Any]:
    """Connect to a scheduler for the time of a block."""
    distributed = _load_distributed()
    more: dict[str, Any] = {} if security is None else {"security": security}
    client: Any = None
    try:
        client = await distributed.Client(
            address, asynchronous=True, set_as_default=False, timeout=_CONNECT_SECONDS, name="runware_flow", **more
        )
    except (OSError, TimeoutError) as error:
        raise RunwareError(
            f"no Dask scheduler answers at {address}: {str(error) or type(error).__name__}", code="connection"
        ) from None
    try:
        yield client
    finally:
        with anyio.move_on_after(_END_SECONDS, shield=True):
            await client.close(timeout=1)


def _read_address(given: Any) -> tuple[str, Any]:
    if isinstance(given, str) and given:
        return given, None
    address = getattr(given, "scheduler_address", None)  # of a cluster
    if address is None:
        address = getattr(getattr(given, "scheduler", None), "address", None)  # of a client
    if not isinstance(address, str) or not address:
        raise DeclarationError(
            f"DaskEngine takes the scheduler's address, such as 'tcp://scheduler:8786', or a client of Dask that is"
            f" connected, not {given!r}"
        )
    return address, getattr(given, "security", None)


def _journal_of(spec: BatchSpec) -> PostgresStore:
    """The journal that workers share.

    Raises:
        DeclarationError: they cannot.
    """
    journal = spec.settings.journal
    store = PostgresStore(journal) if isinstance(journal, DatabaseAddress) else journal
    if not isinstance(store, PostgresStore):
        what = "has no journal" if journal is None else f"has the journal {journal!s}, which one process uses at a time"
        raise DeclarationError(
            f"batch {spec.name!r} {what}; an engine's workers share one in PostgreSQL, so that each item is made"
            ' once: journal="postgresql://user@host/name"'
        )
    if store.address.has_password:
        raise DeclarationError(
            f"batch {spec.name!r} has its database's password in the address of its journal, and addresses are sent to"
            " workers: leave it out, and set PGPASSWORD (or a service file) in the environment of each worker"
        )
    return store


def pack_job(spec: BatchSpec, journal: PostgresStore, run_id: str, name: str) -> bytes:
    """Pickle what a worker needs, as Dask pickles functions.

    Raises:
        DeclarationError: the pipeline function cannot be sent.
    """
    cloudpickle: Any = import_module("cloudpickle")  # it has no types
    budget = read_budget(spec.settings.budget)
    if budget is not None:  # what is spent of it is in the journal
        budget = Budget(budget.usd, prices=budget.prices)
    wanted = spec.settings.progress
    progress = "events" if callable(wanted) else "counts" if wanted else ""
    settings = msgspec.structs.replace(spec.settings, journal=None, progress=None, budget=budget)
    sent = spec._replace(key=None, settings=settings)
    try:
        packed: bytes = cloudpickle.dumps(
            Job(run_id, name, sent, str(journal.address), journal.lease_seconds, journal.patience, progress)
        )
    except Exception as error:  # noqa: BLE001 - of any kind, from objects of any kind
        raise DeclarationError(
            f"batch {spec.name!r} cannot be sent to workers ({error}): its function and everything that it uses"
            " must be picklable; open clients, files and locks inside the function"
        ) from None
    return packed


def _load_distributed() -> Any:
    try:
        return import_module("distributed")
    except ImportError:
        raise ClientStateError(
            "DaskEngine needs Dask's distributed, which is not installed: pip install 'runware-flow[dask]'"
        ) from None
