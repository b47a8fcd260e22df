"""Words of the service and of callers, for the transcripts."""

from __future__ import annotations

from typing import Any

import msgspec

from runware_flow.secret import Secret
from runware_flow.session.commands import Lane, Log, OpenConnection, Outgoing, Send, SessionReady, SetTimer, Settle
from runware_flow.session.events import ConnectionOpened, ConnectRequested, FrameReceived, Submission
from runware_flow.session.machine import SessionMachine
from runware_flow.session.options import SessionOptions
from runware_flow.session.polling import PollPolicy
from runware_flow.testing.playbook import Playbook
from runware_flow.types import TaskId
from runware_flow.wire.frames import Frame, decode_frame, decode_reply

KEY = "rw-very-secret"
SESSION = "5e55-0001"


def options(**changes: Any) -> SessionOptions:
    # The wait for a reply is held at 2 s, so that transcripts need not know what the replies before took.
    return SessionOptions(api_key=Secret(KEY), poll=PollPolicy(reply_floor=2.0, scout=0.1, initial=0.1), **changes)


def playbook(**changes: Any) -> Playbook[Any]:
    return Playbook(SessionMachine(options(**changes)), ignore=(Log,))


def task(task_id: str = "t1", **changes: Any) -> Submission:
    fields: dict[str, Any] = {"task_type": "imageInference", "model": "runware:400@1", **changes}
    body = msgspec.json.encode({"taskType": fields["task_type"], "taskUUID": task_id})
    return Submission(task_id=TaskId(task_id), body=body, **fields)


def sync_task(task_id: str = "t1", **changes: Any) -> Submission:
    return task(task_id, delivery="sync", **changes)


def item(task_id: str = "t1", **members: Any) -> dict[str, Any]:
    return {"taskType": "imageInference", "taskUUID": task_id, **members}


def image(task_id: str = "t1", uuid: str = "i1", **members: Any) -> dict[str, Any]:
    return item(task_id, imageUUID=uuid, imageURL=f"https://im/{uuid}.jpg", **members)


def done(task_id: str = "t1", uuid: str = "i1", **members: Any) -> dict[str, Any]:
    return image(task_id, uuid, status="success", **members)


def processing(task_id: str = "t1", **members: Any) -> dict[str, Any]:
    return item(task_id, status="processing", **members)


def text(words: str, task_id: str = "t1", **members: Any) -> dict[str, Any]:
    return {"taskType": "textInference", "taskUUID": task_id, "text": words, **members}


def problem(code: str, task_id: str | None = "t1", **members: Any) -> dict[str, Any]:
    named = {} if task_id is None else {"taskUUID": task_id}
    return {"code": code, "message": f"it says {code}", **named, **members}


def frame(*data: dict[str, Any], errors: list[dict[str, Any]] | None = None) -> Frame:
    whole: dict[str, Any] = {"data": list(data)}
    if errors is not None:
        whole["errors"] = errors
    return decode_frame(msgspec.json.encode(whole))


def reply(status: int, *data: dict[str, Any], errors: list[dict[str, Any]] | None = None) -> Frame:
    whole: dict[str, Any] = {"data": list(data)}
    if errors is not None:
        whole["errors"] = errors
    return decode_reply(status, msgspec.json.encode(whole))


def received(at: float, *data: dict[str, Any], errors: list[dict[str, Any]] | None = None) -> FrameReceived:
    return FrameReceived(at, frame(*data, errors=errors))


def welcome(at: float, session: str | None = SESSION) -> FrameReceived:
    named = {} if session is None else {"connectionSessionUUID": session}
    return received(at, {"taskType": "authentication", **named})


def auth(session: str | None = None) -> Outgoing:
    body = {"taskType": "authentication", "apiKey": KEY}
    if session is not None:
        body["connectionSessionUUID"] = session
    return Outgoing(msgspec.json.encode(body), Lane.CONTROL, joins=False)


PING = Outgoing(b'{"taskType":"ping","ping":true}', Lane.CONTROL)


def submit(submission: Submission, **changes: Any) -> Outgoing:
    return Outgoing(submission.body, Lane.SUBMIT, submission.task_id, **changes)


def ask(task_id: str = "t1", **changes: Any) -> Outgoing:
    body = msgspec.json.encode({"taskType": "getResponse", "taskUUID": task_id})
    return Outgoing(body, Lane.POLL, TaskId(task_id), **changes)


def look(task_id: str = "t1", **changes: Any) -> Outgoing:
    body = msgspec.json.encode({"taskType": "getTaskDetails", "taskUUID": task_id})
    return Outgoing(body, Lane.LOOKUP, TaskId(task_id), **changes)


def opened(**changes: Any) -> Playbook[Any]:
    """A playbook whose session is authenticated at 0.2, with its transcript so far accepted."""
    play = playbook(**changes)
    play >> ConnectRequested(0.0) << OpenConnection() << SetTimer(changes.get("auth_timeout", 15.0))
    play >> ConnectionOpened(0.1) << Send((auth(),))
    play >> welcome(0.2) << SessionReady() << SetTimer(30.2)
    play.check()
    return play


def errors(play: Playbook[Any]) -> dict[str, Any]:
    return {
        settle.task_id: settle.error and (settle.error.code, settle.error.raw_code) for settle in play.commands(Settle)
    }
