"""Which record is that of a choice, and what a step that sends is to the choices after it; with no event loop."""

from __future__ import annotations

from flow_world import World

from runware_flow.graph.choice_records import ChoiceRecord, Contestant, Likeness, find_record
from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.plan import compile_plan

NO_REQUEST = (Contestant(None, None), Contestant(None, None))
REQUESTS = (Contestant(None, "aa"), Contestant(None, "bb"))


def race(number, path, contestants=NO_REQUEST):
    return ChoiceRecord(number, "race", path, contestants, (0,))


def find(records, path, fingerprint=None, taken=()):
    found = find_record(records, "race", path, fingerprint, set(taken), Likeness())
    return None if found is None else found.number


def test_path_of_an_item_tells_a_choice_by_its_last_part_if_no_whole_one_does():
    records = [race(1, "build[k]/race"), race(2, "build-2[k]/race"), race(3, "build-2[k]/race-2")]
    assert find(records, "build-2[k]/race") == 2
    assert find(records, "build-3[k]/race-2") == 3
    assert find(records, "build-3[k]/race", taken=[2]) == 1
    assert find(records, "build-3[k]/other") is None


def test_last_part_of_a_path_tells_no_choice_that_requests_tell_nor_one_of_the_flow_itself():
    records = [race(1, "build[k]/race", REQUESTS), race(2, "race-2")]
    assert find(records, "build-2[k]/race") is None
    assert find(records, "race-3") is None
    assert find(records, "build-2[k]/race", "bb") == 1


def test_request_that_several_contestants_need_knows_of_their_choice():
    world = World()
    first = world.node(name="first", kind=NodeKind.BUILD)
    shared = world.node(first, name="shared", kind=NodeKind.BUILD)
    left, right = (world.node(shared, name=name, kind=NodeKind.BUILD) for name in ("left", "right"))
    world.race(left, right, first)
    plan = compile_plan(world.declaration)
    places = [[one.place for one in plan.steps[spec.slot].role.contests] for spec in (shared, left, right)]
    assert places == [[-1], [0], [1]]
