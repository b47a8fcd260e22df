"""Shapes, layouts, drawings and diagrams of flows, before and after a run; no browser."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from service import Service, art, caption, upscale

from runware_flow import Flow, RunwareError
from runware_flow.view.layout import lay_out
from runware_flow.view.notebook import MOST_ITEMS
from runware_flow.view.shape import MANY_BOXES, Box, Shape, shape_of

EVIL = '"><script>alert(1)</script>`${x}`]--> %% end #amp; \n subgraph'


async def judge(texts, style):
    await anyio.lowlevel.checkpoint()
    return "good"


def poster_flow(on_error="continue"):
    flow = Flow("posters", on_error=on_error)
    style = flow.then(art("style"), label="style")
    pictures = flow.map(["a kite", "a boat", "doomed"], art, label="art")
    big = pictures.then(upscale, label="big")
    text = big.join(style).then(lambda image, _: caption(image), label="text")
    flow.then(text.settled(), style, judge, label="judge")
    return flow


def fails(word):
    def answer(request, count):
        failed = RunwareError("no", code="provider", raw_code="taskFailed")
        return failed if word in str(request.wire.get("positivePrompt")) else None

    return answer


def edges(shape):
    labels = {box.id: box.label for box in shape.boxes}
    return {(labels[before], box.label) for box in shape.boxes for before in box.after}


def test_shape_has_fan_outs_around_their_nodes_and_arrows_from_where_items_came():
    flow = poster_flow()
    shape = shape_of(flow.declaration)
    boxes = {box.label: box for box in shape.boxes if box.kind != "fan"}
    [fan] = [box for box in shape.boxes if box.kind == "fan"]
    assert (fan.label, fan.width, fan.inside) == ("art", 3, None)
    assert {box.label for box in shape.boxes if box.inside == fan.id} == {"art", "big", "text"}
    assert boxes["style"].detail == "imageInference · runware:400@1"
    assert edges(shape) == {
        ("art", "big"),
        ("big", "text"),
        ("style", "text"),
        ("text", "text.settled"),
        ("text.settled", "judge"),
        ("style", "judge"),
    }


def test_shape_of_each_and_map_lead_from_the_node_that_made_the_items():
    flow = Flow()
    variants = flow.each(art(number_results=4), label="four")
    variants.then(caption, label="text")
    flow.then(art(), label="one").map(lambda x: art(str(x)), label="many")
    assert edges(shape_of(flow.declaration)) == {("four", "text"), ("one", "many")}


def test_a_source_that_can_be_met_once_is_left_alone():
    once = iter(["a", "b"])
    flow = Flow()
    flow.map(once, art)
    flow.mermaid()
    flow._repr_html_()
    assert list(once) == ["a", "b"]


def test_a_flow_without_nodes_has_pictures_too():
    assert Flow().mermaid() == "flowchart TD"
    assert "<svg" in Flow()._repr_html_()


@pytest.mark.parametrize("kind", ["wide", "deep", "named"])
def test_ten_thousand_nodes_of_one_scope_become_few_boxes(kind):
    flow = Flow()
    node = None
    for number in range(10_000 if kind != "named" else 1_000):
        if kind == "wide":
            node = flow.then(art(str(number)), label="art").then(caption, label="text")
        elif kind == "deep":
            node = flow.then(art(), label="first") if node is None else node.then(upscale, label="again")
        else:
            node = flow.then(art(), label=f"name {number}x")
    shape = shape_of(flow.declaration)
    assert len(shape.boxes) <= MANY_BOXES
    assert sum(len(box.paths) for box in shape.boxes) == len(list(flow.declaration.specs()))
    if kind == "wide":
        assert edges(shape) == {("art", "text")}
    assert lay_out(shape).width < 1_000


def overlap(a, b):
    return a.x < b.x + b.width and b.x < a.x + a.width and a.y < b.y + b.height and b.y < a.y + a.height


def test_boxes_stand_below_what_they_wait_for_apart_from_each_other_and_inside_their_fan_out():
    flow = poster_flow()
    inner = flow.then(art(), label="seed").map(lambda x: art(str(x)), label="outer")
    inner.pipe(lambda node: node.map(lambda x: art(str(x)), label="inner").then(caption).gather())
    shape = shape_of(flow.declaration)
    layout = lay_out(shape)
    spots = {spot.box.id: spot for spot in layout.placed}
    assert len(spots) == len(shape.boxes)
    for spot in layout.placed:
        for before in spot.box.after:
            assert spots[before].y + spots[before].height < spot.y
        if spot.box.inside:
            around = spots[spot.box.inside]
            assert around.x < spot.x
            assert around.y < spot.y
            assert spot.x + spot.width < around.x + around.width
            assert spot.y + spot.height < around.y + around.height
    for a, b in itertools.combinations(layout.placed, 2):
        if a.box.inside == b.box.inside:
            assert not overlap(a, b)


@st.composite
def shapes(draw):
    """Boxes in fan-outs in fan-outs, each after any that came before it and that it is not inside of."""
    boxes, around = [], ()
    for number in range(draw(st.integers(2, 14))):
        around = around[: draw(st.integers(0, len(around)))]  # a fan-out that was left gets no more boxes
        befores = [box.id for box in boxes if box.id not in around]
        after = tuple(draw(st.lists(st.sampled_from(befores), unique=True, max_size=3))) if befores else ()
        kind = draw(st.sampled_from(["task", "task", "task", "fan"]))
        boxes.append(Box(f"n{number}", "", kind, inside=around[-1] if around else None, after=after))
        if kind == "fan":
            boxes[-1].after = ()
            boxes.append(Box(f"n{number}in", "", "task", inside=f"n{number}", after=after))
            around = (*around, f"n{number}")
    return Shape(boxes)


@given(shapes())
def test_no_arrow_lies_over_a_box(shape):
    layout = lay_out(shape)
    assert len(layout.arrows) == sum(len(box.after) for box in shape.boxes)
    for arrow in layout.arrows:
        for (x, y), (next_x, next_y) in itertools.pairwise(arrow.points):
            assert y <= next_y
            for spot in layout.placed:
                if spot.box.kind == "fan":
                    continue
                # A curve stays within the rectangle of its ends.
                beside = max(x, next_x) <= spot.x or min(x, next_x) >= spot.x + spot.width
                assert beside or next_y <= spot.y or y >= spot.y + spot.height


def test_after_a_run_every_box_says_how_it_ended_and_what_it_cost():
    flow = poster_flow()
    result = anyio.run(flow.execute, Service(fails("doomed")))
    text = result.mermaid()
    assert re.search(r'"art<br/>2 ok · 1 failed<br/>\d+ ms each · \$0\.0024"', text)
    assert '"big<br/>2 ok · 1 skipped' in text
    assert re.search(r'"judge<br/>1 ok<br/>\d+ ms"', text)
    assert "classDef failed" in text
    html = result._repr_html_()
    assert "2 ok · 1 failed" in html
    assert "$0.0084" in html


class Pictures(Service):
    """A service whose pictures have an address each."""

    def result(self, request, slot=0, **more):
        return super().result(request, slot, imageURL=f"https://pictures.example/{request.task_id}-{slot}.jpg", **more)


def test_notebook_shows_the_first_items_with_the_chosen_variant():
    flow = Flow("posters")
    many = flow.map([f"poster {number}" for number in range(MOST_ITEMS + 3)], art)
    many.pipe(lambda node: node.each(lambda _: art("variants", number_results=3)).gather().pick(second).then(upscale))
    html = anyio.run(flow.execute, Pictures())._repr_html_()
    assert "3 more items" in html
    figures = xml.etree.ElementTree.fromstring(f"<div>{html}</div>").findall(".//figure")
    assert len(figures) == MOST_ITEMS
    assert "poster 0" in "".join(figures[0].itertext())
    pictures = figures[0].findall(".//img")
    assert ["outline" in picture.get("style") for picture in pictures] == [False, False, True, False, False]


def second(variants):
    return variants[1]


def test_diagrams_and_notebooks_show_what_users_write_as_text():
    flow = Flow(EVIL)
    node = flow.then(art(EVIL), label=EVIL)
    many = flow.map([EVIL], art, label=EVIL)
    result = anyio.run(flow.execute, Service())
    for html in (flow._repr_html_(), node._repr_html_(), many._repr_html_(), result._repr_html_()):
        assert "<script" not in html
        xml.etree.ElementTree.fromstring(f"<div>{html}</div>")
    for text in (flow.mermaid(), result.mermaid()):
        labels = re.findall(r'"([^"]*)"', text)
        assert len(labels) == 3
        for label in labels:
            assert not set(label.replace("<br/>", "")) & set("<>`%&[]{}|\n")
        lines = text.splitlines()
        assert all(re.match(r"( *n\d|  +subgraph n\d|  +end|  class|flowchart)", line) for line in lines)


def test_steps_that_choose_are_drawn_too():
    flow = Flow(on_error="continue")
    picture = flow.then(art(), label="picture")
    chosen = picture.branch(lambda image: True, lambda node: node.then(upscale, label="big"), lambda node: node)
    flow.race(chosen, flow.then(art(), label="other"))
    flow.map(["a", "b"], art, label="many").first(1)
    result = anyio.run(flow.execute, Service())
    for text in (flow.mermaid(), result.mermaid(), result._repr_html_()):
        assert all(word in text for word in ("picture", "big", "other", "many"))


def test_a_label_that_mermaid_would_take_for_a_style_has_no_colon():
    flow = Flow()
    flow.then(art(), label="style: 50%")
    assert '"style#58; 50#37;<br/>imageInference · runware#58;400@1"' in flow.mermaid()
