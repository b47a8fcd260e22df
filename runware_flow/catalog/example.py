"""Writes an example program for one model: its required parameters, with values that it accepts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from runware_flow.tasks import TASK_TYPES, WIRE_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("example_program",)

_PROMPTS = {
    "videoInference": "Waves roll onto a beach at sunset, the camera moves slowly",
    "audioInference": "Calm piano music",
    "imageInference": "A lighthouse at dusk",
}
_MESSAGES = [{"role": "user", "content": "Explain quantum computing in two sentences."}]
_SIZES: dict[str, tuple[int, int]] = {"videoInference": (1280, 720)}
_COMMENT = "# a file, a URL, a UUID, or the result of an earlier task"
_UNSURE = "# the catalog does not say which inputs this model takes: see its page"
_TEXTS = frozenset({"textInference", "caption", "promptEnhance"})
_PYTHON_NAMES = {wire: name for name, wire in WIRE_NAMES.items()}


def example_program(
    air: str, task_type: str, schema: Mapping[str, Any], limits: Mapping[str, Any], *, makes_video: bool = False
) -> str | None:
    """A whole program for one model, or None where the catalog does not know what the model needs.

    Args:
        air: the model.
        task_type: what it takes, on the wire.
        schema: its parameter schema.
        limits: the known limits of its task type.
        makes_video: whether it puts out videos.
    """
    if task_type in ("training", "tools"):  # nothing is known of what their inputs hold
        return None
    name = TASK_TYPES[task_type].__name__
    lines = [_argument("model", air)]
    for wire in sorted(schema["required"], key=list(schema["properties"]).index):
        if wire not in ("model", "taskType", "taskUUID"):
            lines.append(_argument(wire, *_value(wire, task_type, schema, limits, makes_video)))
    if not any(one in schema["required"] for one in ("inputs", "messages", "prompt", "speech", "positivePrompt")):
        lines.insert(1, _prompt_or_input(task_type, schema, makes_video))
    lines.sort(key=_reading_order)
    inner = "\n".join(f"        {line}" for line in lines)
    variable = "text" if task_type in _TEXTS else "made"
    shown = "text" if task_type in _TEXTS else "url"
    if task_type == "caption" and "prompt" not in schema["properties"]:
        shown = "structured_data"  # such as an age (protocol facts, section 7)
    return (
        "from runware_flow import Flow\n"
        f"from runware_flow.tasks import {name}\n\n"
        'flow = Flow("example")\n'
        f"{variable} = flow.then(\n    {name}(\n{inner}\n    )\n)\n"
        f"print(flow.run()[{variable}].{shown})\n"
    )


def _reading_order(line: str) -> int:
    """The model and what is asked first, numbers after it."""
    first = ("model=", "positive_prompt=", "messages=", "prompt=", "speech=", "inputs=")
    return next((index for index, start in enumerate(first) if line.startswith(start)), len(first))


def _prompt_or_input(task_type: str, schema: Mapping[str, Any], makes_video: bool) -> str:
    """What a model that insists on nothing is best asked with."""
    if "positivePrompt" in schema["properties"]:
        return _argument("positivePrompt", _PROMPTS.get(task_type, "A lighthouse"))
    return _argument("inputs", *_inputs(task_type, makes_video))


def _value(
    wire: str, task_type: str, schema: Mapping[str, Any], limits: Mapping[str, Any], makes_video: bool
) -> tuple[Any, str]:
    """A value for a required parameter, and a comment on it."""
    speaks = "speech" in schema["properties"]
    if wire == "inputs":
        return _inputs(task_type, makes_video)
    if wire in ("width", "height"):
        return _SIZES.get(task_type, (1024, 1024))[wire == "height"], ""
    plain: dict[str, Any] = {
        "positivePrompt": "A calm, friendly voice" if speaks else _PROMPTS.get(task_type, "A lighthouse"),
        "prompt": "A lighthouse",
        "messages": _MESSAGES,
        "speech": {"text": "Hello world."},
        "outpaint": {"left": 128, "right": 128},
        "duration": 5,
    }
    if wire in plain:
        return plain[wire], ""
    facts: dict[str, Any] = limits.get(wire) or {}
    values: list[Any] = schema["properties"][wire].get("enum") or [facts.get("default")]
    return values[0], ""


def _inputs(task_type: str, makes_video: bool) -> tuple[Any, str]:
    if task_type == "imageInference":
        return {"referenceImages": ["photo.jpg"]}, _UNSURE
    if task_type == "videoInference":
        return {"frameImages": ["photo.jpg"]}, _UNSURE
    if task_type == "audioInference":
        return {"audio": "voice.wav"}, _UNSURE
    return ({"video": "film.mp4"} if makes_video else {"image": "photo.jpg"}), _COMMENT


def _argument(wire: str, value: Any, comment: str = "") -> str:
    """One line of the call. Texts, numbers, lists and dicts of JSON are Python too."""
    return f"{_PYTHON_NAMES.get(wire, wire)}={json.dumps(value)},{f'  {comment}' if comment else ''}"
