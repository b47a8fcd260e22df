"""Reads the data files of the catalog on first use, and keeps them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

__all__ = ("known_inputs", "limits", "model_schema", "read", "schemas")


def read(name: str) -> bytes:
    """The bytes of one file of the catalog."""
    return files("runware_flow.catalog").joinpath("data", name).read_bytes()


@cache
def schemas() -> dict[str, Any]:
    """The bundled parameter schemas: by model, architecture, kind and utility, and the schemas of results."""
    return msgspec.json.decode(read("schemas.json"), type=dict[str, Any])


@cache
def limits() -> dict[str, Any]:
    """Known bounds, defaults and notes of parameters by task type; keys that begin with `_` are no task types."""
    return msgspec.json.decode(read("limits.json"), type=dict[str, Any])


@cache
def known_inputs(task_type: str) -> frozenset[str]:
    """The members of `inputs` that some model of a task type takes; none if nothing is known of them."""
    facts: dict[str, Any] = limits().get(task_type, {}).get("inputs") or {}
    return frozenset(facts.get("items") or ())


def model_schema(air: str) -> dict[str, Any] | None:
    """The bundled parameter schema of one model, by its AIR; `None` for a model that the catalog does not know."""
    found: dict[str, Any] | None = schemas()["modelParams"].get(air)
    return found
