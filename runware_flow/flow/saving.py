"""`save` of nodes: an async function that writes a result's medium to the file that a template names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runware_flow.errors import DeclarationError
from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.filenames import Template
from runware_flow.runner.context import current_run
from runware_flow.types import MediaResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runware_flow.graph.declaration import NodeSpec, Where
    from runware_flow.runner.context import RunContext

__all__ = ("label_of", "make_saver")


def make_saver(of: NodeSpec, template: str | os.PathLike[str], where: Where) -> Callable[[Any], Awaitable[Path]]:
    """Make the function of a node that saves the results of another.

    Raises:
        DeclarationError: the template cannot work, or gives every item of a fan-out the same file.
    """
    text = template if isinstance(template, str) else str(Path(template))
    try:
        names = Template(text)
    except ValueError as error:
        raise DeclarationError(f"save, declared at {where}: {error}") from None
    if of.scope.fan is not None and not names.distinguishes_items:
        raise DeclarationError(
            f"save, declared at {where}: {text!r} is the same file for every item of {of.path!r}; put {{index}} or"
            " {key} into it"
        )
    label = label_of(of)

    # The texts that it closes over are part of what a journal knows it by.
    async def save(result: Any) -> Path:
        return await _save(result, text, label)

    return save


def label_of(spec: NodeSpec) -> str:
    """The name of a node for people; an item of an `each` has the name of its task."""
    fan = spec.scope.fan
    if spec.kind is not NodeKind.ITEM or fan is None:
        return spec.name
    return fan.deps[0].name if fan.deps else fan.name


async def _save(result: Any, text: str, label: str) -> Path:
    context = current_run()
    client = context.client_for_files
    if not isinstance(result, MediaResult):
        raise DeclarationError(
            f"save of {label!r} was given a {type(result).__name__}, not a medium: save nodes whose results are"
        )
    uuid = getattr(result, "uuid", None)
    target = Template(text).fill(
        flow=context.flow,
        label=label,
        indexes=context.indexes,
        keys=context.keys,
        uuid=uuid if isinstance(uuid, str) else None,
    )
    _claim(context, text, target)
    path: Path = await client.save(result, target)
    _claim(context, text, str(path))  # with the extension that it got, which another template may name
    return path


def _claim(context: RunContext, text: str, target: str) -> None:
    """Make sure that no other node of the run, and no other item, writes the same file."""
    if context.is_batch_item and not Template(text).distinguishes_items:
        raise DeclarationError(
            f"{context.place!r} saves to {text!r}, which is the same file for every item of the batch; put {{index}} or"
            " {key} into it"
        )
    owner = context.claims.setdefault(os.path.abspath(target), context.path)
    if owner != context.path:
        raise DeclarationError(
            f"{context.place!r} and {owner!r} of one run would both be saved as {target!r}: give them different"
            " templates, with {label}, {index} or {key}"
        )
