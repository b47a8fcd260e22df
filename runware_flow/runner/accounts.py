"""The costs of a run: counts and sums by step and model, in whole micro-USD so that sums are exact."""

from __future__ import annotations

import msgspec

from runware_flow.runner.records import ReceiptLine

__all__ = ("Accounts",)


class _Entry(msgspec.Struct):
    count: int = 0
    known_count: int = 0
    micro_usd: int = 0
    unknown_count: int = 0


class Accounts:
    """Adds up the costs of requests as they settle; its size does not grow with their number.

    Args:
        whole: the accounts that these are a part of, which counts them too.
    """

    def __init__(self, whole: Accounts | None = None) -> None:
        self._whole = whole
        self._entries: dict[tuple[str, str, str | None], _Entry] = {}

    def add(self, stage: str, task_type: str, model: str | None, amount: int | None, *, may_be_billed: bool) -> None:
        """Count one settled request.

        Args:
            amount: its cost in micro-USD; `None` is unknown.
            may_be_billed: without a cost, whether it may have one: a request that the service says has failed is free.
        """
        entry = self._entries.setdefault((stage, task_type, model), _Entry())
        entry.count += 1
        if amount is not None:
            entry.known_count += 1
            entry.micro_usd += amount
        elif may_be_billed:
            entry.unknown_count += 1
        if self._whole is not None:
            self._whole.add(stage, task_type, model, amount, may_be_billed=may_be_billed)

    def absorb(self, other: Accounts) -> None:
        """Add all that another run bought."""
        for kind, added in other._entries.items():
            entry = self._entries.setdefault(kind, _Entry())
            entry.count += added.count
            entry.known_count += added.known_count
            entry.micro_usd += added.micro_usd
            entry.unknown_count += added.unknown_count
        if self._whole is not None:
            self._whole.absorb(other)

    def without_whole(self) -> Accounts:
        """Return a copy that counts for itself, such as another process can be sent."""
        copy = Accounts()
        copy.absorb(self)
        return copy

    def total(self) -> float | None:
        """Sum up, in USD; `None` if any cost is unknown."""
        if any(entry.unknown_count for entry in self._entries.values()):
            return None
        return sum(entry.micro_usd for entry in self._entries.values()) / 1_000_000

    def lines(self) -> list[ReceiptLine]:
        """List the costs, in the order of the first of each kind."""
        return [
            ReceiptLine(
                stage=stage,
                task_type=task_type,
                model=model,
                count=entry.count,
                cost=entry.micro_usd / 1_000_000 if entry.known_count else None,
                unknown_count=entry.unknown_count,
            )
            for (stage, task_type, model), entry in self._entries.items()
        ]
