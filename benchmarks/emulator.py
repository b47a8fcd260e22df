"""How many small tasks a second the emulator answers: REST and WebSocket, on asyncio and trio, a process on its own.

The client speaks HTTP and WebSocket over plain sockets, so that it is not what is measured. REST: sync tasks, as many
requests at once as `--connections` says. WebSocket: one connection, as many frames in flight. Best of three.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from benchmarks.service import emulator_process

_BATCH = 16
Make = Callable[[], bytes]


def task() -> dict[str, Any]:
    """A picture that nobody looks at, so that nothing is drawn."""
    return {
        "taskType": "imageInference",
        "taskUUID": str(uuid.uuid4()),
        "model": "runware:400@1",
        "positivePrompt": "a small task",
        "width": 512,
        "height": 512,
        "deliveryMethod": "sync",
    }


def bodies(count: int, size: int) -> list[bytes]:
    """Requests made beforehand: only sending and reading is timed."""
    return [json.dumps([task() for _ in range(size)]).encode() for _ in range(count)]


async def by_rest(options: dict[str, Any], requests: list[bytes], connections: int) -> None:
    """Post each request; each connection sends its next one when the answer is read."""
    url = urlsplit(options["http_base_url"])
    head = f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {options['api_key']}\r\n"

    async def work() -> None:
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        while requests:
            body = requests.pop()
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert (await reader.readexactly(length)).startswith(b'{"data":[{')
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(work() for _ in range(connections)))


def frame(payload: bytes) -> bytes:
    """A text frame with a mask of zeros, which leaves the payload as it is."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + payload


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The payload of a frame of the service, which has no mask."""
    size = (await reader.readexactly(2))[1]
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    return await reader.readexactly(size)


async def by_websocket(options: dict[str, Any], requests: list[bytes], window: int) -> None:
    """Send all requests over one connection, `window` of them in flight; results come in frames of their own."""
    url = urlsplit(options["ws_base_url"])
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(
        f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.write(frame(json.dumps([{"taskType": "authentication", "apiKey": options["api_key"]}]).encode()))
    await read_frame(reader)
    size = requests[0].count(b'"taskUUID"')
    expected = len(requests) * size
    for body in requests[:window]:
        writer.write(frame(body))
    sent, came = min(window, len(requests)), 0
    while came < expected:
        answer = await read_frame(reader)
        assert b'"errors"' not in answer, answer
        came += answer.count(b'"imageURL"')
        while sent < len(requests) and sent - came // size < window:
            writer.write(frame(requests[sent]))
            sent += 1
    writer.close()
    await writer.wait_closed()


async def measure(options: dict[str, Any], arguments: argparse.Namespace) -> list[tuple[str, int, float]]:
    """Tasks a second, of each kind the best of three."""
    rows: list[tuple[str, int, float]] = []
    for name, work in (("REST", by_rest), ("WebSocket", by_websocket)):
        for size in (1, _BATCH):
            count = max(arguments.connections, arguments.tasks // size)
            rates: list[float] = []
            for _ in range(3):
                requests = bodies(count, size)
                started = time.perf_counter()
                await work(options, requests, arguments.connections)
                rates.append(count * size / (time.perf_counter() - started))
            rows.append((name, size, max(rates)))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=4000)
    arguments = parser.parse_args()
    print(f"{arguments.tasks} tasks, {arguments.connections} at once, {os.cpu_count()} cores, latency 0")
    print(f"{'server':8} {'transport':10} {'tasks a request':>15} {'tasks a second':>15} {'requests a second':>18}")
    for backend in ("asyncio", "trio"):
        with emulator_process(latency="0", backend=backend) as options:
            for name, size, rate in asyncio.run(measure(options, arguments)):
                print(f"{backend:8} {name:10} {size:15} {rate:15,.0f} {rate / size:18,.0f}")


if __name__ == "__main__":
    main()
