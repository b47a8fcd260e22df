"""The policies of a node: how many attempts, and how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from runware_flow.errors import RunwareError, RunwareFlowError, RunwareTimeoutError, TooFewSucceeded
from runware_flow.tracebacks import border
from runware_flow.types import problem_of_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = (
    "NO_POLICY",
    "OnError",
    "Policy",
    "Retry",
    "is_verdict",
    "may_be_collected",
    "may_fall_back",
    "may_try_again",
    "never_left",
    "read_policy",
)

OnError: TypeAlias = Literal["stop", "cancel", "continue"]
"""What a failed node does to its run."""

_SECONDS = ("timeout", "deadline", "idle", "hedge_after")


class Retry(msgspec.Struct, frozen=True):
    """How often, after which errors and for how long a node is tried again.

    Attributes:
        attempts: in total, the first included.
        on: codes after which it is tried again, stable ones (`"provider"`) or the service's own, and for async
            functions exception classes too. By default a task is tried again after an error that is `retryable`, and a
            function after any exception of its own. It never allows a second purchase while the first may succeed:
            after a timeout of ours, a lost connection or a partial success.
        backoff: seconds before the second attempt, doubled for each one after it, up to sixteen times as much; between
            half of that and all of it, at random. A wait that the service asks for replaces it.
        max_elapsed: seconds since the first attempt began after which no other one begins.
    """

    attempts: int = 3
    on: tuple[str | type[Exception], ...] | None = None
    backoff: float = 0.5
    max_elapsed: float | None = None

    @border
    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: one of them makes no sense.
        """
        if type(self.attempts) is not int or self.attempts < 1:
            raise ValueError(
                f"retry= counts the attempts in total, so it is a whole number from 1, not {self.attempts!r}"
            )
        on: Any = self.on
        if on is not None and not (type(on) in (tuple, list, set, frozenset) and on and all(map(_is_cause, on))):
            raise ValueError(
                f'Retry(on=) is a tuple of codes, such as ("provider",), or of exception classes, not {on!r}'
            )
        if not _is_number(self.backoff) or not self.backoff >= 0:
            raise ValueError(f"Retry(backoff=) is in seconds, from 0, not {self.backoff!r}")
        if self.max_elapsed is not None and (problem := problem_of_seconds("max_elapsed", self.max_elapsed)):
            raise ValueError(f"Retry: {problem}")


def _is_cause(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, type) and issubclass(value, Exception))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Policy(msgspec.Struct, frozen=True):
    """The policy of one node.

    Attributes:
        retry: how often, after what and how patiently.
        timeout: seconds for one attempt, from the send.
        deadline: seconds from the start of the run, queueing included.
        idle: seconds without progress of the task.
        limit: a key of the run's limits, beside those that the task falls under by itself.
        hedge_after: seconds after which a second request is sent beside the first.
        cache: whether a cached result may be used; with `None` the request decides, see `may_be_cached`.
    """

    retry: Retry = Retry(1)
    timeout: float | None = None
    deadline: float | None = None
    idle: float | None = None
    limit: str | None = None
    cache: bool | None = None
    hedge_after: float | None = None

    @property
    def is_timed(self) -> bool:
        """Whether an attempt needs a cancel scope of its own."""
        return self.timeout is not None or self.deadline is not None or self.idle is not None


NO_POLICY = Policy()


def read_policy(keywords: Mapping[str, Any]) -> Policy:
    """Check the policy keywords of a declaration.

    Raises:
        ValueError: a value that makes no sense, or a keyword that does not exist; one sentence, without the node's
        name.
    """
    if not keywords:
        return NO_POLICY
    for name in keywords:
        if name not in ("retry", "limit", "cache") and name not in _SECONDS:
            told = ", ".join(f"{one}=" for one in ("label", "retry", *_SECONDS, "limit", "cache"))
            raise ValueError(f"{name}= is not a policy; there are {told} and fallback=")
    retry = keywords.get("retry", NO_POLICY.retry)
    if not isinstance(retry, Retry):
        retry = Retry(retry)
    for name in _SECONDS:
        value = keywords.get(name)
        if value is not None and (problem := problem_of_seconds(name, value)) is not None:
            raise ValueError(problem)
    limit = keywords.get("limit")
    if limit is not None and (not isinstance(limit, str) or not limit):
        raise ValueError(f"limit= names a key of limits=, so it is a text, not {limit!r}")
    cache = keywords.get("cache")
    if cache is not None and not isinstance(cache, bool):
        raise ValueError(f"cache= of a node is True, False or None; the cache itself is the flow's, not {cache!r}")
    return Policy(
        retry,
        keywords.get("timeout"),
        keywords.get("deadline"),
        keywords.get("idle"),
        limit,
        cache,
        keywords.get("hedge_after"),
    )


_LOST = frozenset({"taskNotFound", "taskFailedOrNotFound", "taskExpired"})
_ACCEPTED = frozenset({"conflictTaskUUID"})
"""The service has a task of this taskUUID: with a journal, it is the one that was sent."""
_NEVER_LEFT = frozenset({"connectionFailed", "authTimeout"})


def never_left(error: Exception) -> bool:
    """Tell whether a request failed before it left: there was no connection to send it over."""
    return isinstance(error, RunwareError) and error.code == "connection" and error.raw_code in _NEVER_LEFT


def is_verdict(error: RunwareError) -> bool:
    """Tell whether the service itself said that a request failed, so that it makes nothing and bills nothing more.

    Not so where only our waiting ended: a deadline of ours, a lost connection, a sync task past the service's time
    (which runs on and is billed [doc]), a key that is rejected while the task is polled, or a service that does not
    remember the task.
    """
    if error.may_be_billed or isinstance(error, RunwareTimeoutError) or error.code in ("connection", "aborted"):
        return False
    if error.raw_code in _LOST or error.raw_code in _ACCEPTED:
        return False
    return error.code != "timeout" or "provider" in (error.raw_code or "").lower()


def may_be_collected(error: RunwareError) -> bool:
    """Tell whether a stream that failed may have left a text at the service, which can be asked for by its taskUUID.

    So it is with a stream that broke off, and with any answer that is no verdict: the service goes on without a reader,
    and bills the text. Not so if our own time is over, if the request never left, or if its reader left.
    """
    is_over = isinstance(error, RunwareTimeoutError) or error.code == "aborted"
    return not is_over and not never_left(error) and not is_verdict(error)


def may_try_again(error: Exception, *, sends: bool | None, on: tuple[str | type[Exception], ...] | None = None) -> bool:
    """Tell whether a failed attempt may be followed by another.

    Args:
        error: how the attempt failed.
        sends: what the node does. `True`: it sends a task, so another attempt is another purchase, and only a verdict
            of the service itself allows it: an error that it named or a refusal to take the request (429, 503), and one
            that it calls retryable, or that is among `on`. After a timeout of ours, a lost connection or a partial
            success the first purchase may still stand. `False`: it calls a function of the user, which is called again
            after any exception of its own, or any that is among `on`, but after an error of a request inside it only by
            the same rule. `None`: it downloads, which costs nothing, so whatever may pass is tried again.
        on: see `Retry.on`.
    """
    is_chosen = on is not None and _is_among(error, on)
    if sends is None:
        may_pass = error.retryable if isinstance(error, RunwareError) else isinstance(error, OSError)
        return may_pass if on is None else is_chosen
    if isinstance(error, RunwareError):
        if not is_verdict(error) or error.results or (error.raw_code is None and error.status_code not in (429, 503)):
            return False
        return error.retryable if on is None else is_chosen
    if sends:
        return False
    return is_chosen if on is not None else not isinstance(error, TimeoutError)


def _is_among(error: Exception, on: tuple[str | type[Exception], ...]) -> bool:
    codes = (error.code, error.raw_code) if isinstance(error, RunwareError) else ()
    return any(one in codes if isinstance(one, str) else isinstance(error, one) for one in on)


def may_fall_back(error: Exception, *, sends: bool) -> bool:
    """Tell whether a fallback may stand in for a node that has failed for good.

    Not for a mistake in the flow or a builder that raises, which are to be found; nor for a budget that is spent, a
    journal that cannot be written or a client that is closed, after which nothing may be sent. A race or a `first` of
    which too few succeeded is judged by the errors of those.
    """
    if isinstance(error, TooFewSucceeded):
        return all(may_fall_back(one, sends=False) for one in error.errors)
    if isinstance(error, RunwareError):
        return True
    return not (sends or isinstance(error, RunwareFlowError))
