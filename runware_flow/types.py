"""The base types of the wire: `Task`, a request, and `Result`, what comes back.

The concrete classes are generated from the catalog (`runware_flow.tasks`, `runware_flow.results`); this module holds
what they share. It knows no transport and no clock.
"""

from __future__ import annotations

from html import escape
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NewType, Protocol, TypeAlias, TypeVar, cast

import msgspec
from msgspec import UNSET, UnsetType

from runware_flow.tracebacks import border, trim

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from typing import Self

__all__ = (
    "UNSET",
    "Delivery",
    "MediaResult",
    "Picture",
    "Result",
    "Task",
    "TaskId",
    "UnsetType",
    "attach_file",
    "attach_item",
    "file_of",
    "problem_of_seconds",
    "stand_in_of",
)

TaskId = NewType("TaskId", str)
"""A taskUUID: a UUID version 4 in canonical form, made by the client, the service's handle for idempotence."""

Delivery: TypeAlias = Literal["sync", "async", "stream"]
"""How the results of a task reach the client; the wire's `deliveryMethod`."""

R_co = TypeVar("R_co", covariant=True)


class Picture(Protocol):
    """A picture in memory: an image of Pillow, or an array of numpy."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """What the array holds, in numpy's form."""
        ...


_MOST_SECONDS = 600_000
"""About a week, and ten minutes in milliseconds."""


def problem_of_seconds(name: str, value: object) -> str | None:
    """Say what is wrong with a time that a user gave, in a sentence; `None` if nothing is.

    From 600,000 s on, nearly a week, it is taken for milliseconds, in which other libraries count: their default of ten
    minutes is 600,000. Infinity is no mistake.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        return f"{name}= is in seconds and greater than 0, not {value!r}"
    if _MOST_SECONDS <= value < float("inf"):
        return (
            f"{name}={value!r} would be {value / 86400:.0f} days: times are in seconds, not milliseconds,"
            f" so is it {value / 1000:g}? From 600,000 s on (ten minutes in milliseconds, nearly a week in seconds) a"
            f" time is refused; without a bound it is {name}=math.inf"
        )
    return None


_construct: Any = msgspec.StructMeta.__call__


class _TaskType(msgspec.StructMeta):
    """The class of task classes: of a parameter that a task does not have, the error names what may be meant."""

    if not TYPE_CHECKING:  # type checkers read the fields

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
            try:
                return _construct(cls, *args, **kwargs)  # a little faster than `super()`
            except TypeError as error:
                error.args = (f"{cls.__name__} {_misfit(cls, args, kwargs) or f'cannot be made: {error}'}",)
                trim(error)
                raise


def _misfit(task_class: Any, values: tuple[Any, ...], given: dict[str, Any]) -> str | None:
    """Say which parameter there is not, and what there is."""
    if values:
        return f"takes parameters by name, such as {task_class.__struct_fields__[0]}=..., not {_show(values[0])} alone"
    name = next((one for one in given if one not in task_class.__struct_fields__), None)
    if name is None:
        return None
    like = _fields_like(task_class, name) or _members_like(task_class, name)
    meant = f"; is it {' or '.join(like)}?" if like else ""
    return (
        f"has no parameter {name!r}{meant or ';'} one newer than this package goes into extra={{...}}, by its wire name"
    )


def _fields_like(kind: Any, name: str) -> list[str]:
    """The fields of a struct that an unknown name may mean: the one of that wire name, or similar ones."""
    names: tuple[str, ...] = kind.__struct_fields__
    wire_names = dict(zip(kind.__struct_encode_fields__, names, strict=True))
    if name in wire_names:
        return [wire_names[name]]
    from difflib import get_close_matches

    return sorted(one for one in names if name in one)[:3] or get_close_matches(name, names)


def _members_like(task_class: Any, name: str) -> list[str]:
    """The members of its dicts that may be meant: `inputs={'image': ...}`."""
    from typing import get_args, get_type_hints

    first, *others = name.split("_")
    wire_name = first + "".join(part.capitalize() for part in others)
    hints = get_type_hints(task_class)
    return [
        f"{field}={{{wire_name!r}: ...}}"
        for field in task_class.__struct_fields__
        for kind in get_args(hints[field])
        if hasattr(kind, "__total__") and wire_name in kind.__annotations__
    ]


_LONGEST_SHOWN = 200
"""Characters of one value in a `repr`; of what is longer, the beginning and the length are shown."""


def _show(value: Any) -> str:
    if isinstance(value, (str, bytes, bytearray)) and len(value) > _LONGEST_SHOWN:
        unit = "characters" if isinstance(value, str) else "bytes"
        return f"{value[:40]!r}... ({len(value):,} {unit})"
    if isinstance(value, dict):
        members = cast("Mapping[Any, Any]", value)
        return _cut(f"{{{', '.join(f'{key!r}: {_show(inner)}' for key, inner in members.items())}}}")
    if isinstance(value, list):
        elements = cast("Sequence[Any]", value)
        return _cut(f"[{', '.join(map(_show, elements))}]")
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 2 * _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}... ({len(text):,} characters)"


def _short_repr(self: Any) -> str:
    """Show a struct by its fields that are set, in a text that stays short whatever they hold."""
    return f"{type(self).__name__}({', '.join(f'{name}={_show(value)}' for name, value in _set_fields(self))})"


def _short_rich_repr(self: Any) -> list[tuple[str, Any]]:
    """The same for rich, which would print all of it."""
    return [(name, _Text(_show(value))) for name, value in _set_fields(self)]


class _Text(str):
    """A text whose `repr` is itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _set_fields(struct: Any) -> list[tuple[str, Any]]:
    set_to = [(name, getattr(struct, name)) for name in struct.__struct_fields__]
    return [(name, value) for name, value in set_to if value is not UNSET and not _is_missing(value)]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value)


class Task(msgspec.Struct, Generic[R_co], metaclass=_TaskType, kw_only=True):
    """One request to the service, whose results decode as `R_co`.

    Constructing a task validates nothing: the service is the authority, and `Client(validate=True)` asks its schemas.
    A parameter left at `UNSET` is not sent; `None` is sent as null.
    """

    task_type: ClassVar[str] = ""
    """The wire's `taskType` of this class."""

    result_type: ClassVar[type[Result]]
    """What its results decode as."""

    task_uuid: str | UnsetType = msgspec.field(default=UNSET, name="taskUUID")
    """Chosen by the caller to make the request idempotent; otherwise the client makes one."""

    extra: dict[str, Any] | UnsetType = UNSET
    """Parameters newer than this library, by their wire names. They win over the fields of the struct."""

    __repr__ = _short_repr
    __rich_repr__ = _short_rich_repr


class Result(msgspec.Struct, kw_only=True, frozen=True, dict=True):
    """One terminal item that the service returned.

    Fields carry what the wire carries, under snake_case names; all but the two ids may be missing.
    """

    task_type: str = msgspec.field(default="", name="taskType")
    task_uuid: str = msgspec.field(default="", name="taskUUID")
    cost: float | None = None
    """USD, when the request asked for it; `None` is unknown, never free."""

    @property
    def raw(self) -> dict[str, Any]:
        """Everything that came for this item, by wire names, fields unknown to this library included.

        Decoded anew on each access; changing it changes nothing else.
        """
        item = self.__dict__.get("_item")
        if item is None:
            return {name: value for name, value in msgspec.to_builtins(self).items() if value is not None}
        return _decode(item)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON, by wire names: what the fields hold, without those that did not come.

        Plain dicts, lists, strings and numbers, which `json.dumps` takes; changing it changes nothing else. What this
        library has no field for is in `raw`.
        """
        values: dict[str, Any] = msgspec.to_builtins(self)
        return {name: _plain(value) for name, value in values.items() if value is not None}

    __repr__ = _short_repr
    __rich_repr__ = _short_rich_repr

    if not TYPE_CHECKING:  # type checkers know what there is
        __iter__ = None  # or `__getitem__` would make it look like a sequence

        @border
        def __getitem__(self, key: object) -> Any:
            raise TypeError(f"{type(self).__name__} has attributes, no keys: {_instead_of(self, key)}")

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}: {_instead_of(self, name)}", name=name, obj=None
            )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """How pydantic, and so FastAPI, takes and gives results: as `to_dict()`, in responses and in models."""
        from pydantic_core import core_schema

        read = core_schema.no_info_after_validator_function(cls._from_wire, core_schema.dict_schema())
        return core_schema.json_or_python_schema(
            json_schema=read,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), read]),
            serialization=core_schema.plain_serializer_function_ser_schema(
                cls.to_dict, return_schema=core_schema.dict_schema()
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        """The JSON schema of `to_dict()`, for OpenAPI."""
        found: dict[str, Any] = next(iter(msgspec.json.schema(cls)["$defs"].values()))
        return found

    @classmethod
    def _from_wire(cls, values: dict[str, Any]) -> Self:
        """Make a result from what `to_dict()` gave.

        Raises:
            ValueError: a member has another type.
        """
        return attach_item(msgspec.convert(values, cls, strict=False), msgspec.json.encode(values))

    def __reduce__(self) -> tuple[Any, ...]:
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        beside = {name: value for name, value in vars(self).items() if name != "_item"}
        return _restore, (type(self), values, vars(self).get("_item")), beside or None

    def __copy__(self) -> Self:
        copied = type(self)(**{name: getattr(self, name) for name in self.__struct_fields__})
        vars(copied).update(vars(self))  # what msgspec's own copy leaves behind
        return copied


def _plain(value: Any) -> Any:
    """JSON that any reader takes: a number that JSON does not have is null."""
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, dict):
        members = cast("Mapping[str, Any]", value)
        return {key: _plain(inner) for key, inner in members.items()}
    if isinstance(value, list):
        elements = cast("Sequence[Any]", value)
        return [_plain(inner) for inner in elements]
    return value


def _instead_of(result: Result, name: object) -> str:
    """Say what gives what was asked for by a name that is no field."""
    if not isinstance(name, str):
        return "client.run() gives a list of results, client.run_one() the result itself"
    if name in result.__struct_fields__:
        return f"use .{name}"
    like = _fields_like(type(result), name)
    if len(like) == 1:
        return f"use .{like[0]}"
    if name in result.raw:
        return f"it came, but has no field; use .raw[{name!r}]"
    given = like or [field for field, _ in _set_fields(result)]
    return f"{'is it' if like else 'it has'} {', '.join(f'.{field}' for field in given)}{'?' if like else ''}"


def _decode(item: bytes) -> dict[str, Any]:
    decoded: dict[str, Any]
    try:
        decoded = msgspec.json.decode(item)
    except (msgspec.MsgspecError, ValueError):  # in a member that no field took: no UTF-8, or a number like 1e999
        import json

        decoded = json.loads(item.decode("utf-8", "replace"), strict=False, parse_int=_integer)
    return decoded


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 1000 else float(digits)


def _restore(kind: type[Result], values: dict[str, Any], item: bytes | None) -> Result:
    result = kind(**values)
    return result if item is None else attach_item(result, item)


R = TypeVar("R", bound=Result)


def attach_item(result: R, item: bytes) -> R:
    """Give `result` the bytes of the item it was decoded from, for `Result.raw`; returns the same object."""
    vars(result)["_item"] = item
    return result


def attach_file(result: Result, path: PathLike[str], *, is_alone: bool = False) -> None:
    """Note that the medium of `result` is kept in a file.

    Args:
        is_alone: the service does not have it any more, so a task that takes this result is given the file.
    """
    vars(result)["_file"] = path
    vars(result)["_is_alone"] = is_alone


def file_of(result: Result) -> PathLike[str] | None:
    """Return the file that the medium of `result` is kept in, if it is."""
    path: PathLike[str] | None = vars(result).get("_file")
    return path


def stand_in_of(result: Result) -> PathLike[str] | None:
    """Return that file if the service does not have the medium any more."""
    return file_of(result) if vars(result).get("_is_alone") else None


_GENERAL = {"url": "mediaURL", "uuid": "mediaUUID", "data_uri": "mediaDataURI", "base64_data": "mediaBase64Data"}
"""Names under which the medium of any kind may come instead (protocol facts, section 16)."""


class MediaResult(Result, kw_only=True, frozen=True):
    """A result that is a picture, a film, a sound or a 3D file."""

    media_kinds: ClassVar[tuple[str, ...]] = ()
    """The prefixes of this result's media fields: `("image",)` means `image_url`, `image_uuid`, ..."""

    @property
    @border
    def url(self) -> str:
        """The address of the medium.

        Raises:
            ValueError: the medium came in another form (the task asked for `output_type="base64Data"`, say); the
                message names the field that has it.
        """
        url = self._form("url")
        if url is not None:
            return url
        for form in ("base64_data", "data_uri"):
            for kind in self.media_kinds:
                if getattr(self, f"{kind}_{form}", None) is not None:
                    raise ValueError(f"this {type(self).__name__} came as {kind}_{form}, not as a URL")
        raise ValueError(f"this {type(self).__name__} (task {self.task_uuid}) carries no URL")

    @property
    def uuid(self) -> str | None:
        """The medium's own UUID, by which the service knows it, if it came with one."""
        return self._form("uuid")

    @property
    def inline(self) -> str | None:
        """The medium itself, as a data URI or in base64, if it came inside the item."""
        return self._form("data_uri") or self._form("base64_data")

    @property
    def reference(self) -> str:
        """What a later task is given to use this medium as its input: the URL, else the UUID, else the data itself.

        The service accepts all four forms wherever it takes a medium (Runware documentation, "Media inputs").

        Raises:
            ValueError: the item carries no medium in any form.
        """
        for form in ("url", "uuid", "data_uri", "base64_data"):
            found = self._form(form)
            if found is not None:
                return found
        raise ValueError(f"this {type(self).__name__} (task {self.task_uuid}) carries no medium")

    def _repr_html_(self) -> str | None:
        """The medium itself, in a notebook."""
        for form in ("url", "data_uri", "base64_data"):
            for kind in self.media_kinds or ("file",):
                address = getattr(self, f"{kind}_{form}", None) if self.media_kinds else self._form(form)
                if isinstance(address, str):
                    return _element(kind, form, address)
        return None

    def _form(self, form: str) -> str | None:
        for kind in self.media_kinds:
            value = getattr(self, f"{kind}_{form}", None)
            if isinstance(value, str):
                return value
        general = self.raw.get(_GENERAL[form]) if "_item" in vars(self) else None
        if isinstance(general, str):
            return general
        outputs: Any = getattr(self, "outputs", None)
        try:
            value = outputs["files"][0][form]
        except (TypeError, LookupError):
            return None
        return value if isinstance(value, str) else None


def _element(kind: str, form: str, address: str) -> str | None:
    """The HTML element that shows a medium; `None` for an address that a page should not follow."""
    kind = kind.rpartition("_")[2]
    if form == "base64_data":  # browsers tell the format of pictures and films by the content, except for SVG
        media_type = {"video": "video/mp4", "audio": "audio/mpeg"}.get(kind, "image/png")
        address = f"data:{'image/svg+xml' if address.startswith(('PHN2', 'PD94')) else media_type};base64,{address}"
    if not address.startswith(("https://", "http://", f"data:{kind}/")):
        return None
    quoted = escape(address, quote=True)
    if kind == "video":
        return f'<video src="{quoted}" controls loop style="max-width: 512px"></video>'
    if kind == "audio":
        return f'<audio src="{quoted}" controls></audio>'
    if kind == "image":
        return f'<img src="{quoted}" alt="" style="max-width: 512px">'
    return f'<a href="{quoted}">{escape(address.rpartition("/")[2])}</a>' if form == "url" else None
