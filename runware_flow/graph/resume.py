"""What a journal says about a node: restore its outcome, collect what was bought, or buy.

The rule behind it: a second taskUUID for a node exists only after the service itself said that the first one failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("Advice", "Purchase", "PurchaseState", "advise")

PurchaseState: TypeAlias = Literal["open", "done", "failed"]
"""`open`: it may have been sent, and nobody knows what came of it. `done`: its results are there. `failed`: the service
said so."""


class Purchase(msgspec.Struct, frozen=True):
    """One request of a node, as a journal knows it.

    Attributes:
        number: its place in the journal.
        attempt: which request of this node it was, from 1.
        task_uuid: `None` for a function, which buys nothing by itself.
    """

    number: int
    attempt: int
    state: PurchaseState
    task_uuid: str | None = None


class Advice(msgspec.Struct, frozen=True):
    """What to do with a node.

    Attributes:
        action: `restore` its outcome from `purchase`; `collect` what `purchase` brought, under its taskUUID; `buy`.
        attempt: which request of this node that is, from 1.
    """

    action: Literal["restore", "collect", "buy"]
    attempt: int
    purchase: Purchase | None = None


def advise(history: Sequence[Purchase]) -> Advice:
    """Judge a node by all that a journal has of it, for the request that would be sent now; oldest first."""
    for state, action in (("done", "restore"), ("open", "collect")):
        for purchase in reversed(history):
            if purchase.state == state:
                return Advice("restore" if action == "restore" else "collect", purchase.attempt, purchase)
    return Advice("buy", 1 + max((purchase.attempt for purchase in history), default=0))
