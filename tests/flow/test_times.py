"""Times that users give: seconds, with a hint for those who count in milliseconds."""

from __future__ import annotations

import math

import anyio
import pytest

from runware_flow import Batch, Client, DeclarationError, Flow, Retry, RunwareError
from runware_flow.client.options import check_seconds
from runware_flow.journal import collect
from runware_flow.tasks import ImageInference
from runware_flow.types import problem_of_seconds

DRAW = ImageInference(model="runware:400@1", positive_prompt="a kite")

PLACES = {
    "Client(timeout=)": lambda value: Client("key-of-a-test", timeout=value),
    "Client(poll_timeout=)": lambda value: Client("key-of-a-test", poll_timeout=value),
    "Client(auth_timeout=)": lambda value: Client("key-of-a-test", auth_timeout=value),
    "a call's timeout=": lambda value: check_seconds(value, 60.0),
    "then(timeout=)": lambda value: Flow().then(DRAW, timeout=value),
    "then(deadline=)": lambda value: Flow().then(DRAW, deadline=value),
    "then(idle=)": lambda value: Flow().then(DRAW, idle=value),
    "then(hedge_after=)": lambda value: Flow().then(DRAW, hedge_after=value),
    "map(timeout=)": lambda value: Flow().map(["a"], lambda _: DRAW, timeout=value),
    "Retry(max_elapsed=)": lambda value: Retry(2, max_elapsed=value),
    "Batch(deadline=)": lambda value: Batch(lambda flow, _: flow.then(DRAW), deadline=value),
}


@pytest.mark.parametrize("value", [600_000, 604_800, 10**9])
def test_error_says_from_where_on_a_time_is_refused(value):
    problem = problem_of_seconds("timeout", value)
    assert "From 600,000 s on (ten minutes in milliseconds, nearly a week in seconds) a time is refused" in problem
    assert problem.endswith("without a bound it is timeout=math.inf")


def test_collect_refuses_milliseconds_before_it_looks_for_the_journal():
    with pytest.raises(RunwareError, match=r"not milliseconds, so is it 600\?"):
        anyio.run(lambda: collect("nowhere.sqlite", timeout=600_000))


@pytest.mark.parametrize("place", PLACES)
def test_milliseconds_are_refused_with_the_seconds_they_are(place):
    with pytest.raises((RunwareError, DeclarationError, ValueError), match=r"not milliseconds, so is it 600\?"):
        PLACES[place](600_000)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", [None, math.inf, 1200, 0.5, 599_999])
def test_seconds_and_no_bound_are_taken(place, value):
    PLACES[place](value)


@pytest.mark.parametrize("value", [0, -1, True, "60", math.nan])
def test_value_that_is_not_a_time_is_named(value):
    assert problem_of_seconds("timeout", value) == f"timeout= is in seconds and greater than 0, not {value!r}"
