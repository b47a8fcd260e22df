"""`Journal`: reads what runs sent and got, and collects results that were ready later.

```python
from runware_flow.journal import Journal, collect

with Journal("run.sqlite") as journal:
    print(journal.summary().cost)
    for entry in journal.entries(state="open"):
        print(entry.path, entry.task_uuid)
```
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import anyio
import anyio.to_thread
import msgspec

from runware_flow.errors import JournalError, RunwareError, RunwareTimeoutError
from runware_flow.graph.outcomes import Abandoned, Failed, Ok
from runware_flow.graph.policies import is_verdict
from runware_flow.graph.resume import RequestState  # noqa: TC001  # help() reads the annotations of a struct
from runware_flow.journal.address import DatabaseAddress, address_of
from runware_flow.journal.ledger import settlement
from runware_flow.journal.opening import open_rows
from runware_flow.journal.recovery import Salvaged, salvage_journal
from runware_flow.journal.sqlite import STATES, file_of_journal, items_of
from runware_flow.journal.store import Abandon
from runware_flow.journal.values import decode_error, decode_item, decode_value
from runware_flow.journal.writer import open_writer
from runware_flow.lifetime import open_task_group
from runware_flow.results import RESULT_TYPES
from runware_flow.tracebacks import border, bordered
from runware_flow.types import Result, problem_of_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence
    from os import PathLike
    from typing import Self

    from runware_flow.journal.address import JournalAddress
    from runware_flow.journal.store import StoredRows
    from runware_flow.journal.writer import JournalWriter

__all__ = ("Collected", "Journal", "JournalEntry", "JournalSummary", "ModelUse", "Salvaged", "collect", "salvage")

T = TypeVar("T")

_COLUMNS = """id, flow, path, fingerprint, attempt, task_uuid, task_type, model, state, asked_at, settled_at, micro_usd,
    request, items, error, {ordinal}, {hedge}"""
_Row: TypeAlias = tuple[
    int,
    str,
    str,
    bytes,
    int,
    str | None,
    str | None,
    str | None,
    Annotated[int, msgspec.Meta(ge=0, lt=len(STATES))],
    float,
    float | None,
    int | None,
    bytes | None,
    bytes | None,
    bytes | None,
    int,
    int,
]
"""What the columns hold in a journal that is not damaged; SQLite itself holds anything."""
_REQUEST = msgspec.json.Decoder(dict[str, Any])
_PAGE = 256


class JournalEntry(msgspec.Struct, frozen=True):
    """One request of a node, or the value of a function.

    Attributes:
        number: its position in the journal.
        attempt: which request of its node it is, from 1.
        task_uuid, task_type, model: `None` for a function.
        state: `open`, `done`, `failed` or `abandoned`; see the page on the format.
        asked_at, settled_at: seconds since the epoch.
        cost: USD; `None` is unknown.
        request: the request, by wire names.
        results: the results, typed; of a function, a list with its value.
        error: the service's error, also if only some results failed.
        ordinal: which of several equal requests it is, from 0.
        is_hedge: it was sent beside the other request of the same attempt.
    """

    number: int
    flow: str
    path: str
    fingerprint: str
    attempt: int
    task_uuid: str | None
    task_type: str | None
    model: str | None
    state: RequestState
    asked_at: float
    settled_at: float | None
    cost: float | None
    request: dict[str, Any]
    results: list[Any]
    error: RunwareError | None
    ordinal: int = 0
    is_hedge: bool = False


class JournalSummary(msgspec.Struct, frozen=True):
    """Counts of a journal. `cost` is in USD; `None` if the cost of one finished request is unknown."""

    open_count: int
    done_count: int
    failed_count: int
    cost: float | None


class ModelUse(msgspec.Struct, frozen=True):
    """The time and cost of a model's finished requests in a journal.

    Attributes:
        seconds: from the journalling of the request to its outcome, on average.
        cost: USD a request, on average over those whose cost is known, without answers from the cache.
    """

    task_type: str
    model: str | None
    count: int
    seconds: float
    cost: float | None


@bordered
class Journal:
    """A journal, opened for reading for the time of a `with` block; a run may write it meanwhile.

    Its methods block, because they read a file or a database.

    Raises:
        JournalError: on entering and by every method, if the file is no journal or is damaged.
    """

    def __init__(self, path: str | PathLike[str] | DatabaseAddress) -> None:
        address = address_of(path)
        self.path: JournalAddress = address if isinstance(address, DatabaseAddress) else file_of_journal(address)
        self._rows: StoredRows | None = None

    def __enter__(self) -> Self:
        self._rows = open_rows(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        rows, self._rows = self._rows, None
        if rows is not None:
            rows.close()

    def entries(self, *, state: RequestState | None = None, flow: str | None = None) -> Iterator[JournalEntry]:
        """Iterate over its entries, in the order in which they were recorded, without holding all in memory."""
        last = 0
        while page := self._page(last, state, flow):
            yield from page
            last = page[-1].number

    def _page(self, after: int, state: RequestState | None, flow: str | None) -> list[JournalEntry]:
        condition, values = "id > ?", [after]
        more: list[Any] = values
        if state is not None:
            condition += f" AND state = {STATES.index(state)}"  # a literal, so that the index of open ones is used
        if flow is not None:
            condition += " AND flow = ?"
            more.append(flow)
        opened = self._opened()
        columns = _COLUMNS.format(ordinal="ordinal", hedge="hedge")
        if opened.is_earlier:
            columns = _COLUMNS.format(ordinal=0, hedge=0)
        rows = self._all(f"SELECT {columns} FROM node WHERE {condition} ORDER BY id LIMIT {_PAGE}", more)
        with opened.translated():
            return [_entry(row, opened) for row in rows]

    def flows(self) -> list[str]:
        """Return the names of its flows and batches, in the order in which they began."""
        return [str(name) for (name,) in self._all("SELECT flow FROM node GROUP BY flow ORDER BY min(id)")]

    def summary(self, *, flow: str | None = None) -> JournalSummary:
        """Return counts and cost of the journal, or of one flow or batch in it."""
        counts = dict.fromkeys(STATES, 0)
        micro_usd = unknown = 0
        condition, values = ("", []) if flow is None else (" WHERE flow = ?", [flow])
        query = f"""SELECT state, count(*), sum({self._opened().paid}),
            count(*) FILTER (WHERE micro_usd IS NULL AND task_uuid IS NOT NULL) FROM node{condition} GROUP BY state"""
        for state, count, known, missing in self._all(query, values):
            if state not in range(len(STATES)):
                continue  # of a damaged row, which `entries` tells of
            counts[STATES[state]] = count
            if STATES[state] in ("done", "redo"):  # a request that is marked for redo was billed, too
                micro_usd, unknown = micro_usd + int(known or 0), unknown + missing
        cost = None if unknown else micro_usd / 1_000_000
        return JournalSummary(counts["open"], counts["done"], counts["failed"], cost)

    def models(self) -> list[ModelUse]:
        """Return the time and cost of each model, by task type and model."""
        query = f"""SELECT task_type, model, count(*), avg(settled_at - asked_at),
            avg(micro_usd) FILTER (WHERE {self._opened().tells_price}) FROM node
            WHERE state = {STATES.index("done")} AND task_uuid IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2"""
        return [
            ModelUse(task_type, model, count, seconds, None if micro_usd is None else float(micro_usd) / 1_000_000)
            for task_type, model, count, seconds, micro_usd in self._all(query)
        ]

    def places(self) -> list[tuple[str, str | None]]:
        """Return the folders of its runs, the last one first, each with the folder of its cache if it had one."""
        opened = self._opened()
        if not opened.has_places:
            return []
        rows = self._all("SELECT folder, cache FROM place ORDER BY began_at DESC LIMIT 100")
        with opened.translated():
            return msgspec.convert(rows, list[tuple[str, str | None]])

    def _opened(self) -> StoredRows:
        if self._rows is None:
            raise JournalError(f"the journal {self.path} is read inside its `with` block")
        return self._rows

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        opened = self._opened()
        with opened.translated():
            found: list[Any] = opened.execute(query, values).fetchall()
            return found


def _entry(row: Any, opened: StoredRows) -> JournalEntry:
    whole = msgspec.convert(row, _Row)
    (number, flow, path, fingerprint, attempt, task_uuid, task_type, model, state, asked, settled) = whole[:11]
    micro_usd, request, items, error, ordinal, hedge = whole[11:]
    raw = [opened.bring_back(item) for item in items_of(items)]
    kind: type[Result] = RESULT_TYPES.get(task_type or "", Result)
    return JournalEntry(
        number=number,
        flow=flow,
        path=path,
        fingerprint=fingerprint.hex(),
        attempt=attempt,
        task_uuid=task_uuid,
        task_type=task_type,
        model=model,
        state=STATES[state],
        asked_at=asked,
        settled_at=settled,
        cost=None if micro_usd is None else micro_usd / 1_000_000,
        request={} if request is None else _REQUEST.decode(opened.bring_back(request)),
        results=[decode_value(item) if task_uuid is None else decode_item(item, kind) for item in raw],
        error=None if error is None else decode_error(error),
        ordinal=ordinal,
        is_hedge=bool(hedge),
    )


def salvage(journal: str | PathLike[str], to: str | PathLike[str]) -> Salvaged:
    """Write what can be read of a damaged journal, its log included, into a new one. The damaged one is not changed.

    A request whose outcome was lost becomes an open one: the next run collects it from the service and buys nothing. A
    request that could not be read is bought again. Blocks, because it reads and writes files.

    Args:
        journal: the damaged one.
        to: the new one; it must not exist yet.

    Raises:
        JournalError: nothing can be read, a run uses the journal, or the new file exists.
    """
    return salvage_journal(file_of_journal(journal), file_of_journal(to))


class Collected(msgspec.Struct, frozen=True):
    """The outcome of one request that was open.

    Attributes:
        outcome: `Ok` with the list of its results; `Failed` if the service reports a failure or cannot be reached;
            `Abandoned` if it still runs (`may_be_billed`), or if the service does not know it (not `may_be_billed`).
    """

    entry: JournalEntry
    outcome: Ok[list[Any]] | Failed | Abandoned


@border
async def collect(
    journal: str | PathLike[str] | DatabaseAddress,
    client: Any = None,
    *,
    timeout: float = 30.0,
    concurrency: int = 64,
    flow: str | None = None,
    on_collected: Callable[[Collected], object] | None = None,
) -> list[Collected]:
    """Poll for the open and abandoned requests of a journal, and record their outcomes. Buys nothing.

    The next run with this journal restores what was collected. After a cancel the journal holds the outcomes that came
    before it; the other requests are still open.

    Args:
        journal: the path of its file, or the address of its database, which runs may use meanwhile.
        client: the `Client` to use, which stays open; by default one from the environment.
        timeout: seconds to wait for each task that still runs.
        concurrency: how many tasks are polled at once, at most.
        flow: only the requests of this flow or batch.
        on_collected: called with each `Collected` as it is known.

    Returns:
        One for each request that was open, in the order in which they were journalled.

    Raises:
        JournalError: there is no such journal, it is damaged, or a run is using its file.
        RunwareError: `validation`: the timeout is no time, or would be milliseconds.
    """
    problem = problem_of_seconds("timeout", timeout) if timeout != 0 else None
    if problem is not None:
        raise RunwareError(problem, code="validation", raw_code="invalidParameter", parameter="timeout")
    entries = await anyio.to_thread.run_sync(read_unfinished, journal, flow)
    found: dict[int, Collected] = {}
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(open_writer(journal))
        if client is None and entries:
            from runware_flow.client.client import Client

            client = await stack.enter_async_context(Client())
        limiter = anyio.CapacityLimiter(concurrency)

        async def one(entry: JournalEntry) -> None:
            async with limiter:
                collected = Collected(entry, await collect_one(entry, client, writer, timeout))
            found[entry.number] = collected
            if on_collected is not None:
                on_collected(collected)

        async with open_task_group() as group:
            for entry in entries:
                group.start_soon(one, entry)
    return [found[entry.number] for entry in entries]


def read_unfinished(
    journal: str | PathLike[str] | DatabaseAddress, flow: str | None, task_uuids: Container[str | None] | None = None
) -> list[JournalEntry]:
    """Return what may still have results: what is open, and what was given up and whose cost is not known.

    Args:
        task_uuids: only these; no others are held in memory.
    """
    with Journal(journal) as reader:
        found = [
            entry
            for state in ("open", "abandoned")
            for entry in reader.entries(state=state, flow=flow)
            if (state == "open" or entry.cost is None) and (task_uuids is None or entry.task_uuid in task_uuids)
        ]
    return sorted(found, key=lambda entry: entry.number)


async def collect_one(
    entry: JournalEntry, client: Any, writer: JournalWriter, timeout: float, *, releases: bool | None = None
) -> Ok[list[Any]] | Failed | Abandoned:
    """Poll for an unfinished request, and record its outcome.

    Args:
        releases: whether it is recorded as never accepted if the service does not know it; by default, if it was
            abandoned.
    """
    task = {name: value for name, value in entry.request.items() if name != "taskUUID"}
    request = client.prepare(task, task_uuid=entry.task_uuid)
    try:
        results: list[Any] = await client.perform(request, sent_before="yes", timeout=timeout)
    except RunwareTimeoutError:
        return Abandoned(entry.task_uuid, may_be_billed=True)
    except RunwareError as error:
        if error.code == "notFound" and not is_verdict(error):
            if entry.state == "abandoned" if releases is None else releases:  # else a node will ask for it
                await writer.write(Abandon((entry.number,), time.time(), is_free=True))
            return Abandoned(entry.task_uuid, may_be_billed=False)
        if is_verdict(error) and error.code != "auth":
            await writer.write(settlement(entry.number, error.results, error))
        return Failed(error)
    if not results:
        return Abandoned(entry.task_uuid, may_be_billed=True)
    await writer.write(settlement(entry.number, results))
    return Ok(results)
