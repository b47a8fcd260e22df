"""Calls the code of users (builders, pure functions, async functions), and checks what it returns."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from runware_flow.errors import DeclarationError
from runware_flow.graph.declaration import NodeKind, is_node, is_node_type
from runware_flow.runner.blocking import watch_steps
from runware_flow.types import Task
from runware_flow.wire.codec import is_mapping

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runware_flow.graph.declaration import NodeSpec
    from runware_flow.graph.plan import Step

__all__ = ("build", "call", "call_watched", "is_no_value", "pick", "task_of", "wrong_value")


def task_of(work: Step, args: list[Any]) -> Any:
    """Return the task of a node: the one that it was declared with, or what its builder returns."""
    return work.work if work.kind is NodeKind.TASK else build(work, args)


def call(step: Step, args: list[Any]) -> Awaitable[Any]:
    """Call the async function of a node; what it returns is to be awaited by the caller, without a frame of ours."""
    working: Awaitable[Any] = step.work(*args)
    return working


def call_watched(step: Step, args: list[Any]) -> Awaitable[Any]:
    """The same in Python's development mode, in which each step of the function is watched."""
    working: Awaitable[Any] = step.work(*args)
    return watch_steps(working, step.spec.describe()) if inspect.iscoroutine(working) else working


def _is_no_value(kind: type[object]) -> bool:
    return issubclass(kind, Task) or is_node_type(kind)


# The cast is for mypy, which takes a type for unhashable.
is_no_value = cast("Callable[[type[object]], bool]", lru_cache(maxsize=256)(_is_no_value))
"""Tells whether only a builder may return objects of a type: tasks and nodes. Found out once for each type."""


def wrong_value(value: object, spec: NodeSpec) -> DeclarationError:
    """The error for an async function that returned a task or a node."""
    if is_node(value):
        return DeclarationError(
            f"the function of {spec.describe()}, returned {value!r}: nodes are declared before the run"
        )
    return DeclarationError(
        f"the function of {spec.describe()}, is async but returned a task, which is not sent: make it a plain `def`,"
        " or await the task in it with `current_run().client.run(task)`"
    )


def pick(step: Step, args: list[Any]) -> Any:
    """Call the pure function of a node."""
    try:
        value = step.work(*args)
    except Exception as error:
        _note(error, f"in the function of {step.spec.describe()}")
        raise
    if inspect.iscoroutine(value):
        value.close()
        raise DeclarationError(f"{step.spec.describe()}, got a coroutine from its function: use then with an async def")
    return value


def build(step: Step, args: list[Any]) -> Any:
    """Call the builder of a node; returns the task to send."""
    spec = step.spec
    try:
        task = step.work(*args)
    except Exception as error:
        _note(error, f"in the builder of {spec.describe()}")
        raise
    if isinstance(task, Task) or is_mapping(task):
        return cast("Any", task)
    raise _wrong_task(task, spec)


def _wrong_task(task: Any, spec: NodeSpec) -> DeclarationError:
    name = type(task).__name__
    if inspect.iscoroutine(task):
        task.close()  # or Python would warn that it was never awaited
        what = "a coroutine: give the async function itself to then, or return a task"
    elif task is None:
        what = "None: is a `return` missing?"
    elif is_node(task):
        what = f"{task!r}: a builder makes a task out of results; use pipe or join to declare nodes"
    elif name in ("list", "tuple"):
        what = f"a {name}: return one task; for several, use node.map with a builder for each"
    else:
        what = f"{name}: return a task or a dict with wire names; for a plain value, use pick"
    return DeclarationError(f"the builder of {spec.describe()}, returned {what}")


def _note(error: Exception, note: str) -> None:
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
