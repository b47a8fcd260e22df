"""`progress=` of flows and batches: what is shown where, and that nothing it does can hurt a run."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import textwrap

import anyio
import anyio.lowlevel
import pytest
from service import Service, art, caption, upscale
from waiting import cancel_when

from runware_flow import (
    Batch,
    DeclarationError,
    Flow,
    FlowFailed,
    NodeSettled,
    NodeStarted,
    Ok,
    RunFinished,
    RunStarted,
    RunwareError,
)


async def one(value=1):
    await anyio.lowlevel.checkpoint()
    return value


def posters(on_error="stop"):
    flow = Flow("posters", concurrency=4, on_error=on_error)
    flow.map(["a kite", "a boat", "a cat"], art, label="art").then(upscale, label="big").then(caption, label="text")
    return flow


def last_json(capsys):
    return json.loads(capsys.readouterr().err.splitlines()[-1])


def counts(snapshot):
    return {stage["label"]: (stage["ok"], stage["failed"], stage["skipped"]) for stage in snapshot["stages"]}


def test_last_line_has_every_count_and_the_cost(run, capsys):
    async def main():
        await posters().execute(Service(), progress="json")

    run(main)
    said = last_json(capsys)
    assert counts(said) == {"art": (3, 0, 0), "big": (3, 0, 0), "text": (3, 0, 0)}
    assert (said["end"], said["in_flight"], said["queued"], said["unknown_costs"]) == ("done", 0, 0, 0)
    assert said["cost"] == pytest.approx(9 * 0.0012)


def test_failures_skips_and_a_builder_that_raises_leave_nothing_in_flight(run, capsys):
    def broken(image):
        raise ValueError("no task")

    def answer(request, count):
        return RunwareError("no", code="provider", raw_code="taskFailed") if "boat" in str(request.wire) else None

    async def main():
        flow = posters("continue")
        flow.map(["a kite"], art, label="other").then(broken, label="broken").then(caption, label="never")
        await flow.execute(Service(answer), progress="json")

    run(main)
    said = last_json(capsys)
    assert said["in_flight"] == 0
    assert counts(said)["art"] == (2, 1, 0)
    assert counts(said)["big"] == (2, 0, 1)
    assert counts(said)["broken"] == (0, 1, 0)
    assert counts(said)["never"] == (0, 0, 1)


def test_a_cancelled_run_is_shown_as_cancelled(run, capsys):
    async def main():
        flow = Flow("slow")
        flow.map(range(3), lambda _: art(), label="art")

        async def answer():
            await anyio.sleep_forever()

        service = Service(lambda *_: answer())
        async with cancel_when(lambda: service.in_flight == 3):
            await flow.execute(service, progress="json")

    run(main)
    said = last_json(capsys)
    assert said["end"] == "cancelled"
    assert said["stages"][0]["abandoned"] == 3


def test_true_writes_a_line_where_there_is_no_terminal(run, capsys):
    async def main():
        await posters().execute(Service(), progress=True)

    run(main)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("posters: 0.")
    assert "art 3 of 3, big 3 of 3, text 3 of 3  done  $0.0108" in err


@pytest.mark.parametrize("broken", [BrokenPipeError, ValueError])
def test_a_terminal_that_is_gone_ends_no_run(run, monkeypatch, broken):
    class Gone(io.StringIO):
        def write(self, text):
            raise broken("gone")

    async def main():
        flow = posters()
        result = await flow.execute(Service(), progress=True)
        assert result.cost == pytest.approx(9 * 0.0012)

    monkeypatch.setattr(sys, "stderr", Gone())
    run(main)
    monkeypatch.setattr(sys, "stderr", None)
    run(main)


def test_rich_that_is_missing_is_one_sentence_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeclarationError, match=r"needs the package rich: pip install 'runware-flow\[cli\]'"):
        Flow(progress="rich")
    Flow(progress=True)


def test_a_failed_run_is_shown_before_its_error_is_raised(run, capsys):
    async def main():
        def answer(request, count):
            return RunwareError("no", code="provider", raw_code="taskFailed")

        with pytest.raises(FlowFailed):
            await posters().execute(Service(answer), progress="json")

    run(main)
    assert last_json(capsys)["end"] == "failed"


# Batches


def chain(flow, prompt):
    return flow.then(art(prompt), label="art").then(caption, label="text")


def spread(flow, prompt):
    return flow.map([prompt, prompt], art, label="art").then(caption, label="text").gather()


@pytest.mark.parametrize(("build", "times"), [(chain, 1), (spread, 2)])
def test_batch_counts_items_and_stages(run, capsys, build, times):
    def answer(request, count):
        failed = RunwareError("no", code="provider", raw_code="taskFailed")
        return failed if request.task_type == "imageInference" and "doomed" in request.wire["positivePrompt"] else None

    async def main():
        batch = Batch(build, concurrency=2, on_error="continue", progress="json")
        await batch.collect(["a kite", "doomed", "a boat"], Service(answer))

    run(main)
    said = last_json(capsys)
    assert {name: said["items"][name] for name in ("total", "ok", "failed", "running")} == {
        "total": 3,
        "ok": 2,
        "failed": 1,
        "running": 0,
    }
    assert counts(said) == {"art": (2 * times, times, 0), "text": (2 * times, 0, times)}
    assert (said["end"], said["in_flight"]) == ("done", 0)


def test_batch_left_early_is_shown_as_stopped(run, capsys):
    async def main():
        async with Batch(chain, progress="json").run(["a kite"] * 50, Service()) as outcomes:
            async for _ in outcomes:
                break

    run(main)
    assert last_json(capsys)["end"] == "stopped"


@pytest.mark.parametrize("build", [chain, spread])
def test_batch_events_are_those_of_the_items_nodes_between_one_start_and_one_finish(run, build):
    seen = []

    async def slow(event):
        await anyio.lowlevel.checkpoint()
        seen.append(event)

    async def main():
        seen.clear()
        report = await Batch(build, concurrency=2, key=str, progress=slow).collect(["a kite", "a boat"], Service())
        assert report.ok_count == 2
        assert isinstance(seen[0], RunStarted)
        assert isinstance(seen[-1], RunFinished)
        assert (seen[-1].end, seen[-1].ok_count) == ("done", 2)
        inner = [event for event in seen[1:-1] if isinstance(event, NodeStarted | NodeSettled)]
        assert {event.key for event in inner} == {"a kite", "a boat"}
        assert all(event.path.startswith(f"item[{event.key}]/") for event in inner)
        assert [event.time for event in seen] == pytest.approx(sorted(event.time for event in seen), abs=1e-4)
        started = [event.path for event in inner if isinstance(event, NodeStarted)]
        settled = [event.path for event in inner if isinstance(event, NodeSettled) and isinstance(event.outcome, Ok)]
        assert set(started) <= set(settled)

    run(main)


def test_batch_callable_that_raises_ends_the_batch_with_that(run):
    def broken(event):
        raise KeyError("broken bar")

    async def main():
        with pytest.raises(KeyError, match="broken bar"):
            await Batch(chain, progress=broken).collect(["a kite"] * 50, Service())

    run(main)


# A terminal

PROGRAM = """
import sys, anyio
from runware_flow import Flow

async def work(number):
    await anyio.sleep(0.25)
    print(f"item {number}")
    print(f"note {number}", file=sys.stderr)

flow = Flow("bars", concurrency=1)
flow.map(range(3), work, label="work")
flow.run(progress="rich")
"""


def on_terminal(program, **environment):
    """Run a program whose standard error is a terminal and whose standard output is a pipe."""
    main, end = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=end,
        text=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "90", "LINES": "24", **environment},
    ) as process:
        os.close(end)
        shown = b""
        try:
            while piece := os.read(main, 65536):
                shown += piece
        except OSError:  # Linux says so when the other end is closed
            pass
        out = process.stdout.read()
    os.close(main)
    assert process.returncode == 0, shown
    return out, shown.decode()


def test_bars_on_a_terminal_leave_a_piped_output_alone_and_the_cursor_on():
    out, shown = on_terminal(PROGRAM)
    assert out.splitlines() == ["item 0", "item 1", "item 2"]
    assert all(f"note {number}" in shown for number in range(3))
    assert "3 of 3" in shown
    assert "in flight" in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0


def test_a_dumb_terminal_gets_lines():
    _, shown = on_terminal(PROGRAM, TERM="dumb")
    assert "\x1b[?25l" not in shown
    assert "work 3 of 3  done" in shown
