"""What became of a run, node by node: states, times that the records can know, prompts, texts and media."""

from __future__ import annotations

import anyio
import pytest
from service import Service, art, caption, upscale

from runware_flow import Client, Flow, RunwareError
from runware_flow.emulator import Emulator
from runware_flow.view.shape import shape_of
from runware_flow.view.story import rows_of


def story(flow, result):
    return {row.place: row for row in rows_of(result._machine, shape_of(flow.declaration))}


async def slow(value):
    await anyio.sleep(0.01)
    return f"slow {value.text}"


def test_rows_follow_each_node_from_ready_to_settled(run):
    flow = Flow(concurrency=1, on_error="continue")
    many = flow.map(["a kite", "a boat"], art, label="art").then(upscale, label="big").then(caption, label="text")
    many.then(slow, label="slow").gather(label="all")

    async def main():
        async def answer():
            await anyio.sleep(0.01)

        result = await flow.execute(Service(lambda *_: answer()))
        rows = story(flow, result)
        assert [row.state for row in rows.values()] == ["ok"] * 9
        big, text = rows["art[0]/big"], rows["art[0]/text"]
        assert rows["art[0]/art"].ready is None, "nobody noted when the item was pulled"
        assert big.ready == rows["art[0]/art"].settled
        assert text.ready == big.settled
        assert big.ready <= big.began == big.started < big.settled
        assert rows["art[0]/slow"].began < rows["art[0]/slow"].settled
        assert rows["all"].ready == pytest.approx(max(rows[f"art[{n}]/slow"].settled for n in (0, 1)))
        assert big.processing is None, "this service never says that it is at it"
        assert rows["art[1]/art"].prompt == "a boat"
        assert text.text.startswith("caption of")
        assert rows["art[0]/slow"].text.startswith("slow caption")
        assert [kind for kind, _ in big.media] == ["image"]
        places = list(rows)
        assert [places[number] for number in text.after] == ["art[0]/big"]

    run(main)


def test_failures_skips_cancels_and_what_has_not_begun(run):
    flow = Flow(concurrency=2, on_error="continue")

    def broken(image):
        raise ValueError("no task")

    bad = flow.then(art("bad"), label="bad")
    bad.then(caption, label="after")
    flow.then(art("fine"), label="fine").then(broken, label="broken")
    stuck = flow.then(art("stuck"), label="stuck")
    stuck.then(caption, label="never")

    def answer(request, count):
        if request.wire.get("positivePrompt") == "bad":
            return RunwareError("no", code="provider", raw_code="taskFailed")
        return anyio.sleep_forever() if request.wire.get("positivePrompt") == "stuck" else None

    async def main():
        with anyio.CancelScope() as scope:
            async with flow.start(Service(answer)) as handle:
                await anyio.wait_all_tasks_blocked()
                during = story(flow, handle.result)
                assert (during["stuck"].state, during["never"].state) == ("running", "waiting")
                assert during["stuck"].settled is None
                scope.cancel()
        rows = story(flow, handle.result)
        assert {name: row.state for name, row in rows.items()} == {
            "bad": "failed",
            "after": "skipped",
            "fine": "ok",
            "broken": "failed",
            "stuck": "abandoned",
            "never": "skipped",
        }
        assert isinstance(rows["bad"].error, RunwareError)
        assert rows["broken"].prompt == ""
        assert isinstance(rows["broken"].error, ValueError)
        assert rows["after"].because == "bad failed"
        assert rows["stuck"].may_be_billed
        assert rows["stuck"].task_uuid

    run(main)


def test_the_time_at_which_the_service_began_to_process_is_known(run):
    async def main():
        async with Emulator(latency=0.4) as emulator, Client(**emulator.client_options) as client:
            flow = Flow()
            flow.then(art(), label="art")
            result = await flow.execute(client)
            row = story(flow, result)["art"]
            assert row.started < row.processing < row.settled

    run(main)


def test_earlier_attempts_do_not_count_as_queueing(run):
    flow = Flow()
    flow.then(art(), label="art", retry=3)

    def answer(request, count):
        return RunwareError("no", code="provider", raw_code="taskFailed", retry_after=0.01) if count < 3 else None

    async def main():
        row = story(flow, await flow.execute(Service(answer)))["art"]
        assert row.attempts == 3
        assert row.began < row.started

    run(main)


def test_a_restored_run_says_so(run, tmp_path):
    async def main():
        path = tmp_path / f"run-{anyio.get_current_task().id}.sqlite"
        flow = Flow(journal=path)
        flow.then(art(), label="art").then(upscale, label="big")
        await flow.execute(Service())
        rows = story(flow, await flow.execute(Service()))
        assert all(row.restored and row.state == "ok" for row in rows.values())
        assert rows["big"].cost == pytest.approx(0.0012)

    run(main)
