"""The differences between two registries: new models, models that are gone, and models of another task type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from runware_flow.catalog.registry import ModelEntry, Registry

__all__ = ("ModelChange", "RegistryChanges", "compare_registries")


class ModelChange(Struct, frozen=True, kw_only=True):
    """One model that differs. What it was is None for one that came, what it is for one that went."""

    air: str
    slug_before: str | None = None
    slug_now: str | None = None
    task_type_before: str | None = None
    task_type_now: str | None = None


class RegistryChanges(Struct, frozen=True, kw_only=True):
    """Everything that differs, each list in the order of the AIRs."""

    version_before: str
    version_now: str
    added: tuple[ModelChange, ...] = ()
    removed: tuple[ModelChange, ...] = ()
    changed: tuple[ModelChange, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether both name the same models, under the same slugs, for the same tasks; versions may differ."""
        return not (self.added or self.removed or self.changed)


def compare_registries(before: Registry, now: Registry) -> RegistryChanges:
    """Compare an older registry with a newer one."""
    airs = sorted(before.models.keys() | now.models.keys())
    pairs = [(air, before.models.get(air), now.models.get(air)) for air in airs]
    return RegistryChanges(
        version_before=before.version,
        version_now=now.version,
        added=tuple(_change(*pair) for pair in pairs if pair[1] is None),
        removed=tuple(_change(*pair) for pair in pairs if pair[2] is None),
        changed=tuple(_change(*pair) for pair in pairs if pair[1] and pair[2] and pair[1] != pair[2]),
    )


def _change(air: str, before: ModelEntry | None, now: ModelEntry | None) -> ModelChange:
    return ModelChange(
        air=air,
        slug_before=None if before is None else before.slug,
        slug_now=None if now is None else now.slug,
        task_type_before=None if before is None else before.task_type,
        task_type_now=None if now is None else now.task_type,
    )
