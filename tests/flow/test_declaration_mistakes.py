"""Mistakes that are caught where they are made: each names the node, or the line, and says what to use instead."""

from __future__ import annotations

import functools

import pytest
from service import Service, art, caption, upscale

from runware_flow import DeclarationError, Flow
from runware_flow.tasks import ImageInference


async def one():
    return 1


async def double(x):
    return 2 * x


async def image_task(x) -> ImageInference:
    return art()


@pytest.fixture
def flow():
    return Flow("mine")


def use(mistake, flow):
    with pytest.raises(DeclarationError) as info:
        mistake(flow)
    assert isinstance(info.value, TypeError)
    return str(info.value)


VALUES = {
    "str": str,
    "format": lambda node: f"a kite like {node}",
    "bool": bool,
    "iter": list,
    "len": len,
    "contains": lambda node: 1 in node,
    "unpack": lambda node: (lambda *args: args)(*node),
}


@pytest.mark.parametrize("name", list(VALUES))
@pytest.mark.parametrize("kind", ["node", "many"])
def test_node_used_as_a_value_raises_a_type_error_that_names_it(flow, name, kind):
    node = flow.then(one, label="first") if kind == "node" else flow.map([1], double, label="first")
    text = use(lambda _: VALUES[name](node), flow)
    assert "'first" in text
    assert "test_declaration_mistakes.py:" in text


def test_node_awaited_raises_a_type_error_that_names_it(flow, run):
    node = flow.then(one, label="first")

    async def main():
        with pytest.raises(DeclarationError, match=r"'first'.*cannot be awaited; run the flow"):
            await node

    run(main)


def test_node_repr_is_for_debugging_and_names_flow_and_line(flow):
    node = flow.then(one)
    assert repr(node).startswith("<Node 'one' of flow 'mine', declared at ")
    assert node.label == "one"
    assert node != flow.then(one)
    assert repr(flow) == "<Flow 'mine', 2 nodes, concurrency 64>"


def leaked(flow):
    kept = []

    def sub(node):
        kept.append(node)
        return node.pick(abs)

    flow.map([1], double, label="items").pipe(sub)
    return kept[0]


def other_node(flow):
    return Flow("other").then(one)


def inside_another(flow):
    outer = flow.map([1], double)
    other = flow.map([1], double)
    return outer.pipe(lambda node: other.pipe(lambda inner: flow.then(node, inner, double_two)))


async def double_two(a, b):
    return a + b


MISTAKES = {
    "nothing": (lambda flow: flow.then(), "was given nothing"),
    "None": (lambda flow: flow.then(None), "was given None"),
    "list": (lambda flow: flow.then([art()]), "a task, a dict with wire names, or a function"),
    "class of a task": (lambda flow: flow.then(ImageInference), r"give a task, `ImageInference\(...\)`"),
    "class as builder": (lambda flow: flow.then(one).then(ImageInference), "or a builder that returns one"),
    "coroutine": (lambda flow: flow.then(one()), "give the async function itself"),
    "nodes only": (lambda flow: flow.then(flow.then(one), flow.then(one)), "give a builder as the last argument"),
    "task last": (lambda flow: flow.then(flow.then(one), art()), "was given a task where a builder belongs"),
    "task to node": (lambda flow: flow.then(one).then(art()), "was given a task where a builder belongs"),
    "not a node": (lambda flow: flow.then(1, double), "where a node belongs"),
    "many as node": (lambda flow: flow.then(flow.map([1], double), double), "use many.then"),
    "seven nodes": (lambda flow: flow.then(*[flow.then(one)] * 7, double), "up to 6 nodes"),
    "join of one": (lambda flow: flow.join(flow.then(one)), "2 to 6 nodes, not 1"),
    "too few parameters": (
        lambda flow: flow.then(one).then(lambda: art()),
        r"with 1 result, but its parameters are \(\)",
    ),
    "too many parameters": (lambda flow: flow.then(one).then(lambda a, b: art()), r"parameters are \(a, b\)"),
    "parameters of a partial": (
        lambda flow: flow.then(one).then(functools.partial(double, 1)),
        "with 1 result, but its parameters are",
    ),
    "several results": (lambda flow: flow.then(art(number_results=4)), "asks for 4 results.*use flow.each"),
    "several results, wire": (lambda flow: flow.then({"model": "m", "numberResults": 2}), "use flow.each"),
    "node in a task": (lambda flow: flow.then(upscale(flow.then(one))), "as its inputs.image.*use node.then"),
    "node in a prompt list": (
        lambda flow: flow.then({"model": "m", "list": [1, {"x": flow.then(one)}]}),
        r"as its list\.1\.x",
    ),
    "async builder": (lambda flow: flow.map([1], image_task), "is async but returns a task: make it a plain `def`"),
    "async pick": (lambda flow: flow.then(one).pick(double), "takes a plain one: use then"),
    "async pipe": (lambda flow: flow.map([1], double).pipe(double), "takes a plain one"),
    "each of a function": (lambda flow: flow.each(one), "takes a task, not function"),
    "map with two builders": (lambda flow: flow.map([1], double, double), "takes the items and one builder, not 2"),
    "pick of a join": (lambda flow: flow.join(flow.then(one), flow.then(one)).pick(double), "pick"),
    "policy without a builder": (
        lambda flow: flow.map([1], retry=3, fallback=double),
        "has no builder, so retry=, fallback= has nothing to apply to",
    ),
    "map over a str": (lambda flow: flow.map("abc", double), "wrap it in a list"),
    "map over None": (lambda flow: flow.map(None, double), "was given None"),
    "map over a node": (lambda flow: flow.map(flow.then(one), double), "use node.map"),
    "map over a many": (lambda flow: flow.map(flow.map([1], double), double), "use many.then"),
    "map over a coroutine": (lambda flow: flow.map(one(), double), "items come from an iterable"),
    "map without a builder": (lambda flow: flow.map([1], None), "was given None"),
    "map with a task": (lambda flow: flow.map([1], art()), "was given a task"),
    "key with two parameters": (lambda flow: flow.map([1], double, key=lambda a, b: a), r"map\(key=\)"),
    "join with a value": (lambda flow: flow.map([1], double).join(1), "takes a node or a Many, not int"),
    "join of other items": (
        lambda flow: flow.map([1], double).join(flow.map([1], double)),
        r"which has other items: use gather\(\)",
    ),
    "join of an inner node": (lambda flow: flow.map([1], double).join(leaked(flow)), "outside of its pipe"),
    "another flow": (lambda flow: flow.then(other_node(flow), double), "belongs to another flow"),
    "join with another flow": (lambda flow: flow.map([1], double).join(other_node(flow)), "belongs to another flow"),
    "leaked item": (lambda flow: leaked(flow).then(double), r"'items.*outside of its pipe: use gather\(\)"),
    "leaked item picked": (lambda flow: leaked(flow).pick(abs), "outside of its pipe"),
    "leaked item mapped": (lambda flow: leaked(flow).map(double), "outside of its pipe"),
    "unrelated items": (inside_another, r"each item of another fan-out: use gather\(\)"),
    "pipe to a many": (
        lambda flow: flow.map([1], double).pipe(lambda node: node.pick(list).map(double)),
        r"return many.gather\(\)",
    ),
    "pipe to nothing": (
        lambda flow: flow.map([1], double).pipe(lambda node: None),
        "got NoneType from its sub-pipeline",
    ),
    "pipe to an outer node": (
        lambda flow: flow.map([1], double).pipe(lambda node: flow.then(one)),
        "return a node that was made from the item",
    ),
    "label": (lambda flow: flow.then(one, label=""), "label= is a name"),
    "retry": (lambda flow: flow.then(one, retry=0), "retry= counts the attempts in total"),
    "timeout": (lambda flow: flow.then(one, timeout=-1), "timeout= is in seconds and greater than 0, not -1"),
    "deadline": (lambda flow: flow.then(one, deadline=0), "deadline= is in seconds"),
    "hedge": (lambda flow: flow.then(one, hedge_after=1), "hedge_after= is for tasks"),
    "unknown policy": (lambda flow: flow.then(one, retries=3), "retries= is not a policy"),
    "concurrency": (lambda flow: Flow(concurrency=0), "concurrency= is a whole number from 1, not 0"),
    "on_error": (lambda flow: Flow(on_error="explode"), "on_error= is"),
    "progress": (lambda flow: Flow(progress="bar"), "progress= is"),
    "limits": (lambda flow: Flow(limits={"film:": 1}), "'film:' is not a key of limits="),
    "budget": (lambda flow: Flow(budget=-1.0), "budget= is an amount of USD"),
    "journal": (lambda flow: Flow(journal=7), "journal= is the path"),
    "cache": (lambda flow: Flow(cache=True), "cache= is the path of a folder"),
    "override": (lambda flow: flow.start(concurrency=-1), "concurrency= is a whole number"),
    "unknown override": (lambda flow: flow.start(parallel=3), "parallel= is not a keyword of Flow"),
    "misspelt override": (lambda flow: flow.start(concurency=3), "not a keyword of Flow; is it concurrency=?"),
    "blocking run with a client": (lambda flow: flow.run(object()), "await flow.execute"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_mistake_is_caught_at_declaration_and_says_what_to_use(flow, name):
    mistake, says = MISTAKES[name]
    with pytest.raises(DeclarationError, match=says):
        mistake(flow)


def test_mistake_names_the_line_that_made_it(flow):
    def declare():
        flow.then(one).then(lambda a, b: art())

    line = declare.__code__.co_firstlineno + 1
    assert f"test_declaration_mistakes.py:{line}" in use(lambda _: declare(), flow)
    node = flow.then(one)
    assert node.spec.where.line == test_mistake_names_the_line_that_made_it.__code__.co_firstlineno + 6


def test_builders_with_defaults_and_builtins_are_tolerated(flow):
    node = flow.then(one)
    node.then(lambda image, factor=2: art())
    node.pick(str)
    node.pick(print)
    node.pick(dict.fromkeys)
    node.then(functools.partial(double))
    node.then(lambda *images: art())
    assert len(flow.declaration.order) == 7


def test_names_come_from_labels_tasks_and_functions_with_ordinals_among_equals(flow):
    image = flow.then(art())
    names = [
        image,
        flow.then(art()),
        flow.then(one),
        flow.then(one, label="imageInference-2"),
        image.then(lambda made: ImageInference(model="m", positive_prompt=made.url)),
        image.then(caption),
        image.pick(lambda made: made.url),
        flow.then({"taskType": "upscale"}),
        flow.then({"model": "runware:400@1"}),
        flow.then(functools.partial(double, 1)),
    ]
    assert [node.label for node in names] == [
        "imageInference",
        "imageInference-2",
        "one",
        "imageInference-2-2",
        "imageInference-3",
        "caption",
        "imageInference.pick",
        "upscale",
        "runware:400@1",
        "double",
    ]
    many = flow.map([1], double)
    assert many.spec.path == "double-2/double"
    assert many.gather().label == "double.gather"


@pytest.mark.parametrize("kind", ["dict", "struct"])
@pytest.mark.parametrize("verb", ["then", "each"])
def test_task_that_is_changed_after_its_declaration_is_sent_as_it_was_declared(run, kind, verb):
    flow = Flow()
    wire = {"taskType": "imageInference", "model": "runware:400@1", "inputs": {"images": ["a"]}}
    task = wire if kind == "dict" else art(inputs={"images": ["a"]})
    for prompt in ("kite", "boat"):
        if kind == "dict":
            task["positivePrompt"] = prompt
        else:
            task.positive_prompt = prompt
        task_inputs = task["inputs"] if kind == "dict" else task.inputs
        task_inputs["images"][0] = prompt
        getattr(flow, verb)(task)

    async def main():
        service = Service()
        await flow.execute(service)
        sent = [(request.wire["positivePrompt"], request.wire["inputs"]["images"]) for request in service.sent]
        assert sorted(sent) == [("boat", ["boat"]), ("kite", ["kite"])]

    run(main)


def test_an_attribute_of_the_result_is_asked_of_the_builder_not_of_the_node(flow):
    node = flow.then(art())
    with pytest.raises(AttributeError, match=r"Node 'imageInference', declared at .*, has no 'url'; .* use node.then"):
        node.url  # noqa: B018
    assert not hasattr(node, "_ipython_display_")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"positivePrompt": "a kite"}, r"^ImageInference has no parameter 'positivePrompt'; is it positive_prompt\? "),
        ({"prompt": "a kite"}, r"no parameter 'prompt'; is it .*positive_prompt.*\? .* extra=\{\.\.\.\}"),
        ({"heigth": 512}, r"no parameter 'heigth'; is it height\?"),
        ({"sparkle": 1}, r"no parameter 'sparkle'; one newer than this package goes into extra="),
    ],
)
def test_a_parameter_that_a_task_does_not_have_is_named_with_what_may_be_meant(given, sentence):
    with pytest.raises(TypeError, match=sentence):
        ImageInference(model="runware:400@1", **given)


def test_a_task_without_its_model_is_named():
    with pytest.raises(TypeError, match="ImageInference cannot be made: Missing required argument 'model'"):
        ImageInference()
