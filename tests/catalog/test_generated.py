"""The generated modules: complete, exact on the wire, and what regenerating would write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from runware_flow import architectures, catalog, generate, operations, results, tasks
from runware_flow.catalog.description import MEANINGS
from runware_flow.generate import snake_case
from runware_flow.types import UNSET, Result, Task
from runware_flow.wire.codec import to_wire

GENERATED = (tasks, results, architectures, operations)
EVERY_TASK = [*tasks.TASK_TYPES.values(), *architectures.ARCHITECTURES.values(), *operations.OPERATIONS.values()]


def test_generate_again_changes_nothing() -> None:
    for path, text in generate.render().items():
        assert path.read_text() == text, (
            f"run `python -m runware_flow.generate`: {path.name} is not what it would write"
        )


def test_schema_key_names_every_modality_architecture_and_operation() -> None:
    registry = catalog.load_registry()
    groups = (registry.modality_task_types, architectures.ARCHITECTURES, operations.OPERATIONS)
    assert set(get_args(tasks.SchemaKey)) == {key for group in groups for key in group}


def test_generate_check_tells_what_would_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "tasks.py"
    monkeypatch.setattr(generate, "render", lambda: {target: "x = 1\n"})
    assert generate.main(["--check"]) == 1
    assert not target.exists()
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    assert capsys.readouterr().out == "would change tasks.py\nwrote tasks.py\n"


def test_every_field_says_what_goes_in() -> None:
    for kind in tasks.TASK_TYPES.values():
        wire_names = set(kind.__struct_encode_fields__) - {"model", "taskUUID", "extra"}
        assert wire_names - MEANINGS.keys() == set(), kind


@pytest.mark.parametrize("module", GENERATED)
def test_generated_module_says_so_and_names_the_catalog(module: Any) -> None:
    assert "do not edit" in module.__doc__
    assert catalog.load_registry().version in module.__doc__
    assert all(hasattr(module, name) for name in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize(
    ("wire", "python"),
    [
        ("positivePrompt", "positive_prompt"),
        ("CFGScale", "cfg_scale"),
        ("trueCFGScale", "true_cfg_scale"),
        ("webhookURL", "webhook_url"),
        ("NSFWContent", "nsfw_content"),
        ("imageBase64Data", "image_base64_data"),
        ("imageDataURI", "image_data_uri"),
        ("controlNet", "control_net"),
        ("ipAdapters", "ip_adapters"),
        ("taskUUID", "task_uuid"),
        ("model", "model"),
    ],
)
def test_snake_case_of_wire_name(wire: str, python: str) -> None:
    assert snake_case(wire) == python


@pytest.mark.parametrize("kind", EVERY_TASK)
def test_task_has_wire_names_a_result_and_a_docstring(kind: type[Task[Any]]) -> None:
    names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    assert all(snake_case(wire) == python for python, wire in names.items())
    assert not {"taskType"} & set(names.values())
    assert names["task_uuid"] == "taskUUID"
    assert issubclass(kind.result_type, Result)
    assert kind.result_type is results.RESULT_TYPES[kind.task_type]
    assert kind.__doc__
    assert get_type_hints(kind)
    assert msgspec.structs.fields(kind)


def required(kind: type[Task[Any]]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind) if field.required}


@pytest.mark.parametrize("task_type", sorted(tasks.TASK_TYPES))
def test_task_takes_everything_that_any_model_takes(task_type: str) -> None:
    kind, schemas = tasks.TASK_TYPES[task_type], catalog.schemas()
    groups = ("modelParams", "architectureParams", "kindParams", "utilityParams")
    known = [
        schema
        for group in groups
        for schema in schemas[group].values()
        if schema["properties"]["taskType"].get("const") == task_type
    ]
    union = {name for schema in known for name in schema["properties"]} | set(catalog.limits()[task_type])
    assert set(kind.__struct_encode_fields__) == union - {"taskType"} | {"taskUUID", "extra"}
    models = [schema for schema in known if "const" in schema["properties"].get("model", {})]
    assert all(required(kind) <= set(schema["required"]) for schema in models)


@pytest.mark.parametrize(
    ("task_type", "names"),
    [
        ("imageInference", {"model"}),
        ("textInference", {"model", "messages"}),
        ("caption", {"model", "inputs"}),
        ("upscale", {"model", "inputs"}),
        ("promptEnhance", {"prompt"}),
        ("training", {"model", "inputs", "importModel"}),
        ("modelSearch", set()),
        ("mediaStorage", {"operation", "media"}),
        ("getResponse", set()),
    ],
)
def test_task_requires_what_every_model_requires(task_type: str, names: set[str]) -> None:
    assert required(tasks.TASK_TYPES[task_type]) == names


def test_architectures_are_all_there_with_their_own_parameters() -> None:
    assert architectures.ARCHITECTURES.keys() == catalog.load_registry().architecture_task_types.keys()
    for key, kind in architectures.ARCHITECTURES.items():
        schema = catalog.schemas()["architectureParams"][key]
        assert kind.architecture == key  # type: ignore[attr-defined]
        assert set(kind.__struct_encode_fields__) == set(schema["properties"]) - {"taskType"} | {"extra"}
        assert required(kind) == set(schema["required"]) - {"taskType", "taskUUID"}
        assert not issubclass(kind, tasks.TASK_TYPES[kind.task_type])  # which takes more
    assert architectures.Sd15Lcm.architecture == "sd-1-5-lcm"


def test_operations_are_all_there_and_take_inputs() -> None:
    assert operations.OPERATIONS.keys() == catalog.load_registry().operation_task_types.keys()
    for key, kind in operations.OPERATIONS.items():
        assert kind.operation == key  # type: ignore[attr-defined]
        assert kind.task_type == catalog.load_registry().operation_task_types[key]
        assert ("inputs" in kind.__struct_fields__) is (key != "prompt-enhance")
        assert set(catalog.schemas()["kindParams"][key]["properties"]) <= {*kind.__struct_encode_fields__, "taskType"}


def test_operation_on_videos_takes_what_its_models_take() -> None:
    assert "target_megapixels" in operations.UpscaleImage.__struct_fields__
    assert "target_megapixels" not in operations.UpscaleVideo.__struct_fields__
    hints = get_type_hints(operations.UpscaleVideo)
    assert "MP4" in str(hints["output_format"])
    assert "JPG" not in str(hints["output_format"])


def test_results_have_every_field_of_the_schemas() -> None:
    for task_type, kind in results.RESULT_TYPES.items():
        schema = catalog.schemas()["results"][tasks.TASK_TYPES[task_type].__name__]
        if kind is not Result:
            variants = schema.get("anyOf", [schema])
            sent = {name for variant in variants for name in variant["properties"]}
            assert sent <= set(kind.__struct_encode_fields__)


def test_task_takes_values_that_the_library_does_not_know() -> None:
    task = tasks.ImageInference(
        model="new:1@1",
        output_format="AVIF",
        scheduler="Newest",
        inputs={"brandNew": "https://x", "referenceImages": [b"x"]},
    )
    wire, local = to_wire(task)
    assert (wire["outputFormat"], wire["scheduler"], wire["inputs"]["brandNew"]) == ("AVIF", "Newest", "https://x")
    assert len(local) == 1


def test_task_repr_shows_what_is_set() -> None:
    assert repr(tasks.ImageInference(model="m", width=512)) == "ImageInference(model='m', width=512)"
    assert tasks.ImageInference(model="m").height is UNSET


def test_docstrings_of_fields_name_their_sources() -> None:
    text = Path(tasks.__file__).read_text()
    assert re.search(r"ttl: int.*\n    \"\"\".*At least 60; seconds; .* \[doc\]", text)
