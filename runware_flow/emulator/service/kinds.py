"""The task types of the service: how each is delivered, what it returns, how many results, what it costs.

Facts from protocol.md: delivery defaults in section 2, result fields in section 7, prices in section 14.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("KINDS", "LEGACY_NAMES", "UTILITIES", "Kind", "find_kind", "kind_of", "price", "result_count")

_BOTH = ("sync", "async")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One generation task type."""

    task_type: str
    medium: str
    """The prefix of its media fields (`image`, `maskImage`, ...); empty if it returns text or files."""
    formats: tuple[str, ...] = ()
    """Output formats, the default first."""
    delivery: str = "sync"
    deliveries: tuple[str, ...] = _BOTH
    price: int = 0
    """Micro-USD of one plain result."""
    modality: str = "image"


_IMAGE = ("JPG", "PNG", "WEBP")
_VIDEO = ("MP4", "WEBM", "MOV")
_AUDIO = ("MP3", "WAV", "FLAC", "OGG")
_TOOLS = (*_VIDEO, "MKV", "MP3", "WAV", "AAC", "FLAC", "OGG", *_IMAGE)

KINDS: dict[str, Kind] = {
    kind.task_type: kind
    for kind in (
        Kind(task_type="imageInference", medium="image", formats=_IMAGE, price=600),
        Kind(
            task_type="videoInference",
            medium="video",
            formats=_VIDEO,
            price=22_000,
            delivery="async",
            deliveries=("async",),
            modality="video",
        ),
        Kind(task_type="audioInference", medium="audio", formats=_AUDIO, price=4_000, modality="audio"),
        Kind(
            task_type="textInference",
            medium="",
            formats=("TEXT", "JSON"),
            price=10,
            deliveries=("sync", "async", "stream"),
            modality="text",
        ),
        Kind(task_type="3dInference", medium="", formats=("GLB", "FBX"), price=50_000, delivery="async", modality="3d"),
        Kind(task_type="caption", medium="", price=900),
        Kind(task_type="upscale", medium="image", formats=(*_IMAGE, *_VIDEO), price=1_300),
        Kind(task_type="removeBackground", medium="image", formats=("PNG", "JPG", "WEBP", "WEBM", "MOV"), price=600),
        Kind(task_type="imageMasking", medium="maskImage", formats=_IMAGE, price=400),
        Kind(task_type="controlNetPreprocess", medium="guideImage", formats=_IMAGE, price=300),
        Kind(task_type="promptEnhance", medium="", price=50),
        Kind(task_type="vectorize", medium="image", formats=("SVG",), price=10_000),
        Kind(task_type="training", medium="", price=2_000_000, delivery="async", deliveries=("async",)),
        Kind(task_type="tools", medium="", formats=_TOOLS, price=100, delivery="async", modality="video"),
    )
}

LEGACY = {
    "imageUpscale": "upscale",
    "imageCaption": "caption",
    "imageBackgroundRemoval": "removeBackground",
    "imageControlNetPreProcess": "controlNetPreprocess",
    "photoMaker": "imageInference",
}
"""Names of older clients; replies carry the name that was asked with."""

LEGACY_NAMES = {name: older for older, name in LEGACY.items() if name != "imageInference"}
"""The older name of a task type, which some recorded replies carry [3p]."""

UTILITIES = frozenset(
    {
        "ping",
        "authentication",
        "getResponse",
        "getTaskDetails",
        "modelSearch",
        "modelUpload",
        "imageUpload",
        "mediaStorage",
        "accountManagement",
    }
)


_VIDEO_KINDS = {
    task_type: replace(
        KINDS[task_type],
        medium="video" if KINDS[task_type].medium else "",
        formats=formats,
        delivery="async",
        deliveries=("async",),
        modality="video",
    )
    for task_type, formats in (("caption", ()), ("upscale", _VIDEO), ("removeBackground", ("WEBM", "MOV")))
}
"""The same task types when they are given a film: async only, and a film comes back [doc]."""


def kind_of(task: Mapping[str, Any]) -> Kind | None:
    """Return the kind of a task: what its type names, or the variant for films if it has one as its input."""
    kind = find_kind(str(task.get("taskType")))
    if kind is None or kind.task_type not in _VIDEO_KINDS:
        return kind
    inputs = task.get("inputs")
    is_film = "inputVideo" in task or (isinstance(inputs, dict) and "video" in inputs)
    return _VIDEO_KINDS[kind.task_type] if is_film else kind


def find_kind(task_type: str) -> Kind | None:
    """Return the kind that a task type names, older names included."""
    return KINDS.get(LEGACY.get(task_type, task_type))


def result_count(kind: Kind, task: dict[str, Any]) -> int:
    """Return how many results a checked task has: promptVersions for promptEnhance, else numberResults [doc]."""
    if kind.task_type == "promptEnhance":
        return int(task.get("promptVersions") or 1)
    return int(task.get("numberResults") or 1)


def price(kind: Kind, task: dict[str, Any]) -> int:
    """Return the micro-USD of one result: grows with the picture's area, the steps and the seconds of a film."""
    if not kind.price:
        return 0
    cost = float(kind.price)
    if kind.task_type == "imageInference":
        area = (task.get("width") or 1024) * (task.get("height") or 1024)
        cost *= max(1.0, area / 512**2) ** 0.5 * max(1.0, (task.get("steps") or 4) / 16)
    if kind.task_type == "upscale" and isinstance(task.get("upscaleFactor"), int | float):
        cost *= float(task.get("upscaleFactor") or 2) / 2
    if kind.modality == "video":
        cost *= float(task.get("duration") or 5) if isinstance(task.get("duration"), int | float) else 5.0
    return max(1, round(cost))
