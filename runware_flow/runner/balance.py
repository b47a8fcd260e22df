"""The account's balance, looked at once before a run with a budget sends its first request."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import anyio

from runware_flow.errors import RunwareError
from runware_flow.graph.prices import dollars

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("BalanceCheck", "amount_of")

_LOGGER = logging.getLogger("runware_flow")
_SECONDS = 10.0


class BalanceCheck:
    """Says in the log, before the first request, that the account cannot pay what a run will cost; stops nothing.

    Args:
        name: the flow or batch.
        client: one without `account_management` is not asked.
        need: tells what the run will cost at least, in USD; called at most once, after the balance is known.
    """

    def __init__(self, name: str, client: Any, need: Callable[[], float]) -> None:
        self._name = name
        self._client = client
        self._need = need
        self._done: anyio.Event | None = None
        self.is_over = not hasattr(client, "account_management")

    async def wait(self) -> None:
        """Have the balance looked at by whoever comes first, and wait until that is over."""
        if self._done is not None:
            await self._done.wait()
            return
        self._done = anyio.Event()
        try:
            await self._look()
        finally:
            self.is_over = True
            self._done.set()

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
