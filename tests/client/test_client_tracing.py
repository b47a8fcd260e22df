"""Spans of OpenTelemetry: tasks with their polls, streams, runs with their nodes; and none without tracing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from waiting import cancel_when

from runware_flow import Batch, Client, Flow, FlowFailed, RunwareError
from runware_flow.emulator import Emulator
from runware_flow.tasks import Caption, ImageInference, TextInference

SECRET_PROMPT = "a very private kite"


@pytest.fixture
def spans(monkeypatch):
    """What was traced, as ended spans. The provider is that of this test alone."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(trace, "get_tracer", lambda *names: provider.get_tracer(*names))
    yield exporter.get_finished_spans
    provider.shutdown()


def kite(**parameters):
    return ImageInference(model="runware:400@1", positive_prompt=SECRET_PROMPT, width=512, height=512, **parameters)


def named(spans, name):
    return [span for span in spans() if span.name == name]


def inside(inner, outer):
    return inner.parent is not None and inner.parent.span_id == outer.context.span_id


def test_task_is_a_span_with_its_model_cost_and_polls(run, open_pair, spans, transport):
    async def main():
        async with open_pair() as (_, client):
            with trace.get_tracer("test").start_as_current_span("mine"):
                (image, _) = await client.run(kite(number_results=2, include_cost=True))
        (task,) = named(spans, "runware imageInference")
        (mine,) = named(spans, "mine")
        polls = named(spans, "runware getResponse")
        assert inside(task, mine)
        assert task.attributes["runware.model"] == "runware:400@1"
        assert task.attributes["runware.task_uuid"] == image.task_uuid
        assert task.attributes["runware.results"] == 2
        assert task.attributes["runware.cost"] == pytest.approx(2 * image.cost)
        assert task.attributes["runware.polls"] == len(polls) >= 1
        assert all(inside(poll, task) and poll.end_time <= task.end_time for poll in polls)
        assert [event.name for event in task.events] == ["sent", "result", "result"]
        assert task.status.status_code is StatusCode.UNSET

    run(main)


def test_failures_timeouts_and_cancels_end_their_spans(run, open_pair, spans):
    async def main():
        faults = ["fail:prompt=doomed", "never:prompt=endless"]
        async with open_pair(faults=faults) as (emulator, client):
            for prompt, timeout in (("doomed", None), ("endless", 0.2)):
                with pytest.raises(RunwareError):
                    await client.run({**KITE, "positivePrompt": prompt}, timeout=timeout)
            async with cancel_when(lambda: len(emulator.log.tasks) == 3):
                await client.run({**KITE, "positivePrompt": "endless"})
        failed, late, left = named(spans, "runware imageInference")
        assert (failed.attributes["error.type"], failed.attributes["runware.raw_code"]) == (
            "provider",
            "inferenceError",
        )
        assert (late.attributes["error.type"], late.status.status_code) == ("timeout", StatusCode.ERROR)
        assert left.attributes["runware.abandoned"]
        assert left.status.status_code is StatusCode.UNSET

    run(main)


KITE = {"model": "runware:400@1", "width": 512, "height": 512}


def test_stream_is_a_span(run, open_pair, spans):
    async def main():
        async with open_pair() as (_, client):
            task = TextInference(model="google:gemma@4-31b", messages=[{"role": "user", "content": "Hi"}])
            async with client.stream(task) as stream:
                await stream.result()
        (span,) = named(spans, "runware textInference")
        assert span.attributes["runware.delivery"] == "stream"

    run(main)


def test_run_is_a_span_around_its_nodes_and_they_around_their_tasks(run, spans):
    async def main():
        async with (
            Emulator(latency=0.01, faults=["fail:nth=1"]) as emulator,
            Client(**emulator.client_options) as client,
        ):
            flow = Flow("poster")
            art = flow.then(kite(), label="art", retry=2)
            art.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}), label="text")
            art.pick(lambda image: image.url)
            result = await flow.execute(client)
        (whole,) = named(spans, "flow poster")
        first, second = named(spans, "node art")
        (text,) = named(spans, "node text")
        assert all(inside(node, whole) for node in (first, second, text))
        assert [node.attributes["runware.attempt"] for node in (first, second)] == [1, 2]
        assert first.status.status_code is StatusCode.ERROR
        assert second.status.status_code is StatusCode.UNSET
        assert second.attributes["runware.cost"] > 0
        tasks = named(spans, "runware imageInference")
        assert [inside(task, node) for task, node in zip(tasks, (first, second), strict=True)] == [True, True]
        assert inside(named(spans, "runware caption")[0], text)
        assert whole.attributes["runware.cost"] == pytest.approx(result.cost)
        assert whole.attributes["runware.ok"] == 3
        assert not any(span.name.startswith("node art.pick") for span in spans())

    run(main)


def test_failed_run_and_nodes_of_a_batch_have_spans(run, spans):
    async def main():
        async with Emulator(latency=0.01, faults=["fail:task_type=caption"]) as emulator:
            async with Client(**emulator.client_options) as client:
                flow = Flow("doomed")
                flow.then(Caption(model="runware:150@2", inputs={"image": "https://example.com/a.jpg"}), label="text")
                with pytest.raises(FlowFailed):
                    await flow.execute(client)
                await Batch(lambda flow, prompt: flow.then(kite(), label="art"), name="many").collect(
                    ["a", "b"], client
                )
        (whole,) = named(spans, "flow doomed")
        assert whole.status.status_code is StatusCode.ERROR
        assert named(spans, "node text")[0].attributes["error.type"] == "provider"
        assert len(named(spans, "node art")) == 2

    run(main)


def test_node_that_waits_for_a_permit_is_one_span(run, spans):
    async def main():
        async with Emulator(latency=0.02) as emulator, Client(**emulator.client_options) as client:
            flow = Flow("narrow", limits={"image": 1})
            flow.map(["a", "b", "c"], lambda _: kite(), label="art")
            await flow.execute(client)
        assert len(named(spans, "node art")) == 3

    run(main)


def test_spans_hold_no_key_and_no_prompt(run, open_pair, spans):
    async def main():
        async with open_pair({"api_key": "rw-secret-key"}) as (_, client):
            with pytest.raises(RunwareError):
                await client.run(kite())
        async with open_pair() as (_, client):
            await client.run(kite())
            with pytest.raises(RunwareError):
                await client.run({**KITE, "positivePrompt": SECRET_PROMPT, "width": -1})

    run(main)
    told = "".join(span.to_json() for span in spans())
    assert "imageInference" in told
    assert "private" not in told
    assert "rw-secret-key" not in told


def test_program_that_does_not_trace_imports_and_pays_nothing():
    program = """
import sys
from runware_flow.runner.tracing import traced
from runware_flow.client.tracing import trace_session
from runware_flow import Client, Flow
import runware_flow.runner.runner, anyio
async def main():
    async with Client("rw-key") as client:
        assert client._driver._tracing is None
anyio.run(main)
assert traced(main) is main
assert trace_session() is None
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
