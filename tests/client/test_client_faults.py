"""Every fault that the emulator knows, and what its user sees on each transport: nothing, a pause, or one clear error.

Whatever happens, each task reaches the service under its own taskUUID alone, and is billed at most once.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import pytest

from runware_flow import Client, RunwareError
from runware_flow.client import transport_selector
from runware_flow.emulator import Emulator
from runware_flow.emulator.network.faults import FAULT_KINDS
from runware_flow.session.options import SessionOptions
from runware_flow.session.polling import PollPolicy
from runware_flow.tasks import ImageInference, TextInference
from runware_flow.wire import serverless

COST = 0.0006


@dataclass(frozen=True)
class Case:
    """A fault, and what the user of six tasks sees of it."""

    fault: str
    sees: str = "nothing"
    """`nothing`, `pause`, or the code of the error that the failing tasks raise."""
    on: tuple[str, ...] = ("websocket", "rest")
    failing: int = 6
    """How many of the six raise it."""
    billed: int | None = None
    """Results that are paid for, if that is certain. The six tasks have eight."""
    deliveries: tuple[str, ...] = ("sync", "async")
    timeout: float | None = None
    emulator: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.fault.partition(":")[0]


SOCKET, REST = ("websocket",), ("rest",)
CASES = [
    Case("reject-key", "auth", billed=0),
    Case("slow-auth:seconds=0.1", "pause", SOCKET),
    Case("stray-frame", "nothing", SOCKET),
    Case("rotate-session", "nothing", SOCKET, emulator={"faults": ["kill:nth=4"]}),
    Case("swallow-pong", "pause", SOCKET, deliveries=("sync",), emulator={"latency": 0.7}),
    Case("swallow-ack:nth=1", "pause"),
    Case("delay-ack:seconds=0.1", "nothing"),
    Case("empty-ack", "nothing"),
    Case("drop-poll:nth=1", "pause"),
    Case("drop-poll:every=2", "pause"),
    Case("reject:nth=2", "validation", failing=1),
    Case("reject:nth=2,code=rateLimitExceeded,status=429", "pause"),
    Case("fail:nth=2", "provider", failing=1),
    Case("fail:nth=2,shape=item", "provider", failing=1),
    Case("never:nth=2", "timeout", failing=1, timeout=1.0),
    Case("slow:nth=2,seconds=0.3", "pause"),
    Case("kill:nth=2", "pause", SOCKET),
    Case("kill:every=3", "pause", SOCKET),
    Case("drop-frame:nth=2", "pause", SOCKET),
    Case("drop-frame:every=4", "pause", SOCKET),
    Case("duplicate", "nothing", SOCKET),
    Case("split", "nothing", SOCKET),
    Case("shuffle", "nothing", SOCKET),
    Case("merge", "nothing", SOCKET),
    Case("empty-data", "nothing", SOCKET),
    Case("empty-errors", "nothing", SOCKET),
    Case("http:nth=1", "pause", REST),
    Case("http:nth=2,status=429,retry_after=0.05", "pause", REST),
    Case("http:nth=2,times=3,status=502,body=text", "pause", REST),
    Case("http:nth=2,times=3,status=500,body=empty", "pause", REST),
    Case("http", "rateLimit", REST, billed=0),
    Case("cut:every=3", "pause", REST),
    Case("bare-data", "nothing"),
    Case("kill-mid-frame:nth=3", "pause"),
    Case("reset:nth=3", "pause"),
    Case("half-open:nth=4", "pause", SOCKET),
    Case("half-open:nth=4", "pause", REST),
    Case("fragment", "nothing"),
    Case("throttle:rate=20000", "nothing"),
    Case("delay:every=2,seconds=0.02", "nothing"),
    Case("slow-reader:rate=50000", "nothing"),
    Case("refuse-connection:nth=1", "connection", SOCKET, billed=0),
    Case("refuse-connection:nth=2", "pause", SOCKET, emulator={"faults": ["kill:nth=4"]}),
    Case("refuse-connection", "connection", REST, billed=0),
]
ELSEWHERE = {
    "truncate-stream": "test_stream_that_is_cut_short_is_one_clear_error",
    "split-stream": "test_stream_in_pieces_is_whole",
    "drop-webhook": "test_webhooks_that_fail_change_nothing",
    "duplicate-webhook": "test_webhooks_that_fail_change_nothing",
    "slow-registry": "test_registry_that_is_late_holds_nothing_up",
    "serverless": "test_app_that_is_busy_is_asked_again",
    "late-task": "test_task_of_an_app_that_is_not_found_at_first_is_found",
}


@pytest.fixture
def impatient(monkeypatch):
    """A session whose patience is measured in tenths of seconds: what it does is the same."""
    poll = PollPolicy(reply_timeout=0.2, reply_floor=0.1, unknown_patience=0.3)
    short = {"ack_timeout": 0.5, "sync_timeout": 0.8, "ping_interval": 0.1, "silence_timeout": 0.4, "poll": poll}
    monkeypatch.setattr(transport_selector, "SessionOptions", partial(SessionOptions, **short))
    monkeypatch.setattr(serverless, "POLL_SECONDS", 0.01)


def tasks(deliveries):
    """Three of each delivery; one of each three has two results."""
    for number in range(6):
        yield ImageInference(
            model="runware:400@1",
            positive_prompt=f"number {number}",
            width=512,
            height=512,
            number_results=2 if number in (2, 5) else 1,
            delivery_method=deliveries[number // 3 % len(deliveries)],
            include_cost=True,
        )


def strikes(emulator, kind):
    return sum(entry._strikes for entry in emulator.faults._entries if entry.fault.kind == kind)


async def run_all(client, case):
    """The number of results of each task, or its error."""
    ends: list[Any] = [None] * 6

    async def one(number, task):
        try:
            ends[number] = len(await client.run(task, timeout=case.timeout or 20))
        except RunwareError as error:
            ends[number] = error

    async with anyio.create_task_group() as group:
        for number, task in enumerate(tasks(case.deliveries)):
            group.start_soon(one, number, task)
    return ends


def test_every_fault_has_a_case():
    assert {case.kind for case in CASES} | ELSEWHERE.keys() == FAULT_KINDS.keys()
    assert all(callable(globals()[name]) for name in ELSEWHERE.values())


@pytest.mark.exhaustive
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("case", "transport"),
    [pytest.param(case, way, id=f"{case.fault}-{way}") for case in CASES for way in case.on],
)
def test_fault_is_nothing_a_pause_or_one_clear_error(run, case, transport):
    async def main():
        options = {"latency": 0.03, **case.emulator}
        options["faults"] = [case.fault, *options.get("faults", ())]
        async with Emulator(**options) as emulator:
            client_options = {**emulator.client_options, "transport": transport, "retry_delay": 0.02, "timeout": 1.0}
            async with Client(**client_options) as client:
                ends = await run_all(client, case)
            check(case, ends, emulator)

    run(main)
    gc.collect()  # an unclosed socket or task becomes a warning here, and a warning is an error


def check(case, ends, emulator):
    assert strikes(emulator, case.kind), "the fault did not strike"
    failures = [end for end in ends if isinstance(end, RunwareError)]
    if case.sees in ("nothing", "pause"):
        assert ends == [1, 1, 2, 1, 1, 2]
    else:
        assert [error.code for error in failures] == [case.sees] * case.failing
        assert all(error.message.strip() and "\n" not in error.message for error in failures)
    asked = [entry.task_uuid for entry in emulator.log.asked]
    assert len(set(asked)) == len(asked) <= 6
    bills = {entry.task_uuid: round(entry.cost / COST, 6) for entry in emulator.log.asked}
    assert all(bills[entry.task_uuid] <= len(entry.ready_at) for entry in emulator.log.asked)
    if not failures:
        assert sum(bills.values()) == 8
    elif case.billed is not None:
        assert sum(bills.values()) == case.billed


async def opened(fault, use, **options):
    """Run `use(client)` with an emulator that has this fault."""
    async with Emulator(latency=0.02, faults=[fault]) as emulator:
        async with Client(**emulator.client_options, retry_delay=0.02, **options) as client:
            await use(client)
        assert strikes(emulator, fault.partition(":")[0])
        return emulator.log


def words():
    return TextInference(model="google:gemma@4-31b", messages=[{"role": "user", "content": "Tell me of a lighthouse"}])


def test_stream_that_is_cut_short_is_one_clear_error(run):
    async def use(client):
        with pytest.raises(RunwareError) as caught:
            async with client.stream(words()) as stream:
                await stream.result()
        assert caught.value.message

    run(opened, "truncate-stream", use)


def test_stream_in_pieces_is_whole(run):
    async def use(client):
        async with client.stream(words()) as stream:
            assert (await stream.result()).text

    run(opened, "split-stream", use)


@pytest.mark.parametrize("fault", ["drop-webhook", "duplicate-webhook"])
def test_webhooks_that_fail_change_nothing(run, fault):
    async def use(client):
        (image,) = await client.run(
            ImageInference(
                model="runware:400@1",
                positive_prompt="a lighthouse",
                width=512,
                height=512,
                webhook_url="http://127.0.0.1:1/hook",
            )
        )
        assert image.url

    run(opened, fault, use)


def test_registry_that_is_late_holds_nothing_up(run):
    ended = []

    async def use(client):
        async def refresh():
            await client.refresh_registry()
            ended.append("registry")

        async with anyio.create_task_group() as group:
            group.start_soon(refresh)
            await client.run({"model": "runware:400@1", "positivePrompt": "kite", "width": 512, "height": 512})
            ended.append("picture")

    run(opened, "slow-registry:seconds=2", use)
    assert ended == ["picture", "registry"]


@pytest.mark.usefixtures("impatient")
def test_app_that_is_busy_is_asked_again(run):
    async def use(client):
        assert (await client.invoke("my-app", {"prompt": "hi"})).is_done

    run(opened, "serverless:times=2", use)


@pytest.mark.usefixtures("impatient")
def test_task_of_an_app_that_is_not_found_at_first_is_found(run):
    async def use(client):
        assert (await client.invoke("my-app", {"prompt": "hi"}, sync=False)).is_done

    run(opened, "late-task:times=2", use)
