"""The models and their parameters, as data that ships with the package.

Everything is read on first use and kept: importing this package reads nothing. The registry can be replaced by a newer
one of the service (`Registry` is plain data); the service stays the authority in any case.
"""

from __future__ import annotations

from runware_flow.catalog.data_files import known_inputs, limits, model_schema, schemas
from runware_flow.catalog.registry import ModelEntry, Registry, load_registry, resolve, resolve_model

__all__ = (
    "ModelEntry",
    "Registry",
    "known_inputs",
    "limits",
    "load_registry",
    "model_schema",
    "resolve",
    "resolve_model",
    "schemas",
)
