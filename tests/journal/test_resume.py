"""Flows with a journal: what is restored, collected or sent again, and the cost that it reports."""

from __future__ import annotations

import sqlite3

import anyio
import pytest
from service import Service, art, caption, upscale

from runware_flow import (
    Abandoned,
    Client,
    Failed,
    Flow,
    FlowFailed,
    JournalError,
    Ok,
    RunwareError,
    RunwareTimeoutError,
    current_run,
)
from runware_flow.emulator import Emulator
from runware_flow.graph.events import NodeSettled, NodeStarted
from runware_flow.tasks import Caption, Upscale


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.sqlite"


def rows(path, columns="state, task_uuid, attempt"):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f"SELECT {columns} FROM node ORDER BY id").fetchall()
    finally:
        connection.close()


def chain(prompts, **options):
    flow = Flow("chain", **options)
    pictures = flow.map(prompts, art, label="art")
    texts = pictures.then(upscale, label="big").then(caption, label="text")
    return flow, pictures, texts


def test_resume_finished_flow_sends_nothing_and_has_the_same_results_and_cost(run, path):
    async def main():
        flow, pictures, texts = chain(["a kite", "a boat", "a kite"], journal=path)
        once, again = Service(), Service()
        first = await flow.execute(once)
        async with flow.start(again) as started:
            events = [event async for event in started.events()]
        second = started.result
        assert len(once.sent) == 9
        assert not again.sent
        assert second[texts] == first[texts]
        assert type(second[pictures][0]) is type(first[pictures][0])
        assert second.cost == first.cost == pytest.approx(9 * 0.0012)
        assert second.receipt() == first.receipt()
        assert all(record.is_restored and record.attempts == 1 for record in second.records(texts))
        assert not [event for event in events if isinstance(event, NodeStarted)]
        assert all(event.is_restored and event.cost for event in events if isinstance(event, NodeSettled))

    run(main)


def test_resume_prompt_inserted_at_the_top_buys_that_one_alone(run, path):
    async def main():
        await chain(["a kite", "a boat"], journal=path)[0].execute(Service())
        service = Service()
        flow, _, texts = chain(["a tower", "a kite", "a boat"], journal=path)
        result = await flow.execute(service)
        assert len(service.sent) == 3
        assert ["tower" in text.text for text in result[texts]] == [True, False, False]

    run(main)


def test_resume_edited_step_runs_what_changed_alone(run, path):
    async def main():
        def declare(factor, length):
            flow = Flow("edited", journal=path)
            larger = flow.then(art()).then(
                lambda image: Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=factor)
            )
            larger.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}, prompt=length))
            return flow

        service = Service()
        for factor, length in ((2, "short"), (4, "short"), (2, "long"), (2, "short")):
            await declare(factor, length).execute(service)
        # The service here gives both upscales one URL, so the second caption asks for what the first one did.
        sent = [request.task_type for request in service.sent]
        assert sent == ["imageInference", "upscale", "caption", "upscale", "caption"]

    run(main)


def test_journal_holds_the_request_before_it_is_sent_and_the_outcome_before_it_counts(run, path):
    async def main():
        seen = []

        def answer(request, count):
            seen.append([row for row in rows(path) if row[1] == request.task_id])

        async def later(image):
            seen.append(rows(path))
            return image.image_url

        flow = Flow(journal=path)
        flow.then(art()).then(later)
        await flow.execute(Service(answer))
        [[before]], [after] = [seen[0]], seen[1]
        assert before[0] == 0
        assert after[0] == 1
        assert after[1] == before[1]

    run(main)


@pytest.mark.parametrize("delivery", ["async", "sync"])
def test_resume_what_was_in_flight_is_collected_under_its_id(run, path, delivery):
    async def main():
        never = anyio.Event()
        flow = Flow(journal=path)
        picture = flow.then(art(delivery_method=delivery))
        first = Service(lambda request, count: never.wait())
        with anyio.CancelScope() as scope:
            async with flow.start(first) as started:
                while not first.sent:
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
        abandoned = started.result.outcome(picture)
        assert abandoned == Abandoned(first.sent[0].task_id, may_be_billed=True)

        def forgotten(request, count):
            return RunwareError("unknown", code="notFound", raw_code="taskNotFound") if count == 1 else None

        second = Service(forgotten if delivery == "async" else None)
        result = await flow.execute(second)
        assert isinstance(result.outcome(picture), Ok)
        assert second.sent_before == (["yes", "maybe"] if delivery == "async" else ["maybe"])
        assert {request.task_id for request in second.sent} == {abandoned.task_uuid}
        assert [row[:2] for row in rows(path)] == [(1, abandoned.task_uuid)]

    run(main)


def test_resume_cancelled_before_it_is_polled_still_may_be_billed(run, path):
    async def main():
        flow = Flow(journal=path)
        picture = flow.then(art())
        outcomes = []
        for _ in range(2):
            service = Service(lambda request, count: anyio.Event().wait())
            with anyio.CancelScope() as scope:
                async with flow.start(service) as started:
                    while not service.sent:
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
            outcomes.append(started.result.outcome(picture))
        assert outcomes[0] == outcomes[1]
        assert outcomes[1].may_be_billed

    run(main)


@pytest.mark.parametrize(
    "error",
    [
        RunwareTimeoutError("late", code="timeout"),
        RunwareError("gone", code="connection", raw_code="connectionLost"),
        RunwareError("forgotten", code="notFound", raw_code="taskNotFound"),
        RunwareError("over the time of a sync task", code="timeout", raw_code="requestTimeout"),
    ],
)
def test_resume_after_an_error_that_is_no_verdict_keeps_the_id(run, path, error):
    async def main():
        flow = Flow(journal=path)
        flow.then(art(), retry=3)
        first = Service(lambda request, count: error)
        with pytest.raises(FlowFailed):
            await flow.execute(first)
        second = Service()
        await flow.execute(second)
        assert len(first.sent) == 1
        assert second.sent_before == ["yes"]
        assert second.sent[0].task_id == first.sent[0].task_id

    run(main)


def test_retry_after_a_verdict_has_a_new_id_journalled_before_it_is_sent(run, path):
    async def main():
        known = []

        def answer(request, count):
            known.append([(state, task_uuid) for state, task_uuid, _ in rows(path)])
            return RunwareError("broken", code="provider", raw_code="inferenceError") if count == 1 else None

        flow = Flow(journal=path)
        picture = flow.then(art(), retry=2)
        service = Service(answer)
        result = await flow.execute(service)
        old, new = (request.task_id for request in service.sent)
        assert known == [[(0, old)], [(2, old), (0, new)]]
        assert result.record(picture).attempts == 2
        assert result.cost == pytest.approx(0.0012)
        assert rows(path) == [(2, old, 1), (1, new, 2)]

    run(main)


def test_resume_after_a_verdict_buys_anew_also_with_an_id_of_the_users_own(run, path):
    async def main():
        own = "0f6f2c7e-7f4b-4c83-9d8e-3f3a4f0f8a11"
        flow = Flow(journal=path)
        flow.then(art(task_uuid=own))
        refusal = RunwareError("no", code="validation", raw_code="invalidSeed")
        first = Service(lambda request, count: refusal)
        with pytest.raises(FlowFailed):
            await flow.execute(first)
        second = Service()
        await flow.execute(second)
        assert first.sent[0].task_id == own
        assert second.sent[0].task_id != own
        assert second.sent_before == ["no"]

    run(main)


def test_resume_partial_success_is_restored_with_its_failure(run, path):
    async def main():
        flow = Flow(journal=path, on_error="continue")
        many = flow.each(art(number_results=3))

        def answer(request, count):
            results = [service.result(request, 0), service.result(request, 1)]
            return RunwareError("one failed", code="provider", raw_code="inferenceError", results=results)

        service = Service(answer)
        first = (await flow.execute(service)).outcomes(many)
        again = Service()
        second = (await flow.execute(again)).outcomes(many)
        assert not again.sent
        assert [type(outcome) for outcome in second] == [Ok, Ok, Failed]
        assert second[:2] == first[:2]
        assert (second[2].error.raw_code, second[2].error.message) == ("inferenceError", "one failed")

    run(main)


def test_functions_are_restored_if_json_can_show_their_value_and_run_again_otherwise(run, path):
    calls = []

    async def plain():
        calls.append("plain")
        return {"a": [1, 2.5, None, "x"]}

    async def results():
        calls.append("results")
        return await current_run().client.run(art())

    async def opaque():
        calls.append("opaque")
        return (1, 2)

    async def total(value, listed):
        calls.append("total")
        return len(value) + len(listed)

    class Asking(Service):
        async def run(self, task):
            return await self.perform(self.prepare(task))

    async def main():
        flow = Flow(journal=path)
        a, b, c = flow.then(plain), flow.then(results), flow.then(opaque)
        d = flow.then(a, b, total)
        first = await flow.execute(Asking())
        assert sorted(calls) == ["opaque", "plain", "results", "total"]
        calls.clear()
        second = await flow.execute(Asking())
        assert calls == ["opaque"]
        assert [second[node] for node in (a, b, c, d)] == [first[node] for node in (a, b, c, d)]
        assert type(second[b][0]) is type(first[b][0])

    run(main)


def test_function_called_with_other_arguments_runs_again(run, path):
    calls = []

    async def double(number):
        calls.append(number)
        return 2 * number

    async def main():
        for numbers in ([1, 2], [2, 3, 1]):
            flow = Flow(journal=path)
            many = flow.map(numbers, double)
            assert (await flow.execute())[many] == [2 * number for number in numbers]
        assert calls in ([1, 2, 3], [2, 1, 3])

    run(main)


def test_two_runs_on_one_journal_second_gets_one_clear_error(run, path):
    async def main():
        flow, *_ = chain(["a kite"], journal=path)
        async with flow.start(Service()):
            with pytest.raises(JournalError, match="in use by another run"):
                await flow.execute(Service())
        await flow.execute(Service())

    run(main)


def test_store_that_fails_ends_the_run_before_anything_is_sent(run):
    class Full:
        def open(self):
            pass

        def apply(self, changes):
            raise JournalError("the disk is full")

        def close(self):
            pass

    async def main():
        flow = Flow(journal=Full())
        flow.then(art())
        service = Service()
        with pytest.raises(FlowFailed, match="disk is full") as caught:
            await flow.execute(service)
        assert isinstance(caught.value.__cause__, JournalError)
        assert not service.sent

    run(main)


def test_journal_never_holds_the_key_or_the_address_of_a_webhook(run, path):
    async def main():
        async with Emulator(latency=0.01) as emulator:
            async with Client(**emulator.client_options) as client:
                flow = Flow(journal=path)
                flow.then(art(extra={"uploadEndpoint": "https://example.com/put?token=hush"}))
                await flow.execute(client, on_error="continue")
            stored = b"".join(file.read_bytes() for file in path.parent.iterdir())
            assert emulator.client_options["api_key"].encode() not in stored
        assert b"hush" not in stored
        assert b"positivePrompt" in stored

    run(main)


@pytest.mark.exhaustive
@pytest.mark.parametrize("delivery", ["async", "sync"])
@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_resume_cancelled_at_any_moment_over_real_sockets_buys_each_once(run, path, transport, delivery):
    async def main():
        def declare():
            flow = Flow("cancelled", concurrency=8, journal=path)
            pictures = flow.map([f"picture {n}" for n in range(12)], lambda p: art(p, delivery_method=delivery))
            return flow, pictures.then(upscale).then(caption)

        async with Emulator(latency=0.05) as emulator:
            rounds = 0
            while True:
                rounds += 1
                flow, texts = declare()
                async with Client(**emulator.client_options, transport=transport) as client:
                    with anyio.move_on_after(0.2 * rounds):
                        result = await flow.execute(client)
                        break
            assert [f"picture {n}" in text.text for n, text in enumerate(result[texts])] == [True] * 12
            assert rounds > 1
            assert len(emulator.log.tasks) == 36
            assert result.cost == pytest.approx(emulator.log.billed)

    run(main)
