"""The content service: what the curated models are and cost, from the catalog (protocol facts, section 10).

Names, task types and AIRs are the catalog's; headlines, dates, weights and prices are made up, the same each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.emulator.media.store import Medium, Recipe, make_uuid
from runware_flow.emulator.service.kinds import KINDS, price
from runware_flow.emulator.settings import draw

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runware_flow.emulator.service.service import Service

__all__ = ("Content",)

_CAPABILITIES = {
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
_EXTRA = (("io:image-to-image", "Image to image"), ("form:checkpoint", "Checkpoint"))

_SORT_KEYS: dict[str, tuple[str, bool]] = {
    "weight": ("weight", True),
    "popularity": ("weight", True),
    "releasedAt": ("releasedAt", True),
    "newest": ("releasedAt", True),
    "name": ("name", False),
    "alpha": ("name", False),
    "creator": ("creator", False),
}
"""The field each sort goes by, and whether it goes down unless told otherwise."""


class Content:
    """Answers `GET` requests by path and query, with plain data; None is 404."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._models = [self._model(air, entry) for air, entry in service.models.registry["models"].items()]
        self._by_id = {model["model"]: model for model in self._models} | {
            model["air"]: model for model in self._models
        }

    def get(self, path: str, query: Mapping[str, str]) -> Any:
        """Answer one request."""
        place, _, rest = path.strip("/").partition("/")
        endpoints: dict[str, Callable[[str, Mapping[str, str]], Any]] = {
            "models": self._models_page,
            "collections": self._collections,
            "creators": self._creators,
            "capabilities": self._capabilities,
        }
        return endpoints[place](rest, query) if place in endpoints else None

    def _models_page(self, rest: str, query: Mapping[str, str]) -> Any:
        if not rest:
            return _page(_sorted([model for model in self._models if _fits(model, query)], query), query)
        name, _, part = rest.partition("/")
        model = self._by_id.get(name)
        if model is None or part not in ("", "examples", "pricing", "guides"):
            return None
        if part == "examples":
            return self._examples(model, query)
        if part == "pricing":
            names = ("model", "air", "name", "status", "coverImage", "releasedAt", "pricingOverview", "pricingExamples")
            return {**{key: model[key] for key in names}, "category": [model["category"]]}
        if part == "guides":
            url = f"https://runware.ai/docs/models/{model['model']}"
            title = f"How to use {model['name']}"
            return [
                {
                    "slug": f"{model['model']}-guide",
                    "title": title,
                    "description": title,
                    "date": "2026-01-01",
                    "url": url,
                }
            ]
        return model

    def _examples(self, model: dict[str, Any], query: Mapping[str, str]) -> list[dict[str, Any]]:
        capability = query.get("capability", model["capabilities"][0])
        if capability not in model["capabilities"]:
            return []
        request = {"model": model["air"], "positivePrompt": "A lighthouse at dusk"}
        example = {
            "id": f"{model['model']}-1",
            "title": "A lighthouse",
            "model": model["model"],
            "capability": capability,
        }
        return [{**example, "asset": model["coverImage"], "request": request, "response": {}}]

    def _collections(self, rest: str, query: Mapping[str, str]) -> Any:
        found: list[dict[str, Any]] = [
            {"id": f"best-{category}", "name": f"Best of {category}", "order": order, "category": [category]}
            | {
                "headline": f"{category} models",
                "models": [one for one in self._models if one["category"] == category][:6],
            }
            for order, category in enumerate(("image", "video", "audio", "text", "3d"))
        ]
        if rest:
            return next((one for one in found if one["id"] == rest), None)
        return [one for one in found if query.get("category", one["category"][0]) in one["category"]]

    def _creators(self, rest: str, _query: Mapping[str, str]) -> Any:
        ids = sorted({model["creator"] for model in self._models})
        found = [
            {"id": one, "name": one.title(), "models": [model for model in self._models if model["creator"] == one]}
            for one in ids
            if rest in ("", one)
        ]
        if rest:
            return found[0] if found else None
        return found

    def _capabilities(self, rest: str, _query: Mapping[str, str]) -> Any:
        return None if rest else [{"id": key, "label": label} for key, label in (*_CAPABILITIES.values(), *_EXTRA)]

    def _model(self, air: str, entry: dict[str, Any]) -> dict[str, Any]:
        kind = KINDS[entry["taskType"]]
        name = entry["id"].replace("-", " ").title()
        schema = self._service.models.schema(air) or {}
        capabilities = [_CAPABILITIES[kind.task_type][0]]
        if kind.task_type == "imageInference" and "inputs" in schema.get("properties", {}):
            capabilities.append("io:image-to-image")
        day = int(draw("released", air) * 1000)
        cost = f"${price(kind, {}) / 1_000_000:.6f}".rstrip("0")
        return {
            "model": entry["id"],
            "air": air,
            "name": name,
            "creator": air.partition(":")[0],
            "category": kind.modality,
            "capabilities": capabilities,
            "hosted": air.startswith("runware:"),
            "status": "live",
            "releasedAt": f"{2024 + day // 360}-{day // 30 % 12 + 1:02}-{day % 28 + 1:02}",
            "weight": round(draw("weight", air) * 100, 1),
            "headline": f"{name}, by {air.partition(':')[0]}",
            "description": f"{name} does {kind.task_type}.",
            "coverImage": self._cover(air, name),
            "pricingOverview": f"from {cost}",
            "pricingExamples": [{"configuration": "default", "price": cost}],
        }

    def _cover(self, air: str, name: str) -> str:
        medium_id = make_uuid("cover", air)
        recipe = Recipe(process="generated", width=640, height=360, prompt=name)
        path = f"/image/os/covers/{medium_id}.webp"
        self._service.media_store.add(Medium(medium_id=medium_id, path=path, format="WEBP", recipe=recipe))
        return self._service.settings.base_url + path


def _fits(model: dict[str, Any], query: Mapping[str, str]) -> bool:
    words = query.get("q", "").lower().split()
    text = f"{model['model']} {model['air']} {model['name']}".lower()
    return (
        query.get("capability", model["capabilities"][0]) in model["capabilities"]
        and all(query.get(name, model[name]) == model[name] for name in ("status", "category", "creator"))
        and all(word in text for word in words)
    )


def _sorted(models: list[dict[str, Any]], query: Mapping[str, str]) -> list[dict[str, Any]]:
    field, goes_down = _SORT_KEYS.get(query.get("sort", "weight"), ("weight", True))
    down = {"asc": False, "desc": True}.get(query.get("order", ""), goes_down)
    return sorted(models, key=lambda model: model[field], reverse=down)


def _page(items: list[dict[str, Any]], query: Mapping[str, str]) -> Any:
    limit, offset = _number(query.get("limit")), _number(query.get("offset")) or 0
    if query.get("paginate") == "true":
        limit = 20 if limit is None else limit
        return {"total": len(items), "limit": limit, "offset": offset, "items": items[offset : offset + limit]}
    return items[offset:] if limit is None else items[offset : offset + limit]


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
