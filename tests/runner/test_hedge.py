"""`hedge_after=`: a second request beside a slow one, the first to succeed wins, and both are on record."""

from __future__ import annotations

import sqlite3

import anyio
import pytest
from service import Service, art, caption
from waiting import cancel_when

from runware_flow import Abandoned, Batch, Flow, FlowFailed, NodeStarted, Ok, RunwareError


def fails(code="provider", raw_code="providerError"):
    return RunwareError("no", code=code, raw_code=raw_code, retryable=False)


def slow_first(*rest):
    """Never answer the first request; answer the others with these."""

    def answer(request, count):
        return anyio.sleep_forever() if count == 1 else dict(enumerate(rest, 2)).get(count)

    return answer


def test_hedge_second_request_wins_and_the_first_is_withdrawn(run):
    service = Service(slow_first())
    flow = Flow()
    node = flow.then(art(), hedge_after=0.01)
    text = node.then(caption)

    async def main():
        async with flow.start(service) as started:
            events = [event async for event in started.events() if isinstance(event, NodeStarted)]
        result = started.result
        first, second, _ = service.sent
        assert result[node].task_uuid == second.task_id != first.task_id
        assert result.record(node).task_uuid == second.task_id
        assert result.record(node).given_up == (first.task_id,)
        assert [event.task_uuid for event in events[:2]] == [first.task_id, second.task_id]
        assert isinstance(result.outcome(text), Ok)
        assert result.cost is None  # the first may be billed
        assert service.in_flight == 0

    run(main)


@pytest.mark.parametrize("is_chain", [True, False])
def test_hedge_is_sent_for_an_item_of_a_batch(run, is_chain):
    def item(flow, prompt):
        node = flow.then(art(prompt), hedge_after=0.01)
        return node if is_chain else flow.join(node, flow.then(art("beside"))).then(lambda first, _: caption(first))

    def answer(request, count):
        return anyio.sleep_forever() if request in of("one")[:1] else None

    def of(prompt):
        return [request for request in service.sent if request.wire.get("positivePrompt") == prompt]

    service = Service(answer)

    async def main():
        async with Batch(item, concurrency=3).run(["one"], service) as outcomes:
            [found] = [item async for item in outcomes]
        assert isinstance(found.outcome, Ok)
        assert len(of("one")) == 2
        assert service.in_flight == 0

    run(main)


def test_hedge_is_not_sent_if_the_first_is_quick_or_there_is_no_permit(run):
    async def main():
        service = Service()
        flow = Flow()
        node = flow.then(art(), hedge_after=60)
        result = await flow.execute(service)
        assert len(service.sent) == 1
        assert result.record(node).given_up == ()

        gate = anyio.Event()
        crowded = Service(lambda request, count: gate.wait())
        flow = Flow(concurrency=1)
        flow.then(art(), hedge_after=0.01)
        async with flow.start(crowded), anyio.create_task_group() as group:

            async def open_gate():
                await anyio.sleep(0.1)
                gate.set()

            group.start_soon(open_gate)
        assert len(crowded.sent) == crowded.most_in_flight == 1

    run(main)


def test_hedge_counts_against_limits(run):
    gate = []
    service = Service(lambda request, count: gate[0].wait())
    flow = Flow(limits={"image": 1})
    flow.then(art(), hedge_after=0.01)

    async def main():
        gate[:] = [anyio.Event()]
        async with flow.start(service):
            await anyio.sleep(0.1)
            gate[0].set()
        assert service.most_in_flight == 1

    run(main)


def test_hedge_first_that_fails_leaves_it_to_the_second_and_both_fail_together(run):
    async def main():
        opened = anyio.Event()

        async def first():
            await opened.wait()
            raise fails()

        async def second():
            opened.set()
            await anyio.sleep(0.01)

        service = Service(lambda request, count: first() if count == 1 else second())
        flow = Flow()
        node = flow.then(art(), hedge_after=0.01)
        result = await flow.execute(service)
        assert isinstance(result.outcome(node), Ok)
        assert result.cost == 0.0012  # the service says that the other has failed

        lost = fails("connection", "connectionLost")
        opened = anyio.Event()

        async def broken():
            opened.set()
            await anyio.sleep(0.01)
            raise lost

        service = Service(lambda request, count: first() if count == 1 else broken())
        flow = Flow()
        flow.then(art(), hedge_after=0.01, retry=3)
        with pytest.raises(FlowFailed) as caught:
            await flow.execute(service)
        assert caught.value.__cause__ is lost  # that one may still stand, so nothing is bought again
        assert len(service.sent) == 2

    run(main)


def test_hedge_cancelled_withdraws_both(run):
    service = Service(lambda request, count: anyio.sleep_forever())
    flow = Flow(concurrency=4)
    node = flow.then(art(), hedge_after=0.01)

    async def main():
        async with cancel_when(lambda: len(service.sent) == 2):
            async with flow.start(service) as started:
                await started.wait()
        assert isinstance(started.result.outcome(node), Abandoned)
        assert started.result.outcome(node).may_be_billed
        assert started.result.receipt()[0].unknown_count == len(service.sent) == 2
        assert service.in_flight == 0

    run(main)


def test_hedge_that_won_is_restored_from_the_journal_which_knows_both(run, tmp_path):
    path = tmp_path / "j.sqlite"

    def declare():
        flow = Flow("f", journal=path)
        return flow, flow.then(art(), hedge_after=0.01)

    async def main():
        flow, node = declare()
        service = Service(slow_first())
        first = await flow.execute(service)
        connection = sqlite3.connect(path)
        rows = connection.execute("SELECT task_uuid, state FROM node ORDER BY id").fetchall()
        connection.close()
        assert [row[0] for row in rows] == [request.task_id for request in service.sent]
        assert rows[0][1] != rows[1][1]  # one may still be collected, the other is done
        again = Service()
        flow, restored = declare()
        second = await flow.execute(again)
        assert not again.sent
        assert second[restored] == first[node]

    run(main)
