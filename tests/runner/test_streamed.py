"""A text task that streams inside a flow: its pieces are events, its result is the node's."""

from __future__ import annotations

from functools import partial

import pytest

from runware_flow import Client, Flow, FlowFailed, NodeDelta, NodeSettled, NodeStarted, Retry
from runware_flow.client import transport_selector
from runware_flow.client.media import INLINE_LIMIT_BYTES
from runware_flow.emulator import Emulator
from runware_flow.graph.events import NodeProgress
from runware_flow.results import TextResult
from runware_flow.runner.event_stream import EventStream
from runware_flow.session.options import SessionOptions
from runware_flow.session.polling import PollPolicy
from runware_flow.tasks import TextInference


def ask(content="a kite", **more):
    messages = [{"role": "user", "content": content}]
    return TextInference(model="google:gemma@4-31b", messages=messages, delivery_method="stream", **more)


def test_streamed_node_tells_its_pieces_in_order_and_has_its_result(run):
    flow = Flow()
    told = flow.then(ask(), label="told")
    again = told.then(lambda text: ask(text.text), label="again")

    async def main():
        async with Emulator() as emulator, Client(**emulator.client_options) as client:
            async with flow.start(client) as started:
                events = [event async for event in started.events()]
            result = started.result
            texts = {}
            for event in events:
                if isinstance(event, NodeDelta):
                    texts[event.label, event.kind] = texts.get((event.label, event.kind), "") + event.text
            assert isinstance(result[told], TextResult)
            assert texts["told", "text"] == result[told].text
            assert texts["again", "text"] == result[again].text
            kinds = [type(event) for event in events if getattr(event, "label", None) == "told"]
            assert (kinds[0], kinds[-1]) == (NodeStarted, NodeSettled)
            assert kinds.count(NodeDelta) == len(kinds) - 2 >= 1
            assert result.cost is not None
            assert result.cost == pytest.approx(result[told].cost + result[again].cost)
            assert result[told].finish_reason
            assert all(entry.request["deliveryMethod"] == "stream" for entry in emulator.log.asked)

    run(main)


def test_streamed_node_needs_no_reader_and_is_restored_from_a_journal(run, tmp_path):
    def declare():
        flow = Flow("text", journal=tmp_path / "j.sqlite")
        return flow, flow.then(ask())

    async def main():
        async with Emulator() as emulator, Client(**emulator.client_options) as client:
            flow, node = declare()
            first = await flow.execute(client)
            flow, again = declare()
            second = await flow.execute(client)
            assert second[again] == first[node]
            assert second[again].raw == first[node].raw
            assert second.record(again).is_restored
            assert len(emulator.log.asked) == 1

    run(main)


def test_streamed_node_that_fails_is_tried_again_and_names_itself(run):
    async def main():
        async with Emulator(faults=["fail:times=1,code=providerUnavailable"]) as emulator:
            async with Client(**emulator.client_options) as client:
                flow = Flow()
                node = flow.then(ask(), retry=Retry(2, backoff=0.0))
                async with flow.start(client) as started:
                    deltas = [event async for event in started.events() if isinstance(event, NodeDelta)]
                assert {event.attempt for event in deltas} <= {1, 2}
                joined = "".join(event.text for event in deltas if event.attempt == 2 and event.kind == "text")
                assert joined == started.result[node].text
        async with Emulator(faults=["fail:code=providerUnavailable"]) as emulator:
            async with Client(**emulator.client_options) as client:
                flow = Flow()
                flow.then(ask(), label="bad")
                with pytest.raises(FlowFailed, match="'bad', declared at"):
                    await flow.execute(client)

    run(main)


def test_plan_knows_what_a_streamed_task_sends():
    flow = Flow()
    flow.then(ask())
    [stage] = flow.plan().stages
    assert (stage.task_type, stage.open_question) == ("textInference", None)


def test_reader_merges_unread_pieces_and_loses_none(run):
    async def main():
        reader = EventStream(lambda: None)

        def put(text, path="a", kind="text", attempt=1):
            reader.put_event(NodeDelta(0.0, path, path, text, kind, attempt))

        put("Once ")
        put("hm", kind="reasoning")
        put("upon ")
        reader.put_event(NodeProgress(0.0, "a", "a", 5.0))
        put("else", path="b")
        put("a time")
        put("Twice", attempt=2)
        reader.is_over = True
        found = [(event.path, getattr(event, "text", None)) async for event in reader]
        assert found == [("a", "Once upon a time"), ("a", "hm"), ("a", None), ("b", "else"), ("a", "Twice")]
        assert not reader._texts

    run(main)


@pytest.mark.parametrize("has_journal", [True, False])
@pytest.mark.parametrize("fault", ["truncate-stream:times=1", "kill-mid-frame:times=1", "reset:times=1"])
def test_stream_that_breaks_off_is_polled_for_and_its_fallback_is_not_bought(run, tmp_path, fault, has_journal):
    async def main():
        async with Emulator(faults=[fault]) as emulator, Client(**emulator.client_options) as client:
            flow = Flow("text", journal=tmp_path / "j.sqlite" if has_journal else None)
            node = flow.then(ask, fallback=lambda: ask("a boat"))
            async with flow.start(client) as started:
                deltas = [event async for event in started.events() if isinstance(event, NodeDelta)]
            [entry] = [entry for entry in emulator.log.tasks if entry.cost > 0]
            result = started.result
            assert len(emulator.log.tasks) == 1
            assert result[node].task_uuid == entry.task_uuid
            assert "".join(event.text for event in deltas if event.kind == "text") == result[node].text
            assert {event.attempt for event in deltas} == {1}
            assert result.cost == pytest.approx(entry.cost)

    run(main)


def test_stream_of_which_the_service_has_nothing_fails_with_its_own_error_and_is_not_sent_again(
    run, tmp_path, monkeypatch
):
    impatient = partial(SessionOptions, poll=PollPolicy(unknown_patience=0.0))
    monkeypatch.setattr(transport_selector, "SessionOptions", impatient)

    async def main():
        async with Emulator(faults=["http:times=1,status=502,body=text"]) as emulator:
            async with Client(**emulator.client_options) as client:
                flow = Flow("text", journal=tmp_path / "j.sqlite")
                node = flow.then(ask())
                with pytest.raises(FlowFailed) as caught:
                    await flow.execute(client)
                assert caught.value.__cause__.status_code == 502
                assert caught.value.result.cost is None
                assert not emulator.log.tasks
                result = await flow.execute(client)
                assert [entry.task_uuid for entry in emulator.log.tasks] == [result[node].task_uuid]
                assert result[node].task_uuid == caught.value.task_uuid

    run(main)


def describe(path):
    return ask(inputs={"images": [str(path)]})


@pytest.mark.parametrize("has_journal", [True, False])
@pytest.mark.parametrize("unreachable", ["the service", "the storage of a picture"])
def test_stream_that_never_left_is_not_polled_for_and_costs_nothing(run, tmp_path, has_journal, unreachable):
    path = tmp_path / "large.png"
    path.write_bytes(bytes(INLINE_LIMIT_BYTES + 1))

    async def main():
        async with Emulator() as emulator:
            options = {**emulator.client_options, "http_base_url": "http://127.0.0.1:1/v1", "max_retries": 0}
            async with Client(**options) as client:
                flow = Flow("text", journal=tmp_path / "j.sqlite" if has_journal else None)
                flow.then(ask() if unreachable == "the service" else describe(path))
                with pytest.raises(FlowFailed, match="Could not connect") as caught:
                    await flow.execute(client)
                assert not caught.value.__cause__.may_be_billed
                assert caught.value.result.cost == 0
                assert emulator.log.poll_requests == 0

    run(main)
