"""What is known of a parameter, in a sentence or two: its meaning, its bounds, its default, its source."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runware_flow.catalog.surface import Parameter

__all__ = ("MEANINGS", "describe", "describe_facts", "describe_range")

UNITS = {"duration": "seconds", "ttl": "seconds", "fps": "frames a second", "targetMegapixels": "megapixels"}
MEANINGS = {
    "acceleration": "How much speed to buy with quality.",
    "advancedFeatures": "Watermarks and other features of some models.",
    "deliveryMethod": "How the results come; the client sets it unless told.",
    "duration": "The length of what is made.",
    "importModel": "How the trained model enters the account.",
    "includeCost": "Whether each result tells its cost in USD.",
    "includeUsage": "Whether each result tells its token usage.",
    "inputs": "The media to work on.",
    "lora": "LoRAs to apply.",
    "messages": "The conversation so far.",
    "negativePrompt": "What to keep out.",
    "numberResults": "How many results to make; of a given seed each takes the next.",
    "outputFormat": "The file format of the results.",
    "outputQuality": "The quality of lossy compression.",
    "outputType": "Whether results come as a URL or as data.",
    "positivePrompt": "What to make.",
    "prompt": "What to work from.",
    "promptVersions": "How many results to make.",
    "providerSettings": "Settings of the model's provider, under the provider's name.",
    "routing": "How the service routes the task; it documents no contents.",
    "safety": "Checks of the content, told by `nsfw_content` of the result.",
    "seed": "The same seed and parameters make the same result.",
    "settings": "Settings of the model.",
    "strength": "How far the result may leave the input.",
    "ttl": "How long the result's URL lives.",
    "uploadEndpoint": "Where the service puts the bytes of each result, by HTTP PUT.",
    "webhookURL": "Where the service posts each finished result.",
}
"""What parameters that many tasks share are for (protocol facts, section 2)."""


def describe(parameter: Parameter, model_count: int) -> str:
    """Say what a parameter is for, and what is known of it where `model_count` models share its task type."""
    if parameter.name == "model":
        known = f" of the {model_count} that the catalog knows for this" if model_count > 1 else ""
        return f"The model: an AIR (`source:id@version`), or the slug of one{known}."
    return f"{MEANINGS.get(parameter.name, '')} {describe_facts(parameter, model_count)}".strip()


def describe_facts(parameter: Parameter, model_count: int) -> str:
    """Say what is known of a parameter: bounds, unit, default, models that take it, note and source; may be empty."""
    facts = parameter.facts
    parts = [describe_range(parameter)]
    if 0 < parameter.taken_by < model_count:
        parts.append(f"taken by {parameter.taken_by} of {model_count} models")
    members: dict[str, Any] = facts.get("items") or {}
    if any("." in name for name in members):
        parts.append("known members: " + ", ".join(f"`{name}`" for name in members))
    if facts.get("note"):
        parts.append(str(facts["note"]).rstrip("."))
    said = "; ".join(part for part in parts if part)
    source = f" [{facts['source']}]" if facts else ""
    if not re.match(r"[a-z]+[A-Z]", said):  # a wire name keeps its small letter
        said = said[:1].upper() + said[1:]
    return f"{said}.{source}" if said else ""


def describe_range(parameter: Parameter) -> str:
    """Say which values a parameter takes: bounds, unit, steps, default; may be empty."""
    facts = parameter.facts
    parts = [_bounds(facts, "array" in parameter.types)]
    if parameter.name in UNITS:
        parts.append(UNITS[parameter.name])
    if facts.get("multipleOf"):
        parts.append(f"in steps of {facts['multipleOf']}")
    if facts.get("default") is not None:
        parts.append(f"default {facts['default']}")
    return "; ".join(part for part in parts if part)


def _bounds(facts: dict[str, Any], is_array: bool) -> str:
    """The range of a parameter's value, of its length or of its count."""
    low, high = facts.get("min"), facts.get("max")
    unit = " items" if is_array else " characters" if facts.get("type") == "string" else ""
    if low is not None and high is not None:
        return f"{low} to {high}{unit}" if low != high else f"exactly {low}{unit}"
    if low is not None:
        return f"at least {low}{unit}"
    return f"at most {high}{unit}" if high is not None else ""
