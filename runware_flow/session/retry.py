"""How long to wait before doing something again."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from runware_flow.session.options import RetryStrategy
    from runware_flow.types import TaskId

__all__ = ("LONGEST", "backoff", "reconnect_delay", "spread")

LONGEST = 30.0
"""No wait of ours grows past this, as in the official clients [sdk]; a `Retry-After` may ask for more."""

_JITTER = 0.3


def backoff(attempt: int, base: float, strategy: RetryStrategy, jitter: float) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 1), `jitter` in [0, 1) included."""
    delay = base * attempt if strategy == "linear" else base * 2.0 ** min(attempt - 1, 30)
    return min(delay, LONGEST) * (1.0 + _JITTER * jitter)


def reconnect_delay(attempt: int, base: float, strategy: RetryStrategy, jitter: float) -> float:
    """Seconds from a loss to attempt number `attempt` (from 1) at a new connection.

    The first comes at once but for a quarter of `base`, spread at random so that the clients of a restarted server do
    not arrive together; the rest back off.
    """
    if attempt <= 1:
        return 0.25 * base * jitter
    return backoff(attempt - 1, base, strategy, jitter)


def spread(task_id: TaskId, attempt: int) -> float:
    """A number in [0, 1) that differs from task to task: the jitter of a machine that draws no random numbers.

    Task ids are random, so their checksums are; the same task and attempt give the same number again.
    """
    return crc32(f"{task_id}:{attempt}".encode()) / 2**32
