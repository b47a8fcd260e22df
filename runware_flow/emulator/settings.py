"""`Settings`: the switches of an emulator, each with the default that is nearest to what is known of the service."""

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
    """The seed of drawn seeds, latencies and random faults."""
    latency: Latency = 0.05
    """How long a task takes: a number, a range, or either by task type. It does not imitate the service's times."""
    api_key: str = ""
    """The one key that is accepted; empty: a new one is made at each start."""
    allow_origin: Collection[str] = ()
    """Origins of web pages that may use the emulator (`http://localhost:3000`); no page of another origin may."""
    allow_host: Collection[str] = ()
    """Host names that it answers to besides `localhost` and addresses, such as the name of a container."""
    base_url: str = "http://127.0.0.1"
    """Where pictures are served; set when the emulator starts."""
    epoch: float = 0.0
    """The time of day at zero of the emulator's clock, in seconds since 1970; set when it starts."""
    idle_timeout: float = 120.0
    """A WebSocket without a message for this long is closed [doc]."""
    replay_window: float = 120.0
    """How long undelivered frames are kept for a session that is resumed [doc]."""
    sync_budget: float = 120.0
    """A sync task that takes longer is answered with a timeout; it goes on, and its result can be polled [doc]."""
    unknown_task: Literal["processing", "empty", "notFound"] = "processing"
    """The answer of getResponse for an unknown task; live traffic shows all three [3p], the default is a guess."""
    closed_task: Literal["unknown", "silent"] = "unknown"
    """The answer of getResponse for an answered sync task: as for an unknown one [3p]; by WebSocket also none."""
    failure_shape: Literal["item", "errors"] = "item"
    """Where a failed result is: an item of `data` with status `error` [sdk], or in `errors` [doc].

    A sync task without a successful result is answered in `errors` in both cases [doc].
    """
    result_names: Literal["asked", "legacy"] = "asked"
    """The taskType of a result: as asked [doc], or `imageUpscale`, `imageCaption`, ... as recordings have it [3p]."""
    input_uuid: bool = True
    """A result made from one image names it in `inputImageUUID`, as the recorded replies do [doc]."""
    poll_frames: Literal["combined", "single"] = "combined"
    """Several getResponse tasks in one frame: one answer, or one for each task (a guess)."""
    retention: float | None = None
    """Seconds after which getResponse answers taskExpired for a finished task; None: never (a guess)."""
    conflict_after_retention: bool = True
    """A taskUUID that getResponse no longer knows is still refused as a duplicate (a guess)."""
    rejection_status: Literal["http", "ok"] = "http"
    """The HTTP status of a refused request: 4xx [doc], or 200 with errors in the body, which was also seen [3p]."""
    mixed_status: Literal["ok", "worst"] = "ok"
    """The HTTP status of an answer with both data and errors: 200, or that of the worst error (a guess)."""
    overdue: Literal["error", "silent"] = "error"
    """A sync task beyond the budget on WebSocket: a timeout error comes, or nothing at all (a guess)."""
    unauthenticated_code: str = "missingAuthentication"
    """The error code for a WebSocket client that sends tasks before its key (a guess)."""
    progress: tuple[str, ...] = ("training",)
    """Task types whose poll answers have `progress`; few of the service's do [doc]."""
    stream_usage: Literal["ending", "separate"] = "ending"
    """In a text stream usage and cost come with the finishReason, or in an event after it; both are seen [sdk]."""
    usage: Literal["asked", "always"] = "asked"
    """`usage` of a text comes if includeUsage is set [doc], or always, as the official client's types say [sdk]."""
    webhook_shape: Literal["flat", "wrapped"] = "flat"
    """The body of a webhook: the item, or `{"data": [item]}`; sources differ [3p], the default is a guess."""
    call_attempts: int = 6
    """How often a webhook or an uploadEndpoint is tried (a guess)."""
    call_timeout: float = 5.0
    """Seconds within which a webhook must answer with 2xx [3p]."""
    call_delay: float = 0.25
    """The pause before the second attempt; it doubles each time, up to 8 s, with jitter [3p]."""
    price_factor: float = 1.0
    """A factor for all prices; 0 makes everything free. The prices are guesses at the right scale."""
    upload_side: int = 2048
    """Uploaded images are stored with no side longer than this [doc]."""
    require_dimensions: bool = False
    """Refuse an image without width and height. The schemas ask for them, the official README leaves them out."""
    parallel: int | None = None
    """Results of one model that are made at the same time; others wait in the model's queue [doc]."""
    capacity: int | None = None
    """Tasks that may run or wait at once; others are refused with 429, rateLimitExceeded [doc]."""
    balance: float = 100.0
    """USD on the account; bills reduce it."""
    max_frame_bytes: int = 64 * 2**20
    """The longest request or frame; a longer one is refused with 413, or ends the WebSocket with 1009 (a guess)."""
    max_tasks: int = 10_000
    """Tasks in one array; the service publishes no limit, this one stops hostile clients (a guess)."""
    retained_tasks: int = 100_000
    """Tasks that are remembered; the oldest are forgotten first (a guess)."""
    models: Mapping[str, str] = field(default_factory=dict[str, str])
    """Models to add to the catalog: the task type by AIR."""

    answers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Answers of language models, by a part of the last message; values other than texts are sent as JSON."""

    def latency_of(self, task_type: str, task_uuid: str, index: int) -> float:
        """Return the seconds that result `index` of a task takes; the same for the same task and seed."""
        span = self.latency
        if isinstance(span, Mapping):
            span = span.get(task_type, span.get("*", 0.05))
        if isinstance(span, tuple):
            low, high = span
            return low + (high - low) * draw(self.seed, "latency", task_uuid, index)
        return float(span)
