"""Reading journals, and collecting what became ready after a run had ended."""

from __future__ import annotations

import subprocess
import sys
import time

import anyio
import pytest

from runware_flow import Abandoned, Client, Failed, Flow, FlowFailed, JournalError, Ok, RunwareError
from runware_flow.emulator import Emulator, run_in_thread
from runware_flow.emulator.commands import environment
from runware_flow.journal import Journal, collect
from runware_flow.results import ImageResult
from runware_flow.tasks import ImageInference


def art(prompt, **more):
    return ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512, **more)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.sqlite"


def declare(path, prompts, **options):
    flow = Flow("collected", journal=path, **options)
    return flow, flow.map(prompts, lambda prompt: art(prompt, delivery_method="async"))


async def start_and_cancel(flow, emulator, count, seconds=10.0):
    """Run until the service has so many tasks, then cancel."""
    async with Client(**emulator.client_options) as client:
        with anyio.move_on_after(seconds) as scope:
            async with flow.start(client) as started:
                while len(emulator.log.asked) < count:
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
    return started.result


def test_journal_tells_what_was_bought_for_how_much_and_how_long_it_took(run, path):
    async def main():
        before = time.time()
        flow, many = declare(path, ["a kite", "a boat"])
        flow.then(later)
        async with Emulator(latency=0.01) as emulator, Client(**emulator.client_options) as client:
            result = await flow.execute(client)
        with Journal(path) as journal:
            entries = list(journal.entries())
            summary = journal.summary()
            [use] = journal.models()
            assert list(journal.entries(flow="another")) == []
            assert list(journal.entries(state="open")) == []
        bought = [entry for entry in entries if entry.task_uuid]
        assert sorted(entry.results[0].url for entry in bought) == sorted(image.url for image in result[many])
        assert {type(entry.results[0]) for entry in bought} == {ImageResult}
        assert {entry.path for entry in bought} == {record.path for record in result.records(many)}
        assert all(before <= entry.asked_at <= entry.settled_at <= time.time() for entry in entries)
        assert [entry.results for entry in entries if not entry.task_uuid] == [["later"]]
        assert {entry.request["positivePrompt"] for entry in bought} == {"a kite", "a boat"}
        assert summary.cost == pytest.approx(result.cost)
        assert (summary.done_count, summary.open_count, summary.failed_count) == (3, 0, 0)
        assert (use.task_type, use.model, use.count) == ("imageInference", "runware:400@1", 2)
        assert use.cost == pytest.approx(result.cost / 2)

    run(main)


async def later():
    return "later"


def test_collect_fetches_what_became_ready_and_the_next_run_restores_it(run, path):
    async def main():
        flow, many = declare(path, ["a kite", "a boat"])
        async with Emulator(latency=0.2) as emulator:
            result = await start_and_cancel(flow, emulator, 2)
            states = [type(outcome) for outcome in result.outcomes(many)]
            assert states == [Abandoned, Abandoned]
            async with Client(**emulator.client_options) as client:
                collected = await collect(path, client)
                assert all(one.outcome.value[0].task_uuid == one.entry.task_uuid for one in collected)
                assert await collect(path, client) == []
                polls = emulator.log.polls
                again = await flow.execute(client)
            assert len(emulator.log.tasks) == 2
            assert emulator.log.polls == polls
            assert again.cost == pytest.approx(emulator.log.billed)
            assert {image.task_uuid for image in again[many]} == {one.entry.task_uuid for one in collected}

    run(main)


def test_collect_tells_running_failed_and_never_arrived_apart_and_buys_nothing(run, path):
    async def main():
        flow, _ = declare(path, ["a slow kite", "a doomed boat"])
        faults = ["never:prompt=slow", "fail:prompt=doomed,code=inferenceError"]
        async with Emulator(latency=0.1, faults=faults) as emulator:
            await start_and_cancel(flow, emulator, 2)
            await only_journalled(path)
            seen = []
            async with Client(**emulator.client_options) as client:
                collected = await collect(path, client, timeout=1.5, on_collected=seen.append)
            outcomes = {one.entry.request["positivePrompt"]: one.outcome for one in collected}
            assert len(seen) == 3
            assert len(emulator.log.tasks) == 2
        assert outcomes["a slow kite"].may_be_billed
        assert isinstance(outcomes["a doomed boat"], Failed)
        assert not outcomes["a lost tower"].may_be_billed
        with Journal(path) as journal:
            assert journal.summary().open_count == 2
            [failed] = journal.entries(state="failed")
            assert failed.error.raw_code == "inferenceError"

    run(main)


async def only_journalled(path):
    """A run that dies between the journal and the service."""

    class Dead:
        def prepare(self, task, **more):
            from runware_flow.client.request import prepare

            return prepare(task, new_task_id="7d1b5d3e-8f52-4d7c-9a55-0c9a2a6b1c11")

        async def perform(self, request, **more):
            raise RunwareError("gone", code="connection", raw_code="connectionLost")

    flow, many = declare(path, ["a lost tower"], on_error="continue")
    result = await flow.execute(Dead())
    assert isinstance(result.outcomes(many)[0], Failed)


def test_collect_while_a_run_uses_the_journal_is_one_clear_error(run, path):
    async def main():
        flow, _ = declare(path, ["a kite"])
        async with Emulator(latency=0.2) as emulator, Client(**emulator.client_options) as client:
            async with flow.start(client):
                while not path.exists() or not emulator.log.asked:
                    await anyio.lowlevel.checkpoint()
                with Journal(path) as journal:
                    assert journal.summary().open_count == 1
                with pytest.raises(JournalError, match="in use by another run"):
                    await collect(path, client)

    run(main)


def test_missing_journal_and_other_files_are_one_clear_error(run, tmp_path):
    with pytest.raises(JournalError, match="there is no journal"), Journal(tmp_path / "none"):
        pass
    (tmp_path / "text").write_text("no journal " * 1000)
    with pytest.raises(JournalError, match="damaged, or not a journal"), Journal(tmp_path / "text"):
        pass
    with pytest.raises(JournalError, match="there is no journal"):
        run(collect, tmp_path / "none")
    with pytest.raises(JournalError, match="inside its `with` block"):
        Journal(tmp_path / "text").summary()


def test_collect_command_prints_a_line_for_each_and_a_sum(path):
    with run_in_thread(latency=0.1) as emulator:
        flow, many = declare(path, ["a kite"])
        result = anyio.run(start_and_cancel, flow, emulator, 1)
        assert isinstance(result.outcomes(many)[0], (Abandoned, Ok))
        command = [sys.executable, "-m", "runware_flow", "collect", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(emulator), timeout=30)
    assert done.returncode == 0, done.stderr
    assert "http" in done.stdout
    assert "1 of 1 collected" in done.stdout
    missing = subprocess.run([*command[:-1], str(path) + "x"], capture_output=True, text=True, timeout=30)
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1
    assert "there is no journal" in missing.stderr


@pytest.mark.parametrize(
    ("transport", "faults"),
    [
        ("rest", ["http:nth=2,status=401,code=tokenRevoked"]),
        ("websocket", ["kill:nth=3", "reject-key:nth=2"]),
    ],
)
def test_key_that_is_rejected_while_a_task_is_polled_leaves_it_open_and_the_next_run_collects_it(
    run, path, transport, faults
):
    async def main():
        async with Emulator(latency=0.2, faults=faults) as emulator:
            options = {**emulator.client_options, "transport": transport, "retry_delay": 0.01}
            flow = Flow("collected", journal=path)
            node = flow.then(art("a kite", delivery_method="async"), retry=3)
            async with Client(**options) as client:
                with pytest.raises(FlowFailed) as caught:
                    await flow.execute(client)
            error = caught.value.__cause__
            assert (error.code, error.may_be_billed) == ("auth", True)
            with Journal(path) as journal:
                assert [entry.state for entry in journal.entries()] == ["open"]
            async with Client(**options) as client:
                result = await flow.execute(client)
            assert result[node].url
            assert len(emulator.log.tasks) == 1

    run(main)
