"""Loads the media that tasks are given: from the emulator's own store, data URIs, base64, or the network.

Addresses at example.com, .org and .net are reserved for documentation and never answer with a picture; so that the
official client's README runs as it stands, such an address names a picture drawn from its path.
"""

from __future__ import annotations

import base64
import binascii
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import anyio.to_thread

from runware_flow.emulator.http.outbound import DownloadFailed
from runware_flow.emulator.media.pictures import read_picture
from runware_flow.emulator.media.store import Recipe
from runware_flow.emulator.problems import Problem

if TYPE_CHECKING:
    from runware_flow.emulator.http.outbound import OutboundClient
    from runware_flow.emulator.service.jobs import Input, Job
    from runware_flow.emulator.service.service import Service

__all__ = ("InputReader",)

_LIMIT = 64 * 2**20
_ANY_MEDIUM = frozenset({"mediaStorage", "videoInference", "audioInference", "3dInference", "tools", "training"})
_MAGIC = {
    b"glTF": "GLB",
    b"RIFF": "WAV",
    b"ID3": "MP3",
    b"fLaC": "FLAC",
    b"OggS": "OGG",
    b"\x1aE\xdf\xa3": "WEBM",
}


class InputReader:
    """Turns what a task was given into recipes. Use it inside one event loop."""

    def __init__(self, service: Service, outbound: OutboundClient) -> None:
        self._service = service
        self._outbound = outbound
        self._threads = anyio.CapacityLimiter(4)

    async def read(self, job: Job, now: float) -> list[Recipe]:
        """Read all inputs of a job.

        Raises:
            Problem: one cannot be fetched (`downloadFailed`) or is no picture (`invalidParameter`).
        """
        return [await self._read_one(job, one, now) for one in job.inputs]

    async def _read_one(self, job: Job, one: Input, now: float) -> Recipe:
        stored = self._service.state.find_medium(one.value, now)
        if stored is not None and stored.recipe is not None:
            return stored.recipe
        if one.value.startswith(("http://", "https://")):
            host = urlsplit(one.value).hostname or ""
            if host.endswith(("example.com", "example.org", "example.net")):
                return _documented(one.value)
            data = await self._fetch(one)
        else:
            data = _decode_text(one)
        try:
            read = partial(read_picture, data, parameter=one.parameter)
            return await anyio.to_thread.run_sync(read, limiter=self._threads)
        except Problem:
            if job.kind.task_type in _ANY_MEDIUM or job.kind.modality == "video":
                return Recipe(process="stored", width=0, height=0, data=data, format=_sniff(data))
            raise

    async def _fetch(self, one: Input) -> bytes:
        try:
            return await self._outbound.fetch(one.value, _LIMIT)
        except DownloadFailed as failure:
            shown = one.value if len(one.value) <= 200 else one.value[:199] + "…"
            message = f"The media at '{shown}' could not be downloaded: {failure}."
            raise Problem("downloadFailed", message, parameter=one.parameter) from failure
        except Problem as problem:
            problem.parameter = one.parameter
            raise


def _decode_text(one: Input) -> bytes:
    header, comma, rest = one.value.partition(",")
    body = rest if comma and header.startswith("data:") else one.value
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        message = f"The value of '{one.parameter}' is no URL, UUID, data URI or base64 of a medium."
        raise Problem("invalidParameter", message, parameter=one.parameter, type="media")
    return data


def _sniff(data: bytes) -> str:
    found = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    return found or ("MP4" if data[4:8] == b"ftyp" else "BIN")


def _documented(url: str) -> Recipe:
    words = unquote(urlsplit(url).path).strip("/").rpartition(".")[0].replace("/", " ") or "example"
    return Recipe(process="generated", width=640, height=480, prompt=words)
