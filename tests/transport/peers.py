"""The other side of the transport tests: real servers on 127.0.0.1, each in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Self

from websockets.asyncio.server import Request, Response, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.utils import accept_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CERTIFICATE = Path(__file__).parent / "localhost.pem"
"""A self-signed certificate for localhost and 127.0.0.1, with its key; good for tests and for nothing else."""

LOCAL = "127.0.0.1"
PATIENCE = 10.0


def reset(connection: socket.socket) -> None:
    """End a connection by a TCP reset instead of a closing frame."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


class Traffic:
    """Counts the connections that are open on the server's side."""

    def __init__(self) -> None:
        self.open = 0
        self.total = 0
        self._changed = threading.Condition()

    @contextmanager
    def connection(self) -> Iterator[None]:
        with self._changed:
            self.open += 1
            self.total += 1
        try:
            yield
        finally:
            with self._changed:
                self.open -= 1
                self._changed.notify_all()

    def wait_idle(self) -> bool:
        """Wait until no client is connected; False if one still is."""
        with self._changed:
            return self._changed.wait_for(lambda: self.open == 0, PATIENCE)


class WebSocketPeer:
    """A WebSocket server whose behaviour is chosen by the path of the URL."""

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = LOCAL) -> None:
        self.traffic = Traffic()
        self.close_codes: list[int | None] = []
        self._tls = tls
        self._host = host
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def url(self, path: str, host: str | None = None) -> str:
        return f"{'wss' if self._tls else 'ws'}://{host or self._host}:{self.port}/{path}"

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        serving = serve(
            self._talk, self._host, 0, ssl=self._tls, max_size=None, process_request=self._answer, close_timeout=1
        )
        async with serving as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self._ready.set()
            await self._stop.wait()

    async def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        kind, _, detail = request.path.strip("/").partition("/")
        if kind == "status":
            return connection.respond(HTTPStatus(int(detail)), "no\n")
        if kind == "slow":
            with self.traffic.connection():
                await connection.wait_closed()
        return None

    async def _talk(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        kind, _, detail = connection.request.path.strip("/").partition("/")
        with self.traffic.connection():
            with suppress(ConnectionClosed):
                await getattr(self, f"_{kind.replace('-', '_')}")(connection, detail)
                await connection.close()
            self.close_codes.append(connection.close_code)  # before the connection counts as gone

    async def _echo(self, connection: ServerConnection, _: str) -> None:
        async for message in connection:
            await connection.send(message)

    async def _close(self, connection: ServerConnection, code: str) -> None:
        await connection.close(int(code))

    async def _three_then_close(self, connection: ServerConnection, code: str) -> None:
        for message in ("one", b"two", "three"):
            await connection.send(message)
        await connection.close(int(code))

    async def _close_on_message(self, connection: ServerConnection, code: str) -> None:
        await connection.recv()
        await connection.close(int(code))

    async def _reset_on_message(self, connection: ServerConnection, _: str) -> None:
        await connection.recv()
        raw = connection.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.transport.abort()

    async def _send_bytes(self, connection: ServerConnection, size: str) -> None:
        await connection.send("x" * int(size))
        await connection.wait_closed()

    async def _send_wide(self, connection: ServerConnection, size: str) -> None:
        await connection.send("é" * (int(size) // 2))
        await connection.wait_closed()

    async def _fragments(self, connection: ServerConnection, count: str) -> None:
        await connection.send(f"{number:03} é " for number in range(int(count)))
        await connection.wait_closed()

    async def _headers(self, connection: ServerConnection, _: str) -> None:
        assert connection.request is not None
        await connection.send(
            json.dumps([[name.lower(), value] for name, value in connection.request.headers.raw_items()])
        )
        await connection.wait_closed()


class RawPeer:
    """A TCP server that does to each connection what a function says, one thread each."""

    def __init__(self, script: Callable[[socket.socket], None]) -> None:
        self.traffic = Traffic()
        self._script = script
        self._listener = socket.create_server((LOCAL, 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        with self.traffic.connection(), connection, suppress(OSError):
            self._script(connection)


def read_request(connection: socket.socket) -> bytes:
    """Read the head of an HTTP request."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(4096)
        if not data:
            raise ConnectionError
        head += data
    return head


def read_to_end(connection: socket.socket) -> None:
    while connection.recv(2**16):
        pass


def shake_hands(connection: socket.socket) -> None:
    """Accept a WebSocket by hand."""
    head = read_request(connection).decode()
    key = next(line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
    answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    connection.sendall(f"{answer}Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode())


@contextmanager
def closed_port() -> Iterator[int]:
    """A port on which nothing listens, and which is reserved meanwhile."""
    with socket.socket() as bound:
        bound.bind((LOCAL, 0))
        yield bound.getsockname()[1]


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that never completes a connection: its queue of two is full."""
    with socket.socket() as listener:
        listener.bind((LOCAL, 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.settimeout(0)
            one.connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()[1]
        finally:
            for one in waiting:
                one.close()
