"""The description of a parameter in a sentence or two: its meaning, its bounds, its default, its source."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runware_flow.catalog.surface import Parameter

__all__ = ("MEANINGS", "describe", "describe_facts", "describe_range")

UNITS = {"duration": "seconds", "ttl": "seconds", "fps": "frames a second", "targetMegapixels": "megapixels"}
MEANINGS = {
    "acceleration": "How much speed to buy with quality.",
    "acceleratorOptions": "Caches that save steps, at the cost of some quality.",
    "acePlusPlus": "Keeps a person or an object of a reference image (ACE++).",
    "advancedFeatures": "Watermarks and other features of some models.",
    "air": "The AIR of a model: `source:id@version`.",
    "apiKeys": "Only the usage of these keys, as the service masks them.",
    "architecture": "The architecture of the model, such as `sdxl`.",
    "audioSettings": "Sample rate, bit rate and channels of the sound.",
    "capabilities": "Only models that can do all of this, by the ids of `client.content.list_capabilities()`.",
    "category": "The kind of model.",
    "CFGScale": "How closely the result follows the prompt.",
    "clipSkip": "How many of the last layers of the text encoder to leave out.",
    "comment": "A note of the uploader.",
    "conditioning": "The kind of ControlNet.",
    "controlNet": "Guide images, as `ControlNetPreprocess` makes them, with the models that read them.",
    "defaultCFG": "The CFG scale where a task gives none.",
    "defaultScheduler": "The scheduler where a task gives none.",
    "defaultSteps": "The steps where a task gives none.",
    "defaultStrength": "The strength where a task gives none.",
    "defaultWeight": "The weight where a task gives none.",
    "deliveryMethod": "How the results come; the client sets it unless told.",
    "downloadURL": "Where the service fetches the model's file.",
    "duration": "The length of what is made.",
    "embeddings": "Textual inversions to apply.",
    "endDate": "The last day.",
    "format": "The format of the model's file.",
    "fps": "The frame rate of the video.",
    "groupBy": "How to divide the usage: by `date`, `model` or `apiKey`.",
    "height": "The height of what is made, in pixels.",
    "heroImageURL": "A picture that shows what the model does.",
    "hiresFix": "Makes a small image first and enlarges it, against doubled figures.",
    "image": "The image to store.",
    "importModel": "How the trained model enters the account.",
    "includeCost": "Whether each result tells its cost in USD.",
    "includeUsage": "Whether each result tells its token usage.",
    "inputs": "The media to work on.",
    "ipAdapters": "Reference images whose content or style guides the result.",
    "jsonSchema": "What the answer looks like: a type (`list[Scene]`; dataclasses, pydantic models), or a JSON Schema.",
    "learningRate": "How far each step of the training changes the model.",
    "limit": "How many to list.",
    "lora": "LoRAs to apply.",
    "maskMargin": "How many pixels around the mask are made anew at full detail.",
    "media": "The medium to store, or the UUID of the one to delete.",
    "messages": "The conversation so far.",
    "models": "Only the usage of these models, by AIR.",
    "name": "The name of the model.",
    "negativePrompt": "What to keep out.",
    "negativeTriggerWords": "Words that the embedding takes in a negative prompt.",
    "numberResults": "How many results to make; of a given seed each takes the next.",
    "offset": "How many to leave out before the first one listed.",
    "operation": "What to do.",
    "outpaint": "How many pixels to add on each side of the input.",
    "outputFormat": "The file format of the results.",
    "outputQuality": "The quality of lossy compression.",
    "outputType": "Whether results come as a URL or as data.",
    "photoMaker": "Keeps the identity of a person (PhotoMaker).",
    "positivePrompt": "What to make.",
    "positiveTriggerWords": "Words that call up what the model has learned.",
    "preProcessorType": "The kind of guide to make.",
    "private": "Whether only this account sees the model.",
    "prompt": "What to work from.",
    "promptMaxLength": "The length of each version.",
    "promptVersions": "How many results to make.",
    "promptWeighting": "How weights in the prompt, such as `(word)1.5`, are read.",
    "providerSettings": "Settings of the model's provider, under the provider's name.",
    "pulid": "Keeps the identity of a face (PuLID).",
    "refiner": "A second model that finishes the image.",
    "resolution": "The size of what is made, as a preset such as `1K` or `720p`, instead of width and height.",
    "routing": "How the service routes the task; it documents no contents.",
    "safety": "Checks of the content, told by `nsfw_content` of the result.",
    "scheduler": "The method of sampling.",
    "search": "Words in the name of a model.",
    "seed": "The same seed and parameters make the same result.",
    "settings": "Settings of the model.",
    "shortDescription": "What the model does, in a few words.",
    "sort": "The order of the list.",
    "source": "Whose models to list.",
    "speech": "What to say: `text`, and where the model has voices, `voice`.",
    "startDate": "The first day.",
    "steps": "How many steps to sample; more take longer.",
    "strength": "How far the result may leave the input.",
    "structuredPrompt": "The prompt as an object, such as an earlier result's `structured_prompt`.",
    "tags": "Words to find the model by.",
    "targetMegapixels": "The size to enlarge to.",
    "timezone": "The time zone in which days begin.",
    "toolChoice": "Whether the model must call a tool, and which one.",
    "tools": "Functions that the model may ask to be called.",
    "trainingSteps": "How many steps to train.",
    "triggerWord": "The word that will call up what the model learns.",
    "trueCFGScale": "How closely the result follows the prompt, for models that read no plain CFG scale.",
    "ttl": "How long the result's URL lives.",
    "type": "The type of the model within its category.",
    "ultralytics": "Finds faces and makes them anew in detail.",
    "uniqueIdentifier": "An id of yours; a second upload with the same one downloads nothing.",
    "uploadEndpoint": "Where the service puts the bytes of each result, by HTTP PUT.",
    "upscaleFactor": "By how much to enlarge each side.",
    "vae": "The VAE that decodes the image, by AIR.",
    "version": "The version of the model.",
    "visibility": "Whose models to list: public ones, or the account's own.",
    "webhookURL": "Where the service posts each finished result.",
    "width": "The width of what is made, in pixels.",
}
"""What each parameter is for (protocol facts, sections 2 and 7)."""


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
