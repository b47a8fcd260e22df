"""Encodes outcomes for a journal: results as the items that came, errors and values of functions as JSON."""

from __future__ import annotations

import hashlib
import inspect
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, TypedDict, TypeVar, cast

import msgspec

from runware_flow.errors import RunwareError
from runware_flow.results import RESULT_TYPES
from runware_flow.types import Result
from runware_flow.wire.items import Item
from runware_flow.wire.results import decode_result

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType

__all__ = (
    "decode_error",
    "decode_item",
    "decode_value",
    "encode_error",
    "encode_item",
    "encode_value",
    "fingerprint_call",
    "has_requests",
    "is_still_true",
)

R = TypeVar("R", bound=Result)


class _ErrorFields(TypedDict, total=False):
    message: Required[str]
    code: str
    raw_code: str | None
    retryable: bool | None
    parameter: str | tuple[str, ...] | None
    task_type: str | None
    task_uuid: str | None
    documentation: str | None
    status_code: int | None
    retry_after: float | None


_ERROR_FIELDS = tuple(_ErrorFields.__annotations__)


def encode_item(result: Result) -> bytes:
    """Return the bytes of the item that a result was decoded from."""
    item = vars(result).get("_item")
    return item if isinstance(item, bytes) else msgspec.json.encode(result)


def decode_item(item: bytes, result_type: type[R]) -> R:
    """Make a result again of its item, just as it was made when it came."""
    return decode_result(Item(raw=item), result_type)


def encode_error(error: RunwareError) -> bytes:
    """Encode an error of the service, without its `results`."""
    return msgspec.json.encode({name: getattr(error, name) for name in _ERROR_FIELDS})


def decode_error(error: bytes) -> RunwareError:
    """Make the error again.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    fields: Any = msgspec.json.decode(error, type=_ErrorFields)
    return RunwareError(fields.pop("message"), **fields)


_BOUGHT = b'{"bought":'


def encode_value(value: Any, *, has_requests: bool = False) -> bytes | None:
    """Write down the value of a function; `None` if it could not be made again just as it is.

    That is possible for plain JSON values, for a path, for a result, and for a list of results.

    Args:
        has_requests: the function bought something through a client.
    """
    if has_requests:
        encoded = encode_value(value)
        return None if encoded is None else _BOUGHT + encoded + b"}"
    if isinstance(value, Path):
        return msgspec.json.encode({"path": str(value)})
    if isinstance(value, Result):
        return b'{"result":' + encode_item(value) + b"}"
    if isinstance(value, list):
        listed = cast("Sequence[Any]", value)
        if listed and all(isinstance(one, Result) for one in listed):
            return b'{"results":[' + b",".join(encode_item(one) for one in listed) + b"]}"
    return msgspec.json.encode({"value": value}) if _is_plain(value) else None


def decode_value(item: bytes) -> Any:
    """Make the value again.

    Raises:
        msgspec.MsgspecError: it cannot be decoded as a value.
    """
    named = msgspec.json.decode(item, type=dict[str, msgspec.Raw])
    if len(named) != 1:
        raise msgspec.ValidationError("the record of a value has not exactly one member")
    [(kind, raw)] = named.items()
    if kind == "bought":
        return decode_value(bytes(raw))
    if kind == "result":
        return _result(bytes(raw))
    if kind == "path":
        return Path(msgspec.json.decode(raw, type=str))
    if kind == "results":
        return [_result(bytes(one)) for one in msgspec.json.decode(raw, type=list[msgspec.Raw])]
    return msgspec.json.decode(raw)


def has_requests(item: bytes) -> bool:
    """Tell whether a function bought something when it was called."""
    return item.startswith(_BOUGHT)


def is_still_true(value: Any) -> bool:
    """Tell whether a function's value still stands for what it did: a path does while the file is there."""
    return not isinstance(value, Path) or value.exists()


class _Typed(msgspec.Struct):
    task_type: str = msgspec.field(default="", name="taskType")


def _result(item: bytes) -> Result:
    return decode_item(item, RESULT_TYPES.get(msgspec.json.decode(item, type=_Typed).task_type, Result))


def _is_plain(value: Any) -> bool:
    kind = cast("object", type(value))
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-(2**63) <= value < 2**63)
    if kind is float:
        return isfinite(value)
    if kind is list:
        return all(_is_plain(inner) for inner in value)
    if kind is not dict:
        return False
    named: dict[Any, Any] = value
    return all(type(name) is str and _is_plain(inner) for name, inner in named.items())


def fingerprint_call(function: Any, arguments: list[Any]) -> str | None:
    """Hash a function with what it is called with; `None` if JSON cannot show all of that, so that it always runs.

    Its code counts, its defaults, and the texts and numbers that it closes over. What else it closes over may change
    with every call, and what it calls is out of sight: neither counts.
    """
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    if not inspect.isfunction(function):  # a method's object is out of sight too
        return None
    try:
        held = [_shown(cell.cell_contents) for cell in function.__closure__ or ()]
        defaults = [_shown(default) for default in function.__defaults__ or ()]
        shown = msgspec.json.encode(
            [function.__module__, function.__qualname__, _digest(function.__code__), defaults, held, arguments],
            order="sorted",
        )
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError):
        return None
    return hashlib.sha256(shown).hexdigest()


def _shown(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, type(None))) else type(value).__qualname__


@lru_cache(maxsize=1024)
def _digest(code: CodeType) -> str:
    consts = [_digest(one) if inspect.iscode(one) else repr(one) for one in code.co_consts]
    return hashlib.sha256(repr((code.co_code, code.co_names, consts)).encode()).hexdigest()
