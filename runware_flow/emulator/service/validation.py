"""What the service refuses before a task exists: unknown names, wrong types, values out of range.

Driven by the catalog's schemas (names, types, enumerations of a model) and limits (ranges of a task type). Where both
are silent, everything passes: an emulator that refuses what the service takes is worse than one that is too kind.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runware_flow.emulator.jsonvalues import as_list, as_object
from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service.constraints import (
    check_choice,
    check_nested,
    check_providers,
    check_range,
    check_type,
    invalid,
)
from runware_flow.emulator.service.kinds import Kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from runware_flow.emulator.service.models import Models
    from runware_flow.emulator.settings import Settings

__all__ = ("check_task", "check_task_uuid", "is_uuid")

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
_AIR = re.compile(r"[a-zA-Z0-9_.-]+:[a-zA-Z0-9_./-]+@[a-zA-Z0-9_.-]+")
_LEGACY_NAMES = frozenset(
    (
        *("alphaMatting", "alphaMattingBackgroundThreshold", "alphaMattingErodeSize"),
        *("alphaMattingForegroundThreshold", "audioSettings", "checkNsfw", "checkNSFW", "confidence", "controlnet"),
        *("dryRun", "embeddings", "frameImages", "guideImage", "highThresholdCanny", "includeHandsAndFaceOpenPose"),
        *("inputAudios", "inputImage", "inputImages", "inputMedia", "inputVideo", "ipAdapters"),
        *("lowThresholdCanny", "maskBlur", "maskImage", "maskPadding", "maxDetections", "photoMaker"),
        *("postProcessMask", "preProcessorType", "prompts", "puLID", "referenceImages", "referenceVideos"),
        *("referenceVoices", "returnBase64", "returnOnlyMask", "rgba", "seedImage", "speech", "style"),
        *("usePromptWeighting", "vae"),
    )
)
"""Flat names of the older API, still taken [doc]."""
_INSTEAD_OF_INPUTS = (
    *("frameImages", "inputAudios", "inputMedia", "referenceVideos", "inputImage", "inputImages", "inputVideo"),
    *("seedImage", "referenceImages", "positivePrompt"),
)


def is_uuid(value: Any) -> bool:
    """Tell whether `value` is a UUID of any version, in canonical form."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def check_task_uuid(task: Mapping[str, Any]) -> Problem | None:
    """Refuse a task without a UUID version 4: without it no answer can be matched [doc]."""
    value = task.get("taskUUID")
    if value is None:
        return Problem(
            "missingTaskUUID", "Missing value for 'taskUUID' parameter.", parameter="taskUUID", type="string"
        )
    if not isinstance(value, str) or _UUID4.fullmatch(value) is None:
        message = "Invalid value for 'taskUUID' parameter. It must be a UUID version 4."
        return Problem("invalidTaskUUID", message, parameter="taskUUID", type="string")
    return None


def check_task(
    task: Mapping[str, Any], models: Models, settings: Settings, uploaded: Collection[str] = ()
) -> Problem | None:
    """Return what is wrong with a generation task, or None. `uploaded` are the AIRs of the account's own models."""
    kind = kind_of(task)
    if kind is None:
        message = f"Unsupported task type {task.get('taskType')!r}."
        return Problem("unsupportedTaskType", message, parameter="taskType")
    try:
        schema = _check_model(task, kind, models, settings, uploaded)
        _check_names(task, kind, models)
        _check_values(task, kind, schema, models)
        _check_required(task, kind, schema)
        _check_dimensions(task, kind, schema, settings)
        _check_text(task, kind)
    except Problem as problem:
        return problem
    return None


def _check_model(
    task: Mapping[str, Any], kind: Kind, models: Models, settings: Settings, uploaded: Collection[str]
) -> dict[str, Any] | None:
    air = task.get("model")
    if air is None:
        if kind.task_type in {"promptEnhance", "upscale", "caption"} or "preProcessorType" in task:
            return None  # older requests name no model [doc, sdk]; nor does an upscale have to [3p]
        raise Problem("missingModel", "Missing value for 'model' parameter.", parameter="model", type="string")
    if not isinstance(air, str) or _AIR.fullmatch(air) is None:
        raise invalid("model", "A model is named by its AIR, source:id@version.", type="string")
    known = settings.models.get(air) or models.task_type(air)
    if known is None:
        if not models.is_fine_tune(air) and air not in uploaded:
            raise Problem("modelNotFound", f"The model '{air}' does not exist.", parameter="model")
        return None
    if known != kind.task_type:
        message = f"The model '{air}' does not support the task type '{task['taskType']}'."
        raise Problem("unsupportedTaskType", message, parameter="taskType", allowedValues=[known])
    return models.schema(air)


def _check_names(task: Mapping[str, Any], kind: Kind, models: Models) -> None:
    known = models.parameters.get(kind.task_type, frozenset[str]())
    for name in task:
        if name not in known and name not in _LEGACY_NAMES:
            message = f"Unknown parameter '{name}' for the task type '{task['taskType']}'."
            raise Problem("unknownParameter", message, parameter=name)


def _check_required(task: Mapping[str, Any], kind: Kind, schema: dict[str, Any] | None) -> None:
    instead: dict[str, tuple[str, ...]] = {"inputs": _INSTEAD_OF_INPUTS}
    if kind.task_type == "videoInference":
        instead["positivePrompt"] = ("frameImages", "inputs", "inputAudios", "speech")
    required = list((schema or {}).get("required", ()))
    if schema is None and kind.task_type in {"caption", "upscale", "removeBackground", "imageMasking"}:
        required.append("inputs")
    for name in required:
        if name in {"model", "taskType", "taskUUID", "width", "height"} or task.get(name) is not None:
            continue
        if any(other in task for other in instead.get(name, ())):
            continue
        code = f"missing{name[0].upper()}{name[1:]}"
        raise Problem(code, f"Missing value for '{name}' parameter.", parameter=name)


def _check_values(task: Mapping[str, Any], kind: Kind, schema: dict[str, Any] | None, models: Models) -> None:
    limits: dict[str, Any] = models.limits.get(kind.task_type, {})
    properties: dict[str, Any] = (schema or {}).get("properties", {})
    loose = schema is None or not str(task.get("model")).startswith("runware:")
    for name, value in task.items():
        if name in {"taskType", "taskUUID", "model"} or value is None:
            continue
        rule: dict[str, Any] = properties.get(name) or {}
        limit: dict[str, Any] = limits.get(name) or {}
        if name == "strength" and task["taskType"] == "photoMaker":
            limit = {"type": "integer", "min": 15, "max": 50}  # there it is a percentage [doc]
        check_type(name, value, str(rule.get("type") or limit.get("type") or ""))
        if name == "deliveryMethod":
            check_choice(name, value, list(kind.deliveries))
        elif name == "outputFormat":
            check_choice(name, value, rule.get("enum") or _const(rule) or (kind.formats or None))
        elif name == "outputType":
            for one in as_list(value) or [value]:
                check_type("outputType", one, "string")
                check_choice(name, one, rule.get("enum") or _const(rule) or limit.get("enum"))
        elif name in {"webhookURL", "uploadEndpoint"}:
            _check_address(name, value)
        else:
            check_choice(name, value, rule.get("enum") or _const(rule))
            check_range(name, value, limit, loose=loose)
            check_nested(name, value, limit, loose=loose)
    check_providers(task.get("providerSettings"), str(task.get("model")), models.sources)


def _const(rule: dict[str, Any]) -> list[Any] | None:
    return [rule["const"]] if "const" in rule else None


def _check_address(name: str, value: str) -> None:
    try:
        url = urlsplit(value)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise invalid(name, "It must be an http or https URL.", type="uri")


def _check_dimensions(task: Mapping[str, Any], kind: Kind, schema: dict[str, Any] | None, settings: Settings) -> None:
    if kind.task_type != "imageInference":
        return
    given = [name for name in ("width", "height") if task.get(name) is not None]
    referenced = bool(task.get("referenceImages") or task.get("seedImage") or as_object(task.get("inputs")))
    required = settings.require_dimensions and "width" in (schema or {}).get("required", ())
    if len(given) == 2 or referenced or "resolution" in task or (not given and not required):
        return
    raise Problem(
        "missingDimensionParameters",
        "Missing dimensions: give both 'width' and 'height', or reference images to take them from.",
        parameter=["width", "height", "referenceImages"],
        type="integer|array",
    )


def _check_text(task: Mapping[str, Any], kind: Kind) -> None:
    if kind.task_type == "imageInference" and "positivePrompt" not in task and "inputs" not in task:
        message = "Missing value for 'positivePrompt' parameter."
        raise Problem("missingPositivePrompt", message, parameter="positivePrompt", type="string")
    if kind.task_type != "textInference":
        return
    messages = as_list(task.get("messages"))
    if not messages:
        raise Problem("missingMessages", "Missing value for 'messages' parameter.", parameter="messages", type="array")
    for message in messages:
        if as_object(message).get("role") not in ("user", "assistant"):
            raise invalid("messages", "Each message has a role, 'user' or 'assistant', and a content.", type="array")
    if messages[-1].get("role") != "user":
        raise invalid("messages", "The last message must be from the user.", type="array")
    if task.get("deliveryMethod") == "stream" and task.get("numberResults", 1) != 1:
        raise invalid("numberResults", "A stream has one result.", type="integer")
