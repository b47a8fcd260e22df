"""What a node may be told beside its work: how often to try, and how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from runware_flow.errors import RunwareError, RunwareTimeoutError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("NO_POLICY", "Policy", "is_verdict", "may_try_again", "never_left", "read_policy")

_LATER = ("idle", "cache", "fallback", "hedge_after", "tolerate")


class Policy(msgspec.Struct, frozen=True):
    """The policy of one node.

    Attributes:
        retry: attempts in total, the first included.
        timeout: seconds for one attempt, from the send.
        deadline: seconds from the start of the run, queueing included.
        limit: a key of the run's limits, beside those that the task falls under by itself.
    """

    retry: int = 1
    timeout: float | None = None
    deadline: float | None = None
    limit: str | None = None

    @property
    def is_timed(self) -> bool:
        """Whether an attempt needs a cancel scope of its own."""
        return self.timeout is not None or self.deadline is not None


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
        if name in _LATER:
            raise ValueError(f"{name}= is not available in this version of runware_flow")
        if name not in ("retry", "timeout", "deadline", "limit"):
            raise ValueError(f"{name}= is not a policy; there are label=, retry=, timeout=, deadline= and limit=")
    retry = keywords.get("retry", 1)
    if not isinstance(retry, int) or isinstance(retry, bool) or retry < 1:
        raise ValueError(f"retry= counts the attempts in total, so it is a whole number from 1, not {retry!r}")
    for name in ("timeout", "deadline"):
        value = keywords.get(name)
        if value is not None and (not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0):
            raise ValueError(f"{name}= is in seconds and greater than 0, not {value!r}")
    limit = keywords.get("limit")
    if limit is not None and (not isinstance(limit, str) or not limit):
        raise ValueError(f"limit= names a key of limits=, so it is a text, not {limit!r}")
    return Policy(retry=retry, timeout=keywords.get("timeout"), deadline=keywords.get("deadline"), limit=limit)


_LOST = frozenset({"taskNotFound", "taskFailedOrNotFound", "taskExpired"})
_NEVER_LEFT = frozenset({"connectionFailed", "authTimeout"})


def never_left(error: Exception) -> bool:
    """Tell whether a request failed before it left: there was no connection to send it over."""
    return isinstance(error, RunwareError) and error.code == "connection" and error.raw_code in _NEVER_LEFT


def is_verdict(error: RunwareError) -> bool:
    """Tell whether the service itself said that a request failed, so that it makes nothing and bills nothing more.

    Not so where only our waiting ended: a deadline of ours, a lost connection, a sync task past the service's time
    (which runs on and is billed [doc]), or a service that does not remember the task.
    """
    if isinstance(error, RunwareTimeoutError) or error.code in ("connection", "aborted") or error.raw_code in _LOST:
        return False
    return error.code != "timeout" or "provider" in (error.raw_code or "").lower()


def may_try_again(error: Exception, *, buys: bool) -> bool:
    """Tell whether a failed attempt may be followed by another.

    For a task (`buys`) another attempt is another purchase, so only a verdict of the service itself allows it: an error
    that it named or a refusal to take the request (429, 503), and one that it calls retryable. After a timeout of
    ours, a lost connection or a partial success the first purchase may still stand. A function is the user's own
    code: it is called again after any exception of its own, but after an error of a request inside it only by the
    same rule.
    """
    if isinstance(error, RunwareError):
        if not is_verdict(error) or error.results:
            return False
        return error.retryable and (error.raw_code is not None or error.status_code in (429, 503))
    return not buys and not isinstance(error, TimeoutError)
