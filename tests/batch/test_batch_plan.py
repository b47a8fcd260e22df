"""What a batch would send and cost, from a sample."""

from __future__ import annotations

import pytest
from service import art, caption

from runware_flow import Batch, DeclarationError

PRICES = {"imageInference": 0.5, "caption": (0.1, 0.3)}


def poster(flow, prompt):
    image = flow.then(art(prompt))
    return image.then(caption) if "long" in prompt else image


def test_plan_scales_a_sample_to_all_items():
    plan = Batch(poster).plan(["long"] * 10 + ["short"] * 30, sample=4, prices=PRICES)
    assert (plan.items, len(plan.sample)) == (40, 4)  # one long, three short: from all over the list
    assert plan.tasks_of_one == (1, 2)
    assert (plan.cost_of_one.low, plan.cost_of_one.high) == (0.5, 0.8)
    assert (plan.cost.low, plan.cost.high) == (20.0, 32.0)
    assert plan.estimate == pytest.approx(40 * (3 * 0.5 + 0.7) / 4)
    assert "40 items, 4 in the sample" in str(plan)


def test_plan_of_items_without_a_length_knows_one_item_only():
    plan = Batch(poster).plan(lambda: iter(["short", "long"]), prices=PRICES)
    assert plan.items is plan.estimate is None
    assert plan.cost.high is None
    assert "an unknown number of items, 2 in the sample" in str(plan)


def test_plan_without_prices_says_what_has_none():
    plan = Batch(poster).plan(["short"])
    assert plan.cost.high is None
    assert plan.unpriced == [("imageInference", "runware:400@1")]
    assert "no price is known for imageInference with runware:400@1" in str(plan)


def test_plan_touches_no_iterator_and_no_async_source():
    once = iter(["a"])
    with pytest.raises(DeclarationError, match=r"which can be read only once: give it a list"):
        Batch(poster).plan(once)
    assert list(once) == ["a"]

    async def source():
        yield "a"

    with pytest.raises(DeclarationError, match="an async source, which it cannot read"):
        Batch(poster).plan(source)
    with pytest.raises(DeclarationError, match="is a whole number from 1"):
        Batch(poster).plan(["a"], sample=0)
