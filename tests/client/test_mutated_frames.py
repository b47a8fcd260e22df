"""Frames of the service, changed at random on their way: no foreign exception, no hang, no result of another task.

The service is the emulator's own, without sockets; time is virtual, so that a call that waits for its timeout costs
nothing. `make test-exhaustive` changes some eight thousand frames.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict, deque
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import UUID

import anyio
import httpx
import msgspec
import pytest

from runware_flow import Client, RunwareError
from runware_flow.emulator.network.faults import FaultBook
from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service.models import load_models
from runware_flow.emulator.service.service import Service
from runware_flow.emulator.settings import Settings
from runware_flow.tasks import ImageInference, TextInference
from tests.runner.virtual_time import run_in_virtual_time

KEY = "rw-secret-0123456789"
CASES = json.loads((Path(__file__).parents[1] / "cases" / "documented-replies.json").read_text(encoding="utf-8"))
MUTATED = 25
"""Frames that are changed at most in one session; then the service is as it should be."""
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[\[\]{}:,]')
HOSTILE = [
    "null",
    "true",
    "-1",
    "1e999",
    "9" * 400,
    "0.1",
    '""',
    '"\\ud800"',
    '"x"',
    "[]",
    "{}",
    "[[]]",
    "NaN",
    "{",
    "]",
]
HOSTILE += [":", ",", '"success"', '"error"', '"processing"', '{"code":7,"message":[]}', "[" * 900 + "]" * 900]


# What is done to a frame


def places(value, found=None):
    found = [] if found is None else found
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            places(value[key], found)
    return found


def change_structure(chance, body):
    value = json.loads(body)
    for _ in range(chance.randint(1, 3)):
        if not (found := places(value)):
            break
        holder, key = chance.choice(found)
        what = chance.randrange(6)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, list):
            holder.insert(key, holder[key])
        elif what == 1:
            holder[chance.choice(["taskType", "data", "errors", "code", "x"])] = holder.pop(key)
        elif what == 2:
            holder[key] = [holder[key]]
        elif what == 3:
            holder[key] = {"data": holder[key]}
        elif what == 4:
            holder[key] = chance.choice([None, 0, -1.5, True, "", "x", [], {}, 2**70, "\ud800", [None], {"": None}])
        else:
            holder[key] = str(holder[key])
    return json.dumps(value).encode()


def change_tokens(chance, body):
    tokens = TOKEN.findall(body.decode())
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(tokens) or 1)
        what = chance.randrange(3)
        tokens[at : at + (what != 0)] = [] if what == 1 else [chance.choice(HOSTILE)]
    return "".join(tokens).encode()


def change_bytes(chance, body):
    content = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content) or 1)
        end = at + chance.randint(1, 40)
        what = chance.randrange(5)
        if what == 0:
            content[at:end] = b""
        elif what == 1:
            content[at:at] = chance.randbytes(chance.randint(1, 8))
        elif what == 2:
            content[at:at] = content[at:end]
        elif what == 3:
            del content[at:]
        elif content:
            content[at % len(content)] = chance.randrange(256)
    return bytes(content)


CHANGES = {"structure": change_structure, "tokens": change_tokens, "bytes": change_bytes}


class HostileService:
    """The emulator's service, and who may be told of which picture."""

    def __init__(self, seed, kind):
        self.chance = random.Random(seed)
        self.kind = kind
        self.service = Service(Settings(api_key=KEY, latency=0.3), load_models(), FaultBook())
        self.asked = []
        self.named = defaultdict(set)
        """The taskUUIDs under which each picture has stood in a frame."""
        self.mutated = 0

    def answer(self, body):
        """Give the bytes of a frame, changed or not."""
        self.note(body)
        raw = json.dumps(body).encode()
        is_opening = b'"authentication"' in raw  # a mistake there ends all calls of a client at once
        if self.mutated >= MUTATED or self.chance.random() > (0.03 if is_opening else 0.4):
            return raw
        self.mutated += 1
        if self.asked and self.chance.random() < 0.15:
            case = json.dumps(self.chance.choice(CASES)["reply"])
            raw = re.sub(r'("taskUUID": )"[^"]*"', rf'\1"{self.chance.choice(self.asked)}"', case).encode()
        raw = CHANGES[self.kind](self.chance, raw)
        with suppress(ValueError, RecursionError):
            self.note(json.loads(raw.decode("utf-8", "replace"), strict=False))
        return raw

    def note(self, value):
        for holder, _ in places([value]):
            if isinstance(holder, dict) and isinstance(holder.get("imageUUID"), str):
                task = holder.get("taskUUID")
                self.named[holder["imageUUID"]].add(task if isinstance(task, str) and task else None)

    def receive(self, raw, session=None):
        tasks = json.loads(raw)
        self.asked += [
            task["taskUUID"] for task in tasks if task.get("taskType") in ("imageInference", "textInference")
        ]
        return self.service.receive(tasks, anyio.current_time(), session)

    # WebSocket

    @asynccontextmanager
    async def connect(self, url, **_):
        yield HostileConnection(self)

    # REST

    async def post(self, request):
        reply = self.receive(await request.aread())
        waiting = set(reply.waiting)
        while waiting:
            waiting -= set(self.service.advance(anyio.current_time()).settled)
            if waiting:
                await anyio.sleep(max(0.01, (self.service.next_due() or 0) - anyio.current_time()))
        frame = self.service.collect(reply)
        return httpx.Response(frame.status, content=self.answer(frame.body()))


class HostileConnection:
    def __init__(self, peer):
        self.peer = peer
        self.session = None
        self.frames = deque()
        self.arrived = anyio.Event()

    async def send(self, raw):
        await anyio.lowlevel.checkpoint()
        tasks = json.loads(raw)
        if tasks[0].get("taskType") == "authentication":
            opened = self.peer.service.authenticate(tasks[0], anyio.current_time())
            if isinstance(opened, Problem):
                self.frames.append({"errors": [opened.entry("authentication")]})
            else:
                self.session = opened
                opened.attach(self, self.wake)
                item = {"taskType": "authentication", "connectionSessionUUID": opened.session_id}
                self.frames.append({"data": [item]})
            tasks = tasks[1:]
        if tasks and self.session is not None:
            reply = self.peer.receive(json.dumps(tasks), self.session)
            self.frames += [frame.body() for frame in (reply.frame, *reply.frames) if not frame.is_empty]
        self.wake()

    def wake(self):
        self.arrived.set()

    async def receive(self):
        service = self.peer.service
        while True:
            await anyio.lowlevel.checkpoint()
            service.advance(anyio.current_time())
            while self.session is not None and self.session.outbox:
                frame = self.session.outbox.popleft()
                service.sent(frame, anyio.current_time())
                self.frames.append(frame.body())
            if self.frames:
                return self.peer.answer(self.frames.popleft())
            self.arrived = anyio.Event()
            due = service.next_due()
            with anyio.move_on_after(None if due is None else max(0.01, due - anyio.current_time())):
                await self.arrived.wait()


# What a caller sees


def picture(prompt, **more):
    return ImageInference(
        model="runware:400@1", positive_prompt=prompt, width=512, height=512, include_cost=True, **more
    )


TEXT = TextInference(model="google:gemma@4-31b", messages=[{"role": "user", "content": "hello"}])
TASKS = (picture("a kite"), picture("two kites", number_results=2), TEXT, picture("a third"))
SECONDS = 20.0


async def converse(peer, transport, delivery, counts):
    """Send some tasks through one client, and count what their callers get."""
    options = {"poll_timeout": SECONDS, "retry_delay": 0.05, "transport": transport}
    http = httpx.AsyncClient(transport=httpx.MockTransport(peer.post))
    options |= {"http_client": http} if transport == "rest" else {"connector": peer.connect}

    async def call(task):
        own = str(UUID(int=peer.chance.getrandbits(128), version=4))
        task = msgspec.structs.replace(task, task_uuid=own)
        began = anyio.current_time()
        try:
            results = await client.run(task, delivery=delivery, timeout=SECONDS)
        except RunwareError as error:
            str(error), repr(error)
            results = error.results
            counts["errors"] += 1
            counts[error.code] += 1
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            counts["foreign"] += 1
            counts[f"{type(error).__name__}: {error}"[:200]] += 1
            return
        else:
            counts["ok"] += 1
        counts["hangs"] += anyio.current_time() - began > SECONDS + 1
        for result in results:
            str(result), repr(result), result.raw, result.to_dict()
            # Texts have no imageUUID, and a mutated frame may name an image "".
            image_uuid = getattr(result, "image_uuid", None)
            named = peer.named.get(image_uuid) if image_uuid else None
            # An item whose taskUUID was taken away may belong to the only task of a request.
            if named is not None and named.isdisjoint((own, None)):
                counts["strangers"] += 1

    async with http, Client(KEY, **options) as client:
        async with anyio.create_task_group() as group:
            for task in TASKS:
                group.start_soon(call, task)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("transport", ["websocket", "rest"])
@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("sessions", [6, pytest.param(150, marks=pytest.mark.exhaustive)])
def test_changed_frames_bring_errors_in_time_and_no_result_of_another_task(backend, transport, kind, sessions):
    counts = Counter()
    for number in range(sessions):
        seed = f"{kind} {transport} {number}"

        async def main(seed=seed, delivery=("sync", "async")[number % 2]):
            peer = HostileService(seed, kind)
            with anyio.move_on_after(5 * SECONDS) as scope:
                await converse(peer, transport, delivery, counts)
            counts["hangs"] += scope.cancelled_caught
            counts["mutated"] += peer.mutated

        run_in_virtual_time(backend, main)
    assert (counts["foreign"], counts["hangs"], counts["strangers"]) == (0, 0, 0), counts
    assert counts["ok"] + counts["errors"] == sessions * len(TASKS)
    assert counts["mutated"] >= sessions // 2
    assert counts["ok"] > 0
