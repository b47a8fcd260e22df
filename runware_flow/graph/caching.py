"""Decides which requests give the same result each time, so that a cached answer may stand for a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("may_be_cached", "seconds_to_live")

_SAME_EACH_TIME = frozenset(
    {
        "caption",
        "controlNetPreprocess",
        "imageMasking",
        "removeBackground",
        "upscale",
        "vectorize",
        # The names of old [doc]:
        "imageBackgroundRemoval",
        "imageCaption",
        "imageControlNetPreProcess",
        "imageUpscale",
    }
)
"""Task types that work on a given medium and are deterministic: an equal request gives the same result."""

_BY_SEED = frozenset({"3dInference", "audioInference", "imageInference", "textInference", "videoInference"})
"""They start from a random number, so without a seed ten equal requests are meant to give ten results."""

_ELSEWHERE = frozenset({"uploadEndpoint", "webhookURL"})
"""Parameters by which the result goes elsewhere as well, which a cache would not do."""


def may_be_cached(wire: Mapping[str, Any], policy: bool | None = None) -> bool:
    """Tell whether an earlier answer may stand for a request.

    Not for `promptEnhance`, whose purpose is variation and which takes no seed, nor for `training` and utilities.

    Args:
        wire: the resolved request.
        policy: what its node's `cache=` says, which decides.
    """
    if policy is not None:
        return policy
    if not _ELSEWHERE.isdisjoint(wire):
        return False
    task_type = wire.get("taskType")
    if task_type in _SAME_EACH_TIME:
        return True
    return task_type in _BY_SEED and isinstance(wire.get("seed"), int)


def seconds_to_live(wire: Mapping[str, Any]) -> float | None:
    """How long the service keeps the files of the results, in seconds: the `ttl` of the request; `None` is unknown."""
    ttl = wire.get("ttl")
    return float(ttl) if isinstance(ttl, (int, float)) and not isinstance(ttl, bool) else None
