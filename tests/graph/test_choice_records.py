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


def fallback(number, path, *answered, contestants=REQUESTS):
    return ChoiceRecord(
        number, "node_fallback", path, (*contestants, *(Contestant(None, name) for name in answered)), (1,)
    )


def find_fallback(records, path, fingerprint, *requests, rivals=(), task="bb"):
    likeness = Likeness(names=((0, "aa"), (1, task)), requests=frozenset(requests))
    found = find_record(records, "node_fallback", path, fingerprint, set(), likeness, lambda: rivals)
    return None if found is None else found.number


def test_fallback_is_known_by_what_it_answered_wherever_it_stands():
    records = [fallback(1, "one", "11"), fallback(2, "two", "22", "33")]
    assert find_fallback(records, "one", "22", "aa", "22") == 2
    assert find_fallback(records, "two", "11", "aa", "11") == 1
    assert find_fallback(records, "other", "33", "aa", "33") == 2
    assert find_fallback(records, "other", "aa", "aa", "22") == 2  # the first node's own request can be made by now


def test_fallback_that_has_answered_nothing_takes_no_record_of_one_that_begins_alike():
    assert find_fallback([fallback(1, "one", "11")], "one", "aa", "aa") is None
    assert find_fallback([fallback(1, "one", "11")], "one", "44", "aa", "44") is None
    assert find_fallback([fallback(1, "one", None)], "one", "aa", "aa") is None


def test_record_that_fits_another_choice_better_is_left_to_it():
    shared = fallback(1, "one", "11", "22")
    rival = ("two", Likeness(names=((0, "aa"), (1, "bb")), requests=frozenset({"11", "22"})))
    assert find_fallback([shared], "one", "22", "22", rivals=[rival]) is None
    assert find_fallback([shared], "one", "22", "22") == 1
    earlier = fallback(1, "two")
    assert find_fallback([earlier], "one", "aa", "aa", rivals=[rival]) is None
    assert find_fallback([earlier], "two", "aa", "aa", rivals=[rival]) == 1
    other_task = ("two", Likeness(names=((0, "aa"), (1, "cc"))))
    assert find_fallback([earlier], "one", "aa", "aa", rivals=[other_task]) == 1
    assert find_fallback([earlier], "one", "aa", "aa", task="dd", rivals=[rival]) is None


def test_request_that_several_contestants_need_knows_of_their_choice():
    world = World()
    first = world.node(name="first", kind=NodeKind.BUILD)
    shared = world.node(first, name="shared", kind=NodeKind.BUILD)
    left, right = (world.node(shared, name=name, kind=NodeKind.BUILD) for name in ("left", "right"))
    world.race(left, right, first)
    plan = compile_plan(world.declaration)
    places = [[one.place for one in plan.steps[spec.slot].role.contests] for spec in (shared, left, right)]
    assert places == [[-1], [0], [1]]


def test_first_leaves_a_record_to_another_one_among_the_same_items_that_wants_as_many_as_won():
    records = [ChoiceRecord(1, "first", "first", (Contestant("x", "aa"), Contestant("y", "bb")), (1, 0))]

    def find_first(path, count, rivals):
        found = find_record(records, "first", path, "aa", set(), Likeness(count), lambda: rivals)
        return None if found is None else found.number

    both = Likeness(2, names=((-1, "aa"),))
    assert find_first("first", 1, [("first-2", both)]) is None
    assert find_first("first-2", 2, [("first", Likeness(1, names=((-1, "aa"),)))]) == 1
    assert find_first("first", 1, []) == 1
    assert find_first("first", 1, [("first-2", Likeness(2, names=((-1, "cc"),)))]) == 1


def test_race_takes_the_record_that_names_its_requests_and_not_one_at_its_path_that_does_not_know_them():
    one, other = (Contestant(None, "aa"), Contestant(None, None)), (Contestant(None, None), Contestant(None, "aa"))
    records = [race(1, "race", one), race(2, "race-2", other)]

    def find_race(path, place, rivals=()):
        likeness = Likeness(place=place, lead_places=(place,), names=((place, "aa"),))
        found = find_record(records, "race", path, "aa", set(), likeness, lambda: rivals)
        return None if found is None else found.number

    assert find_race("race", 1, [("race-2", Likeness(names=((0, "aa"),)))]) == 2
    assert find_race("race-2", 0, [("race", Likeness(names=((1, "aa"),)))]) == 1
    del records[1]
    assert find_race("race", 1, [("race-2", Likeness(names=((0, "aa"),)))]) is None  # it is the other one's
    assert find_race("race", 1) == 1
