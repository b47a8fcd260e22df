"""Opens the resources of a run or a batch for its time: a client, a journal, and the admission of its requests."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from runware_flow.graph.declaration import SENDS, NodeKind
from runware_flow.runner.admission import Admission
from runware_flow.runner.balance import BalanceWarning
from runware_flow.runner.budget import open_account
from runware_flow.runner.requester import AccountClient

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    from runware_flow.client.client import Client
    from runware_flow.graph.plan import ScopePlan
    from runware_flow.journal.ledger import Ledger
    from runware_flow.journal.writer import JournalWriter
    from runware_flow.runner.budget import BudgetAccount
    from runware_flow.runner.settings import Settings

__all__ = ("open_admission", "open_client", "open_journal", "open_ledger")


async def open_journal(settings: Settings, stack: AsyncExitStack) -> JournalWriter | None:
    """Open what `journal=` names until `stack` is left, if it names one; errors are those of `open_writer`."""
    if settings.journal is None:
        return None
    from runware_flow.journal.writer import open_writer  # SQLite is not needed without

    writer = await stack.enter_async_context(open_writer(settings.journal))
    note_place = getattr(writer.store, "note_place", None)
    if note_place is not None:  # so that a report finds the files that the run saves
        folder, cache = Path.cwd(), getattr(settings.cache, "path", None)
        kept = None if cache is None else str(folder / cache)
        await anyio.to_thread.run_sync(note_place, time.time(), str(folder), kept)
    return writer


def open_ledger(writer: JournalWriter | None, name: str, prefix: str = "", item: str = "") -> Ledger | None:
    """Open the part of a journal that is of one flow, or of the item of a batch that has this key."""
    if writer is None:
        return None
    from runware_flow.journal.ledger import Ledger  # not needed without

    return Ledger(writer, name, prefix, item)


async def open_admission(
    name: str,
    settings: Settings,
    client: object,
    writer: JournalWriter | None,
    stack: AsyncExitStack,
    least: Callable[[BudgetAccount], float],
) -> Admission:
    """Make the admission of a run or a batch, which draws on its budget until `stack` is left.

    Args:
        least: tells what it will cost at least, in USD.
    """
    account = await stack.enter_async_context(open_account(settings.budget, name, writer, client))
    balance = None
    if account is not None and isinstance(client, AccountClient):
        balance = BalanceWarning(name, client, partial(least, account))
        await stack.enter_async_context(balance.watch())
    return Admission(settings.limits, client, account, balance)


async def open_client(plan: ScopePlan, stack: AsyncExitStack) -> tuple[Client | None, Exception | None]:
    """Open a client from the environment until `stack` is left, if the plan may need one.

    Returns:
        The client, and why there is none although there is a key: only a function that asks for it needs to know.
    """
    kinds = _kinds(plan)
    if not kinds & {*SENDS, NodeKind.CALL}:
        return None, None
    if kinds & SENDS:
        from runware_flow.client.client import Client  # a flow of functions does without

        return await stack.enter_async_context(Client()), None
    if not os.environ.get("RUNWARE_API_KEY"):
        return None, None
    try:
        from runware_flow.client.client import Client

        return await stack.enter_async_context(Client()), None
    except Exception as error:  # noqa: BLE001 - raised by current_run().client, if a function uses it
        return None, error


def _kinds(plan: ScopePlan) -> set[NodeKind]:
    kinds: set[NodeKind] = set()
    for step in plan.steps:
        kinds.add(step.kind)
        if step.fallback is not None:
            kinds.add(step.fallback.kind)
        if step.inner is not None:
            kinds |= _kinds(step.inner)
    return kinds
