"""Reads the balance of the account once, beside a run that has a budget, and warns if it is too low."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import anyio

from runware_flow.errors import RunwareError
from runware_flow.graph.prices import dollars
from runware_flow.lifetime import open_task_group

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from runware_flow.runner.requester import AccountClient

__all__ = ("BalanceWarning", "amount_of")

_LOGGER = logging.getLogger("runware_flow")
_SECONDS = 10.0


class BalanceWarning:
    """Warns in the log, beside the first requests, that the account cannot pay what a run will cost; delays nothing.

    Args:
        name: the flow or batch.
        client: what has `account_management`.
        need: tells what the run will cost at least, in USD; called at most once, after the balance is known.
    """

    def __init__(self, name: str, client: AccountClient, need: Callable[[], float]) -> None:
        self._name = name
        self._client = client
        self._need = need
        self._has_begun = anyio.Event()

    def begin(self) -> None:
        """Have the balance looked at, once: a first request is about to be sent."""
        self._has_begun.set()

    @asynccontextmanager
    async def watch(self) -> AsyncGenerator[None]:
        """Look at the balance beside the body of the block, if that sends anything; its end ends the look."""
        async with open_task_group() as group:
            group.start_soon(self._run)
            yield
            group.cancel_scope.cancel()

    async def _run(self) -> None:
        await self._has_begun.wait()
        await self._look()

    async def _look(self) -> None:
        try:
            details = await self._client.account_management(operation="getDetails", timeout=_SECONDS)
        except RunwareError as error:
            _LOGGER.info("%s: the balance of the account is not known: %s", self._name, error)
            return
        balance = amount_of(details.balance)
        if balance is None:
            _LOGGER.info("%s: the service does not say what the balance of the account is", self._name)
            return
        need = self._need()
        if balance <= 0 or balance < need:
            more = f", and the tasks that are planned cost at least {dollars(need)}" if need else ""
            _LOGGER.warning("%s: the balance of the account is %s%s", self._name, dollars(balance), more)


def amount_of(balance: Any) -> float | None:
    """Read the balance of an account: an object with `amount` and `freeBalance`, or a number (protocol facts, 7)."""
    named = cast("dict[str, Any]", balance)
    parts: list[Any] = [named.get("amount"), named.get("freeBalance")] if isinstance(balance, dict) else [balance]
    known = [float(part) for part in parts if isinstance(part, (int, float)) and not isinstance(part, bool)]
    return sum(known) if known else None
