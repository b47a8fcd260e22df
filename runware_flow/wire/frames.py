"""Bytes to frames and back: what the service sent, item by item, with no item able to spoil another.

A frame is one wire message. The common case costs one typed pass over its envelope and one small pass an item; each
item takes a copy of its own bytes, so nothing keeps a whole frame alive. Where a pass fails (an unexpected shape, bytes
that are no UTF-8, NaN, nesting past every limit), the same bytes are read member by member and only what cannot be read
is lost. The shapes are those of the protocol facts, sections 3, 4 and 8.1.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw, Struct

from runware_flow.errors import ProtocolError
from runware_flow.wire import salvage
from runware_flow.wire.items import ErrorItem, Frame, Item, Phase, decode_item, decode_items, read_error
from runware_flow.wire.results import decode_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = (
    "UNREADABLE",
    "ErrorItem",
    "Frame",
    "Item",
    "Phase",
    "decode_frame",
    "decode_reply",
    "decode_result",
    "encode_frame",
    "pack",
    "read_member",
)

UNREADABLE = "unrecognizedResponse"
"""The raw code given to a reply that cannot be read; the official clients use the same (section 8.3)."""

_EXCERPT = 200


class _Envelope(Struct):
    data: list[Raw] | None = None
    errors: list[Raw] | None = None
    error: Raw | None = None
    task_uuid: Raw | None = msgspec.field(default=None, name="taskUUID")


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def decode_frame(data: bytes | str) -> Frame:
    """Decode one message of the service.

    Items and errors keep the order in which they came. An error that stands inside an item of `data` is that item's
    `error`, not one of the frame's. An object without `data`, `errors` or `error` that names a task is an item by
    itself (as webhooks send it); any other such object is an empty frame.

    Raises:
        ProtocolError: the bytes are not a JSON object.
    """
    raw = salvage.to_bytes(data) if isinstance(data, str) else data
    try:
        envelope = _decode_envelope(raw)
    except salvage.UNREADABLE:
        return _decode_odd_frame(raw)
    if envelope.errors or envelope.error is not None or (envelope.data is None and envelope.task_uuid is not None):
        return _decode_odd_frame(raw)
    return Frame(decode_items(raw, envelope.data) if envelope.data else ())


def _decode_odd_frame(raw: bytes) -> Frame:
    members = salvage.members(raw)
    if members is None:
        raise ProtocolError(f"the service sent something that is not a frame: {_excerpt(raw)}")
    if not members.keys() & {"data", "errors", "error"}:
        return Frame(_items([bytes(raw)])) if "taskUUID" in members else Frame()
    items = _items(_listed(members.get("data", b"null")))
    errors = [read_error(salvage.value(entry), entry, around={}) for entry in _listed(members.get("errors", b"null"))]
    single = salvage.value(members.get("error", b"null"))
    if single:
        around = {name: salvage.value(member) for name, member in members.items() if name not in ("data", "errors")}
        entries: list[Any] = single if salvage.is_array(single) else [single]
        for entry in entries:
            told_in = entry if salvage.is_object(entry) else around
            errors.append(read_error(entry, salvage.dump(told_in), around=around))
    return Frame(items, tuple(errors))


def _items(raws: Iterable[bytes]) -> tuple[Item, ...]:
    return tuple(item for raw in raws if (item := decode_item(raw)) is not None)


def _listed(raw: bytes) -> list[bytes]:
    """The elements of an array; one element if `raw` is something else; none if it is null."""
    found = salvage.elements(raw)
    if found is None:
        return [] if raw == b"null" else [raw]
    return [element for element in found if element != b"null"]


def decode_reply(status: int, body: bytes) -> Frame:
    """Decode an HTTP reply as `decode_frame` does, errors stamped with `status`; never raises.

    A reply that is no frame (empty, HTML, a problem document), and a status of 400 and above that comes without an
    error in its body, gives one error of its own that names no task.
    """
    try:
        frame = decode_frame(body)
    except ProtocolError:
        said = _excerpt(body) if body.strip() else "an empty body"
        code = None if status >= 400 else UNREADABLE
        raw = msgspec.json.encode({"body": body.decode("utf-8", "replace")})
        return Frame(errors=(ErrorItem(code=code, message=f"HTTP {status} with {said}", status_code=status, raw=raw),))
    if status < 400:
        return frame
    items = tuple(_stamped_item(item, status) for item in frame.items)
    problem = _problem(status, body)
    if problem is not None:
        return Frame(items, (problem,))
    errors = tuple(msgspec.structs.replace(error, status_code=status) for error in frame.errors)
    if not errors and not any(item.error for item in items):
        errors = (read_error(None, bytes(body), around=_top(body), status_code=status),)
    return Frame(items, errors)


def _stamped_item(item: Item, status: int) -> Item:
    if item.error is None:
        return item
    return msgspec.structs.replace(item, error=msgspec.structs.replace(item.error, status_code=status))


def _top(body: bytes) -> dict[str, Any]:
    found = salvage.mapping(body)
    return {} if found is None else found[0]


def _problem(status: int, body: bytes) -> ErrorItem | None:
    """Read an RFC 9457 problem document, which the serverless API sends (section 11)."""
    top = _top(body)
    title, detail, kind = top.get("title"), top.get("detail"), top.get("type")
    if "data" in top or "error" in top or not (isinstance(title, str) or isinstance(detail, str)):
        return None
    sentences = [text for text in (title, detail) if isinstance(text, str) and text]
    entries = top.get("errors")
    for entry in entries if salvage.is_array(entries) else ():
        if salvage.is_object(entry) and isinstance(entry.get("detail"), str):
            sentences.append(" ".join(str(entry[name]) for name in ("pointer", "detail") if entry.get(name)))
    fragment = kind.partition("#")[2] if isinstance(kind, str) else ""
    code = re.sub(r"-(\w)", lambda match: match[1].upper(), fragment) or None
    return ErrorItem(code=code, message="; ".join(sentences), status_code=status, raw=bytes(body))


def _excerpt(raw: bytes) -> str:
    text = " ".join(raw[: 4 * _EXCERPT].decode("utf-8", "replace").split())
    return repr(text if len(text) <= _EXCERPT else text[:_EXCERPT] + "...")


def read_member(item: Item | ErrorItem, name: str) -> Any:
    """Decode one member of an item by its wire name, such as `connectionSessionUUID`; `None` if there is none."""
    return _top(item.raw).get(name)


def encode_frame(bodies: Sequence[bytes]) -> bytes:
    """Join encoded tasks into the array that the service takes, in their order."""
    return b"[" + b",".join(bodies) + b"]"


def pack(sizes: Sequence[int], *, max_tasks: int, max_bytes: int) -> list[slice]:
    """Cut waiting bodies of these sizes into frames: slices that cover all of them, in order.

    Each frame holds at most `max_tasks` bodies and, brackets and commas included, at most `max_bytes`; a body that is
    larger by itself gets a frame of its own.
    """
    slices: list[slice] = []
    start, total = 0, 1
    for index, size in enumerate(sizes):
        if index > start and (index - start >= max_tasks or total + size + 1 > max_bytes):
            slices.append(slice(start, index))
            start, total = index, 1
        total += size + 1
    if sizes:
        slices.append(slice(start, len(sizes)))
    return slices
