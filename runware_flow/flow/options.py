"""The types of the arguments of flows and nodes: policies, builders, items."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeAlias, TypedDict, TypeVar

from runware_flow.graph.policies import OnError, Retry  # noqa: TC001  # a TypedDict is read at run time
from runware_flow.runner.settings import BudgetOption, CacheOption, JournalOption, Progress  # noqa: TC001  # as above
from runware_flow.types import Task

__all__ = (
    "BatchOptions",
    "Items",
    "PolicyOptions",
    "WireTask",
    "Work",
)

R = TypeVar("R")
T = TypeVar("T")

WireTask: TypeAlias = Mapping[str, Any]
"""A task as a dict with wire names; its results are plain `Result`s to a type checker."""

Work: TypeAlias = Task[R] | Coroutine[Any, Any, R] | WireTask
"""What a builder, or an async function, returns for a node of type `R`."""

Items: TypeAlias = Iterable[T] | AsyncIterable[T] | Callable[[], Iterable[T] | AsyncIterable[T]]
"""Where a fan-out's items come from. A callable is called once a run."""


class PolicyOptions(TypedDict, total=False):
    """The policy keywords that every node takes."""

    label: str
    """Its name in errors, events and reports; equal labels get an ordinal."""
    retry: int | Retry
    """Attempts in total, or a `Retry`. A task is sent again only after the service reported that it failed."""
    timeout: float
    """Seconds for one attempt, from the send."""
    deadline: float
    """Seconds from the start of the run, queueing included."""
    hedge_after: float
    """Seconds after which a second request is sent if the first has not ended; the first of the two to succeed wins.
    **It is a second purchase**: the other may be billed. It is sent only if `concurrency` and the limits allow it."""
    idle: float
    """Seconds without progress. A progress report and each of several results reset it."""
    limit: str
    """A key of the flow's `limits`, in addition to those that match the task's modality, type and model."""
    cache: bool
    """Whether the flow's cache may answer, and stores the answer. By default it does for requests that give the same
    result again: those with a seed, and tasks without randomness, such as `caption` and `upscale`."""


class BatchOptions(TypedDict, total=False):
    """The keywords of `Batch` that do not depend on its items."""

    concurrency: int
    """How many items are in work, and how many outcomes are unread, before no more are pulled. Items that wait because
    the service refuses their model do not count, up to four times this number in all."""
    limits: Mapping[str, int] | None
    """See `Flow`; all items share them."""
    budget: BudgetOption
    """See `Flow`; all items share it."""
    journal: JournalOption
    """See `Flow`; with it, the same call continues where the last one stopped."""
    cache: CacheOption
    """See `Flow`."""
    on_error: OnError
    """`"stop"`: when an item has failed, nothing new is pulled, what is in flight runs to its end, and
    `FlowFailed` is raised after the last outcome. `"cancel"`: the same, but what is in flight is abandoned.
    `"continue"`: failures are outcomes like others."""
    tolerate: float
    """Stop when more than this share of the items has failed: `0.1` for a tenth. For a source without a length it is a
    share of the items that have settled, checked from the second failure on and at the end of the source."""
    deadline: float
    """Seconds for each item, from its start, all its nodes and their retries included; then the item fails."""
    progress: Progress
    """See `Flow`. The events that a callable is given are those of the items' nodes, with the item's `index` and
    `key`, between one `RunStarted` and one `RunFinished`, whose counts are of items."""
    name: str | None
    """What the batch is called in its journal; by default the builder's name."""
