"""Calls the code of users (builders, pure functions, async functions), and checks what it returns."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

from runware_flow.errors import DeclarationError
from runware_flow.graph.declaration import NodeKind, is_node
from runware_flow.runner.blocking import is_debugging, watch_steps
from runware_flow.runner.cancels import check_cancel
from runware_flow.types import Task
from runware_flow.wire.codec import is_mapping

if TYPE_CHECKING:
    from runware_flow.graph.declaration import NodeSpec
    from runware_flow.graph.plan import Step

__all__ = ("build", "call", "pick", "task_of")


def task_of(work: Step, args: list[Any]) -> Any:
    """Return the task of a node: the one that it was declared with, or what its builder returns."""
    return work.work if work.kind is NodeKind.TASK else build(work, args)


async def call(step: Step, args: list[Any]) -> Any:
    """Await the async function of a node; a task or a node instead of a value is an error.

    Raises:
        DeclarationError: it returned what only a builder may return.
        Exception: whatever it raises.
    """
    try:
        working = step.work(*args)
        if is_debugging() and inspect.iscoroutine(working):
            working = watch_steps(working, step.spec.describe())
        value = await working
    except BaseException as error:
        check_cancel(error, step.spec)
        raise
    if isinstance(value, Task) or is_node(value):
        raise _wrong_value(value, step.spec)
    return value


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


def _wrong_value(value: Any, spec: NodeSpec) -> DeclarationError:
    if is_node(value):
        return DeclarationError(
            f"the function of {spec.describe()}, returned {value!r}: nodes are declared before the run"
        )
    return DeclarationError(
        f"the function of {spec.describe()}, is async but returned a task, which is not sent: make it a plain `def`,"
        " or await the task in it with `current_run().client.run(task)`"
    )


def _note(error: Exception, note: str) -> None:
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
