"""Prices of tasks before they are sent: USD for each result, from three sources."""

from __future__ import annotations

import re
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = (
    "Price",
    "PriceList",
    "PriceOption",
    "PriceSource",
    "micro_usd",
    "read_price",
    "read_price_text",
    "total_micro_usd",
)

_MOST_USD = 1_000_000
"""More is no price of one request, so it is unknown."""

PriceSource: TypeAlias = Literal["given", "journal", "service"]
"""`given`: the caller said so. `journal`: what earlier requests cost. `service`: the content service's examples."""

_TEXT = re.compile(
    r"(?:from\s+)?(?:\$\s*(?P<before>\d+(?:\.\d+)?)|(?P<after>\d+(?:\.\d+)?)\s*(?:\$|USD)?)"
    r"(?:\s*USD)?(?:\s*(?:/|per)\s*(?:image|result|picture|video|request|generation|task))?",
    re.IGNORECASE,
)


class Price(msgspec.Struct, frozen=True):
    """What one result of a model costs, in USD: from `low` to `high`."""

    low: float
    high: float
    source: PriceSource = "given"

    def __str__(self) -> str:
        return dollars(self.low) if self.low == self.high else f"{dollars(self.low)} to {dollars(self.high)}"


PriceOption: TypeAlias = float | tuple[float, float] | Price
"""USD for one result, the lowest and the highest, or a `Price`."""


class PriceList:
    """Finds the price of a model, or of a task type.

    Args:
        given: by AIR or by task type. What the caller said comes first, then `seen`, then what the service says.
        seen: by task type and model.
    """

    def __init__(
        self, given: Mapping[str, Price] | None = None, seen: Mapping[tuple[str, str | None], Price] | None = None
    ) -> None:
        self._given = dict(given or {})
        self._seen = dict(seen or {})

    def find(self, task_type: str, model: str | None) -> Price | None:
        """Return the price of one result, or `None`: it is not known, which never means free."""
        given = self._given.get(model or "") or self._given.get(task_type)
        if given is not None and given.source != "service":
            return given
        return self._seen.get((task_type, model)) or given


def read_price(value: Any) -> Price:
    """Read what a caller gives as a price: USD, a pair of the lowest and the highest, or a `Price`.

    Raises:
        ValueError: it is none of them; one sentence.
    """
    if isinstance(value, Price):
        return value
    pair = cast("Sequence[Any]", value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(_is_amount(one) for one in pair) or pair[0] > pair[1]:
        raise ValueError(f"a price is USD for one result, or a pair of the lowest and the highest, not {value!r}")
    return Price(float(pair[0]), float(pair[1]))


def read_price_text(examples: Iterable[float | str | None]) -> Price | None:
    """Read the prices of the content service's examples: `$0.0013`, `0.0013`, `from $0.0013 / image`.

    Prices of something else than a result (a second, a token, a pixel) are left out.
    """
    found: list[float] = []
    for example in examples:
        if isinstance(example, str):
            match = _TEXT.fullmatch(example.strip())
            if match is not None:
                found.append(float(match["before"] or match["after"]))
        elif _is_amount(example):
            found.append(float(example or 0.0))
    return Price(min(found), max(found), "service") if found else None


def micro_usd(cost: float | None) -> int | None:
    """What a service says that something cost, in whole micro-USD; `None` is unknown, also for what is no amount.

    Nothing gives money back: a negative cost counts as 0.
    """
    if cost is None or not -inf < cost <= _MOST_USD:
        return None
    return round(cost * 1_000_000) if cost > 0 else 0


def total_micro_usd(costs: Sequence[float | None]) -> int | None:
    """The sum of what results cost, in whole micro-USD; `None` if there are none, or the cost of one is unknown."""
    total = None
    for cost in costs:
        amount = micro_usd(cost)
        if amount is None:
            return None
        total = amount + (total or 0)
    return total


def dollars(amount: float) -> str:
    """Write an amount for people: two digits at least, six at most."""
    text = f"{amount:.6f}".rstrip("0")
    whole, _, cents = text.partition(".")
    return f"${whole}.{cents.ljust(2, '0')}"


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value) and value >= 0
