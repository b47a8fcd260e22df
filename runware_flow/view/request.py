"""Short texts for a task and for a value, for a page that has little room."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, cast

import msgspec

from runware_flow.types import MediaResult, Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ("TEXT_LIMIT", "RequestSummary", "references_in", "references_to", "shown_value", "summarise_request")

TEXT_LIMIT = 2_000
"""Characters of a prompt or an answer that are shown."""
_SHORTEST_TEXT = 12
"""Letters that a text needs to be distinguished from others that only look like it."""


class RequestSummary(msgspec.Struct, frozen=True):
    """What a task asks."""

    prompt: str = ""
    task_type: str | None = None
    model: str | None = None


def summarise_request(task: Any) -> RequestSummary:
    """Read a task: a struct, or a dict with wire names."""
    is_dict = hasattr(task, "get")

    def read(name: str, wire: str) -> Any:
        value: Any = task.get(wire) if is_dict else getattr(task, name, None)
        return value

    task_type = read("task_type", "taskType")
    model = read("model", "model")
    prompts = (
        read("positive_prompt", "positivePrompt"),
        _last_message(read("messages", "messages")),
        _member(read("speech", "speech"), "text"),
        read("prompt", "prompt") if task_type == "promptEnhance" else None,  # a caption's is the same for all pictures
    )
    return RequestSummary(
        next((text for text in prompts if isinstance(text, str) and text), "")[:TEXT_LIMIT],
        task_type if isinstance(task_type, str) and task_type else None,
        model if isinstance(model, str) else None,
    )


def _last_message(messages: Any) -> Any:
    """The text of the last message, of whose parts some may be pictures."""
    if not isinstance(messages, list) or not messages:
        return None
    content = _member(cast("Sequence[Any]", messages)[-1], "content")
    if not isinstance(content, list):
        return content
    texts = [_member(part, "text") for part in cast("Sequence[Any]", content)]
    return " ".join(text for text in texts if isinstance(text, str))


def _member(value: Any, name: str) -> Any:
    return value.get(name) if hasattr(value, "get") else None


def shown_value(value: Any, *, is_own: bool = True) -> tuple[str, list[tuple[str, Any]]]:
    """Say what a value is: its text, and the media in it.

    Args:
        value: what a node has: a result, the list of results of one task, or whatever a function returned.
        is_own: it was made by the node; a value that was only passed on is not shown as media once more.
    """
    if isinstance(value, MediaResult):
        return _text_of(value), [(_kind_of(value), value)] if is_own else []
    if isinstance(value, Result):
        return _text_of(value), []
    if isinstance(value, list):
        listed = cast("Sequence[Any]", value)
        parts = [shown_value(part, is_own=is_own) for part in listed[:32]]
        texts = [text for text, _ in parts if text]
        return "\n".join(texts)[:TEXT_LIMIT], [medium for _, media in parts for medium in media]
    if value is None or isinstance(value, (bytes, bytearray)):
        return "", []
    if isinstance(value, PathLike):
        return str(fspath(cast("PathLike[str]", value)))[:TEXT_LIMIT], []
    if isinstance(value, (str, int, float)):
        return str(value)[:TEXT_LIMIT], []
    return f"a {type(value).__name__}", []


def _text_of(result: Result) -> str:
    text = getattr(result, "text", None)
    return text[:TEXT_LIMIT] if isinstance(text, str) else ""


def _kind_of(result: MediaResult) -> str:
    """`image`, `video`, `audio` or `file`."""
    forms = ("url", "uuid", "data_uri", "base64_data")
    for kind in type(result).media_kinds:
        if any(getattr(result, f"{kind}_{form}", None) is not None for form in forms):
            return kind if kind in ("video", "audio") else "image" if kind.endswith("image") else "file"
    return "file"


def references_to(value: Any) -> Iterator[str]:
    """List by what a later request may name a value: addresses and ids of media, and texts."""
    if isinstance(value, MediaResult):
        for kind in type(value).media_kinds:
            for form in ("url", "uuid"):
                found = getattr(value, f"{kind}_{form}", None)
                if isinstance(found, str) and found:
                    yield found
    for text in (getattr(value, "text", None), value):
        if isinstance(text, str) and len(text) >= _SHORTEST_TEXT:
            yield text
    if isinstance(value, list):
        for one in cast("Sequence[Any]", value):
            yield from references_to(one)


def references_in(request: Any) -> Iterator[str]:
    """List the texts in a request, a task or a dict, and what names the results that it was given."""
    if isinstance(request, str):
        yield request
    elif isinstance(request, Result):
        yield from references_to(request)
    elif isinstance(request, Mapping):
        for inner in cast("Mapping[str, Any]", request).values():
            yield from references_in(inner)
    elif isinstance(request, (list, tuple)):
        for inner in cast("Sequence[Any]", request):
            yield from references_in(inner)
    elif isinstance(request, msgspec.Struct):
        for name in request.__struct_fields__:
            yield from references_in(getattr(request, name))
