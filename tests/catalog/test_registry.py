"""The registry: models by AIR and slug, and what is said of those it lacks."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from runware_flow import catalog
from runware_flow.catalog import ModelEntry, Registry, resolve, resolve_model
from runware_flow.catalog.changes import ModelChange, compare_registries
from runware_flow.errors import RunwareError
from runware_flow.tasks import TASK_TYPES

TINY = Registry.from_json(
    b'{"version":"1","models":{"a:1@1":{"taskType":"caption","id":"alpha","more":1}},"unknown":[],'
    b'"architectureTaskTypes":{"sdxl":"imageInference"}}'
)


def refusal(wire: dict[str, Any], registry: Registry | None = None) -> RunwareError:
    with pytest.raises(RunwareError) as caught:
        resolve(wire, registry)
    code = "notFound" if caught.value.raw_code == "unknownModel" else "validation"
    assert (caught.value.code, caught.value.parameter) == (code, "model")
    return caught.value


def test_catalog_import_reads_no_file() -> None:
    program = "import builtins, io, os\nimport runware_flow.catalog as c\nprint(c.load_registry.cache_info().currsize)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).split() == ["0"]


def test_registry_has_every_model_by_air_and_by_slug() -> None:
    registry = catalog.load_registry()
    assert len(registry.models) == len(registry.airs) == 363
    assert {entry.task_type for entry in registry.models.values()} <= set(TASK_TYPES)
    assert registry is catalog.load_registry()


@pytest.mark.parametrize("identifier", ["runware:101@1", "bfl-flux-1-dev"])
def test_resolve_model_gives_air_and_task_type(identifier: str) -> None:
    assert resolve_model(identifier) == ("runware:101@1", "imageInference")


def test_resolve_model_of_unknown_air_leaves_it_to_the_service() -> None:
    assert resolve_model("civitai:133005@782002") == ("civitai:133005@782002", None)


def test_resolve_model_of_unknown_slug_suggests_near_ones() -> None:
    with pytest.raises(
        RunwareError, match=r"no model is called 'bfl-flux-1-dve'; .* \(did you mean bfl-flux-1-dev"
    ) as caught:
        resolve_model("bfl-flux-1-dve")
    assert (caught.value.raw_code, caught.value.retryable) == ("unknownModel", False)


def test_resolve_model_of_nonsense_suggests_nothing() -> None:
    with pytest.raises(RunwareError, match=r"no model is called 'qqqqqqqqqqqq'; [^(]*$"):
        resolve_model("qqqqqqqqqqqq")


def test_resolve_completes_a_task_without_changing_it() -> None:
    wire = {"model": "bfl-flux-1-dev", "positivePrompt": "x"}
    assert resolve(wire) == {"model": "runware:101@1", "positivePrompt": "x", "taskType": "imageInference"}
    assert "taskType" not in wire


def test_resolve_keeps_the_task_type_it_is_given() -> None:
    assert resolve({"model": "new:1@1", "taskType": "caption"})["taskType"] == "caption"
    assert resolve({"model": "alpha", "taskType": "upscale"}, TINY) == {"model": "a:1@1", "taskType": "upscale"}


def test_resolve_without_model_needs_a_task_type() -> None:
    assert resolve({"taskType": "modelSearch"}) == {"taskType": "modelSearch"}
    assert refusal({"positivePrompt": "x"}).raw_code == "missingModel"


def test_resolve_unknown_air_without_task_type_says_what_to_pass() -> None:
    error = refusal({"model": "runware:101@7"})
    assert error.raw_code == "unknownModel"
    assert "pass its taskType" in error.message
    assert "did you mean runware:101@1 or" in error.message


@pytest.mark.parametrize("model", [5, "", ["a"], {}])
def test_resolve_model_that_is_no_text_is_refused(model: object) -> None:
    assert refusal({"model": model, "taskType": "caption"}).raw_code == "invalidModel"


def test_resolve_task_type_that_is_no_text_is_refused() -> None:
    with pytest.raises(RunwareError, match="a taskType is a text, not 5"):
        resolve({"taskType": 5})


def test_resolve_takes_a_newer_registry() -> None:
    assert resolve_model("alpha", TINY) == ("a:1@1", "caption")
    assert TINY.architecture_task_types == {"sdxl": "imageInference"}


def test_model_schema_is_that_of_the_air() -> None:
    schema = catalog.model_schema("runware:400@1")
    assert schema is not None
    assert schema["properties"]["model"] == {"const": "runware:400@1"}
    assert catalog.model_schema("new:1@1") is None


def test_limits_know_every_task_type() -> None:
    assert set(TASK_TYPES) <= set(catalog.limits())


def test_resolve_with_a_task_type_passes_unknown_models_as_they_are() -> None:
    wire = {"taskType": "imageInference", "model": "my-own-model"}
    assert resolve(wire) == wire
    assert resolve({"taskType": "imageInference", "model": "bfl-flux-2-dev"})["model"] == "runware:400@1"


def test_registries_are_compared_by_air() -> None:
    before = Registry(
        version="1",
        models={
            "a:1@1": ModelEntry(task_type="imageInference", slug="a"),
            "b:1@1": ModelEntry(task_type="imageInference", slug="b"),
            "c:1@1": ModelEntry(task_type="caption", slug="c"),
        },
    )
    now = Registry(
        version="2",
        models={
            "d:1@1": ModelEntry(task_type="upscale", slug="d"),
            "c:1@1": ModelEntry(task_type="textInference", slug="c-2"),
            "b:1@1": ModelEntry(task_type="imageInference", slug="b"),
        },
    )
    changes = compare_registries(before, now)
    assert [(one.air, one.slug_now, one.task_type_now, one.slug_before) for one in changes.added] == [
        ("d:1@1", "d", "upscale", None)
    ]
    assert [(one.air, one.slug_before, one.slug_now) for one in changes.removed] == [("a:1@1", "a", None)]
    assert changes.changed == (
        ModelChange(
            air="c:1@1",
            slug_before="c",
            slug_now="c-2",
            task_type_before="caption",
            task_type_now="textInference",
        ),
    )
    assert (changes.version_before, changes.version_now, changes.is_empty) == ("1", "2", False)
    assert compare_registries(now, now).is_empty


def test_registry_laid_over_another_removes_nothing():
    """A short list that was fetched never removes a bundled model, nor a slug that a model had (section 16)."""
    bundled = catalog.load_registry()
    air, slug = "runware:400@1", "bfl-flux-2-dev"
    fetched = Registry(
        version="later",
        models={
            "new:1@1": ModelEntry(task_type="imageInference", slug="new-one"),
            air: ModelEntry(task_type="imageInference", slug="renamed"),
        },
        modality_task_types={"smell": "smellInference"},
    )
    both = fetched.laid_over(bundled)
    assert both.version == "later"
    assert set(both.models) == {*bundled.models, "new:1@1"}
    assert (both.airs["new-one"], both.airs["renamed"], both.airs[slug]) == ("new:1@1", air, air)
    assert bundled.airs.items() <= both.airs.items()
    assert bundled.modality_task_types.items() <= both.modality_task_types.items()
    assert resolve({"model": slug}, both)["model"] == air
