"""The items of a frame and how one is decoded: results in `data`, and errors wherever they are."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
from msgspec import Raw, Struct

from runware_flow.types import TaskId
from runware_flow.wire import salvage

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = (
    "PENDING",
    "UPLOAD_STEPS",
    "ErrorItem",
    "Frame",
    "Item",
    "Phase",
    "decode_item",
    "decode_items",
    "read_error",
)

Phase: TypeAlias = Literal["accepted", "pending", "step", "done", "failed", "unknown"]
"""The state of a task, as far as one item shows it; see `Item.phase`."""

PENDING = frozenset({"processing", "queued", "pending", "scheduled", "waiting"})
"""Statuses of work that goes on: the documented one and those that old clients tolerate (section 4.2)."""

UPLOAD_STEPS = frozenset({"validated", "downloaded", "optimized", "stored"})
"""Statuses that a model upload passes through before `ready` or `failed` (section 7, modelUpload)."""

_NO_PAYLOAD = frozenset(
    {
        "cost",
        "deliveryMethod",
        "model",
        "numberResults",
        "progress",
        "status",
        "taskType",
        "taskUUID",
        "webhookURL",
    }
)
"""Members that make no result by themselves: ids, state, and what an acknowledgement may echo of the request."""


class ErrorItem(Struct, frozen=True, kw_only=True):
    """One error, from wherever in a frame it came."""

    code: str | None = None
    """The service's own code; `None` if it sent none."""
    message: str = ""
    task_id: TaskId | None = None
    """The task that failed; `None` if the service did not say."""
    task_type: str | None = None
    parameter: str | tuple[str, ...] | None = None
    documentation: str | None = None
    status_code: int | None = None
    """The HTTP status, if HTTP carried the error."""
    raw: bytes = b"{}"
    """A copy of the bytes of the error."""


class Item(Struct, frozen=True, kw_only=True):
    """One element of a frame's `data`."""

    task_id: TaskId | None = None
    task_type: str | None = None
    status: str | None = None
    """As it came, whatever the vocabulary; `None` if the item carries none."""
    progress: float | None = None
    slot: str | None = None
    """What distinguishes this result within its task: its `resultIndex`, else its own UUID, else `None` [sdk]."""
    error: ErrorItem | None = None
    is_result: bool = False
    """A terminal success: status `success` (`ready` of a model upload), or no status and something besides the ids."""
    raw: bytes = b"{}"
    """The item's own copy of its bytes: a JSON object; a member that was not read yet may turn out unreadable."""

    @property
    def phase(self) -> Phase:
        """Where the task stands.

        `accepted` is the placeholder that acknowledges a submit, `pending` a status of work that goes on, `step` a
        milestone of a model upload, `done` a result and `failed` an error. `unknown` is a status that this library has
        never heard of: it is neither a result nor proof of work going on, so a waiting task keeps the deadline that is
        running and does not extend it.
        """
        if self.error is not None:
            return "failed"
        if self.is_result:
            return "done"
        if self.status is None:
            return "accepted" if self.progress is None else "pending"
        if self.status in PENDING:
            return "pending"
        return "step" if self.task_type == "modelUpload" and self.status in UPLOAD_STEPS else "unknown"


class Frame(Struct, frozen=True):
    """One wire message, decoded once: the elements of `data`, and every error that stood beside them."""

    items: tuple[Item, ...] = ()
    errors: tuple[ErrorItem, ...] = ()


class _Head(Struct, rename="camel"):
    """What the machines need to know of an item; the rest stays in its bytes."""

    task_type: str | None = None
    task_uuid: TaskId | None = msgspec.field(default=None, name="taskUUID")
    status: str | None = None
    progress: float | None = None
    error: Raw | None = None
    result_index: int | None = None
    image_uuid: str | None = msgspec.field(default=None, name="imageUUID")
    video_uuid: str | None = msgspec.field(default=None, name="videoUUID")
    audio_uuid: str | None = msgspec.field(default=None, name="audioUUID")
    model_uuid: str | None = msgspec.field(default=None, name="modelUUID")
    mask_image_uuid: str | None = msgspec.field(default=None, name="maskImageUUID")
    guide_image_uuid: str | None = msgspec.field(default=None, name="guideImageUUID")
    media_uuid: str | None = msgspec.field(default=None, name="mediaUUID")


class _Heads(Struct):
    data: list[_Head]


_NULL = Raw(b"null")
_decode_head = msgspec.json.Decoder(_Head).decode
_decode_heads = msgspec.json.Decoder(_Heads).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_UUIDS = tuple(name for name in _Head.__struct_encode_fields__ if name.endswith("UUID") and name != "taskUUID")


def decode_item(raw: bytes) -> Item | None:
    """Read one element of `data`; `None` for a null. Never raises: what cannot be read is in the item's `raw`.

    `raw` must be a copy of its own; the item keeps it.
    """
    try:
        head = _decode_head(raw)
    except salvage.UNREADABLE:
        return _decode_odd_item(raw)
    return _read_item(head, raw)


def decode_items(frame: bytes, raws: Sequence[Raw]) -> tuple[Item, ...]:
    """Read the elements of a frame's `data`, as `decode_item` does, in one pass unless one of them is odd.

    Args:
        frame: the bytes of the whole frame.
        raws: the elements as they stand in it; each item gets a copy of its own.
    """
    try:
        heads = _decode_heads(frame).data
    except salvage.UNREADABLE:
        return tuple([item for raw in raws if (item := decode_item(bytes(raw))) is not None])
    pairs = zip(heads, raws, strict=True)
    return tuple([item for head, raw in pairs if (item := _read_item(head, bytes(raw))) is not None])


def _read_item(head: _Head, raw: bytes) -> Item | None:
    if head.error is not None or head.status in ("error", "failed"):
        return _decode_odd_item(raw)
    status = head.status
    if status in PENDING:  # most answers to polls
        return Item(
            task_id=head.task_uuid or None, task_type=head.task_type, status=status, progress=head.progress, raw=raw
        )
    uuid = (
        head.image_uuid
        or head.video_uuid
        or head.audio_uuid
        or head.model_uuid
        or head.mask_image_uuid
        or head.guide_image_uuid
        or head.media_uuid
        or None
    )
    if status is None:
        is_result = uuid is not None or _has_payload(raw)
    else:
        is_result = status == "success" or (status == "ready" and head.task_type == "modelUpload")
    return Item(
        task_id=head.task_uuid or None,
        task_type=head.task_type,
        status=status,
        progress=head.progress,
        slot=uuid if head.result_index is None else str(head.result_index),
        is_result=is_result,
        raw=raw,
    )


def _has_payload(raw: bytes) -> bool:
    try:
        found = _decode_members(raw)
    except salvage.UNREADABLE:
        return True  # a name that is no UTF-8 is none of the ids
    for name in found.keys() - _NO_PAYLOAD:  # noqa: SIM110  # of every acknowledgement: any() costs twice the calls
        if found[name] != _NULL:
            return True
    return False


def _decode_odd_item(raw: bytes) -> Item | None:
    """Read an item that reports an error, or that has a member of an unexpected type."""
    found = salvage.mapping(raw)
    if found is None:
        value = salvage.value(raw)
        return None if value is None else Item(raw=salvage.dump({"value": value}))
    members, raw = found
    task_id, task_type = _text(members.get("taskUUID")), _text(members.get("taskType"))
    status = members.get("status")
    if status is not None and not isinstance(status, str):
        status = salvage.dump(status).decode()
    error = None
    if members.get("error") or status == "error" or (status == "failed" and task_type == "modelUpload"):
        error = read_error(members.get("error"), raw, around=members)
    index = members.get("resultIndex")
    slot = next((found for found in map(_text, map(members.get, _UUIDS)) if found), None)
    is_success = status == "success" or (status == "ready" and task_type == "modelUpload")
    has_payload = any(value is not None and name not in _NO_PAYLOAD for name, value in members.items())
    return Item(
        task_id=TaskId(task_id) if task_id else None,
        task_type=task_type,
        status=status,
        progress=_number(members.get("progress")),
        slot=str(index) if isinstance(index, (int, str)) and not isinstance(index, bool) else slot,
        error=error,
        is_result=error is None and (is_success or (status is None and has_payload)),
        raw=raw,
    )


def read_error(entry: Any, raw: bytes, *, around: dict[str, Any], status_code: int | None = None) -> ErrorItem:
    """Make an `ErrorItem` of an entry of any shape of section 8.1.

    Args:
        entry: the entry as it came: an object, a text, `true` (the legacy form, whose facts stand beside it), a list.
        raw: the bytes of the error.
        around: the members of the object that holds the entry, where the ids may stand instead.
        status_code: the HTTP status, if HTTP carried it.
    """
    if salvage.is_array(entry) and entry:
        entry = entry[0]
    own = entry if salvage.is_object(entry) else around
    code = own.get("code", own.get("errorId"))
    message = entry if isinstance(entry, str) else _first_text(own, "message", "errorMessage", "detail", "title")
    task_id = _text(own.get("taskUUID")) or _text(around.get("taskUUID"))
    return ErrorItem(
        code=str(code) if isinstance(code, (str, int)) and not isinstance(code, bool) and code != "" else None,
        message=message,
        task_id=TaskId(task_id) if task_id else None,
        task_type=_text(own.get("taskType")) or _text(around.get("taskType")),
        parameter=_parameter(own.get("parameter")),
        documentation=_text(own.get("documentation")),
        status_code=status_code,
        raw=raw,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _first_text(members: dict[str, Any], *names: str) -> str:
    return next((found for found in (_text(members.get(name)) for name in names) if found), "")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) else None


def _parameter(value: Any) -> str | tuple[str, ...] | None:
    if salvage.is_array(value):
        names = tuple(name for name in value if isinstance(name, str) and name)
        return names[0] if len(names) == 1 else names or None
    return _text(value)
