"""The models the emulated service knows: the catalog's data, read once, off the event loop."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ("Models", "load_models")


_OLDER = {
    "imageInference": (
        "bfl:1@1 bfl:1@5 google:2@1 google:2@2 google:4@1 ideogram:3@3 openai:2@2 openai:2@3 "
        "runware:103@1 runware:110@1 sourceful:1@0 sourceful:1@1 sourceful:1@2"
    ),
    "videoInference": (
        "bytedance:1@1 google:2@0 google:3@0 google:3@1 klingai:1@1 klingai:1@2 klingai:2@1 klingai:2@2 "
        "klingai:3@1 klingai:3@2 klingai:4@3 klingai:5@1 klingai:5@2 klingai:5@3 lightricks:2@0 "
        "lightricks:2@1 openai:3@1 openai:3@2 runware:200@6 vidu:1@5"
    ),
    "audioInference": ("elevenlabs:1@1"),
    "caption": ("memories:1@1"),
}
"""Models of the documentation of 2025 that the catalog does not list any more; the service still takes them."""

OLDER_MODELS = {air: task_type for task_type, airs in _OLDER.items() for air in airs.split()}

_OPEN_SOURCES = frozenset({"runware", "civitai", "rundiffusion", "exactly"})
"""Sources with models that no catalog lists: fine-tunes of the community."""


@dataclass(frozen=True)
class Models:
    """Registry, schemas and limits of the service, as plain data.

    The emulator reads the data itself, without the library's own catalog code: a mistake there must show here.
    """

    registry: dict[str, Any]
    schemas: dict[str, Any]
    limits: dict[str, Any]
    registry_json: bytes = b""
    etag: str = ""
    slugs: dict[str, str] = field(default_factory=dict[str, str])

    def task_type(self, air: str) -> str | None:
        """Return the task type of a model of the catalog, or of an older one."""
        entry = self.registry["models"].get(air)
        return entry["taskType"] if entry else OLDER_MODELS.get(air)

    def is_fine_tune(self, air: str) -> bool:
        """Tell whether an AIR may name a fine-tune: those are of a few sources, and Runware's own have no number."""
        source, _, rest = air.partition(":")
        is_number = re.fullmatch(r"\d+@\d+", rest) is not None
        return (
            source in _OPEN_SOURCES and not (source == "runware" and is_number) and air not in self.registry["models"]
        )

    def slug(self, air: str) -> str | None:
        """Return the short name of a model of the catalog."""
        entry = self.registry["models"].get(air)
        return entry["id"] if entry else None

    def architecture(self, air: str) -> str | None:
        """Return the architecture of a model of the catalog, if its short name says it."""
        slug = self.slug(air) or ""
        return max((one for one in self.registry["architectureTaskTypes"] if slug.endswith(one)), key=len, default=None)

    def schema(self, air: str) -> dict[str, Any] | None:
        """Return the request schema of a model of the catalog."""
        found: dict[str, Any] | None = self.schemas["modelParams"].get(air)
        return found

    def general_schema(self, task_type: str, architecture: str | None = None) -> dict[str, Any] | None:
        """Return the request schema of an architecture, else of a task type: what any of its models takes."""
        found: dict[str, Any] | None = self.schemas["architectureParams"].get(architecture or "")
        if found is not None:
            return found
        schemas: Iterable[dict[str, Any]] = self.schemas["kindParams"].values()
        return next((one for one in schemas if one["properties"]["taskType"].get("const") == task_type), None)

    def registry_file(self, more: Mapping[str, str]) -> tuple[bytes, str]:
        """Return the registry as it is served, and its ETag, with `more` models (task types by AIR) in it.

        The short name of such a model is its AIR with hyphens for colon and @.
        """
        if not more:
            return self.registry_json, self.etag
        public = json.loads(self.registry_json)
        for air, task_type in more.items():
            public["models"][air] = {"taskType": task_type, "id": air.replace(":", "-").replace("@", "-")}
        return _registry_file(public)

    @cached_property
    def sources(self) -> frozenset[str]:
        """The sources (the part of an AIR before the colon) of the catalog."""
        return frozenset(air.partition(":")[0] for air in self.registry["models"])

    @cached_property
    def parameters(self) -> dict[str, frozenset[str]]:
        """The names of all parameters that anything of a task type takes, by task type."""
        names = {task_type: set(rules) for task_type, rules in self.limits.items()}
        for schemas in (self.schemas["kindParams"], self.schemas["architectureParams"], self.schemas["modelParams"]):
            for schema in schemas.values():
                properties = schema.get("properties", {})
                names.setdefault(properties.get("taskType", {}).get("const", ""), set()).update(properties)
        return {task_type: frozenset(found) for task_type, found in names.items()}


@lru_cache(maxsize=1)
def load_models() -> Models:
    """Read the catalog's data (blocking: call it in a thread when a loop runs)."""
    folder = resources.files("runware_flow.catalog") / "data"
    raw = {name: (folder / f"{name}.json").read_bytes() for name in ("registry", "schemas", "limits")}
    registry, schemas, limits = (json.loads(raw[name]) for name in ("registry", "schemas", "limits"))
    public = {name: registry[name] for name in ("version", "models", "architectureTaskTypes", "modalityTaskTypes")}
    body, etag = _registry_file(public)
    return Models(
        registry=registry,
        schemas=schemas,
        limits=limits,
        registry_json=body,
        etag=etag,
        slugs={entry["id"]: air for air, entry in registry["models"].items()},
    )


def _registry_file(public: dict[str, Any]) -> tuple[bytes, str]:
    body = json.dumps(public, separators=(",", ":")).encode()
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'
