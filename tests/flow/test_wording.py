"""The messages of runs and results: each names the node once and says what to do instead."""

from __future__ import annotations

import pickle

import anyio
import pytest
from service import Service, art, caption

from runware_flow import (
    Client,
    ClientStateError,
    DeclarationError,
    Failed,
    Flow,
    FlowFailed,
    NodeNotAvailable,
    Retry,
    RunwareError,
    Skipped,
)


async def boom(*_):
    raise ValueError("no luck")


async def double(x):
    return 2 * x


async def forever():
    await anyio.sleep_forever()


def test_result_read_the_wrong_way_names_the_right_one(run):
    flow = Flow(on_error="continue")
    node = flow.then(boom, label="bad")
    many = flow.map([1], double)

    async def main():
        result = await flow.execute()
        with pytest.raises(TypeError, match=r"use result\[node\], result.outcome\(node\)"):
            result.outcomes(node)
        with pytest.raises(TypeError, match=r"use result\[many\], result.outcomes\(many\)"):
            result.outcome(many)
        with pytest.raises(NodeNotAvailable, match=r"node 'bad', declared at .*\.py:\d+, failed: no luck"):
            result[node]

    run(main)


@pytest.mark.parametrize("of", ["node", "item"])
def test_flow_failed_of_a_timeout_names_the_node_and_its_line_once(run, of):
    flow = Flow()
    if of == "node":
        flow.then(forever, timeout=0.01, label="slow")
    else:
        flow.map([1], lambda x: art(), timeout=0.01, label="slow", key=str)

    async def main():
        async def answer(request, _):
            await anyio.sleep_forever()

        service = Service(lambda request, count: answer(request, count))
        with pytest.raises(FlowFailed, match=r"took longer than its timeout of 0\.01 s") as info:
            await flow.execute(service)
        message = str(info.value)
        assert message.count("declared at") == message.count("test_wording.py") == 1
        assert ("slow[1]/slow" in message) == (of == "item")

    run(main)


def test_skip_behind_an_item_names_it_by_position_or_by_its_own_key(run):
    flow = Flow(on_error="continue")
    skipped = flow.map(["kite", "boat"], boom, label="a").then(double)
    named = flow.map(["kite"], boom, label="b", key=str.upper).then(double)

    async def main():
        result = await flow.execute()
        assert [outcome.because for outcome in result.outcomes(skipped)] == ["a[0]/a failed", "a[1]/a failed"]
        assert isinstance(result.outcomes(named)[0], Skipped)
        assert result.outcomes(named)[0].because == "b[KITE]/b failed"

    run(main)


def test_flow_failed_says_what_failed_what_is_kept_and_what_to_do(run):
    flow = Flow("night", on_error="cancel")
    first = flow.then(art("kept"))
    flow.then(first, lambda _: art("slow"), label="slow")
    bad = flow.then(first, lambda _: art("bad"), retry=Retry(2, backoff=0.0), label="bad")

    def answer(request, count):
        prompt = request.wire["positivePrompt"]
        if prompt == "slow":
            return anyio.sleep_forever()
        return RunwareError("too busy", code="provider", raw_code="providerError") if prompt == "bad" else None

    service = Service(answer)

    async def main():
        with pytest.raises(FlowFailed) as info:
            await flow.execute(service)
        failed = info.value
        uuids = {request.wire["positivePrompt"]: request.task_id for request in service.sent}
        line = bad.spec.where
        request = f"imageInference with runware:400@1, taskUUID {uuids['bad']}, attempt 2, provider (providerError)"
        pay = "(with journal=, no task is paid twice)"
        assert str(failed).splitlines() == [
            f"flow 'night': 'bad', declared at {line}, failed: too busy",
            f"  request: {request}",
            "  kept: 1 finished node in .result",  # the cost is not known
            f"  may be billed: slow, taskUUID {uuids['slow']}",
            f"  next: this may be temporary: give the node a retry= or a fallback=; then run it again {pay}",
        ]
        assert (failed.label, failed.where, failed.path) == ("bad", str(line), "bad")
        assert (failed.task_type, failed.model, failed.attempt) == ("imageInference", "runware:400@1", 2)
        assert failed.task_uuid == uuids["bad"]
        assert failed.summary == str(failed).splitlines()[0]
        copied = pickle.loads(pickle.dumps(failed))
        assert {**vars(copied), "result": 0, "node": 0} == {**vars(failed), "result": 0, "node": 0}

    run(main)


def test_flow_failed_names_an_item_by_its_position_for_people_and_by_its_identity_for_programs(run):
    flow = Flow()
    flow.map(["good", "bad"], lambda prompt: art(prompt), label="poster")
    service = Service(lambda request, count: RunwareError("no") if request.wire["positivePrompt"] == "bad" else None)

    async def main():
        with pytest.raises(FlowFailed, match=r": 'poster\[1\]/poster', declared at ") as info:
            await flow.execute(service)
        assert "poster[1]" not in info.value.path

    run(main)


def test_flow_failed_of_an_input_says_to_correct_it(run):
    flow = Flow()
    flow.then(caption("kite.jpg"))
    wrong = RunwareError("no medium", code="validation", parameter="inputs.image")

    async def main():
        with pytest.raises(FlowFailed, match="next: correct the request; then"):
            await flow.execute(Service(lambda request, count: wrong))

    run(main)


def test_flow_failed_with_a_journal_says_what_a_second_run_does(run, tmp_path):
    flow = Flow(journal=tmp_path / "j.sqlite")
    flow.then(art(), timeout=0.01)

    async def main():
        service = Service(lambda request, count: anyio.sleep_forever())
        with pytest.raises(FlowFailed) as info:
            await flow.execute(service)
        kept, billed, then = str(info.value).splitlines()[2:]
        assert (kept, billed) == (
            "  kept: no node had finished",
            "  may be billed: 1 request whose outcome is not known",
        )
        assert then.startswith(
            f"  next: what was sent may still finish as task {service.sent[0].task_id}; give it more"
        )
        assert "with the same journal: finished results are not bought again" in then

    run(main)


def test_flow_failed_survives_a_pickle_without_its_run(run):
    flow = Flow()
    flow.then(boom, label="bad")

    async def main():
        with pytest.raises(FlowFailed) as info:
            await flow.execute()
        copied = pickle.loads(pickle.dumps(info.value))
        assert (type(copied), str(copied)) == (FlowFailed, str(info.value))
        assert (copied.node, copied.result) == ("bad", None)
        assert str(pickle.loads(pickle.dumps(copied))) == str(copied)
        assert isinstance(info.value.result.outcome(info.value.node), Failed)

    run(main)


@pytest.mark.parametrize(("given", "said"), [("key", "not one str"), (Client, "not the class Client")])
def test_execute_with_an_object_that_is_not_a_client_says_so(given, said):
    with pytest.raises(DeclarationError, match=f"an open client, {said}"):
        Flow().start(given)


def test_blocking_run_in_a_running_loop_says_to_use_execute(run):
    flow = Flow()

    async def main():
        with pytest.raises(ClientStateError, match=r"use `await flow\.execute"):
            flow.run()

    run(main)


@pytest.mark.parametrize("refused", [bool, list, len])
def test_placeholders_advise_only_what_exists(refused):
    flow = Flow()
    for placeholder, absent in ((flow.then(boom), "branch"), (flow.map([1], double), "node.map")):
        with pytest.raises(DeclarationError) as info:
            refused(placeholder)
        assert absent not in str(info.value)
