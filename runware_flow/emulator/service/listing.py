"""The entries of model lists: name, creator, capabilities, cover picture.

Names and task types come from the catalog; who made a model is read from its short name, else from its source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.emulator.media.store import Medium, Recipe, make_uuid

if TYPE_CHECKING:
    from runware_flow.emulator.service.models import Models
    from runware_flow.emulator.service.state import ServiceState

__all__ = ("CAPABILITIES", "capabilities", "cover", "creator", "display_name")

_OF_TASK_TYPES = {
    "imageInference": ("io:text-to-image", "Text to image"),
    "videoInference": ("io:text-to-video", "Text to video"),
    "audioInference": ("io:text-to-audio", "Text to audio"),
    "textInference": ("io:text-to-text", "Text to text"),
    "3dInference": ("io:image-to-3d", "Image to 3D"),
    "caption": ("io:image-to-text", "Image to text"),
    "upscale": ("op:upscale", "Upscale"),
    "removeBackground": ("op:remove-background", "Remove background"),
    "imageMasking": ("op:masking", "Masking"),
    "controlNetPreprocess": ("op:controlnet-preprocess", "ControlNet preprocessing"),
    "promptEnhance": ("op:prompt-enhance", "Enhance a prompt"),
    "vectorize": ("op:vectorize", "Vectorize"),
    "training": ("op:training", "Training"),
    "tools": ("op:tools", "Tools"),
}
_FROM_PICTURES = {
    "imageInference": ("io:image-to-image", "Image to image"),
    "videoInference": ("io:image-to-video", "Image to video"),
    "textInference": ("io:image-to-text", "Image to text"),
}
"""What a model does besides, whose schema takes inputs."""
_FORMS = {f"form:{category}": category.title() for category in ("checkpoint", "lora", "lycoris", "vae", "embeddings")}

CAPABILITIES: dict[str, str] = {
    **dict(_OF_TASK_TYPES.values()),
    **dict(_FROM_PICTURES.values()),
    **_FORMS,
}
"""The taxonomy, `io:`, `op:` and `form:`, with its labels."""

_CREATORS = {"bfl": "black-forest-labs", "stabilityai": "stability-ai"}
"""Creators whose id is not the source of their models [sdk]."""


def capabilities(task_type: str, schema: dict[str, Any] | None, category: str | None = None) -> list[str]:
    """Return what a model can do, by the ids of the taxonomy, the main one first."""
    found = [_OF_TASK_TYPES[task_type][0]]
    if task_type in _FROM_PICTURES and "inputs" in (schema or {}).get("properties", {}):
        found.append(_FROM_PICTURES[task_type][0])
    if category is not None:
        found.append(f"form:{category}")
    return found


def creator(models: Models, air: str) -> str:
    """Return the id of who made a model: the first word of its short name if that is a source, else its source."""
    source = air.partition(":")[0]
    first = (models.slug(air) or "").partition("-")[0]
    known = first if first in models.sources or first in _CREATORS else source
    return _CREATORS.get(known, known)


def display_name(slug: str) -> str:
    """Return the name of a model as lists show it."""
    return slug.replace("-", " ").title()


def cover(state: ServiceState, air: str, name: str) -> str:
    """Return the address of a model's picture, which is drawn when it is first fetched."""
    medium_id = make_uuid("cover", air)
    path = f"/image/os/covers/{medium_id}.webp"
    recipe = Recipe(process="generated", width=640, height=360, prompt=name)
    state.media_store.add(Medium(medium_id=medium_id, path=path, format="WEBP", recipe=recipe))
    return state.settings.base_url + path
