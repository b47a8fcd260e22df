"""The events of a run: typed, in the order in which things happened.

Times are seconds of the run's clock, from its start. Without a reader, no event is made.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from runware_flow.graph.outcomes import Outcome  # noqa: TC001  # help() reads the annotations of a struct

__all__ = (
    "Event",
    "NodeDelta",
    "NodeProgress",
    "NodeRefused",
    "NodeSettled",
    "NodeStarted",
    "RunFinished",
    "RunStarted",
)


class RunStarted(msgspec.Struct, frozen=True):
    """The first event of a run."""

    time: float
    flow: str
    concurrency: int


class NodeStarted(msgspec.Struct, frozen=True):
    """An attempt of a node begins; a second attempt is a second event, and so is a send after a `NodeRefused`.

    Attributes:
        path: the node's identity in the run, items' keys included: `posters[9f2c...]/upscale`.
        label: the node's name, the same for all items.
        index: the position of the item in its fan-out, of the innermost one if they are nested; `None` outside.
        key: the item's key.
        task_type, model, task_uuid, fingerprint: the resolved request; `None` for a function.
        prompt: what it asks, in words, at most 2,000 characters; `""` for a function.
    """

    time: float
    path: str
    label: str
    attempt: int
    index: int | None = None
    key: str | None = None
    task_type: str | None = None
    model: str | None = None
    task_uuid: str | None = None
    fingerprint: str | None = None
    prompt: str = ""


class NodeRefused(msgspec.Struct, frozen=True):
    """The service refused a node's task for now (429, 503, a full queue).

    The node waits without a worker and is sent again under the same taskUUID, which is a `NodeStarted` of the same
    attempt. It has cost nothing, and no retry.

    Attributes:
        message: what the service said.
        waiting: how many nodes wait for that now, of all runs of a batch.
    """

    time: float
    path: str
    label: str
    message: str
    waiting: int
    index: int | None = None
    key: str | None = None
    model: str | None = None
    task_uuid: str | None = None


class NodeProgress(msgspec.Struct, frozen=True):
    """The progress of a node, from 0 to 100, as the service reports it. A slow reader gets only the newest."""

    time: float
    path: str
    label: str
    progress: float
    index: int | None = None


class NodeDelta(msgspec.Struct, frozen=True):
    """A piece of a text that is read while it is written. A slow reader gets several pieces as one; none is lost.

    Attributes:
        text: the piece. Those of one attempt and kind, one after the other, are the whole.
        kind: `"text"` for the answer, `"reasoning"` for what the model says while it thinks.
        attempt: the number of the attempt; a second one begins its text again.
    """

    time: float
    path: str
    label: str
    text: str
    kind: str
    attempt: int
    index: int | None = None
    key: str | None = None


class NodeSettled(msgspec.Struct, frozen=True):
    """A node has its outcome.

    Attributes:
        attempts: how many attempts there were; 0 for a node that was skipped.
        seconds: from the first attempt to the outcome.
        cost: USD; `None` is unknown, and never stands for free.
        is_restored: the outcome is an earlier run's, from the journal; nothing was sent.
        is_cached: it is the answer to an equal request, from the cache; nothing was sent, and it costs nothing.
        kind: what the node does: `"task"` and `"build"` send a request, `"call"` is a function, the others (`"pick"`,
            `"gather"`, `"race"`, ...) pass values on.
        task_type, model, prompt: of the request, as in `NodeStarted`; also of one that was restored.
        uses: addresses and ids of the media, and texts, of earlier results that it was given.
    """

    time: float
    path: str
    label: str
    outcome: Outcome[Any]
    attempts: int = 0
    seconds: float = 0.0
    cost: float | None = None
    index: int | None = None
    key: str | None = None
    task_uuid: str | None = None
    fingerprint: str | None = None
    is_restored: bool = False
    is_cached: bool = False
    kind: str = ""
    task_type: str | None = None
    model: str | None = None
    prompt: str = ""
    uses: frozenset[str] = frozenset()


class RunFinished(msgspec.Struct, frozen=True):
    """The last event of a run: the counts and the cost of its nodes.

    Attributes:
        end: `"done"`, `"failed"`, `"stopped"` or `"cancelled"`.
    """

    time: float
    end: str
    ok_count: int
    failed_count: int
    skipped_count: int
    abandoned_count: int
    cost: float | None


Event: TypeAlias = RunStarted | NodeStarted | NodeRefused | NodeProgress | NodeDelta | NodeSettled | RunFinished
"""Any event of a run."""
