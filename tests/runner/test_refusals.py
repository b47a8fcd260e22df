"""Runs and batches against a service that refuses what is too much: refused nodes wait without worker and permits."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

import anyio
import pytest
from service import art, caption, upscale

from runware_flow import Batch, Client, Flow, FlowFailed, NodeRefused, NodeSettled, NodeStarted, Skipped
from runware_flow.emulator import Emulator
from runware_flow.runner.admission import Admission
from runware_flow.tasks import TextInference

MODEL = "runware:400@1"
FAST = {"retry_delay": 0.01, "max_retries": 0}


def kites(count, name="kite"):
    return [f"{name} {n}" for n in range(count)]


def open_emulator(**more):
    return Emulator(**{"latency": 0.05, "price_factor": 1.0, **more})


@asynccontextmanager
async def open_pair(**more):
    async with open_emulator(**more) as emulator, Client(**emulator.client_options, **FAST) as client:
        yield emulator, client


def check(client):
    for model in client.statistics().models.values():
        assert (model.in_flight, model.waiting) == (0, 0)


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_run_beyond_the_capacity_buys_each_task_once_and_fails_nothing(run, transport):
    async def main():
        async with open_emulator(capacity=3) as emulator:
            async with Client(**emulator.client_options, transport=transport, **FAST) as client:
                flow = Flow(concurrency=64)
                many = flow.map(kites(40), art).then(upscale)
                result = await flow.execute(client)
                assert len(result[many]) == 40
                assert len(emulator.log.tasks) == 80
                assert emulator.log.conflicts == 0
                assert emulator.log.rejected
                check(client)

    run(main)


def test_refused_node_keeps_its_task_uuid_and_its_record(run, tmp_path):
    async def main():
        async with open_pair(capacity=1) as (emulator, client):
            flow = Flow(journal=tmp_path / "journal.sqlite", budget=1.0)
            flow.map(kites(6), art)
            result = await flow.execute(client)
            refused = {task["taskUUID"] for task in emulator.log.rejected}
            assert refused
            assert refused <= {task.task_uuid for task in emulator.log.tasks}
            bought = len(emulator.log.tasks)
            assert result.cost == pytest.approx(emulator.log.billed)
            await flow.execute(client)
            assert len(emulator.log.tasks) == bought == 6

    run(main)


def refuse(task_type, **more):
    told = ",".join(f"{name}={value}" for name, value in more.items())
    return f"reject:task_type={task_type},code=rateLimitExceeded,status=429" + (f",{told}" if told else "")


def test_other_model_goes_on_as_if_there_were_no_refusals(run):
    """Refused nodes hold neither workers nor permits of a limit: as many of them as there are of both."""

    async def main():
        async with open_emulator(latency=0.02, faults=[refuse("upscale")]) as emulator:
            async with Client(**emulator.client_options, retry_delay=5.0) as client:
                flow = Flow(concurrency=4, limits={"image": 4})
                quick = flow.map(kites(40, "quick"), art)
                images = flow.map(kites(6), art)
                slow = images.then(upscale)
                async with flow.start(client) as started:
                    async for _ in started.as_completed(quick):
                        pass
                    while client.statistics().models["runware:504@1"].waiting < 4:
                        await anyio.lowlevel.checkpoint()
                    started.stop()
                assert {type(outcome) for outcome in started.result.outcomes(slow)} == {Skipped}
                assert len(started.result[quick]) == 40
                check(client)

    run(main)


def test_time_of_a_node_stops_at_a_refusal_and_its_deadline_does_not(run):
    async def main():
        faults = [refuse("imageInference", times=3), refuse("caption")]
        async with open_emulator(latency=0.01, faults=faults) as emulator:
            async with Client(**emulator.client_options, retry_delay=0.15) as client:
                flow = Flow(on_error="continue")
                image = flow.then(art(), timeout=0.8, idle=0.8)  # the three waits are longer
                late = image.then(caption, deadline=2.5)
                result = await flow.execute(client)
                assert result[image].url
                error = result.outcome(late).error
                assert "passed its deadline, 2.5 s after the start of the run" in str(error)
                assert not error.task_uuid or error.task_uuid not in {task.task_uuid for task in emulator.log.tasks}
                check(client)

    run(main)


def test_hedge_begins_at_each_send_and_needs_no_second_request_for_a_refused_one(run):
    async def main():
        async with open_emulator(latency=0.01, faults=[refuse("imageInference", times=2)]) as emulator:
            async with Client(**emulator.client_options, retry_delay=0.1) as client:
                flow = Flow()
                image = flow.then(art(), hedge_after=0.2)
                result = await flow.execute(client)
                assert result[image].url
                assert len(emulator.log.tasks) == 1
                check(client)

    run(main)


def test_hedge_that_is_refused_leaves_the_first_request_alone(run):
    async def main():
        async with (
            open_emulator(latency=0.3, capacity=1) as emulator,
            Client(**emulator.client_options, **FAST) as client,
        ):
            flow = Flow()
            image = flow.then(art(), hedge_after=0.05)
            result = await flow.execute(client)
            assert result[image].task_uuid == emulator.log.tasks[0].task_uuid
            assert len(emulator.log.tasks) == 1
            check(client)

    run(main)


def test_node_that_streams_waits_too(run):
    async def main():
        def words(name):
            message = {"role": "user", "content": name}
            return TextInference(model="google:gemma@4-31b", messages=[message], delivery_method="stream")

        async with open_pair(capacity=2) as (emulator, client):
            flow = Flow()
            many = flow.map(kites(8), words)
            result = await flow.execute(client)
            assert all(text.text for text in result[many])
            assert emulator.log.rejected
            assert len(emulator.log.tasks) == 8
            check(client)

    run(main)


def test_model_that_refuses_everything_fails_the_nodes_that_wait_for_it(run):
    async def main():
        async with open_emulator(capacity=0) as emulator:
            async with Client(**emulator.client_options, **FAST, poll_timeout=1.0) as client:
                flow = Flow(on_error="continue", budget=1.0)
                many = flow.map(kites(5), art)
                result = await flow.execute(client)
                errors = [outcome.error for outcome in result.outcomes(many)]
                assert {error.code for error in errors} == {"rateLimit"}
                assert all("refused every task of runware:400@1 for 1 s" in error.message for error in errors)
                assert result.cost == 0
                check(client)

    run(main)


def test_events_and_the_progress_line_say_that_the_service_is_refusing(run):
    async def main():
        async with open_pair(capacity=1) as (_, client):
            flow = Flow()
            flow.map(kites(4), art)
            async with flow.start(client) as started:
                events = []
                async for event in started.events():
                    events.append(event)
            refused = [event for event in events if isinstance(event, NodeRefused)]
            assert refused
            assert max(event.waiting for event in refused) >= 1
            assert all(
                event.model == MODEL and event.task_uuid and "queue is full" in event.message for event in refused
            )
            for event in refused:
                own = [one for one in events if getattr(one, "path", None) == event.path]
                assert [type(one) for one in own[:2]] == [NodeStarted, NodeRefused]
                assert isinstance(own[-1], NodeSettled)
                assert own[-1].attempts == 1
                assert {one.task_uuid for one in own} == {event.task_uuid}

    run(main)


def test_progress_counts_what_waits(run, capsys):
    async def main():
        async with (
            open_emulator(latency=1.2, capacity=1) as emulator,
            Client(**emulator.client_options, **FAST) as client,
        ):
            flow = Flow(progress="json")
            flow.map(kites(3), art)
            await flow.execute(client)

    run(main)
    said = capsys.readouterr().err
    assert '"refused": 2' in said
    assert '"in_flight": 1' in said


def test_batch_waits_as_a_flow_does(run):
    async def main():
        async with (
            open_emulator(capacity=3, latency=0.02) as emulator,
            Client(**emulator.client_options, **FAST) as client,
        ):

            def poster(flow, prompt):
                return flow.then(art(prompt)).then(caption)

            def wide(flow, prompt):
                return flow.join(flow.then(art(prompt)), flow.then(art(prompt + "!"))).then(lambda a, b: caption(a))

            assert (await Batch(poster, concurrency=16).collect(kites(30), client)).ok_count == 30
            assert (await Batch(wide, concurrency=16).collect(kites(12), client)).ok_count == 12
            assert len(emulator.log.tasks) == 96
            check(client)

    run(main)


def test_two_runs_and_direct_calls_share_a_window_in_turn(run):
    async def main():
        async with (
            open_emulator(capacity=2, latency=0.03) as emulator,
            Client(**emulator.client_options, **FAST) as client,
        ):
            flows = [Flow(name) for name in ("a", "b")]
            for flow in flows:
                flow.map(kites(20, flow.name), art)
            async with anyio.create_task_group() as group:
                for flow in flows:
                    group.start_soon(flow.execute, client)
                for number in range(10):
                    group.start_soon(client.run, art(f"direct {number}"))
            names = [task.request["positivePrompt"].split()[0] for task in emulator.log.tasks]
            assert sorted(set(names)) == ["a", "b", "direct"]
            middle = names[10:40]
            assert min(middle.count("a"), middle.count("b")) >= 5
            check(client)

    run(main)


class Storm:
    """Random runs and batches at once, with failures, refusals, races, cancels and deadlines."""

    def __init__(self, seed, client):
        self.chance = random.Random(seed)
        self.client = client

    def pick(self, *choices):
        return self.chance.choice(choices)

    def options(self):
        limits = self.pick(None, {"image": self.chance.randint(1, 5)}, {"image": 3, "type:caption": 1})
        return {"concurrency": self.chance.randint(1, 20), "limits": limits, "budget": self.pick(None, 10.0)}

    def policy(self):
        times = self.pick({}, {}, {"deadline": 0.05}, {"deadline": 1.0}, {"timeout": 0.03}, {"hedge_after": 0.01})
        return {"retry": self.chance.randint(1, 3), **times}

    async def one(self, name):
        names = [f"{name} {n}" for n in range(self.chance.randint(1, 16))]
        with anyio.CancelScope() as scope:
            if self.chance.random() < 0.4:
                scope.deadline = anyio.current_time() + self.chance.random() * 0.2
            await self.pick(self.flow, self.batch)(names)

    async def flow(self, names):
        flow = Flow(on_error=self.pick("stop", "cancel", "continue"), **self.options())
        many = flow.map(names, art, **self.policy())
        many.then(upscale).then(caption)
        if self.chance.random() < 0.5:
            flow.race(flow.then(art("one")), flow.then(art("two")).then(upscale))
            many.first(max(1, len(names) // 3))
        try:
            async with flow.start(self.client) as started:
                async for _ in started.as_completed(many):
                    if self.chance.random() < 0.05:
                        started.stop()
        except FlowFailed:
            pass

    async def batch(self, names):
        is_wide = self.chance.random() < 0.5

        def poster(flow, name):
            image = flow.then(art(name), **self.policy())
            if is_wide:
                return flow.join(image.then(upscale), flow.then(art(name + "!"))).then(lambda a, _: caption(a))
            return image.then(upscale).then(caption)

        async with Batch(poster, on_error="continue", **self.options()).run(names, self.client) as outcomes:
            async for _ in outcomes:
                if self.chance.random() < 0.02:
                    break


@pytest.mark.parametrize("seed", range(8))
def test_any_history_gives_everything_back_and_ends_every_wait(run, seed, monkeypatch):
    admissions = []
    begin = Admission.__init__

    def begin_and_note(admission, *args, **more):
        begin(admission, *args, **more)
        admissions.append(admission)

    monkeypatch.setattr(Admission, "__init__", begin_and_note)
    chance = random.Random(seed)
    faults = [f"fail:chance=0.05,code={chance.choice(['providerError', 'invalidParameter'])}"]

    async def main():
        async with open_emulator(
            seed=seed, capacity=chance.randint(1, 8), latency=(0.0, 0.03), faults=faults
        ) as emulator:
            transport = chance.choice(["websocket", "rest"])
            async with Client(**emulator.client_options, transport=transport, **FAST) as client:
                storm = Storm(seed, client)
                async with anyio.create_task_group() as group:
                    for number in range(storm.chance.randint(1, 4)):
                        group.start_soon(storm.one, str(number))
                check(client)
                assert admissions
                for admission in admissions:
                    assert admission.is_idle, admission
                    assert admission.account is None or not admission.account.budget.machine.reserved

    run(main)
