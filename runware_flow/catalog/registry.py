"""The registry: AIRs and slugs of the models, and the one task type that each model takes."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from runware_flow.catalog.data_files import read
from runware_flow.errors import RunwareError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("ModelEntry", "Registry", "load_registry", "resolve", "resolve_model")


class ModelEntry(Struct, frozen=True, rename="camel"):
    """One model of the registry."""

    task_type: str
    """The one task type that the model accepts."""
    slug: str = msgspec.field(name="id")


class Registry(Struct, frozen=True, rename="camel", dict=True):
    """The service's registry, as `GET /registry.json` gives it (protocol facts, section 9.1)."""

    version: str
    models: dict[str, ModelEntry]
    """By AIR."""
    architecture_task_types: dict[str, str] = {}
    modality_task_types: dict[str, str] = {}
    operation_task_types: dict[str, str] = {}

    @classmethod
    def from_json(cls, data: bytes) -> Registry:
        """Decode a registry; unknown members are ignored.

        Raises:
            msgspec.DecodeError: the bytes are no registry.
        """
        return msgspec.json.decode(data, type=cls)

    def laid_over(self, older: Registry) -> Registry:
        """Add what only `older` has: models, slugs and task types, entry by entry.

        Both official clients lay what they fetch over what they bring, so that a list which lacks a model never takes
        it away (protocol facts, section 16).
        """
        both = Registry(
            version=self.version,
            models={**older.models, **self.models},
            architecture_task_types={**older.architecture_task_types, **self.architecture_task_types},
            modality_task_types={**older.modality_task_types, **self.modality_task_types},
            operation_task_types={**older.operation_task_types, **self.operation_task_types},
        )
        # A slug that a newer list gave to its model anew stays a name of that model.
        vars(both)["airs"] = {**older.airs, **self.airs}
        return both

    @cached_property
    def airs(self) -> dict[str, str]:
        """AIRs by slug."""
        return {entry.slug: air for air, entry in self.models.items()}

    def suggest(self, identifier: str) -> list[str]:
        """Names of models that look like `identifier`, best first, at most three."""
        pool = self.models if ":" in identifier else self.airs
        lowered = identifier.lower()
        stem = lowered.partition("@")[0]
        versions = [name for name in pool if "@" in lowered and name.partition("@")[0] == stem]
        close = get_close_matches(lowered, pool, n=3, cutoff=0.6)
        inside = [name for name in pool if lowered in name]
        return list(dict.fromkeys([*versions, *close, *inside]))[:3]


def resolve_model(identifier: str, registry: Registry | None = None) -> tuple[str, str | None]:
    """Give the AIR of a model named by AIR or slug, and its task type (`None` for an AIR that the registry lacks).

    An identifier that holds both `:` and `@` is an AIR (section 9.1); whether it exists, the service knows best.

    Raises:
        RunwareError: code `notFound`, raw code `unknownModel`: no model has this slug.
    """
    registry = load_registry() if registry is None else registry
    entry = registry.models.get(identifier)
    if entry is not None:
        return identifier, entry.task_type
    air = registry.airs.get(identifier)
    if air is not None:
        return air, registry.models[air].task_type
    if ":" in identifier and "@" in identifier:
        return identifier, None
    raise _unknown(
        f"no model is called {identifier!r}; name a model that is newer than the catalog by its AIR",
        identifier,
        registry,
    )


def resolve(wire: Mapping[str, Any], registry: Registry | None = None) -> dict[str, Any]:
    """Complete a task given as a wire dict: its model as an AIR, and its task type from the model if it has none.

    A task type that is given stays, whatever the registry says, and with it a model that the registry lacks passes as
    it is, as in the official clients: the service may know newer models, and the account's own.

    Raises:
        RunwareError: code `notFound`: the model is unknown and no task type is given (raw code `unknownModel`). Code
            `validation`: one of them is no text (`invalidModel`, `invalidTaskType`), or there is neither
            (`missingModel`).
    """
    registry = load_registry() if registry is None else registry
    model, task_type = wire.get("model"), wire.get("taskType")
    if task_type is not None and not isinstance(task_type, str):
        raise _refuse(f"a taskType is a text, not {task_type!r}", "invalidTaskType", parameter="taskType")
    if model is None:
        if task_type:
            return dict(wire)
        raise _refuse("a task needs a model, or a taskType", "missingModel")
    if not isinstance(model, str) or not model:
        raise _refuse(f"a model is named by its AIR or its slug, not by {model!r}", "invalidModel")
    if task_type:
        return {**wire, "model": registry.airs.get(model, model)}
    air, known = resolve_model(model, registry)
    if known is None:
        raise _unknown(f"the model {model} is not in the registry; pass its taskType too", model, registry)
    return {**wire, "taskType": known, "model": air}


@cache
def load_registry() -> Registry:
    """The bundled registry: which models exist, by AIR and by slug, and which task type each takes."""
    return Registry.from_json(read("registry.json"))


def _unknown(problem: str, identifier: str, registry: Registry) -> RunwareError:
    names = registry.suggest(identifier)
    message = f"{problem} (did you mean {' or '.join(names)}?)" if names else problem
    return RunwareError(message, code="notFound", raw_code="unknownModel", parameter="model")


def _refuse(message: str, raw_code: str, *, parameter: str = "model") -> RunwareError:
    return RunwareError(message, code="validation", raw_code=raw_code, parameter=parameter)
