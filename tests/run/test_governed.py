"""Runs and batches on a governed client: they wait without workers, in turn, and what is given is given back."""

from __future__ import annotations

import anyio
from service import Service, art, caption, upscale

from runware_flow import Batch, Client, Flow, RunwareError, current_run
from runware_flow.client.governing import Governing
from runware_flow.emulator import Emulator


class Governed(Service):
    """An in-memory service with governors, as a client has them."""

    def __init__(self, answer=None):
        super().__init__(answer)
        self.governing = Governing()

    async def perform(self, request, /, *, place=None, **more):
        assert place is not None
        place.sent()
        try:
            results = await super().perform(request, **more)
        except RunwareError as error:
            place.settled(error)
            raise
        place.settled(None)
        return results

    def check(self):
        for model in self.governing.statistics().values():
            assert model.in_flight == model.waiting == 0


async def turns(request, count):
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


def kites(count, name="kite"):
    return [f"{name} {n}" for n in range(count)]


def test_run_starts_with_four_of_a_model_and_grows(run):
    async def main():
        seen = []

        async def answer(request, count):
            seen.append(service.in_flight)
            await turns(request, count)

        service = Governed(answer)
        flow = Flow(concurrency=64)
        many = flow.map(kites(200), art)
        result = await flow.execute(service)
        assert len(result[many]) == 200
        assert max(seen[:4]) == 4
        assert max(seen) == 64
        service.check()

    run(main)


def test_concurrency_and_limits_stay_the_bounds(run):
    async def main():
        service = Governed(turns)
        flow = Flow(concurrency=6, limits={"image": 5})
        many = flow.map(kites(100), art).then(upscale).then(caption)
        result = await flow.execute(service)
        assert len(result[many]) == 100
        assert service.most_in_flight == 6
        service.check()

    run(main)


def test_models_have_governors_of_their_own(run):
    async def main():
        service = Governed(turns)
        flow = Flow()
        flow.map(kites(40), art).then(upscale).then(caption)
        await flow.execute(service)
        assert set(service.governing.statistics()) == {"runware:400@1", "runware:504@1", "runware:150@2"}
        service.check()

    run(main)


def test_two_runs_share_a_governor_in_turn(run):
    async def main():
        order = []

        async def answer(request, count):
            order.append(request.wire["positivePrompt"].split()[0])
            await turns(request, count)
            if count < 100:  # so that it does not grow meanwhile
                return RunwareError("no", code="validation", raw_code="invalidParameter")
            return None

        service = Governed(answer)
        flows = [Flow(name, on_error="continue") for name in ("a", "b")]
        for flow in flows:
            flow.map(kites(40, flow.name), art)
        async with anyio.create_task_group() as group:
            for flow in flows:
                group.start_soon(flow.execute, service)
        assert service.most_in_flight == 4
        later = order[4:60]
        assert abs(later.count("a") - later.count("b")) <= 6
        service.check()

    run(main)


def test_run_that_is_cancelled_leaves_its_places_to_others(run):
    async def main():
        async def answer(request, count):
            if "a" in request.wire["positivePrompt"].split():
                await anyio.sleep_forever()

        service = Governed(answer)
        stuck, other = Flow("stuck"), Flow("other")
        stuck.map([f"a {n}" for n in range(40)], art)
        many = other.map(kites(20), art)
        scope, finished = anyio.CancelScope(), []

        async def run_stuck():
            with scope:
                await stuck.execute(service)

        async def run_other():
            finished.append((await other.execute(service))[many])

        async with anyio.create_task_group() as group:
            group.start_soon(run_stuck)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(run_other)
            await anyio.wait_all_tasks_blocked()
            assert service.in_flight == 4
            assert not finished
            scope.cancel()
        assert len(finished[0]) == 20
        service.check()

    run(main)


def test_run_whose_reader_sleeps_keeps_no_places_from_others(run):
    async def main():
        service = Governed(turns)
        slow, other = Flow("slow"), Flow("other")
        many = slow.map(kites(300), art)
        last = other.map(kites(60), art)
        async with slow.start(service) as running:
            outcomes = running.as_completed(many)
            await outcomes.__anext__()
            await anyio.wait_all_tasks_blocked()
            assert not running.is_finished
            assert len((await other.execute(service))[last]) == 60
            async for _ in outcomes:
                pass
        service.check()

    run(main)


def test_pause_that_the_service_asked_for_is_kept_and_the_run_goes_on(run):
    async def main():
        times = []

        def answer(request, count):
            times.append(anyio.current_time())
            if count == 1:
                return RunwareError("slow down", code="rateLimit", raw_code="rateLimitExceeded", retry_after=0.1)
            return None

        service = Governed(answer)
        flow = Flow()
        many = flow.map(kites(12), art, retry=2)
        result = await flow.execute(service)
        assert len(result[many]) == 12
        assert sum(time < times[0] + 0.1 for time in times) <= 4, "those that were under way"
        service.check()

    run(main)


def test_function_that_calls_the_client_is_never_held_back(run):
    async def main():
        async with Emulator(latency=0.02) as emulator, Client(**emulator.client_options) as client:

            async def ask(number):
                (made,) = await current_run().client.run(art(f"kite {number}"))
                return made

            flow = Flow()
            many = flow.map(range(12), ask).then(upscale)
            result = await flow.execute(client)
            assert len(result[many]) == 12
            assert len(emulator.log.tasks) == 24
            for model in client.statistics().models.values():
                assert model.in_flight == 0

    run(main)


def test_batch_is_governed_as_one(run):
    async def main():
        service = Governed(turns)

        def poster(flow, prompt):
            return flow.then(art(prompt)).then(upscale).then(caption)

        def wide(flow, prompt):
            return flow.join(flow.then(art(prompt)), flow.then(art(prompt + "!"))).then(lambda a, b: caption(a))

        report = await Batch(poster, concurrency=32, limits={"type:upscale": 3}).collect(kites(80), service)
        assert report.ok_count == 80
        report = await Batch(wide, concurrency=32).collect(kites(40), service)
        assert report.ok_count == 40
        service.check()
        async with Batch(wide, concurrency=32).run(kites(40), service) as outcomes:
            async for _ in outcomes:
                break
        service.check()

    run(main)


def test_batch_and_flow_beside_each_other_both_get_on(run):
    async def main():
        service = Governed(turns)
        flow = Flow()
        many = flow.map(kites(60), art)
        batch = Batch(lambda flow, prompt: flow.then(art(prompt)))
        done = []

        async def execute():
            done.append(len((await flow.execute(service))[many]))

        async def collect():
            done.append((await batch.collect(kites(60), service)).ok_count)

        async with anyio.create_task_group() as group:
            group.start_soon(execute)
            group.start_soon(collect)
        assert done == [60, 60]
        service.check()

    run(main)


def test_emulated_queue_is_not_filled(run):
    """Three at a time: the governor learns it, and keeps most of what is to do with us."""

    async def main():
        async with Emulator(latency=0.2, parallel=3) as emulator:
            async with Client(**emulator.client_options) as client:
                flow = Flow(concurrency=64)
                flow.map(kites(60), art)
                await flow.execute(client)
                [model] = client.statistics().models.values()
                assert model.cuts
                assert model.limit < 20

    run(main)
