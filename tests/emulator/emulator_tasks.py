"""Tasks as they go over the wire, and a service to give them to, with no event loop."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from runware_flow.emulator.network.faults import FaultBook
from runware_flow.emulator.service.models import load_models
from runware_flow.emulator.service.service import Service
from runware_flow.emulator.service.sessions import Session
from runware_flow.emulator.settings import Settings

if TYPE_CHECKING:
    from runware_flow.emulator.service.jobs import Frame


def make_id() -> str:
    return str(uuid.uuid4())


def image(prompt: str = "a red kite", **parameters: Any) -> dict[str, Any]:
    task = {"taskType": "imageInference", "taskUUID": make_id(), "model": "runware:101@1", "positivePrompt": prompt}
    return {**task, "width": 256, "height": 128, **parameters}


def caption(medium: str, **parameters: Any) -> dict[str, Any]:
    task = {"taskType": "caption", "taskUUID": make_id(), "model": "runware:150@2", "inputs": {"image": medium}}
    return {**task, **parameters}


def text(question: str, **parameters: Any) -> dict[str, Any]:
    task = {"taskType": "textInference", "taskUUID": make_id(), "model": "google:gemma@4-31b"}
    return {**task, "messages": [{"role": "user", "content": question}], **parameters}


def poll(task: dict[str, Any]) -> dict[str, Any]:
    return {"taskType": "getResponse", "taskUUID": task["taskUUID"]}


def make_service(*faults: str, **settings: Any) -> Service:
    settings = {"latency": 1.0, "api_key": "a-key", "base_url": "http://emulator", **settings}
    return Service(Settings(**settings), load_models(), FaultBook(faults))


def open_session(service: Service, session_id: str | None = None, now: float = 0.0) -> Session:
    task = {"apiKey": service.settings.api_key, "connectionSessionUUID": session_id}
    session = service.authenticate(task, now)
    assert isinstance(session, Session)
    return session


def submit(service: Service, *tasks: Any, now: float = 0.0, session: Session | None = None) -> Frame:
    return service.receive(tasks, now, session).frame


def ask(service: Service, task: dict[str, Any], now: float) -> Frame:
    service.advance(now)
    return submit(service, poll(task), now=now)


def codes(frame: Frame) -> list[str]:
    return [entry["code"] for entry in frame.errors]


README: list[dict[str, Any]] = [
    {"model": "runware:400@1", "positivePrompt": "Abstract digital art", "width": 1024, "height": 1024},
    {"model": "google:3@3", "positivePrompt": "Ocean waves at sunset", "width": 1280, "height": 720, "duration": 8},
    {"model": "google:gemma@4-31b", "messages": [{"role": "user", "content": "Explain quantum computing"}]},
    {
        "model": "alibaba:qwen@3-tts-1.7b-voicedesign",
        "positivePrompt": "A calm, friendly young woman with a soft tone",
        "speech": {"text": "Hello world", "voice": "design"},
    },
    {
        "model": "runware:exactly-illustrative@my-trained-style",
        "taskType": "imageInference",
        "positivePrompt": "A lighthouse on a rocky cliff at twilight",
        "width": 1024,
        "height": 1024,
    },
    {"model": "bfl-flux-2-dev", "positivePrompt": "..."},
    {"model": "runware:400@1", "positivePrompt": "Abstract art", "numberResults": 3},
    {"model": "runware:504@1", "taskType": "upscale", "inputs": {"image": "https://example.com/photo.jpg"}},
    {"model": "runware:150@2", "taskType": "caption", "inputs": {"image": "https://example.com/photo.jpg"}},
    {"model": "google:3@3", "positivePrompt": "Ocean waves", "width": 1280, "height": 720, "numberResults": 3},
]
"""The tasks of the official client's README, as they stand there."""
