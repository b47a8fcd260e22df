"""modelSearch: the curated models of the catalog, made-up community models, and models that were uploaded here.

The community's models exist for searches alone: themes by architectures, the same each time. Any AIR of their source is
taken as a model anyway.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from runware_flow.emulator.jsonvalues import as_list
from runware_flow.emulator.service.listing import capabilities, cover, creator, display_name
from runware_flow.emulator.settings import draw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runware_flow.emulator.service.models import Models
    from runware_flow.emulator.service.state import ServiceState

__all__ = ("architecture", "search")

_THEMES = (
    "Portrait",
    "Realistic",
    "Landscape",
    "Anime",
    "Photoreal",
    "Watercolour",
    "Pixel Art",
    "Architecture",
    "Product",
    "Fantasy",
)
_CATEGORIES = ("checkpoint", "lora", "lycoris", "vae", "embeddings")
_KNOWN = (
    ("civitai:133005@782002", "Juggernaut XL", "sdxl", "checkpoint", "photorealistic"),
    ("civitai:139562@297320", "RealVisXL", "sdxl", "checkpoint", "photorealistic"),
    ("civitai:4384@128713", "DreamShaper", "sd-1-5", "checkpoint", "general"),
    ("civitai:25694@143906", "epiCRealism", "sd-1-5", "checkpoint", "photorealistic"),
)
"""Fine-tunes that examples of the documentation name [doc]."""
_OLDER_ARCHITECTURES = {
    "flux1d": "flux-1-dev",
    "flux1s": "flux-1-schnell",
    "fluxkontextdev": "flux-1-kontext-dev",
    "sd15": "sd-1-5",
    "sd1x": "sd-1-5",
    "sd1xlcm": "sd-1-5-lcm",
    "sd21": "sd-2-1",
    "sdxldistilled": "sdxl-distilled",
    "sdhyper": "sd-1-5-hyper",
}
"""Names of architectures in older examples, without hyphens and dots [doc]."""
_SORTS = {
    "popularity": "popularity",
    "name": "name",
    "addedUnixTimestamp": "addedUnixTimestamp",
    "updatedDateUnixTimestamp": "addedUnixTimestamp",
}
_HIDDEN = frozenset({"popularity", "addedUnixTimestamp"})


def search(state: ServiceState, task: dict[str, Any]) -> dict[str, Any]:
    """Search by words, category, architecture, source, capabilities, visibility; page with limit and offset [doc]."""
    visibility = task.get("visibility") or "public"
    if visibility in ("private", "owned"):
        models = list(_uploaded(state))
    elif visibility == "favorite":
        models = []
    else:
        models = list(_uploaded(state)) if visibility == "all" else []
        models += [*_curated(state.models), *_community(tuple(state.models.registry["architectureTaskTypes"]))]
    found = [model for model in models if _fits(model, task)]
    sort = task.get("sort")
    field = _SORTS.get(sort.removeprefix("-")) if isinstance(sort, str) else None
    if field is not None:
        found.sort(key=lambda model: model[field], reverse=str(sort).startswith("-"))
    limit, offset = task.get("limit"), task.get("offset")
    first = offset if isinstance(offset, int) and offset > 0 else 0
    count = limit if isinstance(limit, int) and 1 <= limit <= 100 else 20
    shown = [_shown(state, model) for model in found[first : first + count]]
    return {"totalResults": len(found), "results": shown}


def _shown(state: ServiceState, model: dict[str, Any]) -> dict[str, Any]:
    entry = {name: value for name, value in model.items() if name not in _HIDDEN and value != ""}
    return {**entry, "comment": model["comment"], "heroImage": cover(state, model["air"], model["name"])}


def architecture(state: ServiceState, air: str) -> str | None:
    """Return the architecture of a fine-tune, if this service says which it is."""
    uploaded = state.uploaded.get(air)
    if uploaded is not None:
        return None if uploaded.get("architecture") is None else str(uploaded["architecture"])
    models = _community(tuple(state.models.registry["architectureTaskTypes"]))
    return next((model["architecture"] for model in models if model["air"] == air), None)


def _fits(model: dict[str, Any], task: dict[str, Any]) -> bool:
    """Tell whether a model is what is searched for; upper and lower case are alike [doc]."""
    text = " ".join([model["air"], model["name"], model["category"], *model["tags"], *model["capabilities"]]).lower()
    words = str(task.get("search") or "").lower().replace("-", " ").split()
    source = {"featured": "official"}.get(str(task.get("source")).lower(), task.get("source"))
    wanted = {"category": task.get("category"), "type": task.get("type"), "source": source}
    tags = [str(one).lower() for one in as_list(task.get("tags")) or [task["tags"]]] if task.get("tags") else []
    return (
        all(word in text for word in words)
        and all(value is None or str(value).lower() == model[name] for name, value in wanted.items())
        and _architecture(task.get("architecture")) in (None, _architecture(model["architecture"]))
        and all(str(one).lower() in model["capabilities"] for one in as_list(task.get("capabilities")))
        and all(tag in model["tags"] for tag in tags)
    )


def _architecture(name: Any) -> str | None:
    if name is None:
        return None
    plain = re.sub(r"[^a-z0-9]", "", str(name).lower())
    return re.sub(r"[^a-z0-9]", "", _OLDER_ARCHITECTURES.get(plain, plain))


def _curated(models: Models) -> Iterator[dict[str, Any]]:
    for air, entry in models.registry["models"].items():
        does = capabilities(entry["taskType"], models.schema(air), "checkpoint")
        kind: dict[str, Any] = {
            "category": "checkpoint",
            "architecture": models.architecture(air),
            "source": "official",
        }
        yield _model(air, display_name(entry["id"]), does, provider=creator(models, air), **kind)


@lru_cache(maxsize=1)
def _community(architectures: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    does = ["io:text-to-image", "io:image-to-image"]
    known = [
        _model(
            air,
            name,
            [*does, f"form:{category}"],
            tags=(tag,),
            category=category,
            architecture=architecture,
            source="community",
        )
        for air, name, architecture, category, tag in _KNOWN
    ]
    made_up = [
        _model(
            f"civitai:{100_000 + 1000 * at + 10 * theme + kind}@{500_000 + 1000 * at + 10 * theme + kind}",
            f"{name} {architecture}",
            [*does, f"form:{_CATEGORIES[kind]}"],
            tags=("photorealistic",) if name in ("Realistic", "Photoreal") else (name.lower(),),
            category=_CATEGORIES[kind],
            architecture=architecture,
            source="community",
        )
        for at, architecture in enumerate(architectures)
        for theme, name in enumerate(_THEMES)
        for kind in range(2)
    ]
    return (*known, *made_up)


def _uploaded(state: ServiceState) -> Iterator[dict[str, Any]]:
    for air, task in state.uploaded.items():
        kind: dict[str, Any] = {"category": str(task.get("category")), "architecture": task.get("architecture")}
        name = str(task.get("name") or air)
        does = ["io:text-to-image", f"form:{kind['category']}"]
        yield _model(air, name, does, source="community", private=True, **kind)


def _model(
    air: str, name: str, does: list[str], *, tags: tuple[str, ...] = (), private: bool = False, **kind: Any
) -> dict[str, Any]:
    return {
        "air": air,
        "name": name,
        "version": air.rpartition("@")[2],
        "type": "base" if kind["category"] == "checkpoint" else "",
        **kind,
        "capabilities": does,
        "tags": list(tags),
        "heroImage": None,
        "comment": "",
        "private": private,
        "isFavorite": False,
        "shortDescription": f"{name}, a {kind['category']}.",
        "popularity": draw("popularity", air),
        "addedUnixTimestamp": 1_700_000_000 + int(draw("added", air) * 60_000_000),
    }
