"""The words of the emulated service: derived from what was asked, the same for the same request."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runware_flow.emulator.jsonvalues import as_list, as_object
from runware_flow.emulator.settings import draw

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runware_flow.emulator.media.store import Recipe

__all__ = ("Answer", "answer", "describe", "enhance", "reasoning")

_OPENINGS = ("Here is what can be said about", "In short, this is about", "Let us look at", "You asked about")
_SENTENCES = (
    "It begins with a simple idea that most people meet early on.",
    "The details matter more than they seem to at first.",
    "Seen from a distance, the parts fit together well.",
    "There is a history behind it, and it is still being written.",
    "An example makes it clear: small steps, repeated, add up.",
    "What follows from it depends on where one stands.",
    "Most of the difficulty is in choosing what to leave out.",
)
_FLAVOURS = (
    "soft evening light",
    "rich texture",
    "a wide, calm composition",
    "fine detail in the foreground",
    "a muted palette with one bright accent",
    "gentle depth of field",
    "a low horizon",
    "the feeling of an old photograph",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a language model says."""

    text: str
    finish_reason: str
    usage: dict[str, int]


def describe(recipe: Recipe) -> str:
    """Say what a picture is: its words if it was drawn here, else its colour; its size; what it was made from."""
    size = f"{recipe.width} x {recipe.height} pixels"
    if not recipe.width:
        return f"A medium in {recipe.format} format."
    if recipe.process == "film":
        return f'A film of "{recipe.prompt}", {size}, seed {recipe.seed}.'
    if not recipe.prompt:
        colour = f"mostly {recipe.detail}, " if recipe.detail else ""
        return f"A picture, {colour}{size}, in {recipe.format} format."
    made = {"resized": " (enlarged)", "cutout": " (background removed)", "mask": " (a mask)", "guide": " (a guide)"}
    return f'An image of "{recipe.prompt}"{made.get(recipe.process, "")}, {size}, seed {recipe.seed}.'


def enhance(prompt: str, version: int, words: int | None, *seeds: object) -> str:
    """Return a richer version of `prompt`; each version differs. `words` caps its length."""
    first = int(draw("enhance", prompt, *seeds) * len(_FLAVOURS))
    chosen = [_FLAVOURS[(first + version * 3 + step) % len(_FLAVOURS)] for step in range(3)]
    text = f"{prompt.rstrip('. ')}, {', '.join(chosen)}"
    return " ".join(text.split()[:words]) if words else text


def answer(task: Mapping[str, Any], index: int) -> Answer:
    """Answer the last message of the user, at most `settings.maxTokens` words long."""
    messages: list[Any] = task["messages"]
    asked = _plain(messages[-1].get("content"))
    seed = task.get("seed", 0)
    limit = as_object(task.get("settings")).get("maxTokens")
    if task.get("outputFormat") == "JSON" or task.get("jsonSchema"):
        text = json.dumps(_structured(task.get("jsonSchema"), asked), ensure_ascii=False)
    else:
        opening = _OPENINGS[int(draw("opening", asked, seed, index) * len(_OPENINGS))]
        first = int(draw("sentences", asked, seed, index) * len(_SENTENCES))
        body = " ".join(_SENTENCES[(first + step) % len(_SENTENCES)] for step in range(3))
        text = f"{opening} “{asked}”. {body}"
    words = re.findall(r"\S+\s*", text)
    cut = isinstance(limit, int) and limit < len(words)
    kept = words[:limit] if cut else words
    prompt_tokens = sum(len(_plain(message.get("content")).split()) for message in messages)
    usage = {
        "promptTokens": prompt_tokens,
        "completionTokens": len(kept),
        "totalTokens": prompt_tokens + len(kept),
    }
    return Answer("".join(kept).rstrip(), "length" if cut else "stop", usage)


def reasoning(task: Mapping[str, Any]) -> str:
    """Think aloud about the last message of the user."""
    asked = _plain(as_object(as_list(task.get("messages"))[-1]).get("content"))
    return f"The user asks: “{asked}”. First the words themselves, then what is meant by them. That settles it."


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [as_object(part) for part in as_list(content)]
    return " ".join(str(part["text"]) for part in parts if "text" in part)


def _structured(schema: Any, asked: str) -> Any:
    """Return a value that fits a simple JSON schema: strings hold what was asked, the rest is the plainest there is."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError:
            schema = {}
    rules = as_object(schema)
    return _example(as_object(rules.get("schema")) or rules, asked) if rules else {"answer": asked}


def _example(schema: Mapping[str, Any], asked: str) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else None)
    if kind == "object":
        properties = as_object(schema.get("properties"))
        return {name: _example(as_object(rule), asked) for name, rule in properties.items()}
    if kind == "array":
        return [_example(as_object(schema.get("items")), asked)]
    if kind is None:
        return {"answer": asked}
    return {"string": asked, "integer": 1, "number": 1.0, "boolean": True, "null": None}.get(str(kind), asked)
