"""Completes a task of a user: its model is resolved, its delivery chosen, its id given."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

import msgspec

from runware_flow import catalog
from runware_flow.catalog.documentation import add_documentation
from runware_flow.client.media import take_in
from runware_flow.errors import RunwareError
from runware_flow.results import RESULT_TYPES
from runware_flow.tasks import TASK_TYPES
from runware_flow.types import Delivery, Result, Task, TaskId
from runware_flow.wire.codec import LocalMedia, delivery_of, is_mapping, slots_of, to_wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runware_flow.catalog import Registry

__all__ = ("Prepared", "check_single", "check_task_id", "prepare", "read_task_id")

UTILITIES = frozenset(
    {
        "accountManagement",
        "authentication",
        "getResponse",
        "getTaskDetails",
        "imageUpload",
        "mediaStorage",
        "modelSearch",
        "modelUpload",
        "ping",
    }
)
"""Task types that have neither a delivery method nor a cost."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class SendState(msgspec.Struct):
    """What is known of a request while it is sent and awaited.

    Attributes:
        pending_at: when the service last said that it still works on it, on the loop's clock.
        has_left: it was given to a connection, so that the service may have it; `None` if no client says so.
    """

    pending_at: float | None = None
    has_left: bool | None = None

    def begin(self) -> None:
        """Note that a client has the request and reports when it leaves."""
        self.has_left = self.has_left or False

    def note(self, pending_at: float | None) -> None:
        """Keep the time at which the service last said that it works on the task; `None` changes nothing."""
        if pending_at is not None:
            self.pending_at = pending_at


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is complete but for the local media, which need IO before it can be sent."""

    task_id: TaskId
    task_type: str
    """The wire's `taskType`."""
    model: str | None
    """The AIR of its model, if it has one."""
    wire: dict[str, Any]
    """The request as it will be sent: plain JSON types only."""
    result_type: type[Result]
    """What its results decode as."""
    delivery: Delivery
    """What the wire says, else the service's default for such a task."""
    slots: int
    """How many results are expected."""
    local_media: tuple[LocalMedia, ...] = ()
    was_looked_up: bool = False
    """The registry decided something: the model was named by its slug, or the task type was left out."""
    is_journalled: bool = False
    """Its taskUUID is on record for it, so that `conflictTaskUUID` means that the service has it."""
    send_state: SendState = msgspec.field(default_factory=SendState)
    """Filled in while it is performed."""


def prepare(
    task: Task[Any] | Mapping[str, Any],
    *,
    new_task_id: str | None = None,
    delivery: Delivery | None = None,
    include_cost: bool | None = None,
    streams: bool | None = False,
    registry: Registry | None = None,
) -> Prepared:
    """Complete a task: resolve its model, choose its delivery, give it an id. Sends nothing, reads no file.

    Args:
        task: a struct, or a dict with wire names; a dict may leave `taskType` out if the catalog knows its model.
        new_task_id: the id for a task that brings none of its own; by default a new one.
        delivery: overrides what the task says; `async` if neither says anything, as the official clients do.
        include_cost: asks for the cost unless the task says otherwise.
        streams: whether the answer is to be read while it is written; `None` for as the task says.
        registry: which models exist; the bundled one by default.

    Raises:
        RunwareError: `code="validation"`, naming the parameter, for what can be seen to be wrong without the service.
    """
    try:
        wire, local_media = to_wire(task)
        named: object = wire.get("model")
        has_slug = isinstance(named, str) and not (":" in named and "@" in named)
        was_looked_up = has_slug or "taskType" not in wire
        wire = catalog.resolve(wire, registry)
        task_type: str = wire.pop("taskType")
        check_names(wire, task_type, catalog.known_inputs(task_type))
        task_id = read_task_id(wire.pop("taskUUID", None), new_task_id)
        if streams or (streams is None and delivery is None and wire.get("deliveryMethod") == "stream"):
            chosen = _stream(wire, task_type)
        else:
            chosen = _choose_delivery(wire, task_type, delivery)
        if include_cost is not None and task_type not in UTILITIES:
            wire.setdefault("includeCost", include_cost)
        wire = {"taskType": task_type, "taskUUID": task_id, **wire}
        model = wire.get("model")
        return Prepared(
            task_id=TaskId(task_id),
            task_type=task_type,
            model=model if isinstance(model, str) else None,
            wire=wire,
            result_type=_result_type(task, task_type),
            delivery=chosen,
            slots=slots_of(wire),
            local_media=take_in(local_media) if local_media else (),
            was_looked_up=was_looked_up,
        )
    except RunwareError as error:
        about, named_model = _subject(task)
        error.task_type = error.task_type or about
        add_documentation(error, model=named_model, registry=registry)
        raise


def _subject(task: Any) -> tuple[str | None, str | None]:
    """The task type and the model that a task names, as far as it does, for an error about it."""
    named: tuple[Any, Any] = None, None
    if is_mapping(task):
        named = task.get("taskType"), task.get("model")
    elif isinstance(cast("object", task), Task):
        named = task.task_type, getattr(task, "model", None)
    task_type, model = (one if isinstance(one, str) and one else None for one in named)
    return task_type, model


def read_task_id(given: object, new_task_id: str | None = None) -> str:
    """The id that was given, in canonical form, or `new_task_id`, or else a new one.

    Raises:
        RunwareError: code `validation`: it is no UUID.
    """
    if given is None:
        return new_task_id or str(uuid4())
    return check_task_id(given)


def check_task_id(given: object) -> str:
    """The id of a task, in canonical form.

    Raises:
        RunwareError: code `validation`: it is no UUID.
    """
    if isinstance(given, UUID):
        return str(given)
    if not isinstance(given, str) or _UUID.fullmatch(given.lower()) is None:
        raise _invalid("taskUUID", f"taskUUID must be a UUID such as {uuid4()}, not {given!r}")
    return given.lower()


def check_single(prepared: Prepared) -> None:
    """Check that a task asks for one result.

    Raises:
        RunwareError: code `validation`: it asks for several, and `client.run` gives them all.
    """
    if prepared.slots > 1:
        name = "promptVersions" if prepared.task_type == "promptEnhance" else "numberResults"
        raise _invalid(
            name,
            f"run_one() gives one result, but {name} asks for {prepared.slots}: use client.run(), which lists them",
        )


def check_names(wire: Mapping[str, Any], task_type: str, known_inputs: frozenset[str]) -> None:
    """Find parameters, and members of `inputs`, that are a slip for one that the catalog knows.

    A name that is like no known one is sent: it may be newer than this package.

    Raises:
        RunwareError: code `validation`, with the name that is meant.
    """
    known = _names_of(task_type)
    if known and (unknown := wire.keys() - known):
        _check_members(unknown, known, "")
    if known_inputs and isinstance(inputs := wire.get("inputs"), dict):
        _check_members(cast("dict[str, Any]", inputs).keys() - known_inputs, known_inputs, "inputs.")


@lru_cache(maxsize=64)
def _names_of(task_type: str) -> frozenset[str]:
    task = TASK_TYPES.get(task_type)
    return frozenset() if task is None else frozenset(task.__struct_encode_fields__)


def _check_members(unknown: Iterable[str], known: frozenset[str], prefix: str) -> None:
    for name in unknown:
        meant = _meant(name, known)
        if meant is not None:
            place = f"{prefix}{name}"
            raise _invalid(place, f"there is no parameter {place!r}; is it {prefix + meant!r}?")


_DOCUMENTED = frozenset({"puLID", "controlnet"})
"""Spellings of the service's documentation that differ from the catalog's."""


@lru_cache(maxsize=1024)  # a parameter that the catalog does not know comes with every task of its kind
def _meant(name: str, known: frozenset[str]) -> str | None:
    if name in _DOCUMENTED:
        return None
    plain = name.replace("_", "").lower()
    same = next((one for one in known if one.lower() == plain), None)
    if same is not None:
        return same
    like = next(iter(get_close_matches(name, known, 1, 0.85)), None)
    # One and many of a thing differ by an s: either may be newer than this package.
    return None if like is None or like.removesuffix("s") == name.removesuffix("s") else like


def _choose_delivery(wire: dict[str, Any], task_type: str, delivery: Delivery | None) -> Delivery:
    """Write the delivery into the request, for task types that have one; give it, or the service's default."""
    if task_type in UTILITIES:
        return delivery_of({"taskType": task_type, **wire})
    chosen = delivery or wire.get("deliveryMethod") or "async"
    if chosen not in ("sync", "async"):
        way_out = "use client.stream() for it" if chosen == "stream" else "choose 'sync' or 'async'"
        raise _invalid("deliveryMethod", f"run() and submit() do not take deliveryMethod={chosen!r}: {way_out}")
    wire["deliveryMethod"] = chosen
    return chosen


def _stream(wire: dict[str, Any], task_type: str) -> Delivery:
    if task_type != "textInference":
        raise _invalid("taskType", f"only textInference streams, not {task_type}; use client.run() for it")
    if slots_of(wire) > 1:
        raise RunwareError(
            "a stream has one result; use client.run() for numberResults > 1",
            code="validation",
            raw_code="notImplemented",
            parameter="numberResults",
            task_type=task_type,
        )
    wire["deliveryMethod"] = "stream"
    return "stream"


def _result_type(task: Task[Any] | Mapping[str, Any], task_type: str) -> type[Result]:
    if isinstance(task, Task) and task.task_type == task_type:
        return task.result_type
    return RESULT_TYPES.get(task_type, Result)


def _invalid(parameter: str, message: str) -> RunwareError:
    return RunwareError(message, code="validation", raw_code="invalidParameter", parameter=parameter)
