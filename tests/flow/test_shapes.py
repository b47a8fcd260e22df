"""Several results for each item, fallbacks as nodes, typed answers."""

from __future__ import annotations

import dataclasses
import json
import warnings

import msgspec
import pytest
from pydantic import BaseModel
from service import Service, art, caption, failed, fails, sent

from runware_flow import (
    DeclarationError,
    Failed,
    Flow,
    FlowFailed,
    NodeNotAvailable,
    Ok,
    RunwareFlowError,
    Skipped,
)
from runware_flow.tasks import TextInference
from runware_flow.wire.codec import to_wire
from runware_flow.wire.typed_json import decoder_of


def variants(image):
    return art(f"{image.image_url} again", number_results=2)


def prompts_of(results):
    return [result.image_url for result in results]


def test_each_of_items_fans_out_over_the_results_of_all_items_in_their_order(run):
    service, flow = Service(), Flow()
    images = flow.map(["a", "b", "c"], art)
    many = images.each(variants)
    text = many.then(caption)
    listed, settled = text.gather(), many.settled()
    picked = many.pick(lambda result: result.image_url)

    async def main():
        result = await flow.execute(service)
        assert len(result[many]) == len(result[text]) == 6
        assert prompts_of(result[many]) == result[picked] == prompts_of(one.value for one in result[settled])
        assert [index for index in "abc" for _ in range(2)] == [url.split("(")[2][0] for url in result[picked]]
        assert result[listed] == result[text]
        assert [isinstance(one, Ok) for one in result.outcomes(many)] == [True] * 6
        assert len(result.records(text)) == 6
        assert len(service.sent) == 3 + 3 + 6

    run(main)


def test_map_without_a_builder_has_the_items_themselves_and_each_sends_several_results_for_each(run, tmp_path):
    service, flow = Service(), Flow(journal=tmp_path / "j.sqlite")
    prompts = flow.map(["a", "b", "c"], label="prompt")
    four = prompts.each(lambda prompt: art(prompt, number_results=4))
    best = prompts.pipe(lambda n: n.each(lambda prompt: art(prompt, number_results=2)).gather().pick(lambda of: of[-1]))

    async def main():
        result = await flow.execute(service)
        assert result[prompts] == ["a", "b", "c"]
        assert len(result[four]) == 12
        assert len(result[best]) == 3
        assert len(service.sent) == 6
        again = await flow.execute(service)
        assert again[prompts] == result[prompts]
        assert prompts_of(again[four]) == prompts_of(result[four])
        assert len(service.sent) == 6

    run(main)


def test_pick_of_several_nodes_is_called_with_their_results(run):
    service, flow = Service(), Flow()
    images = flow.map(["a", "b"], art)
    first = flow.then(art("first"))
    pairs = images.join(images.then(caption)).pick(lambda image, text: (image.image_url, text.text))
    one = flow.join(first, images.gather()).pick(lambda image, others: [image, *others])
    letters = first.pick(lambda image: ["x", "y", "z"]).map().pick(str.upper)

    async def main():
        result = await flow.execute(service)
        assert [url for url, _ in result[pairs]] == prompts_of(result[images])
        assert result[one] == [result[first], *result[images]]
        assert result[letters] == ["X", "Y", "Z"]

    run(main)


def test_each_inside_a_pipe_stays_with_its_item(run):
    service, flow = Service(), Flow()
    best = flow.map(["a", "b"], art).pipe(lambda n: n.each(variants).gather().pick(lambda found: found[-1]))

    async def main():
        result = await flow.execute(service)
        assert len(result[best]) == 2
        assert all(isinstance(url, str) for url in prompts_of(result[best]))

    run(main)


def test_each_of_a_node_fans_out_over_its_results(run):
    service, flow = Service(), Flow()
    many = flow.then(art("a")).each(variants)
    count = many.gather().pick(len)

    async def main():
        result = await flow.execute(service)
        assert len(result[many]) == result[count] == 2

    run(main)


def test_each_joined_with_a_step_before_it_is_given_the_value_of_its_item(run):
    service, flow = Service(), Flow()
    images = flow.map(["a", "b"], art)
    many = images.each(variants)
    pairs = many.join(images).then(lambda one, image: art(f"{one.image_url} of {image.image_url}"))

    async def main():
        result = await flow.execute(service)
        for url in prompts_of(result[pairs]):
            one, image = url.removeprefix("imageInference(").rstrip(")").split(" of ")
            assert image.strip(")") in one

    run(main)


def test_each_nested_twice_has_all_results(run):
    service, flow = Service(), Flow()
    many = flow.map(["a", "b"], art).each(variants).each(variants)
    listed = many.gather()

    async def main():
        result = await flow.execute(service)
        assert len(result[many]) == len(result[listed]) == 8
        assert result[listed] == result[many]

    run(main)


def test_each_task_that_fails_is_one_failed_item(run):
    def reply(request, count):
        return failed() if request.slots == 2 and "(b)" in request.wire["positivePrompt"] else None

    service, flow = Service(reply), Flow(on_error="continue")
    many = flow.map(["a", "b", "c"], art).each(variants)
    text, settled = many.then(caption), many.settled()

    async def main():
        async with flow.start(service) as running:
            completed = [one async for one in running.as_completed(many)]
        result = running.result
        assert [type(one) for one in result.outcomes(many)] == [Ok, Ok, Failed, Ok, Ok]
        assert [type(one) for one in result.outcomes(text)] == [Ok, Ok, Failed, Ok, Ok]
        assert [type(one) for one in result[settled]] == [Ok, Ok, Skipped, Ok, Ok]
        assert sorted(index for index, _ in completed) == [0, 0, 1, 2, 2]
        assert [type(outcome) for index, outcome in completed if index == 1] == [Failed]
        with pytest.raises(NodeNotAvailable):
            result[many]

    run(main)


def test_each_item_in_a_batch_may_fan_out_too(run):
    from runware_flow import Batch

    def best(flow, prompt):
        return flow.then(art(prompt)).each(variants).gather().pick(len)

    async def main():
        async with Batch(best).run(["a", "b", "c"], Service()) as outcomes:
            assert [item.outcome.value async for item in outcomes] == [2, 2, 2]

    run(main)


def test_each_refuses_what_makes_no_task_and_a_first_over_all():
    flow = Flow()
    many = flow.map(["a"], art)

    async def work(_):
        return 1

    with pytest.raises(DeclarationError, match=r"each, declared at .*, not the async function"):
        many.each(work)
    with pytest.raises(DeclarationError, match=r"first, declared at .*use first before each, or gather\(\)"):
        many.each(variants).first(2)


def test_fallback_is_a_node_of_its_own(run):
    service = Service(fails("a"))
    flow = Flow()
    first = flow.then(art("a"))
    node = first.fallback(art("b"))

    async def main():
        result = await flow.execute(service)
        assert isinstance(result.outcome(first), Failed)
        assert result[node].image_url == "imageInference(b)"
        assert sent(service) == ["a", "b"]

    run(main)


def test_fallback_of_what_succeeded_sends_nothing_more(run):
    service, flow = Service(), Flow()
    first = flow.then(art("a"))
    node = first.fallback(art("b"))

    async def main():
        result = await flow.execute(service)
        assert result[node] == result[first]
        assert sent(service) == ["a"]

    run(main)


def test_fallback_answers_a_node_that_was_skipped_because_of_a_failure_before_it(run):
    service, flow = Service(fails("a")), Flow()
    node = flow.then(art("a")).then(caption).then(lambda text: art(text.text)).fallback(art("b"))

    async def main():
        result = await flow.execute(service)
        assert result[node].image_url == "imageInference(b)"
        assert sent(service) == ["a", "b"]

    run(main)


@pytest.mark.parametrize("on_error", ["stop", "cancel", "continue"])
def test_failure_is_handled_only_if_every_path_onward_meets_a_fallback(run, on_error):
    service = Service(fails("a"))
    flow = Flow(on_error=on_error)
    first = flow.then(art("a"))
    first.fallback(art("b"))
    other = first.then(caption)

    async def main():
        if on_error == "continue":
            result = await flow.execute(service)
            assert isinstance(result.outcome(other), Skipped)
            return
        with pytest.raises(FlowFailed) as caught:
            await flow.execute(service)
        assert caught.value.node == first

    run(main)


def test_fallbacks_of_items_are_no_failures_that_tolerate_counts(run):
    service, flow = Service(fails("a", "b")), Flow()
    node = flow.map(["a", "b", "c"], art, tolerate=0.0).fallback(art("z"))

    async def main():
        result = await flow.execute(service)
        assert prompts_of(result[node]) == ["imageInference(z)", "imageInference(z)", "imageInference(c)"]

    run(main)


def test_fallback_answers_no_mistake_in_the_declaration(run):
    service, flow = Service(), Flow()
    node = flow.then(art("a")).then(lambda image: None).fallback(art("b"))

    async def main():
        with pytest.raises(FlowFailed, match="is a `return` missing"):
            await flow.execute(service)
        assert sent(service) == ["a"]

    run(main)
    assert node.label.endswith(".fallback")


class Opaque:
    pass


class Scene(msgspec.Struct):
    title: str
    seconds: float = 1.0


@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```", "```\n{}\n```\n", "  ```JSON\n{}```"])
def test_parse_decodes_a_text_with_or_without_a_code_fence(run, fence):
    text = fence.format(json.dumps([{"title": "dawn"}, {"title": "dusk", "seconds": 2}]))
    flow = Flow()

    async def say():
        return text

    scenes = flow.then(say).parse(list[Scene])
    pictures = scenes.map(lambda scene: art(scene.title))

    async def main():
        result = await flow.execute(Service())
        assert result[scenes] == [Scene("dawn"), Scene("dusk", 2.0)]
        assert prompts_of(result[pictures]) == ["imageInference(dawn)", "imageInference(dusk)"]

    run(main)


def test_parse_of_what_does_not_fit_fails_the_node_and_shows_the_text(run):
    flow = Flow(on_error="continue")

    async def say():
        return '{"title": 3}'

    node = flow.then(say).parse(Scene)

    async def main():
        error = (await flow.execute(Service())).outcome(node).error
        assert isinstance(error, RunwareFlowError)
        assert "not JSON of Scene" in str(error)
        assert '{"title": 3}' in str(error)

    run(main)


def test_parse_refuses_a_type_that_cannot_be_decoded():
    with pytest.raises(DeclarationError, match=r"parse, declared at .*, cannot decode into"):
        Flow().then(art()).parse(list[int] | set[int])


class Chapter(BaseModel):
    title: str
    scenes: list[Chapter] = []


@dataclasses.dataclass
class Book:
    chapters: list[Chapter]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Chapter, '{"title": "one"}', Chapter(title="one")),
        (list[Chapter], '[{"title": "one", "scenes": [{"title": "dawn"}]}]', None),
        (Book, '{"chapters": [{"title": "one"}]}', Book([Chapter(title="one")])),
    ],
)
def test_pydantic_models_say_what_an_answer_holds(kind, text, value):
    decoded = decoder_of(kind)(text)
    assert decoded == (value or [Chapter(title="one", scenes=[Chapter(title="dawn")])])
    wire, _ = to_wire(TextInference(model="google:gemma@4-31b", messages=[], json_schema=kind))
    assert "title" in wire["jsonSchema"]["$defs"]["Chapter"]["properties"]


@pytest.mark.parametrize("kind", [Chapter, Scene])
@pytest.mark.parametrize("text", ['{"title": 3}', "{}", "a story"])
def test_decoding_tells_in_one_line_what_does_not_fit(kind, text):
    with pytest.raises(ValueError, match=r"^.+$") as caught:
        decoder_of(kind)(text)
    assert "\n" not in str(caught.value)
    if text == '{"title": 3}':
        assert "$.title" in str(caught.value)


def test_items_that_a_language_model_wrote_as_pydantic_models_are_bought_once(run, tmp_path):
    service, flow = Service(), Flow(journal=tmp_path / "run.sqlite")

    async def say():
        return '[{"title": "dawn"}, {"title": "dusk"}]'

    pictures = flow.then(say).parse(list[Chapter]).map(lambda chapter: art(chapter.title))

    async def main():
        for _ in range(2):
            result = await flow.execute(service)
            assert prompts_of(result[pictures]) == ["imageInference(dawn)", "imageInference(dusk)"]
        assert sorted(sent(service)) == ["dawn", "dusk"]

    run(main)


@pytest.mark.parametrize("kind", [Opaque, list[Opaque]])
def test_parse_of_a_class_that_nothing_decodes_is_refused(kind):
    with pytest.raises(DeclarationError, match=r"cannot decode into .*: give a dataclass, .* a pydantic model"):
        Flow().then(art()).parse(kind)


def test_parse_of_each_item(run):
    flow = Flow()

    async def say(title):
        return json.dumps({"title": title})

    many = flow.map(["a", "b"], say).parse(Scene)

    async def main():
        assert (await flow.execute(Service()))[many] == [Scene("a"), Scene("b")]

    run(main)


def test_json_schema_of_a_text_task_may_be_a_type(run):
    service, flow = Service(), Flow()
    flow.then(TextInference(model="google:gemma@4-31b", messages=[], json_schema=list[Scene]))

    async def main():
        await flow.execute(service)
        schema = service.sent[0].wire["jsonSchema"]
        assert schema["type"] == "array"
        assert schema["$defs"]["Scene"]["required"] == ["title"]

    run(main)


def test_lambda_in_a_loop_that_reads_the_loop_variable_is_warned_of():
    image = Flow().then(art())

    def declare():
        for style in ("ink", "oil"):
            image.then(lambda _: art(style))  # noqa: B023 - the mistake

    with pytest.warns(UserWarning, match=r"reads 'style', which has changed.*, style=style: \.\.\.`") as told:
        declare()
    assert [warning.filename for warning in told] == [__file__]


def test_lambda_in_a_loop_that_binds_the_loop_variable_is_not_warned_of():
    flow = Flow()
    image = flow.then(art())

    def add(style):
        return image.then(lambda _: art(style))

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for style in ("ink", "oil"):
            image.then(lambda _, style=style: art(style))
            add(style)
            image.then(lambda _: art("always"))
    assert told == []
