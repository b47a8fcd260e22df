"""The checks of a declaration: what kind of work was given, whether it fits, and on which line."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from runware_flow.errors import DeclarationError
from runware_flow.graph.declaration import NodeKind, Source, Where, has_method, is_node
from runware_flow.graph.policies import NO_POLICY, Policy, read_policy
from runware_flow.types import UNSET, Task

if TYPE_CHECKING:
    from types import CodeType

    from runware_flow.flow.options import PolicyOptions
    from runware_flow.graph.declaration import Declaration

__all__ = (
    "call_name",
    "caller",
    "check_call",
    "check_task",
    "is_async",
    "read_options",
    "read_source",
    "takes",
    "warn_of_loop_variables",
)

_PLAIN = frozenset({str, int, float, bool, type(None), type(UNSET)})

_OURS = (
    "runware_flow.flow.",
    "runware_flow.runner.",
    "runware_flow.batch.",
    "runware_flow.graph.",
    "runware_flow.tracebacks",
)


def caller() -> Where:
    """Find the line outside of this library's graph that is declaring something now."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] - inspect.stack() reads files, for each node
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        frame = frame.f_back
    return _where(frame.f_code.co_filename, frame.f_lineno)


@functools.lru_cache(maxsize=256)
def _where(file: str, line: int) -> Where:
    return Where(file, line)  # shared by all nodes that one line of a loop declares


def is_async(function: object) -> bool:
    """Tell whether calling `function` gives a coroutine: an `async def`, a partial of one, an object that has one."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    return not isinstance(function, type) and inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def call_name(function: Any) -> str:
    """Name the node of a function: its own name, or for a lambda the type of the first task that it makes."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None) or type(function).__name__
    return _name_of_lambda(function) if name == "<lambda>" else str(name)


def _name_of_lambda(function: Any) -> str:
    for name in function.__code__.co_names:
        made = function.__globals__.get(name)
        if isinstance(made, type) and issubclass(made, Task) and made.task_type:
            return made.task_type
    return "lambda"


def read_options(options: PolicyOptions, where: Where, kind: NodeKind) -> tuple[str | None, Policy]:
    """Split policy keywords into the label and the checked policy of a node of that kind."""
    if not options:
        return None, NO_POLICY
    given: dict[str, Any] = dict(options)
    label = given.pop("label", None)
    if label is not None and (not isinstance(label, str) or not label):
        raise DeclarationError(f"label= is a name, not {_show(label)} (declared at {where})")
    try:
        policy = read_policy(given)
        if policy.idle is not None and kind is NodeKind.CALL:
            raise ValueError("idle= is for tasks: an async function reports no progress; use timeout=")
        if policy.hedge_after is not None and kind is NodeKind.CALL:
            raise ValueError("hedge_after= is for tasks: of two async functions, take the first with flow.race")
        return label, policy
    except ValueError as error:
        raise DeclarationError(f"{error} (node {label or 'without a label'}, declared at {where})") from None


def check_task(task: Task[Any] | Mapping[str, Any], where: Where, *, several: bool) -> tuple[str, Any]:
    """Check a fixed task; returns the name of its type, and a copy, since its object may be changed for the next one.

    Lists and dicts in it are copied all the way down; media, results and other objects are not.

    Args:
        several: it may have several results.
    """
    if isinstance(task, Task):
        name = type(task).task_type or type(task).__name__
        count = getattr(task, "number_results", getattr(task, "prompt_versions", None))
        held = _held(task)
    else:
        name = str(task.get("taskType") or task.get("model") or "task")
        count = task.get("numberResults", task.get("promptVersions"))
        held = dict(task)
    found = _find_node(held, "") if held else None
    if found is not None:
        path, node = found
        raise DeclarationError(
            f"the {name} declared at {where} holds {node!r} as its {path}: a node is not a value yet; use"
            " node.then, whose builder is given the result"
        )
    if not several and isinstance(count, int) and count > 1:
        raise DeclarationError(
            f"the {name} declared at {where} asks for {count} results, but a node has one: use flow.each, which makes a"
            " Many of them"
        )
    if not isinstance(task, Task):
        return name, _copy(task)
    changed = {field: _copy(value) for field, value in held.items() if _is_a(value, (Mapping, list, tuple))}
    return name, msgspec.structs.replace(task, **changed)


def _held(task: Task[Any]) -> dict[str, Any]:
    # Most of the many fields are not set, and most tasks hold plain values alone: to tell that takes no step of Python.
    values = msgspec.structs.astuple(task)
    if _PLAIN.issuperset(map(type, values)):
        return {}
    named = zip(task.__struct_fields__, values, strict=True)
    return {field: value for field, value in named if type(value) not in _PLAIN}


def _copy(value: Any) -> Any:
    if _is_a(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    if _is_a(value, (list, tuple)):
        return [_copy(inner) for inner in value]
    return value


def _find_node(value: Any, path: str) -> tuple[str, Any] | None:
    if is_node(value):
        return path, value
    inside: Iterable[tuple[Any, Any]]
    if _is_a(value, Mapping):
        inside = value.items()
    elif _is_a(value, (list, tuple)):
        inside = enumerate[Any](value)
    else:
        return None
    for key, inner in inside:
        found = _find_node(inner, f"{path}.{key}" if path else str(key))
        if found is not None:
            return found
    return None


def _is_a(value: object, kinds: Any) -> bool:
    # isinstance, which would turn an Any into a list of unknown things.
    return isinstance(value, kinds)


def _is_task_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Task)


def check_call(work: Any, count: int, where: Where, *, verb: str, may_be_async: bool = True) -> NodeKind:
    """Check what is to be called with `count` results, and tell whether it is a builder or an async function."""
    if not callable(work) or is_node(work) or _is_task_class(work):
        raise DeclarationError(f"{verb}, declared at {where}, {_instead(work)}")
    code = getattr(work, "__code__", None)
    name = call_name(work)
    if count != _plain_arity(code, work):
        _check_arity(work, name, count, where, verb)
    if not is_async(work):
        return NodeKind.BUILD
    if not may_be_async:
        raise DeclarationError(
            f"{verb}, declared at {where}, was given the async function {name!r}, but takes a plain one: use then"
        )
    if _returns_task(work):
        raise DeclarationError(
            f"the builder {name!r}, declared at {where}, is async but returns a task: make it a plain `def`, or await"
            " the task in it with `current_run().client.run(task)`"
        )
    return NodeKind.CALL


def takes(work: Any, count: int) -> bool:
    """Tell whether `work` can be called with `count` arguments."""
    if count == _plain_arity(getattr(work, "__code__", None), work):
        return True
    try:
        inspect.signature(work).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def _plain_arity(code: CodeType | None, work: Any) -> int | None:
    # The common case without inspect.signature, which is slow: only positional parameters, no defaults, not a method.
    if code is None or not inspect.isfunction(work) or work.__defaults__ or work.__kwdefaults__:
        return None
    if (
        code.co_kwonlyargcount
        or code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
        or hasattr(work, "__wrapped__")
    ):
        return None
    return code.co_argcount


def _check_arity(work: Any, name: str, count: int, where: Where, verb: str) -> None:
    try:
        signature = inspect.signature(work)
    except (TypeError, ValueError):  # builtins without a signature: their own error will tell
        return
    try:
        signature.bind(*[None] * count)
    except TypeError:
        called = f"with {count} result{'' if count == 1 else 's'}" if count else "without arguments"
        text = str(signature)
        raise DeclarationError(
            f"{verb}, declared at {where}, calls {name!r} {called}, but its parameters are"
            f" {text if len(text) <= 100 else text[:97] + '...'}"
        ) from None


def _returns_task(work: Any) -> bool:
    annotation = getattr(work, "__annotations__", {}).get("return")
    if isinstance(annotation, str):
        annotation = getattr(work, "__globals__", {}).get(annotation)
    return _is_task_class(annotation)


def _instead(value: Any) -> str:
    if inspect.iscoroutine(value):
        value.close()  # or Python would warn that it was never awaited
        return "was given a coroutine that is already called: give the async function itself"
    if is_node(value):
        return f"was given {value!r} where a builder belongs: nodes come first, the builder last"
    if isinstance(value, type):
        return (
            f"was given the class {value.__name__}: give a task, `{value.__name__}(...)`, or a builder that returns one"
        )
    if isinstance(value, (Task, Mapping)):
        return "was given a task where a builder belongs: wrap it, `lambda _: ...`, or declare it with flow.then(task)"
    return f"was given {_show(value)}: use a task, a dict with wire names, or a function (a builder) that returns one"


def warn_of_loop_variables(declaration: Declaration, work: Any, where: Where) -> None:
    """Warn if a lambda reads a variable that has changed since the same line declared a node with it before.

    A lambda reads its variables when it is called, which is in the run: all nodes of the loop would use the last value.
    """
    code = getattr(work, "__code__", None)
    if code is None or code.co_name != "<lambda>":
        return
    variables = _variables_of(work, code)
    if not variables:
        return
    before = declaration.seen.get(where)
    declaration.seen[where] = code, variables
    if before is None or before[0] is not code:
        return
    old = {(id(home), name): value for home, name, value in before[1]}
    for home, name, value in variables:
        if old.get((id(home), name), value) is not value:
            warnings.warn_explicit(
                f"the lambda declared at {where} reads {name!r}, which has changed since this line declared a node"
                f" before: it is read when the flow runs, so all of these nodes would use its last value; bind it with"
                f" a default argument, as in `lambda result, {name}={name}: ...`",
                UserWarning,
                where.file,
                where.line,
            )
            return


def _variables_of(work: Any, code: CodeType) -> tuple[tuple[Any, str, Any], ...]:
    """The variables that a function reads: where each lives, its name, and its value now."""
    found: list[tuple[Any, str, Any]] = []
    for cell, name in zip(work.__closure__ or (), code.co_freevars, strict=True):
        try:
            found.append((cell, name, cell.cell_contents))
        except ValueError:  # it has no value yet
            continue
    known = work.__globals__
    found += [(known, name, known[name]) for name in code.co_names if name in known]
    return tuple(found)


def read_source(items: Any, where: Where) -> Source:
    """Check what a map is to pull from."""
    if is_node(items):
        other = "many.then, or many.gather().map" if hasattr(items, "gather") else "node.map"
        raise DeclarationError(f"map, declared at {where}, was given {items!r} as its items: use {other}")
    if isinstance(items, (str, bytes)):
        kind = type(items).__name__
        raise DeclarationError(f"map, declared at {where}, was given one {kind}, not many: wrap it in a list, [...]")
    if isinstance(items, (Iterator, AsyncIterator)):
        return Source(items, is_one_shot=True)
    if callable(items) or has_method(items, "__iter__", "__aiter__", "__getitem__"):
        return Source(items, is_one_shot=False)
    if inspect.iscoroutine(items):
        items.close()
    raise DeclarationError(
        f"map, declared at {where}, was given {_show(items)}: items come from an iterable, an async iterable or a"
        " callable that makes one"
    )


def _show(value: object) -> str:
    if value is None:
        return "None"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
