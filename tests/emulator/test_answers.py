"""What the emulator's language models say: a script, or what fits the schema that was asked for."""

from __future__ import annotations

import json
import uuid

import jsonschema
import pytest
from emulator_clients import open_rest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.emulator import Emulator
from runware_flow.emulator.commands import parse_answers, parse_models
from runware_flow.emulator.service.texts import answer


def text_task(content="Name three birds", **more):
    task = {"taskType": "textInference", "taskUUID": str(uuid.uuid4()), "model": "google:gemma@4-31b", **more}
    return {**task, "messages": [{"role": "user", "content": content}]}


def test_first_part_that_is_in_the_message_decides() -> None:
    script = {"fish": "Cod.", "three": ["kite", "wren"], "birds": "Kite."}
    assert json.loads(answer(text_task(), 0, script).text) == ["kite", "wren"]
    assert answer(text_task("More birds"), 0, script).text == "Kite."
    assert answer(text_task("Nothing of it"), 0, script).text == answer(text_task("Nothing of it"), 0, {}).text


def test_scripted_answers_come_over_rest_and_as_a_stream(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0, answers={"birds": "Kite and wren."}) as emulator, open_rest(emulator) as rest:
            answered = await rest.post(text_task())
            assert answered["data"][0]["text"] == "Kite and wren."
            streamed = await rest.client.post(rest.url, json=[text_task(deliveryMethod="stream")])
            events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
            assert "".join(event.get("delta", {}).get("text", "") for event in events) == "Kite and wren."
            assert events[-1]["usage"]["completionTokens"] == 3

    run(main)


SCENES = {
    "type": "array",
    "minItems": 3,
    "items": {"$ref": "#/$defs/Scene"},
    "$defs": {
        "Scene": {
            "type": "object",
            "required": ["title", "seconds", "mood"],
            "additionalProperties": False,
            "properties": {
                "title": {"type": "string", "minLength": 3, "maxLength": 9},
                "seconds": {"type": "integer", "minimum": 4, "maximum": 8},
                "mood": {"enum": ["calm", "wild"]},
                "next": {"anyOf": [{"$ref": "#/$defs/Scene"}, {"type": "null"}]},
            },
        }
    },
}


@pytest.mark.parametrize("schema", [SCENES, {"name": "scenes", "strict": True, "schema": SCENES}, json.dumps(SCENES)])
def test_unscripted_answers_fit_the_schema(schema) -> None:
    value = json.loads(answer(text_task(jsonSchema=schema), 0, {}).text)
    jsonschema.validate(value, SCENES)
    assert len(value) == 3


PLAIN = st.sampled_from(
    [
        {"type": "string", "maxLength": 4},
        {"type": "integer", "minimum": -9, "maximum": -3},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": ["boolean", "null"]},
        {"const": 7},
        {"type": "null"},
    ]
)
SCHEMAS = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.builds(lambda one, least: {"type": "array", "items": one, "minItems": least}, inner, st.integers(0, 3)),
        st.builds(lambda one: {"type": "object", "properties": {"a": one}, "required": ["a"]}, inner),
        st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner),
    ),
    max_leaves=6,
)


@given(SCHEMAS)
def test_answers_fit_any_schema_of_these_parts(schema) -> None:
    jsonschema.validate(json.loads(answer(text_task(jsonSchema=schema), 0, {}).text), schema)


def test_answers_and_models_of_the_command_line(tmp_path) -> None:
    file = tmp_path / "scenes.json"
    file.write_text('[{"title": "Dusk"}]', encoding="utf-8")
    assert parse_answers(["birds=Kite = wren", f"scenes=@{file}"]) == {
        "birds": "Kite = wren",
        "scenes": [{"title": "Dusk"}],
    }
    assert parse_models(["acme:1@1=caption"]) == {"acme:1@1": "caption"}
    file.write_text("{", encoding="utf-8")
    for wrong in ("birds", "=Kite", f"a=@{file}", f"a=@{file}.none"):
        with pytest.raises(ValueError, match=r"not an answer|not JSON|cannot read"):
            parse_answers([wrong])
    for wrong in ("acme=caption", "acme:1@1", "acme:1@1=painting"):
        with pytest.raises(ValueError, match="is not a model"):
            parse_models([wrong])
