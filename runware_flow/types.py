"""The bases of everything that crosses the wire: `Task`, what is asked, and `Result`, what comes back.

The concrete classes are generated from the catalog (`runware_flow.tasks`, `runware_flow.results`); this module holds
what they share. It knows no transport and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NewType, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

if TYPE_CHECKING:
    from os import PathLike

__all__ = (
    "UNSET",
    "Delivery",
    "MediaResult",
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

_MOST_SECONDS = 600_000
"""About a week, and ten minutes in milliseconds."""


def problem_of_seconds(name: str, value: object) -> str | None:
    """Say what is wrong with a time that a user gave, in a sentence; `None` if nothing is.

    A week or more is taken for milliseconds, in which other libraries count; infinity is no mistake.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        return f"{name}= is in seconds and greater than 0, not {value!r}"
    if _MOST_SECONDS <= value < float("inf"):
        return (
            f"{name}={value!r} would be {value / 86400:.0f} days: times are in seconds, not milliseconds,"
            f" so is it {value / 1000:g}? Without a bound it is {name}=math.inf"
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
                raise TypeError(f"{cls.__name__} {_misfit(cls, kwargs) or f'cannot be made: {error}'}") from None


def _misfit(task_class: Any, given: dict[str, Any]) -> str | None:
    """Say which parameter there is not, and what there is."""
    names: tuple[str, ...] = task_class.__struct_fields__
    name = next((one for one in given if one not in names), None)
    if name is None:
        return None
    wire_names = dict(zip(task_class.__struct_encode_fields__, names, strict=True))
    if name in wire_names:
        like = [wire_names[name]]
    else:
        from difflib import get_close_matches

        like = [one for one in names if name in one] or get_close_matches(name, names)
    meant = f"; is it {' or '.join(sorted(like)[:3])}?" if like else ""
    return (
        f"has no parameter {name!r}{meant or ';'} one newer than this package goes into extra={{...}}, by its wire name"
    )


class Task(msgspec.Struct, Generic[R_co], metaclass=_TaskType, kw_only=True, repr_omit_defaults=True):
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


class Result(msgspec.Struct, kw_only=True, frozen=True, dict=True, repr_omit_defaults=True):
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

    def __reduce__(self) -> tuple[Any, ...]:
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return _restore, (type(self), values, self.__dict__.get("_item"))


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
