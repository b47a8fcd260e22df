"""modelSearch: the curated models of the catalog, made-up models of the community, and what was uploaded here.

The community's models exist for searches alone: themes by architectures, the same each time. Any AIR of their source is
taken as a model anyway.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from runware_flow.emulator.jsonvalues import as_list
from runware_flow.emulator.settings import draw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runware_flow.emulator.service.models import Models
    from runware_flow.emulator.service.state import ServiceState

__all__ = ("search",)

_THEMES = (
    "Portrait",
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
        models = [*_curated(state.models), *_community(tuple(state.models.registry["architectureTaskTypes"]))]
    found = [model for model in models if _fits(model, task)]
    sort = task.get("sort")
    field = _SORTS.get(sort.removeprefix("-")) if isinstance(sort, str) else None
    if field is not None:
        found.sort(key=lambda model: model[field], reverse=str(sort).startswith("-"))
    limit, offset = task.get("limit"), task.get("offset")
    first = offset if isinstance(offset, int) and offset > 0 else 0
    count = limit if isinstance(limit, int) and 1 <= limit <= 100 else 20
    shown = [{name: value for name, value in model.items() if name not in _HIDDEN} for model in found]
    return {"totalResults": len(found), "results": shown[first : first + count]}


def _fits(model: dict[str, Any], task: dict[str, Any]) -> bool:
    text = f"{model['air']} {model['name']} {' '.join(model['capabilities'])}".lower()
    wanted = {"category": model["category"], "architecture": model["architecture"], "source": model["source"]}
    return (
        all(word in text for word in str(task.get("search") or "").lower().replace("-", " ").split())
        and all(task.get(name) in (None, value) for name, value in wanted.items())
        and all(str(one) in model["capabilities"] for one in as_list(task.get("capabilities")))
    )


def _curated(models: Models) -> Iterator[dict[str, Any]]:
    architectures = models.registry["architectureTaskTypes"]
    for air, entry in models.registry["models"].items():
        fitting = [one for one in architectures if entry["id"].endswith(one)]
        name = entry["id"].replace("-", " ").title()
        kind: dict[str, Any] = {
            "category": "checkpoint",
            "architecture": max(fitting, key=len, default=None),
            "source": "official",
        }
        yield _model(air, name, [f"task:{entry['taskType']}"], provider=air.partition(":")[0], **kind)


@lru_cache(maxsize=1)
def _community(architectures: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    return tuple(
        _model(
            f"civitai:{100_000 + 1000 * at + 10 * theme + kind}@{500_000 + 1000 * at + 10 * theme + kind}",
            f"{name} {architecture}",
            ["task:imageInference"],
            category=_CATEGORIES[kind],
            architecture=architecture,
            source="community",
        )
        for at, architecture in enumerate(architectures)
        for theme, name in enumerate(_THEMES)
        for kind in range(2)
    )


def _uploaded(state: ServiceState) -> Iterator[dict[str, Any]]:
    for job in state.jobs.values():
        last = job.slots[-1]
        if job.kind.task_type == "modelUpload" and last.is_done and last.problem is None and last.item is not None:
            task = job.task
            kind: dict[str, Any] = {"category": str(task.get("category")), "architecture": task.get("architecture")}
            name = str(task.get("name") or last.item["air"])
            yield _model(last.item["air"], name, ["task:imageInference"], source="community", private=True, **kind)


def _model(air: str, name: str, capabilities: list[str], *, private: bool = False, **kind: Any) -> dict[str, Any]:
    return {
        "air": air,
        "name": name,
        **kind,
        "capabilities": capabilities,
        "heroImage": None,
        "private": private,
        "isFavorite": False,
        "shortDescription": f"{name}, a {kind['category']}.",
        "popularity": draw("popularity", air),
        "addedUnixTimestamp": 1_700_000_000 + int(draw("added", air) * 60_000_000),
    }
