"""What `flow.plan()` finds out without a run: counts, ways, prices, and what only the run decides."""

from __future__ import annotations

import msgspec
import pytest
from service import Service, art, caption, upscale

from runware_flow import DeclarationError, Flow, Price
from runware_flow.client.client import Client
from runware_flow.emulator import Emulator
from runware_flow.results import ImageResult
from runware_flow.tasks import ImageInference, ModelSearch, TextInference, ThreeDInference

art_result = ImageResult(image_url="https://example.com/x.jpg")
art_url = "https://example.com/x.jpg"


def told(plan):
    """Each stage in short: label, task type, how often."""
    return [(stage.label, stage.task_type, (stage.least, stage.most)) for stage in plan.stages]


def test_chain_is_planned_with_models_and_lines_and_nothing_is_sent():
    flow = Flow("lighthouse")
    flow.then(art(), label="art").then(upscale, label="big").then(caption, label="text")
    plan = flow.plan()
    assert told(plan) == [
        ("art", "imageInference", (1, 1)),
        ("big", "upscale", (1, 1)),
        ("text", "caption", (1, 1)),
    ]
    assert [stage.model for stage in plan.stages] == ["runware:400@1", "runware:504@1", "runware:150@2"]
    assert all(__file__ in stage.where for stage in plan.stages)
    assert (plan.least, plan.most, plan.open_questions) == (3, 3, [])


def test_each_builder_of_a_chain_is_called_once_with_a_result_of_the_right_type():
    flow, seen = Flow(), []

    def builder(image):
        seen.append(image)
        return upscale(image)

    flow.then(art()).then(builder)
    flow.plan()
    [image] = seen
    assert type(image).__name__ == "ImageResult"
    assert image.url.startswith("https://plan.invalid/")
    assert image.raw["imageURL"] == image.url


@pytest.mark.parametrize(
    "task",
    [
        art(),
        upscale(art()),  # a task inside a task cannot be sent
        TextInference(model="google:gemma@4-31b", messages=[{"role": "user", "content": "hello"}]),
        ThreeDInference(model="tripo:v3.1@0", positive_prompt="a chair"),
        ModelSearch(search="portrait"),
        {"model": "runware:400@1", "positivePrompt": "a kite"},
        {"model": "runware:no-such-thing"},
    ],
)
def test_ordinary_uses_of_a_result_work_on_a_stand_in(task):
    flow = Flow()

    def builder(result):
        text = getattr(result, "text", None) or "nothing"
        return art(f"{text} {result.cost} {getattr(result, 'url', '')} {result.task_uuid}".strip().lower())

    flow.then(task).then(builder, label="after")
    assert told(flow.plan())[-1] == ("after", "imageInference", (1, 1))


def test_builder_that_branches_on_an_unknown_value_is_listed_with_each_branch():
    flow = Flow()
    text = flow.then(art()).then(caption, label="text")

    def either(told):
        if "cat" in told.text.lower():
            return art(told.text)
        return art("x") if told.cost > 1 else upscale("https://example.com/x.jpg")

    flow_node = text.then(either, label="either")
    flow_node.then(lambda image: caption(image), label="after")
    plan = flow.plan()
    assert told(plan)[2:] == [
        ("either", "imageInference", (0, 1)),
        ("either", "upscale", (0, 1)),
        ("after", "caption", (1, 1)),
    ]
    assert (plan.least, plan.most) == (4, 4)
    assert plan.open_questions == ["either: which of 2 tasks it sends (text.text, text.cost)"]


def test_builder_whose_branches_make_the_same_task_has_no_open_question():
    flow = Flow()
    flow.then(art()).then(caption).then(lambda told: art(told.text or "a kite"), label="again")
    plan = flow.plan()
    assert told(plan)[-1] == ("again", "imageInference", (1, 1))
    assert not plan.open_questions


def no_task(_):
    return None


def number(told):
    return art(str(int(told.text)))


@pytest.mark.parametrize(
    ("builder", "question"), [(number, "ValueError: invalid literal"), (no_task, "it returned NoneType, not a task")]
)
def test_builder_that_fails_on_a_stand_in_is_decided_by_the_run(builder, question):
    flow = Flow()
    flow.then(art()).then(caption).then(builder, label="odd").then(caption, label="after")
    plan = flow.plan()
    assert told(plan)[-2:] == [("odd", None, (1, 1)), ("after", "caption", (1, 1))]
    [told_question] = plan.open_questions
    assert question in told_question
    assert plan.cost.high is None


def test_fixed_task_that_cannot_be_prepared_says_so():
    flow = Flow()
    flow.then({"model": "no-such-model"}, label="wrong")
    [question] = flow.plan().open_questions
    assert "no model is called 'no-such-model'" in question


def test_items_of_a_list_are_counted_by_model():
    flow = Flow()
    models = ["runware:400@1", "runware:101@1", "runware:400@1"]
    many = flow.map(models, lambda model: ImageInference(model=model, positive_prompt="a kite"), label="kites")
    many.then(caption, label="texts").gather().then(lambda texts: art(texts[2].text), label="sum")
    plan = flow.plan()
    assert [(stage.model, stage.count) for stage in plan.stages[:2]] == [("runware:400@1", 2), ("runware:101@1", 1)]
    assert told(plan)[2:] == [("texts", "caption", (3, 3)), ("sum", "imageInference", (1, 1))]
    assert plan.most == 7


@pytest.mark.parametrize(("items", "count"), [([], 0), (range(1_000_000), 1_000_000), ({"a": 1, "b": 2}, 2), ((1,), 1)])
def test_whatever_has_a_length_is_counted(items, count):
    flow = Flow()
    flow.map(items, lambda item: art(str(item)), label="kites").then(caption, label="texts")
    plan = flow.plan()
    assert [stage.count for stage in plan.stages] == ([count, count] if count else [])
    assert plan.most == 2 * count


def test_generator_is_of_unknown_length_and_not_consumed(run):
    flow, service = Flow(), Service()
    prompts = iter([{"prompt": "a kite"}, {"prompt": "a boat"}])
    many = flow.map(prompts, lambda row: art(row["prompt"] + "!"), label="kites")
    plan = flow.plan()
    assert told(plan) == [("kites", "imageInference", (0, None))]
    assert plan.stages[0].count is None
    assert "any number" in str(plan)

    async def main():
        result = await flow.execute(service)
        assert len(result[many]) == 2

    run(main)


def test_callable_source_is_not_called():
    flow = Flow()

    def source():
        raise AssertionError

    flow.map(source, lambda prompt: art(prompt), label="kites")
    assert told(flow.plan()) == [("kites", "imageInference", (0, None))]


def test_each_has_one_task_of_several_results_that_fan_out():
    flow = Flow()
    flow.each(art(number_results=4), label="four").then(caption, label="texts")
    plan = flow.plan(prices={"runware:400@1": 0.001, "caption": 0.01})
    assert told(plan) == [("four", "imageInference", (1, 1)), ("texts", "caption", (4, 4))]
    assert plan.cost.low == plan.cost.high == 0.044
    assert "1 x 4" in str(plan)


def test_node_map_has_as_many_items_as_the_run_says_unless_it_is_a_gather():
    flow = Flow()
    kites = flow.map(["abc"] * 3, lambda prompt: art(prompt), label="kites")
    kites.gather().map(caption, label="known")
    kites.gather().pick(lambda images: images[:2]).map(caption, label="unknown")
    assert told(flow.plan())[1:] == [("known", "caption", (3, 3)), ("unknown", "caption", (0, None))]


def test_nested_fan_outs_multiply():
    flow = Flow()

    def sub(node):
        return node.map(lambda word: art(word), label="inner").gather()

    async def words(prompt):
        return prompt.split()

    flow.map(["a", "b"], words, label="words").pipe(sub)
    flow.map(["a", "b"], lambda prompt: art(prompt), label="outer").pipe(lambda image: image.then(caption, label="in"))
    plan = flow.plan()
    assert ("inner", "imageInference", (0, None)) in told(plan)
    assert ("in", "caption", (2, 2)) in told(plan)


def test_function_is_listed_and_its_result_may_be_anything():
    flow = Flow()

    async def look(image):
        raise AssertionError

    found = flow.then(art()).then(look, label="look")
    found.then(lambda found: art(found.title or found["title"]), label="after")
    plan = flow.plan()
    assert told(plan)[1:] == [("look", None, (1, 1)), ("after", "imageInference", (1, 1))]
    assert plan.stages[1].is_function
    assert (plan.least, plan.most) == (2, 2)
    assert "(function)" in str(plan)


def test_fallback_is_listed_but_not_counted():
    flow = Flow()
    node = flow.then(art(), fallback=lambda: caption(art_url), label="art")
    node.then(upscale, label="big").fallback(art())
    plan = flow.plan(prices={"runware:400@1": 0.001, "caption": 0.01, "upscale": 0.1})
    assert [(stage.label, stage.task_type, stage.is_fallback, stage.most) for stage in plan.stages] == [
        ("art", "imageInference", False, 1),
        ("art", "caption", True, 1),
        ("big", "upscale", False, 1),
        ("big.fallback.imageInference", "imageInference", True, 1),
    ]
    assert (plan.least, plan.most, plan.cost.low, plan.cost.high) == (2, 2, 0.101, 0.101)
    assert "art (fallback)" in str(plan)


def test_builder_that_is_awaitable_leaves_no_coroutine_behind():
    async def later():
        return art()

    flow = Flow()
    flow.then(art()).then(lambda image: later(), label="later")
    assert flow.plan().open_questions == [
        "later: its builder cannot be called before the run: DeclarationError: it returned a coroutine, not a task"
    ]


def test_list_of_a_billion_is_planned_without_making_one():
    flow = Flow()
    flow.map(range(10**9), lambda number: art(str(number))).gather().then(lambda images: upscale(images[0]))
    assert flow.plan().most == 10**9 + 1


def test_cost_is_a_range_from_what_is_certain_to_the_dearest_branch():
    flow = Flow()
    text = flow.then(art(), label="art").then(caption, label="text")
    text.then(lambda told: art(told.text) if "cat" in told.text else upscale("https://example.com/x.jpg"))
    plan = flow.plan(prices={"runware:400@1": (0.001, 0.002), "caption": 0.01, "upscale": 0.5})
    assert (plan.cost.low, plan.cost.high) == (0.001 + 0.01 + 0.001, 0.002 + 0.01 + 0.5)
    assert not plan.unpriced


def test_price_that_is_not_known_makes_the_cost_open_and_is_named():
    flow = Flow()
    flow.then(art()).then(caption)
    plan = flow.plan(prices={"runware:400@1": 0.001})
    assert (plan.cost.low, plan.cost.high) == (0.001, None)
    assert plan.unpriced == [("caption", "runware:150@2")]
    assert str(plan).splitlines()[0].endswith("cost: at least $0.001")


@pytest.mark.parametrize("price", [-1, "0.1", (2, 1), (1, 2, 3), True, float("nan"), None])
def test_price_that_is_not_an_amount_is_refused(price):
    with pytest.raises(DeclarationError, match="prices=: a price is USD for one result"):
        Flow().plan(prices={"caption": price})


def test_journal_gives_the_prices_it_has_seen_and_given_ones_come_first(run, tmp_path):
    path = tmp_path / "run.sqlite"
    flow = Flow("seen", journal=path)
    flow.each(art(number_results=3))
    assert flow.plan().unpriced

    def answer(request, count):
        return [Service().result(request, slot, cost=0.0013) for slot in range(3)]

    async def main():
        await flow.execute(Service(answer))

    run(main)
    assert flow.plan().stages[0].price == Price(0.0013, 0.0013, "journal")
    assert flow.plan(prices={"imageInference": 1}).stages[0].price == Price(1, 1)
    other = Flow()
    other.then(art())
    assert other.plan(journal=path).cost.high == 0.0013


def test_price_in_a_journal_is_that_of_what_was_bought_not_of_what_was_in_the_cache(run, tmp_path):
    flow = Flow("seen", journal=tmp_path / "run.sqlite", cache=tmp_path / "cache")
    flow.map(range(3), lambda _: caption(art_result))

    async def main():
        await flow.execute(Service())

    run(main)
    assert flow.plan().stages[0].price == Price(0.0012, 0.0012, "journal")


def test_content_service_gives_prices_by_slug_or_air(run):
    flow = Flow()
    image = flow.then({"model": "runware:400@1", "positivePrompt": "a kite"})
    image.then(lambda image: {"taskType": "caption", "model": "no:such@1", "inputs": {"image": image}})

    async def main():
        async with Emulator() as emulator, Client(**emulator.client_options) as client:
            prices = await flow.look_up_prices(client)
            assert emulator.log.tasks == []
        assert list(prices) == ["runware:400@1"]
        plan = flow.plan(prices=prices)
        assert plan.stages[0].price is not None
        assert plan.stages[0].price.source == "service"
        assert plan.unpriced == [("caption", "no:such@1")]

    run(main)


def test_plan_is_plain_data_and_shows_itself_to_people_and_notebooks():
    flow = Flow("two|ways")
    flow.then(art(), label="art")
    plan = flow.plan(prices={"imageInference": 0.0013})
    assert str(plan).splitlines()[0] == "flow 'two|ways' would send 1 task; cost: $0.0013"
    assert "| art | imageInference | runware:400@1 | 1 | $0.0013 | $0.0013 |" in plan._repr_markdown_()
    assert msgspec.json.decode(msgspec.json.encode(plan), type=type(plan)) == plan


def test_branch_is_planned_both_ways_and_a_race_with_all_its_nodes():
    flow = Flow()
    image = flow.then(art(), label="image")
    way = image.branch(
        lambda result: result.cost is not None,
        lambda node: node.then(upscale, label="big"),
        lambda node: flow.race(flow.then(art(), label="one"), node.then(lambda _: art(), label="other")),
    )
    way.then(caption, label="text")
    flow.map(["a", "b", "c"], art, label="many").first(2).pick(len)
    plan = flow.plan()
    assert told(plan) == [
        ("image", "imageInference", (1, 1)),
        ("big", "upscale", (0, 1)),
        ("one", "imageInference", (0, 1)),
        ("other", "imageInference", (0, 1)),
        ("text", "caption", (1, 1)),
        ("many", "imageInference", (3, 3)),
    ]
