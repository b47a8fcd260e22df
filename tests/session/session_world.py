"""A small service, a network with faults and a driver, all in virtual time, around one `SessionMachine`.

The service is written from the protocol's description, not from the machine: it knows tasks, bills each once, answers
submits, polls and archive lookups, pushes the results of sync tasks, and replays what it could not deliver.
"""

from __future__ import annotations

import heapq
import json
import random
from dataclasses import dataclass, field
from typing import Any

from runware_flow.secret import Secret
from runware_flow.session.commands import (
    CloseConnection,
    Command,
    Deliver,
    EndSession,
    Lane,
    Log,
    OpenConnection,
    Outgoing,
    Progress,
    Send,
    SessionReady,
    SetTimer,
    Settle,
)
from runware_flow.session.events import (
    ConnectionLost,
    ConnectionOpened,
    ConnectionRefused,
    Event,
    ExchangeFailed,
    ExchangeFinished,
    FrameReceived,
    Submission,
    TaskSubmitted,
    TaskWithdrawn,
    TimerFired,
)
from runware_flow.session.machine import SessionMachine
from runware_flow.session.options import SessionOptions
from runware_flow.types import TaskId
from runware_flow.wire.frames import decode_frame, decode_reply

KEY = "the-key"


@dataclass
class Plan:
    """What the service will make of a task."""

    durations: list[float]
    """One for each result."""
    failures: set[int] = field(default_factory=set)
    named: bool = True
    """Results carry ids of their own."""
    size: int = 0
    """Bytes of each result, beside the rest."""


@dataclass
class Known:
    """A task that the service has accepted, and billed."""

    plan: Plan
    body: dict[str, Any]
    since: float

    def ready(self, index: int, now: float) -> bool:
        return now >= self.since + self.plan.durations[index]

    def finished_at(self) -> float:
        return self.since + max(self.plan.durations)


class Service:
    """The service's state."""

    def __init__(self, plans: dict[str, Plan]) -> None:
        self.plans = plans
        self.known: dict[str, Known] = {}
        self.bills: dict[str, int] = {}
        self.conflicts: dict[str, int] = {}
        self.empty_for_unknown = False
        """Unknown tasks get no item at all, instead of one of type getResponse."""
        self.closes_sync = False
        """A finished sync task is known to the archive alone."""
        self.errors_in_items = False
        self.capacity: int | None = None
        """Tasks that are taken on at the same time; one more is refused."""
        self.names_refused = True
        """A refusal names its task."""
        self.refusals: dict[str, int] = {}
        self.accepted: list[str] = []
        """The tasks that were bought, in their order."""

    def answer(self, body: dict[str, Any], now: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Answer one task object at once: `data` and `errors`. Results of sync tasks come later."""
        task_id = body["taskUUID"]
        match body["taskType"]:
            case "getResponse":
                return self._state(task_id, now)
            case "getTaskDetails":
                return self._archive(task_id, now)
            case "modelSearch":
                return [{"taskType": "modelSearch", "taskUUID": task_id, "totalResults": 0, "results": []}], []
        if task_id in self.known:
            self.conflicts[task_id] = self.conflicts.get(task_id, 0) + 1
            return [], [{"code": "conflictTaskUUID", "message": "known already", "taskUUID": task_id}]
        if self.capacity is not None and self.running(now) >= self.capacity:
            self.refusals[task_id] = self.refusals.get(task_id, 0) + 1
            named = {"taskUUID": task_id} if self.names_refused else {}
            return [], [{"code": "rateLimitExceeded", "message": "the queue is full", **named}]
        self.accepted.append(task_id)
        self.known[task_id] = Known(self.plans[task_id], body, now)
        self.bills[task_id] = self.bills.get(task_id, 0) + 1
        is_sync = body.get("deliveryMethod") == "sync"
        return [] if is_sync else [{"taskType": body["taskType"], "taskUUID": task_id}], []

    def running(self, now: float) -> int:
        """How many tasks are at work."""
        return sum(now < known.finished_at() for known in self.known.values())

    def result(self, task_id: str, index: int, *, polled: bool) -> tuple[dict[str, Any], bool]:
        """One result (or failure) of a task, as a poll or a push tells it; and whether it belongs into `errors`."""
        known = self.known[task_id]
        base: dict[str, Any] = {"taskType": known.body["taskType"], "taskUUID": task_id}
        if index in known.plan.failures:
            if self.errors_in_items:
                error = {"code": "providerError", "message": f"number {index} failed"}
                return {**base, "status": "error", "error": error}, False
            return {"code": "providerError", "status": "error", "message": "failed", "taskUUID": task_id}, True
        status = {"status": "success"} if polled else {}
        if known.plan.size:
            status["imageBase64Data"] = "x" * known.plan.size
        if known.plan.named:
            return {**base, **status, "imageUUID": f"{task_id}-{index}", "imageURL": "https://im/x.jpg"}, False
        return {**base, **status, "text": f"words number {index}"}, False

    def _state(self, task_id: str, now: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        known = self.known.get(task_id)
        is_sync = known is not None and known.body.get("deliveryMethod") == "sync"
        if known is None or (is_sync and self.closes_sync and now >= known.finished_at()):
            if self.empty_for_unknown:
                return [], []
            return [{"taskType": "getResponse", "taskUUID": task_id, "status": "processing"}], []
        data: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for index in range(len(known.plan.durations)):
            if known.ready(index, now):
                told, is_error = self.result(task_id, index, polled=True)
                (errors if is_error else data).append(told)
            else:
                data.append({"taskType": known.body["taskType"], "taskUUID": task_id, "status": "processing"})
        return data, errors

    def _archive(self, task_id: str, now: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        known = self.known.get(task_id)
        if known is None:
            return [], [{"code": "taskNotFound", "message": "no such task", "taskUUID": task_id}]
        details: dict[str, Any] = {"taskType": "getTaskDetails", "taskUUID": task_id, "request": [known.body]}
        if now >= known.finished_at():
            told = [self.result(task_id, index, polled=False) for index in range(len(known.plan.durations))]
            details["response"] = {
                "data": [part for part, is_error in told if not is_error],
                "errors": [part for part, is_error in told if is_error],
            }
        return [details], []


@dataclass
class Faults:
    """What the network does to frames; each is a probability."""

    duplicate: float = 0.0
    split: float = 0.0
    merge: float = 0.0
    delay: float = 0.0
    lose: float = 0.0
    """The service's frames vanish although the connection stands (a lost reply)."""
    refuse: float = 0.0
    """A connection cannot be made; by REST, the request does not arrive."""
    status: float = 0.0
    """By REST: 503 instead of an answer."""
    kill_every: int | None = None
    """No probability: the service's connection breaks in place of each so-manieth frame, which is replayed."""
    largest: int | None = None
    """No probability: a message of more bytes is too large for the client."""
    life: float | None = None
    """No probability: no connection stands longer than so many seconds."""


class World:
    """Everything around one machine. `run` lets virtual time pass."""

    latency = 0.01

    def __init__(self, options: SessionOptions | None = None, seed: int = 0) -> None:
        self.options = options or SessionOptions(api_key=Secret(KEY))
        self.machine = SessionMachine(self.options)
        self.random = random.Random(seed)
        self.plans: dict[str, Plan] = {}
        self.service = Service(self.plans)
        self.faults = Faults()
        self.now = 0.0
        self.timer: float | None = None
        self.submissions: dict[str, Submission] = {}
        self.withdrawn: set[str] = set()
        self.delivered: dict[str, list[Deliver]] = {}
        self.settled: dict[str, Settle] = {}
        self.settled_at: dict[str, float] = {}
        self.ended: list[EndSession] = []
        self.frames_sent = 0
        self.losses = 0
        self.frames_received = 0
        self.polled_at = -1.0
        self.held_until = 0.0
        """When polls may leave again, by what the service said last."""
        self.asks: dict[str, int] = {}
        self.unknowns: dict[str, int] = {}
        self._queue: list[tuple[float, int, Any]] = []
        self._count = 0
        self._same = 0
        self.is_ambiguous = False
        """Replies were lost while empty ones mean "unknown": nobody can tell which ask an empty frame answers, and a
        task may be sent again that the service knows. Its conflict keeps it from being bought again."""
        self._epoch = 0
        """Number of the connection that stands or is being opened; frames of older ones die."""
        self.connected = False
        self._session: str | None = None
        self._undelivered: list[bytes] = []
        self._is_cut = False
        """The connection has broken at the service's end; the client does not know it yet."""
        self._outgoing = 0
        """Frames that the service has sent, or was about to send when its connection broke."""

    # Callers

    def submit(self, submission: Submission, plan: Plan) -> None:
        self.plans[submission.task_id] = plan
        self.submissions[submission.task_id] = submission
        self.feed(TaskSubmitted(self.now, submission))

    def withdraw(self, task_id: str) -> None:
        if task_id in self.submissions and task_id not in self.settled:
            self.withdrawn.add(task_id)
        self.feed(TaskWithdrawn(self.now, TaskId(task_id)))

    def kill(self) -> None:
        """Cut the connection, now: what is under way in both directions dies with it."""
        if self.connected:
            self._disconnect("killed")

    # Time

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (at := self._next()) is not None and at <= end:
            self._step(at)
        self.now = end

    def run_until_settled(self, limit: float) -> bool:
        """Let time pass until nothing is in flight; False if `limit` seconds are not enough."""
        end = self.now + limit
        while self.machine.statistics().in_flight:
            at = self._next()
            if at is None or at > end:
                return False
            self._step(at)
        return True

    def _next(self) -> float | None:
        times = [at for at in (self.timer, self._queue[0][0] if self._queue else None) if at is not None]
        return max(self.now, min(times)) if times else None

    def _step(self, at: float) -> None:
        self._same = self._same + 1 if at == self.now else 0
        assert self._same < 1000, "time stands still: the machine's timer fires for nothing"
        self.now = at
        if self._queue and self._queue[0][0] <= at:
            heapq.heappop(self._queue)[2]()
        elif self.timer is not None and self.timer <= at:
            self.timer = None
            self.feed(TimerFired(at))

    def after(self, seconds: float, action: Any) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + seconds, self._count, action))

    # The driver

    def feed(self, event: Event) -> None:
        for command in self.machine.handle(event):
            self._act(command)

    def _act(self, command: Command) -> None:
        match command:
            case OpenConnection():
                self._open()
            case CloseConnection():
                self._epoch += 1
                self.connected = False
                self.after(
                    self.latency, lambda: self.feed(ConnectionLost(self.now, "closed by us", self.random.random()))
                )
            case Send(entries):
                self._send(entries)
            case SetTimer(at):
                self.timer = at
            case Deliver(task_id):
                assert task_id not in self.settled, "delivered after it was settled"
                assert task_id not in self.withdrawn, "delivered after it was withdrawn"
                self.delivered.setdefault(task_id, []).append(command)
            case Settle(task_id):
                assert task_id not in self.settled, "settled twice"
                assert task_id not in self.withdrawn, "settled after it was withdrawn"
                self.settled[task_id] = command
                self.settled_at[task_id] = self.now
            case EndSession():
                self.ended.append(command)
            case SessionReady() | Progress() | Log():
                pass

    def _send(self, entries: tuple[Outgoing, ...]) -> None:
        if any(entry.lane in (Lane.POLL, Lane.LOOKUP) for entry in entries):
            assert self.now >= self.held_until, "polled before the time that the service said"
            assert self.now - self.polled_at > 0.999 * self.options.poll.floor, "polls follow too fast"
            self.polled_at = self.now
        groups: list[list[Outgoing]] = []
        for entry in entries:
            assert KEY not in repr(entry)
            if entry.lane is Lane.POLL and entry.task_id is not None:
                self.asks[entry.task_id] = self.asks.get(entry.task_id, 0) + 1
            fits = groups and entry.joins and groups[-1][0].joins
            if fits and (self.options.duplex or groups[-1][0].lane is entry.lane):
                groups[-1].append(entry)
            else:
                groups.append([entry])
        for group in groups:
            self.frames_sent += 1
            bodies = [json.loads(entry.body) for entry in group]
            if self.options.duplex:
                epoch = self._epoch
                self.after(self.latency, lambda bodies=bodies, epoch=epoch: self._arrive(bodies, epoch))
            else:
                self._post(group, bodies)

    # WebSocket

    def _open(self) -> None:
        self._epoch += 1
        epoch = self._epoch

        def opened() -> None:
            if epoch != self._epoch:
                return
            if self.random.random() < self.faults.refuse:
                self.feed(ConnectionRefused(self.now, "refused", self.random.random()))
            else:
                self.connected = True
                self._is_cut = False
                self.feed(ConnectionOpened(self.now))
                if self.faults.life is not None:
                    self.after(self.faults.life, lambda: self._break(epoch))

        self.after(self.latency, opened)

    def _break(self, epoch: int) -> None:
        """The service's end of a connection is gone: what is under way to us still comes, and then the news."""
        if epoch == self._epoch and self.connected and not self._is_cut:
            self._is_cut = True
            self.after(self.latency, lambda: self._disconnect("broken") if epoch == self._epoch else None)

    def _is_too_large(self, payload: bytes) -> bool:
        return self.faults.largest is not None and len(payload) > self.faults.largest

    def _disconnect(self, reason: str, *, too_large: bool = False, epoch: int | None = None) -> None:
        if epoch not in (None, self._epoch):
            return
        self._epoch += 1
        self.connected = False
        self.losses += 1
        self.feed(ConnectionLost(self.now, reason, self.random.random(), (), too_large))

    def _arrive(self, bodies: list[dict[str, Any]], epoch: int) -> None:
        """A frame of ours reaches the service."""
        if epoch != self._epoch or not self.connected or self._is_cut:
            return
        data: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for body in bodies:
            if body["taskType"] == "authentication":
                self._authenticate(body)
                continue
            if body["taskType"] == "ping":
                data.append({"taskType": "ping", "pong": True})
                continue
            self._note(body)
            told = self.service.answer(body, self.now)
            data += told[0]
            errors += told[1]
            self._schedule_pushes(body)
        asked = [body for body in bodies if body["taskType"] not in ("authentication", "ping")]
        if data or errors or (asked and self.service.empty_for_unknown):
            self._reply(data, errors)

    def _note(self, body: dict[str, Any]) -> None:
        """The machine may send a sync task again only if the service does not know it and has said so."""
        task_id = body["taskUUID"]
        if body["taskType"] in ("getResponse", "getTaskDetails"):
            if task_id not in self.service.known:
                self.unknowns[task_id] = self.unknowns.get(task_id, 0) + 1
        elif self._is_pushed(body) and not self.is_ambiguous:
            raise AssertionError("a sync task that the service knows was sent again")

    def _is_pushed(self, body: dict[str, Any]) -> bool:
        """Whether this is a submit, or a repeated one, whose results come without being asked for."""
        return body.get("deliveryMethod") == "sync" and body.get("taskUUID") in self.service.known

    def _authenticate(self, body: dict[str, Any]) -> None:
        assert body["apiKey"] == KEY
        resumed = body.get("connectionSessionUUID")
        replay = self._undelivered if resumed is not None and resumed == self._session else []
        self._undelivered = []
        self._session = self._session if replay else f"session-{self._epoch}"
        welcome = {"data": [{"taskType": "authentication", "connectionSessionUUID": self._session}]}
        if not self._strikes():
            self._transmit(json.dumps(welcome).encode())
        for payload in replay:
            self._emit(payload)

    def _schedule_pushes(self, body: dict[str, Any]) -> None:
        known = self.service.known.get(body.get("taskUUID", ""))
        if known is None or body.get("deliveryMethod") != "sync" or known.since != self.now:
            return
        for index, duration in enumerate(known.plan.durations):
            self.after(duration, lambda index=index: self._push(body["taskUUID"], index))

    def _push(self, task_id: str, index: int) -> None:
        told, is_error = self.service.result(task_id, index, polled=False)
        self._reply([] if is_error else [told], [told] if is_error else [])

    def _reply(self, data: list[dict[str, Any]], errors: list[dict[str, Any]]) -> None:
        frames = [(data, errors)]
        if self.random.random() < self.faults.split:
            frames = [([part], []) for part in data] + [([], [part]) for part in errors]
            self.random.shuffle(frames)
        for data_part, error_part in frames:
            whole: dict[str, Any] = {"data": data_part}
            if error_part:
                whole["errors"] = error_part
            self._emit(json.dumps(whole).encode())

    def _emit(self, payload: bytes) -> None:
        """Send a frame, or keep it for the session that comes back."""
        if self._is_too_large(payload) and self.connected and not self._is_cut:
            self._undelivered.append(payload)
            self._is_cut = True
            epoch = self._epoch
            self.after(self.latency, lambda: self._disconnect("too large", too_large=True, epoch=epoch))
            return
        if not self.connected or self._is_cut or self._strikes():
            self._undelivered.append(payload)
        elif self.random.random() >= self.faults.lose:
            self._transmit(payload)
            if self.random.random() < self.faults.duplicate:
                self._transmit(payload)

    def _strikes(self) -> bool:
        """Whether the connection breaks in place of the frame that was to leave now."""
        self._outgoing += 1
        if self.faults.kill_every is None or self._outgoing % self.faults.kill_every:
            return False
        self._break(self._epoch)
        return True

    def _transmit(self, payload: bytes) -> None:
        epoch = self._epoch
        extra = self.random.uniform(0, 1.0) if self.random.random() < self.faults.delay else 0.0

        def received() -> None:
            if epoch == self._epoch and self.connected:
                self.frames_received += 1
                self.feed(FrameReceived(self.now, decode_frame(payload)))

        self.after(self.latency + extra, received)

    # REST

    def _post(self, group: list[Outgoing], bodies: list[dict[str, Any]]) -> None:
        ids = tuple(entry.task_id for entry in group if entry.task_id is not None)
        lane = group[0].lane
        if self.random.random() < self.faults.refuse:
            failed = ExchangeFailed(self.now + self.latency, ids, lane, "refused", sent=False)
            self.after(self.latency, lambda: self.feed(failed))
        elif self.random.random() < self.faults.status:
            self.after(self.latency, lambda: self._finish(ids, lane, 503, b""))
        else:
            self.after(self.latency, lambda: self._serve(ids, lane, bodies))

    def _serve(self, ids: tuple[TaskId, ...], lane: Lane, bodies: list[dict[str, Any]]) -> None:
        data: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        wait = 0.0
        for body in bodies:
            self._note(body)
            told = self.service.answer(body, self.now)
            data += told[0]
            errors += told[1]
            if self._is_pushed(body) and not told[1]:
                wait = max(self.service.known[body["taskUUID"]].plan.durations)

        def finish() -> None:
            for body in bodies:
                if self._is_pushed(body) and not errors:
                    for index in range(len(self.service.known[body["taskUUID"]].plan.durations)):
                        told, is_error = self.service.result(body["taskUUID"], index, polled=False)
                        (errors if is_error else data).append(told)
            if self.random.random() < self.faults.lose:
                self.feed(ExchangeFailed(self.now, ids, lane, "reply lost", sent=True))
                return
            status = 400 if errors and not data else 200
            payload = json.dumps({"data": data, "errors": errors}).encode()
            if self._is_too_large(payload):
                self.losses += 1
                self.feed(ExchangeFailed(self.now, ids, lane, "too large", sent=True, is_reply_too_large=True))
                return
            self._finish(ids, lane, status, json.dumps({"data": data, "errors": errors}).encode())

        self.after(wait + self.latency, finish)

    def _finish(self, ids: tuple[TaskId, ...], lane: Lane, status: int, body: bytes) -> None:
        self.frames_received += 1
        retry_after = 0.6 if status == 503 and lane is not Lane.SUBMIT else None
        if retry_after is not None:
            self.held_until = self.now + retry_after
        self.feed(ExchangeFinished(self.now, ids, lane, status, decode_reply(status, body), retry_after))


def submission(task_id: str, delivery: str = "async", slots: int = 1, **changes: Any) -> Submission:
    """A task as a caller would submit it."""
    fields: dict[str, Any] = {"task_type": "imageInference", "model": "runware:400@1", **changes}
    body = json.dumps({"taskType": fields["task_type"], "taskUUID": task_id, "deliveryMethod": delivery}).encode()
    return Submission(task_id=TaskId(task_id), body=body, delivery=delivery, slots=slots, **fields)  # type: ignore[arg-type]
