"""`Budget`, what users share between flows and batches, and the `BudgetAccount` with which a run draws on one."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from math import ceil, isfinite
from typing import TYPE_CHECKING, Any, cast

import anyio.lowlevel
import anyio.to_thread

from runware_flow.errors import BudgetExceeded, ClientStateError, DeclarationError, JournalError, RunwareError
from runware_flow.graph.budget import BudgetMachine, BudgetRequest, Past, Refused, Reservation
from runware_flow.graph.outcomes import Abandoned, Failed, Ok
from runware_flow.graph.policies import is_verdict
from runware_flow.graph.prices import Price, dollars, micro_usd, read_price, total_micro_usd
from runware_flow.journal.store import SpendingStore, journal_named
from runware_flow.lifetime import open_task_group

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from runware_flow.graph.declaration import NodeSpec
    from runware_flow.graph.outcomes import Outcome
    from runware_flow.graph.prices import PriceOption
    from runware_flow.journal.address import JournalAddress
    from runware_flow.journal.reader import JournalEntry
    from runware_flow.journal.store import JournalStore
    from runware_flow.journal.writer import JournalWriter
    from runware_flow.runner.requester import PreparedTask, RunClient

_LOGGER = logging.getLogger("runware_flow")
_LOOKS = 0.5
"""Seconds between two looks at what other processes have spent, while something waits for it."""
_POLL_SECONDS = 30.0
"""How long a run waits at most for a task that was given up, when its budget would not suffice otherwise."""
_MOST_POLLED = 256
"""How many of them are polled for at once, at most; the others wait for one of these to end."""

__all__ = ("Budget", "BudgetAccount", "open_account", "read_budget", "read_prices")


class Budget:
    """An amount that runs may spend. Several flows and batches may share it, one after the other or at once.

    The price of a task is reserved before it is sent; its real cost is counted afterwards. A task that does not fit
    waits as long as others in flight may cost less than was reserved; then it fails with `BudgetExceeded`. A price is
    known from `prices`, from the journal, or from the first finished task of the model; until then one task of each
    model is in flight at a time. After that the largest cost seen is reserved. So a budget is exceeded only if a task
    costs more than was known.

    All its runs must be in one event loop.

    Args:
        usd: what may be spent, in USD.
        prices: what one result costs, by AIR, slug or task type: see `Flow.plan`.

    Raises:
        DeclarationError: an amount or a price is wrong.
    """

    def __init__(self, usd: float, *, prices: Mapping[str, PriceOption] | None = None) -> None:
        given: Any = usd
        if not isinstance(given, (int, float)) or isinstance(given, bool) or not isfinite(given) or given < 0:
            raise DeclarationError(f"a budget is an amount of USD, not {usd!r}")
        self.prices: Mapping[str, Price] = read_prices(prices)
        self.machine = BudgetMachine(round(usd * 1_000_000), self.prices)
        self._withheld_for: dict[str, tuple[BudgetRequest, int | None]] = {}
        self._counted: dict[str, int] = {}
        self._remembered: set[tuple[str, str]] = set()
        self._run_count = 0
        self._loop: object = None

    def __repr__(self) -> str:
        told = f"{dollars(self.usd)}: {dollars(self.spent)} spent, {dollars(self.reserved)} reserved"
        return f"<Budget of {told}>"

    @property
    def usd(self) -> float:
        """The whole of it, in USD."""
        return self.machine.limit / 1_000_000

    @property
    def spent(self) -> float:
        """What was spent, in USD; with a journal, what earlier runs of the same flow spent too."""
        return self.machine.spent / 1_000_000

    @property
    def reserved(self) -> float:
        """What is reserved, in USD, for tasks in flight and for those that may be billed."""
        return (self.machine.reserved + self.machine.withheld) / 1_000_000

    @property
    def left(self) -> float:
        """What is neither spent nor reserved, in USD; less than 0 if something cost more than was known."""
        return self.machine.left / 1_000_000

    # What follows is used by runs; it is no part of the contract.

    def __enter__(self) -> Self:
        loop = anyio.lowlevel.current_token()
        if self._run_count and self._loop != loop:
            raise ClientStateError(
                f"{self!r} is used by a run in another event loop: give each loop a budget of its own"
            )
        self._loop = loop
        self._run_count += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._run_count -= 1

    def counted(self, whose: str) -> int:
        """What runs that are over have spent of this budget on a journal that others share."""
        return self._counted.get(whose, 0)

    def note_counted(self, whose: str, spent: int) -> None:
        """A run on such a journal is over."""
        self._counted[whose] = self.counted(whose) + spent

    def remembers(self, journal: Path | str, name: str) -> bool:
        """Tell whether what earlier runs of a flow did has been counted, and take it for counted from now on."""
        key = str(journal) if isinstance(journal, str) else str(journal.absolute()), name
        is_known = key in self._remembered
        self._remembered.add(key)
        return is_known

    def remember(self, past: Past) -> None:
        """Count what earlier runs did."""
        machine = self.machine
        machine.add_spent(past.spent)
        for (task_type, model), price in past.prices.items():
            machine.learn(BudgetRequest(task_type, model), ceil(round(price.high * 1_000_000, 3)))
        for (task_type, model), count in past.without_cost.items():
            request = BudgetRequest(task_type, model, count)
            machine.keep(request, machine.estimate(request))
            if request.kind in past.unreported:
                machine.note_unreported(request)
        for task_uuid, request in past.may_be_billed.items():
            amount = machine.estimate(request)
            machine.keep(request, amount)
            self.note_withheld(task_uuid, request, amount)

    @property
    def withheld_for(self) -> Mapping[str, tuple[BudgetRequest, int | None]]:
        """What is kept for tasks that may be collected later, by taskUUID; without an amount, no price is known."""
        return self._withheld_for

    def note_withheld(self, task_uuid: str, request: BudgetRequest, amount: int | None) -> None:
        """Note the amount that is kept for a task that may be collected later."""
        self._withheld_for[task_uuid] = request, amount

    def give_back(self, task_uuid: str) -> None:
        """Keep nothing for a task any more: it is collected, and its result has the cost."""
        if (held := self._withheld_for.pop(task_uuid, None)) is not None:
            self.machine.keep_no_more(*held)


def read_prices(prices: Mapping[str, PriceOption] | None) -> dict[str, Price]:
    """Read the prices that a caller gives, by AIR, slug or task type.

    Raises:
        DeclarationError: something is no price.
    """
    if not prices:
        return {}
    from runware_flow.catalog.registry import load_registry

    airs = load_registry().airs
    try:
        return {airs.get(name, name): read_price(price) for name, price in prices.items()}
    except ValueError as error:
        raise DeclarationError(f"prices=: {error}") from None


def read_budget(given: Any) -> Budget | None:
    """Return the budget that a keyword stands for: a new one for a number.

    Raises:
        DeclarationError: it is neither.
    """
    if given is None or isinstance(given, Budget):
        return given
    try:
        return Budget(given)
    except DeclarationError:
        raise DeclarationError(f"budget= is an amount of USD, or a Budget, not {given!r}") from None


class BudgetAccount:
    """What the nodes of a run, or of all items of a batch, draw on a budget with.

    A waiter is `(window, run, step)`. `window.retry_reservation(run, step)` is called when it is next; it returns
    whether the waiter is still there.

    Attributes:
        polls: `poll` is at work, so that the service can be asked about what was given up.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.past = Past()
        self._machine = budget.machine
        self._store: SpendingStore | None = None
        self._name = self._whose = ""
        self._own_spent = 0
        self.polls = False
        self._polling: dict[str, Reservation] = {}
        self._polled: set[str] = set()
        self._behind_polls: dict[str, list[Any]] = {}
        self._poll_wanted = anyio.Event()

    async def remember(self, store: JournalStore, name: str) -> None:
        """Count what earlier runs on a journal did, unless this budget has done so or has been theirs.

        A `JournalStore` without a `path` cannot be asked: it counts for nothing.
        """
        if isinstance(store, SpendingStore):
            await self._share(store, name)
            return
        path: Path | None = getattr(store, "path", None)
        if path is None:
            return
        from runware_flow.journal.costs import read_past  # SQLite is not needed without

        self.past = await anyio.to_thread.run_sync(read_past, path, name)
        if not self.budget.remembers(path, name):
            self.budget.remember(self.past)

    async def _share(self, store: SpendingStore, name: str) -> None:
        """Count what earlier runs and other processes have spent, and have in flight, from here on."""
        from runware_flow.journal.costs import read_database_past  # psycopg is not needed without

        self._store = store
        self._whose = f"{store.address} {name}"
        self.past = await anyio.to_thread.run_sync(read_database_past, store.address, name)
        if not self.budget.remembers(self._whose, ""):
            self.budget.remember(self.past)
        await anyio.to_thread.run_sync(store.follow_spending, name)
        self._name = name
        self._look_elsewhere()

    def _look_elsewhere(self) -> None:
        """Note what other processes have spent, without what this budget has counted itself."""
        if self._store is not None:
            told = self._store.elsewhere
            own = self.budget.counted(self._whose)
            self._machine.note_elsewhere(self._whose, told._replace(spent=max(0, told.spent - own)))

    async def attend(self, writer: JournalWriter) -> None:
        """Let waiters for the budget try again when other processes give some back; until cancelled."""
        while self._store is not None:
            await anyio.sleep(_LOOKS)
            if self._machine.waiting_count:
                try:
                    await writer.call(self._store.follow_spending, self._name)
                except JournalError:
                    return  # whatever is written next says so
                self._look_elsewhere()
                self.recheck()

    def leave_store(self) -> None:
        """The run is over: what it has spent is among what is over in the journal, and counted here."""
        if self._store is not None:
            self.budget.note_counted(self._whose, self._own_spent)

    async def poll(self, journal: JournalAddress, name: str, client: RunClient, writer: JournalWriter) -> None:
        """Poll for tasks that were given up whenever a request does not fit otherwise; until cancelled.

        What they cost is spent, what the service says has failed is released, and of the rest all stays as it was.
        """
        from runware_flow.journal.reader import read_unfinished  # not needed without a budget

        try:
            while True:
                await self._poll_wanted.wait()
                self._poll_wanted = anyio.Event()
                task_uuids = list(self._polling)
                kept = dollars(self.budget.reserved)
                _LOGGER.warning(
                    "%r: the next request does not fit into the budget while %s is reserved, in part for tasks that"
                    " were given up: the service is polled for %d of them, for at most %g s each",
                    name,
                    kept,
                    len(task_uuids),
                    _POLL_SECONDS,
                )
                entries = await anyio.to_thread.run_sync(read_unfinished, journal, name, frozenset(task_uuids))
                found = {entry.task_uuid: entry for entry in entries}
                limiter = anyio.CapacityLimiter(_MOST_POLLED)
                async with open_task_group() as group:
                    for task_uuid in task_uuids:
                        group.start_soon(self._poll_one, task_uuid, found.get(task_uuid), client, writer, limiter)
        except JournalError:
            _LOGGER.warning("%r: its journal cannot be read, so nothing is polled for", name, exc_info=True)
        finally:
            self.polls = False
            for task_uuid in list(self._polling):
                self._end_poll(task_uuid, None)

    async def _poll_one(
        self,
        task_uuid: str,
        entry: JournalEntry | None,
        client: RunClient,
        writer: JournalWriter,
        limiter: anyio.CapacityLimiter,
    ) -> None:
        from runware_flow.journal.reader import collect_one

        outcome: Outcome[list[Any]] | None = None
        is_recent = task_uuid not in self.past.may_be_billed
        try:
            if entry is not None:
                async with limiter:
                    outcome = await collect_one(entry, client, writer, _POLL_SECONDS, releases=not is_recent)
            if is_recent and isinstance(outcome, Abandoned):
                outcome = None  # what this run has sent may still be on its way to the service
        except Exception:
            _LOGGER.warning("task %s could not be polled for", task_uuid, exc_info=True)
        finally:
            self._end_poll(task_uuid, outcome)

    def _end_poll(self, task_uuid: str, outcome: Outcome[list[Any]] | None) -> None:
        """Tell the budget what became of a task, and let the nodes that ask for the same task look again."""
        reservation = self._polling.pop(task_uuid)
        results: Sequence[Any] = ()
        may_be_billed = outcome is None or getattr(outcome, "may_be_billed", False)
        if isinstance(outcome, Ok):
            results = outcome.value
        elif isinstance(outcome, Failed) and isinstance(outcome.error, RunwareError):
            results = outcome.error.results
            may_be_billed = not is_verdict(outcome.error) or outcome.error.code == "auth"
        amount = None if may_be_billed else total_micro_usd([result.cost for result in results])
        cost = None if amount is None or not results else amount / 1_000_000
        has_ended = bool(results) and not may_be_billed
        self.end(reservation, cost, may_be_billed=may_be_billed, task_uuid=task_uuid, has_ended=has_ended)
        self._wake(self._behind_polls.pop(task_uuid, []))

    def _begin_polls(self, refused: Refused) -> bool:
        """Have tasks polled for that were given up, if a request that does not fit may do so then."""
        machine = self._machine
        if not self.polls:
            return False
        held = self.budget.withheld_for
        left = {task_uuid: held[task_uuid] for task_uuid in held if task_uuid not in self._polled}
        amounts = (machine.estimate(request) if amount is None else amount for request, amount in left.values())
        withheld = sum(amount or 0 for amount in amounts)
        if not left or not machine.is_worth_polling(refused, withheld):
            return False
        for task_uuid, (request, _) in left.items():  # all that was counted, or the request would be refused again
            self.budget.give_back(task_uuid)
            self._polling[task_uuid] = machine.force(request)
            self._polled.add(task_uuid)
        self._poll_wanted.set()
        return True

    def reserve(self, request: PreparedTask, spec: NodeSpec, waiter: Any) -> Reservation | None:
        """Reserve for a request that is about to be sent; `None`: the waiter, if there is one, waits for its turn.

        Raises:
            BudgetExceeded: it will never fit.
        """
        self._look_elsewhere()
        wanted = _budget_request(request)
        answer = self._machine.reserve(wanted, waiter)
        if isinstance(answer, Refused) and waiter is not None and self._begin_polls(answer):
            answer = self._machine.reserve(wanted, waiter)
        if isinstance(answer, Refused):
            raise self._exceeded(spec, request, answer)
        return answer

    def collect(self, request: PreparedTask, task_uuid: str, waiter: Any) -> Reservation | None:
        """Reserve for a task that an earlier run may have sent, whatever is left: only its result is collected.

        `None`: it is polled for already; the waiter is to look again when that has ended.
        """
        if task_uuid in self._polling:
            self._behind_polls.setdefault(task_uuid, []).append(waiter)
            return None
        self.budget.give_back(task_uuid)
        return self._machine.force(_budget_request(request))

    def end(
        self,
        reservation: Reservation,
        cost: float | None,
        *,
        may_be_billed: bool,
        task_uuid: str | None,
        has_ended: bool = False,
    ) -> None:
        """A request has ended: settle it on what it cost, release what was free, keep what may have been billed.

        Args:
            cost: USD, `None` if it is not known.
            has_ended: there are its results, so its cost is not known because it was not reported.
            task_uuid: under which the task may be collected later; `None` without a journal.
        """
        amount = micro_usd(cost)
        if amount is not None:
            self._own_spent += max(0, amount)
            named = self._machine.settle(reservation, amount)
        elif has_ended:
            named = self._machine.settle_unreported(reservation)
        elif not may_be_billed:
            named = self._machine.release(reservation)
        else:
            named = self._machine.withhold(reservation)
            if task_uuid is not None:
                amount = None if reservation.is_probe else reservation.amount
                self.budget.note_withheld(task_uuid, reservation.request, amount)
        self._wake(named)

    def leave(self, window: Any) -> None:
        """Drop waiters, and let others go instead."""
        self._wake(self._machine.forget(_WaitersOf(window)))

    def recheck(self) -> None:
        """Let the next waiter try, if the one whose turn it was has ended without a request."""
        if self._machine.waiting_count:
            self._wake(self._machine.recheck())

    def _wake(self, named: list[Any]) -> None:
        """Let waiters try again, and others instead of those that have ended."""
        while named:
            told = [window.retry_reservation(run, step) for window, run, step in named]
            named = [] if all(told) else self._machine.recheck()

    def _exceeded(self, spec: NodeSpec, request: PreparedTask, refused: Refused) -> BudgetExceeded:
        budget = self.budget
        need = None if refused.need is None else refused.need / 1_000_000
        what = f"{request.task_type} with {request.model}" if request.model else request.task_type
        price = f"may cost {dollars(need)}" if need is not None else "has no known price"
        left = max(0.0, budget.left)
        if refused.is_unreported:
            given = request.model or request.task_type
            return BudgetExceeded(
                f"{spec.describe()}, was not sent: the service reported no cost for {what}, so what it spends of the"
                f" budget of {dollars(budget.usd)} cannot be known: give its price for one result, as in"
                f" Budget({budget.usd:g}, prices={{{given!r}: 0.01}})",
                node=spec.name,
                limit=budget.usd,
                spent=budget.spent,
                left=left,
            )
        kept = f", {dollars(budget.reserved)} is kept for what may have been billed" if budget.reserved else ""
        return BudgetExceeded(
            f"{spec.describe()}, was not sent: its {what} {price}, and {dollars(left)} of the budget of"
            f" {dollars(budget.usd)} is left ({dollars(budget.spent)} is spent{kept}): give a larger"
            " budget=",
            node=spec.name,
            limit=budget.usd,
            spent=budget.spent,
            left=left,
            need=need,
        )


@asynccontextmanager
async def open_account(
    given: Any, name: str, writer: JournalWriter | None, client: object
) -> AsyncGenerator[BudgetAccount | None]:
    """Draw on a budget for the time of a block, if there is one.

    Args:
        given: the keyword `budget=`.
        name: the flow or batch, by which its past is found in the journal.
        client: polls for what was given up; `None` if nothing is sent.

    Raises:
        ClientStateError: a run in another event loop uses the budget.
        JournalError: the journal cannot be read.
    """
    budget = read_budget(given)
    if budget is None:
        yield None
        return
    with budget:
        account = BudgetAccount(budget)
        if writer is None:
            yield account
            return
        await account.remember(writer.store, name)
        async with open_task_group() as beside:
            beside.start_soon(account.attend, writer)
            journal = journal_named(writer.store)
            if journal is not None and client is not None:
                account.polls = True
                beside.start_soon(account.poll, journal, name, cast("RunClient", client), writer)
            try:
                yield account
            finally:
                account.leave_store()
                beside.cancel_scope.cancel()


class _WaitersOf:
    __slots__ = ("_window",)

    def __init__(self, window: Any) -> None:
        self._window = window

    def __contains__(self, waiter: Any) -> bool:
        return waiter[0] is self._window


def _budget_request(request: PreparedTask) -> BudgetRequest:
    return BudgetRequest(request.task_type, request.model, request.slots)
