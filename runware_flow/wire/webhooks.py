"""Decodes webhook calls of the service (protocol facts, section 5).

A call is one finished result of a task, or its failure: the flat item, or `{"data": [...]}` and `{"errors": [...]}`;
sources differ, so both are read. Calls come at least once: the same result may come again, also long after.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from typing import Any

import msgspec

from runware_flow.errors import RunwareError  # noqa: TC001  # of a field
from runware_flow.results import RESULT_TYPES
from runware_flow.types import Result
from runware_flow.wire import salvage
from runware_flow.wire.frames import ErrorItem, Frame, Item, decode_frame
from runware_flow.wire.problems import to_error
from runware_flow.wire.results import decode_result

__all__ = ("NoticeFilter", "WebhookNotice", "decode_webhook", "notices_of", "read_webhook")

_VARIABLE = ("cost", "progress", "status")
"""Members in which two calls for the same result may differ: delivery is at least once [doc]."""


class WebhookNotice(msgspec.Struct, frozen=True, kw_only=True):
    """One result, or one failure, that a webhook call reports."""

    task_uuid: str
    task_type: str | None = None
    result: Result | None = None
    """Typed by its task type; None for a failure."""
    error: RunwareError | None = None
    """None for a result."""
    identity: str
    """The same for every call about the same result: its task with its own UUID, or with a hash of what it says."""


def read_webhook(body: bytes) -> tuple[WebhookNotice, ...]:
    """Read the body of a call to a webhook. What names no task is left out, and so is work that only goes on.

    Raises:
        ProtocolError: the body is no JSON object.
    """
    return notices_of(decode_webhook(body))


def decode_webhook(body: bytes) -> Frame:
    """Decode the body of a call as a frame that holds results and failures of named tasks, and nothing else.

    Raises:
        ProtocolError: the body is no JSON object.
    """
    frame = decode_frame(_wrapped_failure(body) or body)
    items = tuple(item for item in frame.items if item.task_id and (item.is_result or item.error is not None))
    errors = tuple(error for error in frame.errors if error.task_id)
    return Frame(items, errors)


def _wrapped_failure(body: bytes) -> bytes | None:
    """A flat failure that does not say `status: error` looks like a result: put it where errors stand."""
    found = salvage.mapping(body)
    if found is None or found[0].keys() & {"data", "errors", "error", "status"}:
        return None
    is_failure = all(isinstance(found[0].get(name), str) for name in ("code", "message"))
    return msgspec.json.encode({"errors": [found[0]]}) if is_failure else None


def notices_of(frame: Frame) -> tuple[WebhookNotice, ...]:
    """The notices of a decoded call, in its order, results before failures that stand apart."""
    parts: tuple[Item | ErrorItem, ...] = (*frame.items, *frame.errors)
    return tuple(_notice(part) for part in parts)


def _notice(part: Item | ErrorItem) -> WebhookNotice:
    failure = part if isinstance(part, ErrorItem) else part.error
    own_id = part.slot if isinstance(part, Item) else None
    common: dict[str, Any] = {
        "task_uuid": str(part.task_id),
        "task_type": part.task_type,
        "identity": f"{part.task_id} {own_id or _digest(part.raw)}",
    }
    if failure is not None:
        return WebhookNotice(error=to_error(failure, task_type=part.task_type, task_uuid=part.task_id), **common)
    assert isinstance(part, Item)
    return WebhookNotice(result=decode_result(part, RESULT_TYPES.get(part.task_type or "", Result)), **common)


def _digest(raw: bytes) -> str:
    found = salvage.mapping(raw)
    plain = raw if found is None else {name: value for name, value in found[0].items() if name not in _VARIABLE}
    return sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()


class NoticeFilter:
    """Tells notices that are new from those that came before; of many the oldest are forgotten."""

    def __init__(self, remembered: int = 10_000) -> None:
        self._remembered = remembered
        self._seen: OrderedDict[str, None] = OrderedDict()

    def is_new(self, notice: WebhookNotice) -> bool:
        """Whether this is the first notice of its result; from now on it is not."""
        is_new = notice.identity not in self._seen
        self._seen[notice.identity] = None
        self._seen.move_to_end(notice.identity)
        if len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        return is_new

    def forget(self, notice: WebhookNotice) -> None:
        """Let the next notice of this result count as new: this one could not be dealt with."""
        self._seen.pop(notice.identity, None)
