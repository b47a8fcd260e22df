"""What an emulator can be told: the knobs, each with the default that is nearest to what is known of the service."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = ("Latency", "Settings", "draw")

Span: TypeAlias = float | tuple[float, float]
Latency: TypeAlias = Span | Mapping[str, Span]
"""Seconds a task takes: a number, a `(low, high)` range drawn from evenly, or either by task type.

By task type, `"*"` is for the rest.
"""


def draw(*parts: object) -> float:
    """Draw a number in [0, 1) that depends on nothing but `parts`: no hidden state, whatever the order of requests."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the emulated service behaves. Times are seconds.

    What the documentation of the service leaves open is a switch here, and its default is said to be a guess.
    """

    seed: int = 7
    """What seeds, drawn latencies and faults by chance derive from."""
    latency: Latency = 0.05
    """What a task takes: a number, a range, or either by task type. The service's own times are not imitated."""
    api_key: str = ""
    """The one key that is taken; empty: a new one is made at each start."""
    allow_origin: Collection[str] = ()
    """Origins of web pages that may use the emulator (`http://localhost:3000`); no page of another origin may."""
    allow_host: Collection[str] = ()
    """Host names it answers to besides `localhost` and every address: the name of a container, say."""
    base_url: str = "http://127.0.0.1"
    """Where pictures are served; set when the emulator starts."""
    epoch: float = 0.0
    """The time of day, in seconds since 1970, at zero of the clock that the service runs by; set when it starts."""
    idle_timeout: float = 120.0
    """A WebSocket without any message for so long is closed [doc]."""
    replay_window: float = 120.0
    """Undelivered frames are kept so long for a session that comes back [doc]."""
    sync_budget: float = 120.0
    """A sync task that takes longer is answered with a timeout; it goes on, its result stays retrievable [doc]."""
    unknown_task: Literal["processing", "empty", "notFound"] = "processing"
    """What getResponse says of a task it does not know; live traffic shows all three [3p], the default is a guess."""
    closed_task: Literal["unknown", "silent"] = "unknown"
    """What getResponse says of a sync task that was answered: as of an unknown one [3p], or nothing, by WebSocket."""
    failure_shape: Literal["item", "errors"] = "item"
    """Where a failed result stands: as an item of `data` with status `error` [sdk], or in `errors` [doc].

    A sync task of which nothing succeeded is answered in `errors` either way [doc].
    """
    result_names: Literal["asked", "legacy"] = "asked"
    """The taskType of a result: as asked [doc], or `imageUpscale`, `imageCaption`, ... as recordings have it [3p]."""
    input_uuid: bool = True
    """What was made from one image names it in `inputImageUUID`, as the recorded replies do [doc]."""
    poll_frames: Literal["combined", "single"] = "combined"
    """Several getResponse tasks in one frame: one answer, or one for each task (a guess)."""
    retention: float | None = None
    """getResponse forgets a finished task after so many seconds, and answers taskExpired; None: never (a guess)."""
    conflict_after_retention: bool = True
    """A taskUUID that getResponse has forgotten still counts as taken (a guess)."""
    rejection_status: Literal["http", "ok"] = "http"
    """The HTTP status of a refused request: 4xx [doc], or 200 with errors in the body, which was seen too [3p]."""
    mixed_status: Literal["ok", "worst"] = "ok"
    """The HTTP status of an answer with both data and errors: 200, or that of the worst error (a guess)."""
    overdue: Literal["error", "silent"] = "error"
    """A sync task beyond the budget on WebSocket: a timeout error comes, or nothing at all (a guess)."""
    unauthenticated_code: str = "missingAuthentication"
    """What is said to a WebSocket client that sends tasks before its key (a guess)."""
    progress: tuple[str, ...] = ("training",)
    """Task types whose poll answers carry `progress`; few of the service's do [doc]."""
    stream_usage: Literal["ending", "separate"] = "ending"
    """In a text stream usage and cost come with the finishReason, or in an event after it; both are seen [sdk]."""
    usage: Literal["asked", "always"] = "asked"
    """`usage` of a text comes if includeUsage is set [doc], or always, as the official client's types say [sdk]."""
    webhook_shape: Literal["flat", "wrapped"] = "flat"
    """What a webhook gets: the item itself, or `{"data": [item]}`; sources differ [3p], the default is a guess."""
    call_attempts: int = 6
    """How often a webhook or an uploadEndpoint is tried (a guess)."""
    call_timeout: float = 5.0
    """It must answer with 2xx within so many seconds [3p]."""
    call_delay: float = 0.25
    """Wait so long before the second attempt, then twice as long each time, 8 s at most, with jitter [3p]."""
    price_factor: float = 1.0
    """All prices times this; 0 makes everything free. The prices themselves are guesses at the right scale."""
    upload_side: int = 2048
    """Uploaded images are stored with no side longer than this [doc]."""
    require_dimensions: bool = False
    """Refuse an image without width and height. The schemas ask for them, the official README leaves them out."""
    parallel: int | None = None
    """Results of one model that are made at the same time; the rest waits in the model's queue [doc]."""
    capacity: int | None = None
    """Tasks that may run or wait at once; one more is refused with 429, rateLimitExceeded [doc]."""
    balance: float = 100.0
    """USD on the account; it falls with what is billed."""
    max_frame_bytes: int = 64 * 2**20
    """A request or frame of a client; a longer one is refused with 413, or ends the WebSocket with 1009 (a guess)."""
    max_tasks: int = 10_000
    """Tasks in one array; the service publishes no limit, this one keeps a hostile client out (a guess)."""
    retained_tasks: int = 100_000
    """Tasks that are remembered; the oldest are forgotten first (a guess)."""
    models: Mapping[str, str] = field(default_factory=dict[str, str])
    """Models beyond the catalog, by AIR, with their task type."""

    answers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What language models say: answers by a part of the last message; what is no text is sent as JSON."""

    def latency_of(self, task_type: str, task_uuid: str, index: int) -> float:
        """Return the seconds that result `index` of a task takes; the same for the same task and seed."""
        span = self.latency
        if isinstance(span, Mapping):
            span = span.get(task_type, span.get("*", 0.05))
        if isinstance(span, tuple):
            low, high = span
            return low + (high - low) * draw(self.seed, "latency", task_uuid, index)
        return float(span)
