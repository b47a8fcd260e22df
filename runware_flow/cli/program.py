"""Finds the flow of a command in a Python file, by the name that is given or the only one there is."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeGuard, Union, get_args, get_origin, get_type_hints

import msgspec

from runware_flow.batch.batch import Batch
from runware_flow.flow.flow import Flow
from runware_flow.journal.address import DatabaseAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType, TracebackType

    from runware_flow.journal.address import JournalAddress

__all__ = ("UsageError", "UserError", "beside", "find_flow", "find_target", "user_traceback")

_PACKAGE = str(Path(__file__).parents[1])


class UsageError(Exception):
    """The command cannot be carried out as it was given; the message is one sentence. Exit code 2."""


class UserError(Exception):
    """The user's own file raised; the message is its traceback, from that file on. Exit code 1."""


def beside(journal: JournalAddress, ending: str) -> Path:
    """Name a file beside a journal: its name, with another ending. What is about a database is in the working folder.

    Raises:
        UsageError: it is a folder, which may have no name to begin with.
    """
    if isinstance(journal, DatabaseAddress):
        return Path(f"{journal.name.replace('/', '-')}{ending}")
    if journal.is_dir():
        raise UsageError(f"{journal} is a folder: name the journal")
    return journal.with_name(f"{journal.stem}{ending}")


def find_flow(target: str, params: Sequence[str] = ()) -> Flow:
    """Load `FILE[:NAME]` and return its flow; errors are those of `find_target`, and a Batch is one."""
    found = find_target(target, params)
    if isinstance(found, Batch):
        raise UsageError(
            f"{target} has the Batch {found.name!r}, which needs items: --items FILE, a .csv, a .jsonl or a text"
        )
    return found


def find_target(target: str, params: Sequence[str] = ()) -> Flow | Batch[Any, Any, Any]:
    """Load `FILE[:NAME]` and return its flow, or its batch if it has no flow.

    NAME is a Flow, or a function that builds one. Without it: what is called `flow`, else the only Flow, else the only
    function that is annotated to return one. The file is read as a module, so what is under
    `if __name__ == "__main__":` does not run.

    Raises:
        UsageError: there is no such file or flow, or the parameters do not fit.
        UserError: the file, or the function, raised.
    """
    path, name = _split(target)
    module = _load(path)
    found = _choose(module, path, name)
    if _is_target(found):
        if params:
            kind = type(found).__name__
            raise UsageError(f"--param is for a function that builds a flow, and {path} has the {kind} {found.name!r}")
        return found
    return _build(found, path, params)


def _split(target: str) -> tuple[Path, str]:
    path, colon, name = target.rpartition(":")
    if not colon or Path(target).is_file() or not name.replace(".", "").isidentifier():
        path, name = target, ""
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise UsageError(f"{path} {what}: name a Python file, or FILE:NAME for a flow in it")
    return file, name


def _load(path: Path) -> ModuleType:
    # A name of its own, so that a file called types.py hides no module; its folder is searched, as Python does.
    name = f"_runware_flow_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    _called(lambda: spec.loader.exec_module(module) if spec.loader else None, path)
    return module


def _called(function: Callable[[], Any], path: Path) -> Any:
    try:
        return function()
    except SystemExit:
        raise UsageError(
            f'{path} ended the program while it was read: put what it runs under `if __name__ == "__main__":`'
        ) from None
    except Exception as error:
        raise UserError(user_traceback(error)) from error


def user_traceback(error: BaseException) -> str:
    """Format an exception as Python does, without the frames of this package and of the import machinery before it."""
    return "".join(
        traceback.format_exception(type(error), error, _user_frames(error.__traceback__), chain=False)
    ).rstrip()


def _user_frames(frames: TracebackType | None) -> TracebackType | None:
    first = frames
    while frames is not None:
        if frames.tb_frame.f_code.co_filename.startswith((_PACKAGE, "<frozen")):
            first = frames.tb_next
        frames = frames.tb_next
    return first


def _choose(module: ModuleType, path: Path, name: str) -> Any:
    names = vars(module)
    if name:
        found: Any = module
        for part in name.split("."):
            if not hasattr(found, part):
                raise UsageError(f"{path} has no {name!r}; {_offer(names)}")
            found = getattr(found, part)
        return _checked(found, path, name)
    flow = names.get("flow")
    if isinstance(flow, Flow) or inspect.isfunction(flow):
        return flow
    flows = {id(value): key for key, value in names.items() if isinstance(value, Flow)}
    if not flows:
        flows = {id(value): key for key, value in names.items() if _builds_flow(value, module)}
    if len(flows) == 1:
        return names[next(iter(flows.values()))]
    if flows:
        listed = ", ".join(flows.values())
        raise UsageError(f"{path} has several flows ({listed}): name one, as in {path}:{next(iter(flows.values()))}")
    batches = [key for key, value in names.items() if isinstance(value, Batch)]
    if len(batches) > 1:
        raise UsageError(f"{path} has several batches ({', '.join(batches)}): name one, as in {path}:{batches[0]}")
    if batches:
        return names[batches[0]]
    raise UsageError(
        f"{path} has no Flow: make one outside of functions, or name the function that builds one, {path}:NAME; it is"
        " found without its name if it is annotated `-> Flow`"
    )


def _is_target(value: object) -> TypeGuard[Flow | Batch[Any, Any, Any]]:
    return isinstance(value, (Flow, Batch))


def _builds_flow(value: object, module: ModuleType) -> bool:
    if not inspect.isfunction(value) or value.__module__ != module.__name__:
        return False
    return value.__annotations__.get("return") in (Flow, "Flow")


def _offer(names: dict[str, Any]) -> str:
    there = [key for key, value in names.items() if isinstance(value, Flow)]
    return f"its flows are {', '.join(there)}" if there else "it has no Flow outside of functions"


def _checked(found: Any, path: Path, name: str) -> Any:
    if not _is_target(found) and (not callable(found) or inspect.isclass(found)):
        raise UsageError(f"{path}:{name} is a {type(found).__name__}, not a Flow or a function that builds one")
    return found


def _build(function: Any, path: Path, params: Sequence[str]) -> Flow:
    name = getattr(function, "__name__", "the function")
    arguments = _arguments(function, name, params)
    flow = _called(lambda: function(**arguments), path)
    if inspect.iscoroutine(flow):
        flow.close()
        raise UsageError(f"{path}:{name} is async: a function that builds a flow is a plain one")
    if not isinstance(flow, Flow):
        raise UsageError(f"{path}:{name} returned a {type(flow).__name__}, not a Flow")
    return flow


def _arguments(function: Any, name: str, params: Sequence[str]) -> dict[str, Any]:
    signature = inspect.signature(function)
    try:
        hints = get_type_hints(function)
    except Exception:  # noqa: BLE001 - whatever an annotation refers to; then its parameters are texts
        hints = {}
    given: dict[str, list[str]] = {}
    for param in params:
        key, equals, value = param.partition("=")
        if not equals:
            raise UsageError(f"--param is KEY=VALUE, not {param!r}")
        if key not in signature.parameters:
            listed = ", ".join(signature.parameters) or "none"
            raise UsageError(f"{name} has no parameter {key!r}; its parameters are: {listed}")
        given.setdefault(key, []).append(value)
    for key, parameter in signature.parameters.items():
        is_needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if is_needed and key not in given:
            raise UsageError(f"{name} needs a value for {key!r}: --param {key}=VALUE")
    return {key: _convert(key, values, hints.get(key, str)) for key, values in given.items()}


def _convert(key: str, values: list[str], kind: Any) -> Any:
    ways = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    origins = {get_origin(one) or one for one in ways}
    try:
        if origins & {list, tuple, set, frozenset, dict} and str not in origins:
            value: Any = values if len(values) > 1 or not values[0].lstrip().startswith(("[", "{")) else None
            value = msgspec.json.decode(values[0]) if value is None else value
        elif len(values) > 1:
            raise UsageError(f"--param {key} was given {len(values)} times, but takes one value")
        else:
            value = values[0]
        return value if kind is Any else msgspec.convert(value, kind, strict=False, dec_hook=_made)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        shown = getattr(kind, "__name__", None) if get_origin(kind) is None else None
        raise UsageError(f"--param {key}={values[0]!r} does not fit {shown or kind}: {error}") from None


def _made(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Path) and isinstance(value, str):
        return kind(value)
    raise TypeError(f"{kind} cannot be made of a text")
