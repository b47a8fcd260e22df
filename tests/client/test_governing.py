"""Governors of a client: places, turns, and what direct calls have to do with them."""

from __future__ import annotations

import anyio
import pytest

from runware_flow import Client, RunwareError
from runware_flow.client.governing import Governing, Party, governed_as
from runware_flow.emulator import Emulator
from runware_flow.tasks import ImageInference

MODEL = "runware:400@1"


def picture():
    return ImageInference(model=MODEL, positive_prompt="a kite", width=512, height=512)


class Ear:
    """A bell that counts."""

    def __init__(self):
        self.rung = 0

    def ring(self):
        self.rung += 1


def fill(governing):
    return [governing.take(MODEL) for _ in range(4)]


def test_places_are_given_to_parties_in_turn(run):
    async def main():
        governing = Governing()
        a, b = Party(Ear()), Party(Ear())
        places = fill(governing)
        assert not governing.has_room(MODEL, a)
        governing.wait(MODEL, a)
        governing.wait(MODEL, b)
        governing.wait(MODEL, a)  # it does already
        assert governing.statistics()[MODEL].waiting == 2
        order = []
        for _ in range(4):
            places.pop(0).close()
            [party] = [party for party in (a, b) if party.called]
            order.append("a" if party is a else "b")
            assert governing.has_room(MODEL, party)
            assert not governing.has_room(MODEL, b if party is a else a)
            assert not governing.has_room(MODEL, Party(Ear())), "whoever comes in between has to wait"
            places.append(governing.take(MODEL))
            governing.done(MODEL, party, wants_more=True)
        assert order == ["a", "b", "a", "b"]
        assert a.bell.rung == b.bell.rung == 2

    run(main)


def test_party_that_leaves_passes_its_turn_on(run):
    async def main():
        governing = Governing()
        a, b = Party(Ear()), Party(Ear())
        places = fill(governing)
        governing.wait(MODEL, a)
        governing.wait(MODEL, b)
        places[0].close()
        places[0].close()  # twice is once
        assert a.called
        governing.leave(a)
        assert not a.called
        assert b.called
        governing.done(MODEL, b, wants_more=False)
        assert governing.statistics()[MODEL].waiting == 0
        assert governing.statistics()[MODEL].in_flight == 3
        assert governing.has_room(MODEL, a)

    run(main)


def test_party_that_gives_a_place_back_needs_no_bell(run):
    async def main():
        governing = Governing()
        party = Party(Ear())
        places = fill(governing)
        governing.wait(MODEL, party)
        places[0].close(by=party)
        assert party.called
        assert party.bell.rung == 0

    run(main)


def test_direct_calls_are_counted_and_one_task_of_a_run_goes_beside_them(run):
    async def main():
        governing = Governing()
        party = Party(Ear())
        places = [governing.begin(MODEL) for _ in range(9)]
        assert governing.statistics()[MODEL].in_flight == 9
        assert governing.has_room(MODEL, party)
        governing.take(MODEL)
        assert not governing.has_room(MODEL, party)
        for place in places:
            place.close()
        assert governing.has_room(MODEL, party)

    run(main)


def test_pause_that_the_service_asked_for_holds_everybody(run):
    async def main():
        governing = Governing()
        party = Party(Ear())
        place = governing.take(MODEL)
        place.sent()
        place.settled(RunwareError("slow down", code="rateLimit", retry_after=0.05))
        place.close()
        governing.wait(MODEL, party)
        assert not party.called
        assert party.bell.rung == 1, "it has to ask how long"
        assert 0 < governing.opens_at(party) - anyio.current_time() <= 0.05
        await anyio.sleep_until(governing.opens_at(party))
        assert governing.opens_at(party) <= anyio.current_time()
        assert party.called
        assert governing.statistics()[MODEL].limit == 1

    run(main)


def test_governors_are_not_kept_without_end(run):
    async def main():
        governing = Governing()
        kept = governing.take("a")
        for number in range(1_000):
            governing.take(f"model:{number}@1").close()
        assert len(governing.statistics()) <= 256
        kept.close()

    run(main)


def test_utilities_have_no_governor():
    assert governed_as("imageInference", MODEL) == MODEL
    assert governed_as("removeBackground", None) == "removeBackground"
    assert governed_as("imageUpload", None) is None
    assert Governing().begin(None) is None


def test_client_statistics_tell_of_each_model(run):
    async def main():
        async with Emulator(latency=0.02) as emulator, Client(**emulator.client_options) as client:
            assert client.statistics().models == {}
            async with client.submit(picture()) as delivery:
                [during] = client.statistics().models.values()
                assert (during.limit, during.in_flight, during.baseline) == (4, 1, None)
                await delivery.wait_results()
            await client.run(picture())
            await client.account_management()
            with pytest.raises(RunwareError):
                await client.run({"taskType": "imageInference", "model": MODEL, "width": -1})
            [after] = client.statistics().models.values()
            assert (after.in_flight, after.waiting, after.cuts) == (0, 0, 0)
            assert after.baseline > 0.01

    run(main)


def test_refusals_of_the_service_reach_the_governor_while_the_session_tries_again(run):
    async def main():
        faults = ["http:status=429,times=1,retry_after=0.05"]
        async with Emulator(latency=0.01, faults=faults) as emulator:
            async with Client(**emulator.client_options, transport="rest", retry_delay=0.01) as client:
                await client.run(picture())
                [model] = client.statistics().models.values()
                assert (model.cuts, model.limit, model.baseline) == (1, 1, None)

    run(main)


@pytest.mark.parametrize("is_taken", [False, True])
def test_stream_that_is_refused_strains_the_governor_and_gives_its_place_back(run, is_taken):
    async def main():
        governing = Governing()
        taken = governing.take(MODEL) if is_taken else None
        with pytest.raises(RunwareError):
            with governing.streaming(MODEL, taken):
                assert governing.statistics()[MODEL].in_flight == 1
                raise RunwareError("full", code="rateLimit", status_code=429)
        assert governing.statistics()[MODEL].cuts == 1
        assert governing.statistics()[MODEL].in_flight == is_taken
        with governing.streaming(None):
            pass

    run(main)
