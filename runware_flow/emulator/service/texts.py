"""The words of the emulated service: derived from the prompt, the same for the same request."""

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

_OPENINGS = ("Here is what can be said about", "In short, this is about", "Let us look at", "You ask about")
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


def answer(task: Mapping[str, Any], index: int, script: Mapping[str, Any]) -> Answer:
    """Answer the last message of the user, at most `settings.maxTokens` words long.

    `script` has answers by a part of that message; the first part that is in it decides. What is no text is sent as
    JSON. Without a scripted answer one is made up; one that fits the `jsonSchema`, if the task has one.
    """
    messages: list[Any] = task["messages"]
    prompt = _plain(messages[-1].get("content"))
    seed = task.get("seed", 0)
    limit = as_object(task.get("settings")).get("maxTokens")
    scripted = next((said for part, said in script.items() if part in prompt), None)
    if scripted is not None:
        text = scripted if isinstance(scripted, str) else json.dumps(scripted, ensure_ascii=False)
    elif task.get("outputFormat") == "JSON" or task.get("jsonSchema"):
        text = json.dumps(_structured(task.get("jsonSchema"), prompt), ensure_ascii=False)
    else:
        opening = _OPENINGS[int(draw("opening", prompt, seed, index) * len(_OPENINGS))]
        first = int(draw("sentences", prompt, seed, index) * len(_SENTENCES))
        body = " ".join(_SENTENCES[(first + step) % len(_SENTENCES)] for step in range(3))
        text = f"{opening} “{prompt}”. {body}"
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
    prompt = _plain(as_object(as_list(task.get("messages"))[-1]).get("content"))
    return f"The user asks: “{prompt}”. First the words themselves, then what is meant by them. That settles it."


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [as_object(part) for part in as_list(content)]
    return " ".join(str(part["text"]) for part in parts if "text" in part)


def _structured(schema: Any, prompt: str) -> Any:
    """Return a value that fits a simple JSON schema: strings hold the prompt, the rest is as short as can be."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError:
            schema = {}
    rules = as_object(schema)
    root = as_object(rules.get("schema")) or rules
    return _example(root, root, prompt, 0) if rules else {"answer": prompt}


_DEEPEST = 12
"""A schema that contains itself is followed so far; optional members end it before."""


def _example(rule: Mapping[str, Any], root: Mapping[str, Any], prompt: str, depth: int) -> Any:
    if "const" in rule or rule.get("enum"):
        return rule["const"] if "const" in rule else rule["enum"][0]
    if "$ref" in rule:
        return _example(_resolve(str(rule["$ref"]), root), root, prompt, depth + 1) if depth < _DEEPEST else None
    for several in ("anyOf", "oneOf", "allOf"):
        choices = [as_object(one) for one in as_list(rule.get(several))]
        if choices and several == "allOf":
            return _example({**rule, **_merged(choices), "allOf": None}, root, prompt, depth)
        if choices:
            plain = next((one for one in choices if one.get("type") == "null"), None) if depth > 3 else None
            return _example(plain or choices[0], root, prompt, depth + 1)
    kinds = as_list(rule.get("type")) or [rule.get("type")]
    kind = kinds[0] or ("object" if "properties" in rule else "array" if "items" in rule else None)
    if kind == "object":
        required = as_list(rule.get("required"))
        members = as_object(rule.get("properties")).items()
        wanted = [(name, as_object(one)) for name, one in members if depth < 4 or name in required]
        return {name: _example(one, root, prompt, depth + 1) for name, one in wanted}
    if kind == "array":
        least = rule.get("minItems")
        count = least if isinstance(least, int) else (1 if depth < 4 else 0)
        return [_example(as_object(rule.get("items")), root, prompt, depth + 1) for _ in range(min(count, 100))]
    if kind in ("integer", "number"):
        return _number(rule, whole=kind == "integer")
    if kind == "string":
        return _string(rule, prompt)
    return {"boolean": True, "null": None}.get(str(kind), {"answer": prompt} if depth == 0 else prompt)


def _resolve(reference: str, root: Mapping[str, Any]) -> dict[str, Any]:
    place: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        place = as_object(place).get(part.replace("~1", "/").replace("~0", "~")) if part else place
    return as_object(place)


def _merged(rules: list[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for rule in rules:
        properties = {**as_object(merged.get("properties")), **as_object(rule.get("properties"))}
        required = [*as_list(merged.get("required")), *as_list(rule.get("required"))]
        merged = {**merged, **rule, "properties": properties, "required": required}
    return merged


def _number(rule: Mapping[str, Any], *, whole: bool) -> int | float:
    low, above = rule.get("minimum"), rule.get("exclusiveMinimum")
    high, below = rule.get("maximum"), rule.get("exclusiveMaximum")
    step = 1 if whole else 0.5
    value: float = 1
    if isinstance(above, int | float):
        value = max(value, above + step)
    if isinstance(low, int | float):
        value = max(value, low)
    if isinstance(high, int | float):
        value = min(value, high)
    if isinstance(below, int | float):
        value = min(value, below - step)
    return int(value) if whole else float(value)


def _string(rule: Mapping[str, Any], prompt: str) -> str:
    formats = {"date": "2026-01-31", "date-time": "2026-01-31T12:00:00Z", "uri": "https://example.com/"}
    text = formats.get(str(rule.get("format")), prompt)
    least, most = rule.get("minLength"), rule.get("maxLength")
    if isinstance(least, int) and len(text) < least:
        text = text.ljust(min(least, 10_000), ".")
    return text[:most] if isinstance(most, int) else text
