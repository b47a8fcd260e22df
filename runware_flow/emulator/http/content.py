"""The content service: what the curated models are and cost, from the catalog (protocol facts, section 10).

Names, task types and AIRs are the catalog's; headlines, dates, weights and prices are made up, the same each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.emulator.service.kinds import KINDS, price
from runware_flow.emulator.service.listing import CAPABILITIES, capabilities, cover, creator, display_name
from runware_flow.emulator.settings import draw

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runware_flow.emulator.service.service import Service

__all__ = ("Content",)

_SORT_KEYS: dict[str, tuple[str, bool]] = {
    "weight": ("weight", True),
    "popularity": ("weight", True),
    "releasedAt": ("releasedAt", True),
    "newest": ("releasedAt", True),
    "name": ("name", False),
    "alpha": ("name", False),
    "creator": ("creator", False),
}
"""The field of each sort, and whether it is descending by default."""


class Content:
    """Answers `GET` requests by path and query, with plain data; None is 404."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._models = [self._model(air, entry) for air, entry in service.models.registry["models"].items()]
        # a short name is found without its creator in front too, as the documentation writes some [doc]
        short = {model["model"].partition("-")[2]: model for model in reversed(self._models)}
        self._by_id = {**short, **{model[name]: model for name in ("model", "air") for model in self._models}}

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
                "icon": category,
                "coverImage": cover(self._service.state, f"best-{category}", category),
                "models": [one for one in self._models if one["category"] == category][:6],
            }
            for order, category in enumerate(("image", "video", "audio", "text", "3d"))
        ]
        if rest:
            return next((one for one in found if one["id"] == rest), None)
        return [one for one in found if query.get("category", one["category"][0]) in one["category"]]

    def _creators(self, rest: str, _query: Mapping[str, str]) -> Any:
        ids = sorted({model["creator"] for model in self._models})
        found: list[dict[str, Any]] = [
            {
                "id": one,
                "name": display_name(one),
                "headline": f"Models by {display_name(one)}",
                "logo": cover(self._service.state, one, one),
                "models": [model for model in self._models if model["creator"] == one],
            }
            for one in ids
            if rest in ("", one)
        ]
        if rest:
            return found[0] if found else None
        return found

    def _capabilities(self, rest: str, _query: Mapping[str, str]) -> Any:
        return None if rest else [{"id": key, "label": label} for key, label in CAPABILITIES.items()]

    def _model(self, air: str, entry: dict[str, Any]) -> dict[str, Any]:
        kind = KINDS[entry["taskType"]]
        models = self._service.models
        name, made_by = display_name(entry["id"]), creator(models, air)
        day = int(draw("released", air) * 1000)
        cost = f"${price(kind, {}) / 1_000_000:.6f}".rstrip("0")
        return {
            "model": entry["id"],
            "air": air,
            "name": name,
            "creator": made_by,
            "category": kind.modality,
            "capabilities": capabilities(kind.task_type, models.schema(air), "checkpoint"),
            "architecture": models.architecture(air),
            "hosted": air.startswith("runware:"),
            "status": "live",
            "releasedAt": f"{2024 + day // 360}-{day // 30 % 12 + 1:02}-{day % 28 + 1:02}",
            "weight": round(draw("weight", air) * 100, 1),
            "headline": f"{name}, by {display_name(made_by)}",
            "description": f"{name} does {kind.task_type}.",
            "coverImage": cover(self._service.state, air, name),
            "pricingOverview": f"from {cost}",
            "pricingExamples": [{"configuration": "default", "price": cost}],
        }


def _fits(model: dict[str, Any], query: Mapping[str, str]) -> bool:
    words = query.get("q", "").lower().split()
    text = f"{model['model']} {model['air']} {model['name']} {model['creator']}".lower()
    return (
        query.get("capability", model["capabilities"][0]).lower() in model["capabilities"]
        and all(query.get(name, model[name]).lower() == model[name] for name in ("status", "category", "creator"))
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
