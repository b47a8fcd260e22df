"""A choice is a fact: a finished flow with a race, a `first`, a hedge or a fallback, run again, buys nothing."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing

import anyio
import pytest
from service import Service, art, caption
from virtual_time import run_in_virtual_time

from runware_flow import Abandoned, Batch, Cache, Failed, Flow, RunwareError, RunwareTimeoutError
from runware_flow.journal import Journal, collect

BROKEN = RunwareError("broken", code="provider", raw_code="inferenceError")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.sqlite"


def prompt(request):
    return request.wire.get("positivePrompt") or str(request.wire["inputs"]["image"])


class Scripted(Service):
    """Answers requests with some words in their prompts late, never, or with an error."""

    def __init__(self, **script):
        super().__init__(self._script)
        self.script = script

    def _script(self, request, count):
        for word, what in self.script.items():
            if word in prompt(request):
                return anyio.sleep(what) if isinstance(what, (int, float)) else what
        return None

    @property
    def prompts(self):
        return sorted(prompt(request) for request in self.sent)


def states(path):
    with Journal(path) as journal:
        return {prompt_of(entry): entry.state for entry in journal.entries()}


def prompt_of(entry):
    return entry.request.get("positivePrompt")


def race_with_followers(path, **options):
    flow = Flow("raced", journal=path, **options)
    slow, quick = flow.then(art("slow one")), flow.then(art("quick one"))
    slow.then(caption)
    won = flow.race(slow, quick)
    return flow, won.then(lambda image: art(f"after {image.image_url}")), won


def test_race_run_again_has_the_same_winner_in_any_order_of_completion(run, path):
    async def main():
        flow, after, won = race_with_followers(path)
        service = Scripted(slow=0.1)
        first = await flow.execute(service)
        assert first[won].image_url == "imageInference(quick one)"
        assert len(service.sent) == 4
        for _ in range(5):
            again = Scripted()
            second = await race_with_followers(path)[0].execute(again)
            assert again.sent == []
        assert second.cost == first.cost
        flow, after_again, won_again = race_with_followers(path)
        third = await flow.execute(Service())
        assert third[won_again] == first[won]
        assert third[after_again] == first[after]

    run(main)


def race(path, *prompts, label=None, above=()):
    flow = Flow("raced", journal=path)
    for one in above:
        flow.race(flow.then(art(one)), flow.then(art(f"{one} too")))
    contestants = [flow.then(art(one)) for one in prompts]
    return flow, contestants, flow.race(*contestants, label=label)


def test_race_loser_that_was_open_is_abandoned_and_sent_no_more(run, path):
    async def main():
        flow, contestants, won = race(path, "never", "quick")
        service = Scripted(never=60.0)
        await flow.execute(service)
        lost = service.sent[0].task_id if "never" in prompt(service.sent[0]) else service.sent[1].task_id
        assert states(path) == {"never": "abandoned", "quick": "done"}
        again = Service()
        flow, contestants, won = race(path, "never", "quick")
        result = await flow.execute(again)
        assert again.sent == []
        assert result[won].image_url == "imageInference(quick)"
        assert result.outcome(contestants[0]) == Abandoned(lost, may_be_billed=True)
        with Journal(path) as journal:
            assert journal.summary().open_count == 0

    run(main)


def test_race_contestant_that_failed_stays_failed(run, path):
    async def main():
        flow, contestants, _ = race(path, "broken", "slow")
        await flow.execute(Scripted(broken=BROKEN, slow=0.02))
        again = Service()
        flow, contestants, _ = race(path, "broken", "slow")
        result = await flow.execute(again)
        assert again.sent == []
        assert isinstance(result.outcome(contestants[0]), Failed)

    run(main)


@pytest.mark.parametrize(
    ("prompts", "label", "above", "sent"),
    [
        (["quick", "never"], None, (), []),
        (["never", "quick"], "relabelled", (), []),
        (["never", "quick"], None, ("new",), ["new", "new too"]),
        (["never", "quick", "third"], None, (), None),
        (["edited", "quick"], None, (), None),
        (["never", "edited"], None, (), ["edited"]),
    ],
)
def test_race_edited_keeps_its_winner(run, path, prompts, label, above, sent):
    async def main():
        await race(path, "never", "quick")[0].execute(Scripted(never=60.0))
        again = Service()
        flow, _, won = race(path, *prompts, label=label, above=above)
        result = await flow.execute(again)
        if sent is None:  # what is new may be sent before the winner is known, what was sent is not sent again
            assert not {"never", "quick"} & set(map(prompt, again.sent))
        else:
            assert sorted(map(prompt, again.sent)) == sent
        if "quick" in prompts:
            assert result[won].image_url == "imageInference(quick)"

    run(main)


def test_race_whose_winner_fails_this_time_is_decided_anew(run, path):
    def declare(suffix):
        flow = Flow("raced", journal=path)
        left, right = flow.then(art("left")), flow.then(art("right"))
        ends = [one.then(lambda image: art(f"{image.image_url}{suffix}")) for one in (left, right)]
        return flow, flow.race(*ends)

    async def main():
        await declare(" once")[0].execute(Scripted(left=60.0))
        flow, won = declare(" twice")
        result = await flow.execute(Scripted(right=BROKEN))
        assert "left" in result[won].image_url
        again = Service()
        flow, won = declare(" twice")
        assert "left" in (await flow.execute(again))[won].image_url
        assert again.sent == []

    run(main)


def test_race_in_each_item_and_in_each_item_of_a_batch(run, path, tmp_path):
    def contest(flow, item):
        quick = item.then(lambda image: art(f"quick {image.image_url}"))
        return flow.race(item.then(lambda image: art(f"slow {image.image_url}")), quick).then(caption)

    def declare(journal):
        flow = Flow("items", journal=journal, concurrency=8)
        return flow, flow.map(["a", "b", "c"], art).pipe(lambda item: contest(flow, item))

    def item(flow, word):
        return contest(flow, flow.then(art(word)))

    async def main():
        chance = Scripted(slow=0.01, quick=0.01)
        flow, many = declare(path)
        first = await flow.execute(chance)
        for _ in range(3):
            again = Service()
            flow, many_again = declare(path)
            second = await flow.execute(again)
            assert (again.sent, second[many_again]) == ([], first[many])
        other = tmp_path / "batch.sqlite"
        await Batch(item, journal=other).collect(list("abcdefgh"), Scripted(slow=0.01, quick=0.01))
        for _ in range(3):
            again = Service()
            report = await Batch(item, journal=other).collect(list("abcdefgh"), again)
            assert (again.sent, report.ok_count) == ([], 8)

    run(main)


def first_three(path, count=3, prompts=None, label=None):
    flow = Flow("first", journal=path, concurrency=4, on_error="continue")
    words = [f"item {number}" for number in range(12)] if prompts is None else prompts
    pictures = flow.map(words, art, label=label)
    found = pictures.first(count)
    return flow, pictures, found, found.pick(len)


def test_first_run_again_takes_the_same_items_in_the_same_order(run, path):
    async def main():
        script = {"item 0": 0.05, "item 1": BROKEN, "item 2": 0.01}
        flow, _, found, _ = first_three(path)
        once = Scripted(**script)
        first = await flow.execute(once)
        for _ in range(4):
            again = Service()
            flow, _, found_again, _ = first_three(path)
            second = await flow.execute(again)
            assert again.sent == []
            assert second[found_again] == first[found]
        again = Service()
        flow, _, fewer, _ = first_three(path, count=2, label="relabelled")
        assert (await flow.execute(again))[fewer] == first[found][:2]
        assert again.sent == []

    run(main)


def test_first_after_failures_that_fill_its_window_keeps_its_winners(run, path):
    async def main():
        flow, _, found, _ = first_three(path)
        broken = {f"item {number}": BROKEN for number in (0, 2, 3, 4, 5, 6, 7)}
        first = await flow.execute(Scripted(**broken))
        again = Service()
        flow, _, found_again, _ = first_three(path)
        second = await flow.execute(again)
        assert again.sent == []
        assert second[found_again] == first[found]

    run(main)


def test_first_whose_winners_are_gone_is_decided_anew(run, path):
    async def main():
        flow, *_ = first_three(path)
        await flow.execute(Service())
        flow, _, found, _ = first_three(path, prompts=[f"other {number}" for number in range(5)])
        assert len((await flow.execute(Service()))[found]) == 3

    run(main)


def test_hedge_whose_two_requests_both_answered_keeps_the_one_that_did_first(run, path):
    async def main():
        for number in range(20):
            flow = Flow(f"hedged {number}", journal=path)
            node = flow.then(art("twice"), hedge_after=0.01).then(caption)
            service = Service(lambda request, count: anyio.sleep(0.02 if count == 1 else 0.01))
            first = await flow.execute(service)
            again = Service()
            second = await flow.execute(again)
            assert again.sent == []
            assert second[node] == first[node]
        with Journal(path) as journal:
            assert journal.summary().open_count == 0

    run(main)


def fallen_back(path, label=None, above=False):
    flow = Flow("fallback", journal=path)
    if above:
        flow.then(art("second"))
    node = flow.then(lambda: art("first"), fallback=lambda: art("second"), timeout=0.5, label=label)
    return flow, node


@pytest.mark.parametrize("failure", [BROKEN, 60.0, RunwareTimeoutError("late", code="timeout")], ids=repr)
def test_fallback_that_answered_is_restored_and_the_first_is_not_tried_again(run, path, failure):
    async def main():
        flow, node = fallen_back(path)
        await flow.execute(Scripted(first=failure))
        again = Service()
        flow, node = fallen_back(path, label="relabelled")
        result = await flow.execute(again)
        assert again.sent == []
        assert result[node].image_url == "imageInference(second)"
        assert states(path)["first"] in ("failed", "abandoned")
        again = Service()
        flow, node = fallen_back(path, above=True)
        await flow.execute(again)
        assert list(map(prompt, again.sent)) == ["second"]

    run(main)


def test_abandoned_request_is_collected_once_and_settled_or_closed(run, path):
    """What lost a race is in `collect` until the service says what became of it, and no longer."""

    async def main():
        await race(path, "never", "quick")[0].execute(Scripted(never=60.0))
        late = Service(lambda request, count: RunwareTimeoutError("late", code="timeout"))
        [collected] = await collect(path, late)
        assert (collected.entry.state, collected.outcome.may_be_billed) == ("abandoned", True)
        gone = Service(lambda request, count: RunwareError("gone", code="notFound", raw_code="taskNotFound"))
        assert len(await collect(path, gone)) == 1
        assert await collect(path, Service()) == []
        again = Service()
        await race(path, "never", "quick")[0].execute(again)
        assert again.sent == []

    run(main)


def test_abandoned_request_that_was_made_after_all_is_settled_with_its_cost(run, path):
    async def main():
        await race(path, "never", "quick")[0].execute(Scripted(never=60.0))
        assert len(await collect(path, Service())) == 1
        assert states(path) == {"never": "done", "quick": "done"}
        assert await collect(path, Service()) == []
        with Journal(path) as journal:
            assert journal.summary().cost == pytest.approx(0.0024)
        again = Service()
        flow, contestants, won = race(path, "never", "quick")
        result = await flow.execute(again)
        assert again.sent == []
        assert result[won].image_url == "imageInference(quick)"
        assert result[contestants[0]].image_url == "imageInference(never)"

    run(main)


@pytest.mark.parametrize("leader", [0, 3, 5])
@pytest.mark.parametrize("is_map", [True, False])
def test_equal_requests_under_a_cache_collect_the_one_that_was_in_flight(run, path, tmp_path, leader, is_map):
    """Six equal seeded requests, one in flight when the run ends; run again, whichever asks first: 1 is bought."""

    async def main():
        def declare(numbers):
            flow = Flow("equal", journal=path, cache=tmp_path / "cache", concurrency=6)
            if is_map:
                return flow, flow.map(list(numbers), lambda number: art("equal", seed=1)).then(caption)
            nodes = [flow.then(art("equal", seed=1), label=f"number {number}").then(caption) for number in numbers]
            return flow, nodes

        first = Service(lambda request, count: anyio.sleep_forever())
        flow, _ = declare([leader])
        with anyio.CancelScope() as scope:
            async with flow.start(first):
                while not first.sent:
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
        second = Service()
        flow, _ = declare(range(6))
        result = await flow.execute(second)
        pictures = [request for request in second.sent if request.task_type == "imageInference"]
        assert [request.task_id for request in pictures] == [first.sent[0].task_id]
        assert second.sent_before[second.sent.index(pictures[0])] == "yes"
        assert result.cost == pytest.approx(0.0024)
        third = Service()
        flow, _ = declare(range(6))
        await flow.execute(third)
        assert third.sent == []

    run(main)


class Killed(Cache):
    """Copies the journal as a kill would leave it, before and after an answer is kept."""

    def __init__(self, path, journal):
        super().__init__(path)
        self.journal = journal
        self.left = []

    def put(self, answer):
        self._leave(is_kept=False)
        super().put(answer)
        self._leave(is_kept=True)

    def _leave(self, *, is_kept):
        folder = self.path.with_name(f"killed-{len(self.left)}")
        folder.mkdir()
        for name in (self.journal.name, f"{self.journal.name}-wal"):
            shutil.copyfile(self.journal.with_name(name), folder / name)
        shutil.copytree(self.path, folder / "cache")
        self.left.append(folder)


def test_kill_around_the_keeping_of_an_answer_buys_nothing_for_equal_requests(run, path, tmp_path):
    async def main():
        def declare(journal, cache, count):
            flow = Flow("equal", journal=journal, cache=cache)
            return flow, [flow.then(art("equal", seed=1), label=f"number {number}") for number in range(count)]

        cache = Killed(tmp_path / "cache", path)
        first = Service()
        await declare(path, cache, 1)[0].execute(first)
        assert len(cache.left) == 2
        for folder in cache.left:
            again = Service()
            flow, nodes = declare(folder / path.name, folder / "cache", 4)
            result = await flow.execute(again)
            assert len({result[node].image_url for node in nodes}) == 1
            assert [request.task_id for request in again.sent] == [request.task_id for request in first.sent]
            assert again.sent_before == ["yes"]

    run(main)


def test_conflict_is_no_verdict_and_buys_nothing_anew(run, path):
    async def main():
        conflict = RunwareError("there is one", code="validation", raw_code="conflictTaskUUID")
        flow = Flow("conflict", journal=path, on_error="continue")
        flow.then(art("a"), retry=3)
        first = Service(lambda request, count: conflict)
        await flow.execute(first)
        second = Service()
        await flow.execute(second)
        assert len(first.sent) == 1
        assert [(request.task_id, how) for request, how in zip(second.sent, second.sent_before, strict=True)] == [
            (first.sent[0].task_id, "yes")
        ]

    run(main)


def test_request_equal_to_a_fallback_is_not_taken_for_it(run, path):
    async def main():
        def declare():
            flow = Flow("fallback", journal=path)
            flow.then(art("second"), label="equal")
            return flow, flow.then(lambda: art("first"), fallback=lambda: art("second"))

        flow, node = declare()
        await flow.execute(Service())
        again = Service()
        flow, node = declare()
        result = await flow.execute(again)
        assert again.sent == []
        assert result[node].image_url == "imageInference(first)"

    run(main)


def answered(path, first="first", instead="instead", last=True):
    """A flow whose first request is followed by another one, and by a fallback if that fails."""
    flow = Flow("answered", journal=path)
    node = flow.then(art(first)).then(lambda image: art(f"of {image.image_url}")).fallback(art(instead))
    return flow, node, node.then(caption) if last else None


@pytest.mark.parametrize("word", ["first", "of"])
def test_fallback_that_has_answered_does_so_again(run, path, word):
    async def main():
        service = Scripted(**{word: BROKEN})
        flow, node, _ = answered(path)
        result = await flow.execute(service)
        assert result[node].image_url == "imageInference(instead)"
        for _ in range(3):
            again = Scripted()
            flow, node_again, _ = answered(path)
            second = await flow.execute(again)
            assert again.sent == []
            assert second[node_again] == result[node]
            assert second.cost == result.cost

    run(main)


def test_fallback_after_a_timeout_answers_again_and_the_open_request_is_abandoned(run, path):
    def declare():
        flow = Flow("answered", journal=path)
        return flow, flow.then(art("slow"), timeout=0.01).fallback(art("quick"))

    async def main():
        await declare()[0].execute(Scripted(slow=5))
        again = Scripted()
        flow, node = declare()
        assert (await flow.execute(again))[node].image_url == "imageInference(quick)"
        assert again.sent == []
        assert states(path) == {"slow": "abandoned", "quick": "done"}

    run(main)


def test_fallback_that_fails_when_it_is_edited_is_decided_anew_by_the_next_run(run, path):
    async def main():
        await answered(path, last=False)[0].execute(Scripted(first=BROKEN))
        edited = Scripted(other=BROKEN)
        result = await answered(path, instead="other", last=False)[0].execute(edited, on_error="continue")
        assert edited.prompts == ["other"]
        again = Scripted()
        flow, node, _ = answered(path, instead="other", last=False)
        result = await flow.execute(again)
        assert result[node].image_url == "imageInference(of imageInference(first))"
        assert again.prompts == ["first", "of imageInference(first)"]

    run(main)


def test_fallback_edited_before_it_is_decided_anew(run, path):
    async def main():
        await answered(path)[0].execute(Scripted(first=BROKEN))
        again = Scripted()
        flow, node, _ = answered(path, first="new")
        assert (await flow.execute(again))[node].image_url == "imageInference(of imageInference(new))"

    run(main)


def test_fallbacks_of_many_items_answer_again(run, path):
    def declare():
        flow = Flow("answered", journal=path)
        many = flow.map([str(number) for number in range(12)], lambda name: art(f"first {name}"))
        return flow, many.fallback(art("instead"))

    async def main():
        flow, many = declare()
        first = await flow.execute(Scripted(**{"first 3": BROKEN, "first 7": BROKEN}))
        again = Scripted()
        flow, many_again = declare()
        second = await flow.execute(again)
        assert again.sent == []
        assert second[many_again] == first[many]

    run(main)


def test_race_of_an_item_with_a_node_around_it_that_is_there_first_the_next_time(run, path):
    def declare():
        flow = Flow("raced", journal=path)
        outside = flow.then(art("outside"))
        items = flow.map(["a", "b"], lambda word: art(f"item {word}"))
        return flow, items.pipe(
            lambda item: flow.race(item.then(lambda image: art(f"of {image.image_url}")), outside).then(caption)
        )

    async def main():
        flow, many = declare()
        first = await flow.execute(Scripted(outside=0.05))
        assert all("of" in text.text for text in first[many])
        for _ in range(3):
            again = Service()
            flow, many_again = declare()
            second = await flow.execute(again)
            assert (again.sent, second[many_again]) == ([], first[many])

    run(main)


def test_two_firsts_among_the_same_items_keep_their_own_records_when_they_are_relabelled(run, path):
    def declare(labels):
        flow = Flow("first", journal=path)
        items = flow.map(["item 1", "item 2", "item 3"], art)
        two, one = items.first(2, label=labels[0]), items.first(1, label=labels[1])
        return flow, flow.join(two, one).then(lambda some, single: art(f"{some[1].image_url} {single[0].image_url}"))

    async def main():
        flow, _ = declare(["two", "one"])
        await flow.execute(Scripted(**{"item 3": 0.01, "item 1": 0.03}))
        for labels in (["new", "newer"], ["newer", "new"], ["one", "two"]):
            again = Service()
            await declare(labels)[0].execute(again)
            assert again.sent == []

    run(main)


@pytest.mark.parametrize("late", [1, 2])
def test_both_requests_of_a_hedge_that_were_open_are_asked_for_and_both_are_settled(run, path, late):
    def declare():
        flow = Flow("hedged", journal=path, concurrency=1)
        return flow, flow.then(art("twice"))

    async def main():
        both = anyio.Event()

        async def never(count):
            if count == 2:
                both.set()
            await anyio.sleep_forever()

        first = Service(lambda request, count: never(count))
        flow = Flow("hedged", journal=path, concurrency=2)
        flow.then(art("twice"), hedge_after=0.01)
        with anyio.CancelScope() as scope:
            async with flow.start(first):
                await both.wait()
                scope.cancel()
        slow = first.sent[late - 1].task_id
        again = Service(lambda request, count: anyio.sleep(5) if request.task_id == slow else None)
        flow, node = declare()  # the policy is gone, the two requests are not
        result = await flow.execute(again)
        assert {request.task_id for request in again.sent} == {request.task_id for request in first.sent}
        assert set(again.sent_before) == {"yes"}
        value = result[node]
        assert value.task_uuid != slow
        with Journal(path) as journal:
            assert journal.summary().open_count == 0
            assert sorted(entry.state for entry in journal.entries()) == ["abandoned", "done"]
        assert len(await collect(path, Service())) == 1
        last = Service()
        flow, node = declare()
        assert (await flow.execute(last))[node] == value
        assert last.sent == []

    run(main)


@pytest.mark.parametrize("kind", ["race", "fallback"])
def test_second_root_of_a_join_that_failed_stays_failed_once_another_has_answered(run, path, kind):
    def declare():
        flow = Flow("joined", journal=path)
        roots = [flow.then(art(f"root {number}")) for number in range(3)]
        joined = flow.join(*roots).then(lambda *images: art(f"of {len(images)}"))
        other = joined.fallback(art("other")) if kind == "fallback" else flow.race(joined, flow.then(art("other")))
        return flow, other.then(caption)

    async def main():
        await declare()[0].execute(Scripted(**{"root 1": BROKEN, "root 2": BROKEN}))
        for _ in range(3):
            again = Service()
            await declare()[0].execute(again)
            assert again.sent == []

    run(main)


def test_equal_request_under_a_cache_takes_over_what_lost_a_race(run, path, tmp_path):
    def declare():
        flow = Flow("equal", journal=path, cache=tmp_path / "cache")
        leader = flow.then(art("equal", seed=1), label="leader")
        won = flow.race(leader, flow.then(art("quick")))
        return flow, won.then(lambda image: art("equal", seed=1))

    async def main():
        service = Scripted(equal=0.2)
        flow, last = declare()
        result = await flow.execute(service)
        equal = [request for request in service.sent if prompt(request) == "equal"]
        assert len({request.task_id for request in equal}) == 1
        assert result[last].task_uuid == equal[0].task_id
        again = Service()
        await declare()[0].execute(again)
        assert again.sent == []

    run(main)


def test_race_loser_with_a_fallback_is_let_go(run, path):
    def declare():
        flow = Flow("raced", journal=path)
        loser = flow.then(art("never"))
        return flow, loser, flow.race(loser.fallback(art("other")), flow.then(art("quick")))

    async def main():
        flow, loser, won = declare()
        with anyio.fail_after(10):
            result = await flow.execute(Scripted(never=60.0))
        assert isinstance(result.outcome(loser), Abandoned)
        again = Service()
        flow, loser, won = declare()
        with anyio.fail_after(10):
            result = await flow.execute(again)
        assert again.sent == []
        assert result[won].image_url == "imageInference(quick)"

    run(main)


def race_of_a_picture_and_what_follows_it(path, label=None):
    flow = Flow("shared", journal=path)
    first = flow.then(art("first"))
    shared = first.then(lambda image: art(f"shared after {image.image_url}"))
    others = [shared.then(lambda image, word=word: art(f"{word} {image.image_url}")) for word in ("left", "right")]
    return flow, flow.race(*others, first, label=label)


def test_node_that_several_contestants_need_is_not_sent_while_the_choice_is_looked_up(run, path):
    async def main():
        flow, won = race_of_a_picture_and_what_follows_it(path)
        assert (await flow.execute(Service()))[won].image_url == "imageInference(first)"
        for label in (None, "relabelled"):
            again = Service()
            flow, won = race_of_a_picture_and_what_follows_it(path, label)
            assert (await flow.execute(again))[won].image_url == "imageInference(first)"
            assert again.sent == []

    run(main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_item_whose_race_is_won_as_it_comes_has_the_same_key_in_the_next_run(path, backend):
    def declare():
        flow = Flow("raced", journal=path)
        quick = flow.then(art("quick"))
        items = quick.pick(lambda image: ["a", "b"]).map(art)
        items.gather().then(lambda _: art("all"))  # so that a race does not leave the items out
        items.pipe(lambda item: flow.race(item.then(caption), quick))
        return flow

    async def main():
        for count in (4, 0):
            service = Service()
            await declare().execute(service)
            assert len([one for one in service.sent if one.task_type == "imageInference"]) == count
        with Journal(path) as journal:
            assert len({entry.path.split("/")[0] for entry in journal.entries() if "[" in entry.path}) == 2

    run_in_virtual_time(backend, main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_choice_of_an_item_that_its_path_alone_tells_is_kept_as_its_items_are_relabelled(path, backend):
    def declare(label):
        flow = Flow("raced", journal=path)
        quick = flow.then(art("quick"))
        chain = flow.then(art("chain 1"))
        for number in (2, 3, 4):
            chain = chain.then(lambda image, number=number: art(f"chain {number}"))
        items = flow.each(art("items", number_results=2), label=label)
        # Nothing is sent for a contestant in the item itself, so that no request tells which choice it is.
        return flow, items.pipe(lambda item: flow.race(item.pick(no_value), quick, chain).then(caption))

    def no_value(image):
        raise LookupError("this contestant fails")

    async def main():
        flow, many = declare("variants")
        first = await flow.execute(Scripted(quick=60.0))
        assert all("chain" in text.text for text in first[many])
        for label in ("variants", "moved", "moved again"):
            again = Service()
            flow, many_again = declare(label)
            second = await flow.execute(again)
            assert (again.sent, second[many_again]) == ([], first[many])

    run_in_virtual_time(backend, main)


def test_races_that_were_decided_before_a_contestant_was_sent_keep_their_records_as_they_move(run, path):
    def declare(*, is_moved):
        flow = Flow("raced", journal=path)
        first = flow.then(art("first"))
        races = [
            lambda: flow.race(first, first.pick(lambda image: image)),
            lambda: flow.race(first.then(lambda image: art(f"of {image.image_url}")), first),
        ]
        for race in reversed(races) if is_moved else races:
            race()
        return flow

    async def main():
        await declare(is_moved=False).execute(Service())
        for is_moved in (False, True, False):
            again = Service()
            await declare(is_moved=is_moved).execute(again)
            assert again.sent == []

    run(main)


def styles(path, *words, instead="placeholder"):
    """Pictures of one plot, each with the same fallback."""
    flow = Flow("styles", journal=path)
    plot = flow.then(art("plot"))
    pictures = {
        word: plot.then(lambda image, word=word: art(f"{word} {image.image_url}")).fallback(art(instead))
        for word in words
    }
    flow.join(*pictures.values()).then(lambda *images: art(" and ".join(sorted(one.image_url for one in images))))
    return flow, pictures


@pytest.mark.parametrize(
    ("order", "is_earlier"),  # the records of an earlier version tell them by their paths alone
    [("oil ink chalk", False), ("ink chalk oil", False), ("oil chalk", False), ("oil ink chalk", True)],
)
def test_fallbacks_after_one_request_keep_their_own_records(run, path, order, is_earlier):
    async def main():
        flow, _ = styles(path, "oil", "ink", "chalk")
        await flow.execute(Scripted(ink=BROKEN))
        if is_earlier:
            with closing(sqlite3.connect(path)) as journal, journal:
                [(contestants,)] = journal.execute("SELECT contestants FROM choice").fetchall()
                journal.execute(
                    "UPDATE choice SET contestants = ?", (json.dumps(json.loads(contestants)[:2]).encode(),)
                )
        for _ in range(3):
            again = Scripted()
            flow, pictures = styles(path, *order.split())
            result = await flow.execute(again)
            assert len(again.prompts) <= ("ink" not in order)  # what joins the others
            for word, picture in pictures.items():
                made = f"{word} imageInference(plot)" if word != "ink" else "placeholder"
                assert result[picture].image_url == f"imageInference({made})"

    run(main)


def test_fallback_of_what_could_not_be_used_is_written_down_once(run, path):
    def declare():
        flow = Flow("parsed", journal=path)
        wrong = flow.then(art("plot")).pick(lambda image: 1 // 0)
        return flow, wrong.fallback(art("instead")), flow.then(art("plot")).pick(str).fallback(art("instead"))

    async def main():
        flow, wrong, right = declare()
        first = (await flow.execute(Scripted()))[wrong]
        assert first.image_url == "imageInference(instead)"
        for _ in range(3):
            again = Scripted()
            flow, wrong, right = declare()
            result = await flow.execute(again)
            assert again.sent == []
            assert result[wrong] == first
            assert "plot" in result[right]
        with closing(sqlite3.connect(path)) as journal:
            assert journal.execute("SELECT count(*) FROM choice").fetchall() == [(1,)]

    run(main)


def test_race_that_is_new_leaves_the_record_of_another_one_that_begins_alike(run, path):
    def declare(*others):
        flow = Flow("raced", journal=path)
        plot = flow.then(art("plot"))
        for other in others:
            follow = plot.then(lambda image, other=other: art(f"{other} of {image.image_url}"))
            flow.race(follow, flow.then(art(f"{other} alone")))
        return flow

    async def main():
        await declare("first").execute(Scripted(alone=30))
        again = Scripted(alone=30)
        await declare("new", "first").execute(again)
        assert again.prompts == ["new alone", "new of imageInference(plot)"]
        last = Scripted()
        await declare("first", "new").execute(last)
        assert last.sent == []

    run(main)


def test_race_whose_contestants_send_in_items_alone_keeps_its_record(run, path):
    def declare():
        flow = Flow("raced", journal=path)
        won = flow.race(flow.map(["slow"], art).gather(), flow.map(["quick"], art).gather())
        return flow, won

    async def main():
        flow, won = declare()
        first = (await flow.execute(Scripted(slow=30)))[won]
        for _ in range(2):
            again = Scripted(quick=0.01)
            flow, won = declare()
            assert (await flow.execute(again))[won] == first
            assert again.sent == []
        with closing(sqlite3.connect(path)) as journal:
            assert journal.execute("SELECT count(*) FROM choice").fetchall() == [(1,)]

    run(main)


def test_race_whose_contestants_send_in_items_alone_keeps_its_record_as_it_is_relabelled_and_moved(run, path):
    def declare(label, *others):
        flow = Flow("raced", journal=path)
        for other in others:
            flow.race(flow.map([f"slow {other}"], art).gather(), flow.map([other, f"{other} two"], art).gather())
        won = flow.race(flow.map(["slow"], art).gather(), flow.map(["quick"], art).gather(), label=label)
        return flow, won

    async def main():
        flow, won = declare("one")
        first = (await flow.execute(Scripted(slow=30)))[won]
        for label, others, sent in [("two", [], 0), ("three", ["more"], 3), ("four", ["more"], 0)]:
            again = Scripted(slow=30)
            flow, won = declare(label, *others)
            assert (await flow.execute(again))[won] == first
            assert len(again.sent) == sent

    run(main)


def test_first_that_was_not_decided_does_not_take_the_record_of_another_one_when_they_change_places(run, path):
    """Both have the same items; the slow one lost a race before it had its winners, so that it has no record."""

    def declare(*order):
        flow = Flow("answered", journal=path)
        items = flow.map(["a", "b", "c"], art)
        items.gather()
        made = {}
        for name in order:
            made[name] = items.first(2) if name == "quick" else items.then(lambda image: art("slow")).first(1)
        followed = made["quick"].then(lambda images: art(" ".join(image.image_url for image in images)))
        flow.race(made["slow"], made["quick"].pick(len))
        return flow, followed

    async def main():
        flow, followed = declare("quick", "slow")
        before = (await flow.execute(Scripted(slow=60, a=0.05)))[followed]
        for order in (("quick", "slow"), ("slow", "quick")):
            again = Scripted(slow=60)
            flow, followed = declare(*order)
            assert (await flow.execute(again))[followed] == before
            assert again.prompts == [], order

    run(main)


def test_races_of_the_same_nodes_keep_their_own_records_when_they_change_places(run, path):
    """Only one contestant has a request of its own, which two races have first and one has second."""

    def declare(order):
        flow = Flow("raced", journal=path)
        first = flow.then(art("first"))
        second = first.then(lambda image: art(f"of {image.image_url}"))
        made = {}
        for name in order:
            contestants = {"one": (second, first), "nested": (made.get("one"), first), "turned": (first, second)}
            made[name] = flow.race(*contestants[name])
        return flow

    async def main():
        orders = [("one", "nested", "turned"), ("one", "turned", "nested"), ("turned", "one", "nested")]
        await declare(orders[0]).execute(Scripted(of=60))
        for order in orders:
            again = Scripted(of=60)
            await declare(order).execute(again)
            assert again.prompts == [], order

    run(main)
