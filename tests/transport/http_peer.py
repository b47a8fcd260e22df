"""A small real HTTP/1.1 server in a thread, whose behaviour is chosen by the path of the URL."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from peers import LOCAL, Traffic, reset

if TYPE_CHECKING:
    import ssl


class HttpPeer:
    """Answers POSTs; remembers the headers and the bodies that came."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.traffic = Traffic()
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.arrived = threading.Semaphore(0)
        self._tls = tls
        self._server = _Server((LOCAL, 0), _Handler)
        self._server.peer = self
        self.released = threading.Event()
        self.port = self._server.server_address[1]
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, path: str) -> str:
        return f"{'https' if self._tls else 'http'}://{LOCAL}:{self.port}/{path}"


class _Server(ThreadingHTTPServer):
    peer: HttpPeer
    daemon_threads = False
    request_queue_size = 128

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self.peer.traffic.connection():
            super().process_request_thread(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def do_POST(self) -> None:
        peer = self.server.peer
        peer.headers.append({name.lower(): value for name, value in self.headers.items()})
        peer.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        peer.arrived.release()
        kind, _, detail = self.path.strip("/").partition("/")
        with suppress(OSError):
            getattr(self, f"_{kind.replace('-', '_')}")(detail)

    def _reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _echo(self, _: str) -> None:
        self._reply(200, self.server.peer.bodies[-1], Content_Type="Application/JSON; charset=utf-8")

    def _status(self, status: str) -> None:
        self._reply(int(status), json.dumps({"errors": []}).encode(), Content_Type="application/json")

    def _empty(self, status: str) -> None:
        self._reply(int(status), b"")

    def _html(self, status: str) -> None:
        self._reply(int(status), b"<h1>Bad Gateway</h1>", Content_Type="text/html")

    def _retry(self, value: str) -> None:
        self._reply(429, b"", Retry_After=value.replace("%20", " "))

    def _cookie(self, _: str) -> None:
        self._reply(200, b"{}", Set_Cookie="session=1; Path=/")

    def _redirect(self, _: str) -> None:
        self._reply(307, b"", Location="/echo")

    def _large(self, size: str) -> None:
        self._reply(200, b"x" * int(size))

    def _chunked(self, size: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(int(size) // 1000):
            self.wfile.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _gzip(self, size: str) -> None:
        self._reply(200, gzip.compress(b"x" * int(size)), Content_Encoding="gzip")

    def _bad_gzip(self, _: str) -> None:
        self._reply(200, b"this is no gzip", Content_Encoding="gzip")

    def _reset(self, _: str) -> None:
        self.wfile.flush()
        reset(self.connection)
        self.close_connection = True

    def _hang_up(self, _: str) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _cut(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"only this")
        self._hang_up(_)

    def _garbage(self, _: str) -> None:
        self.wfile.write(b"220 mail.example ESMTP ready\r\n\r\n")
        self.close_connection = True

    def _wait(self, _: str) -> None:
        self.server.peer.released.wait(10)
        self._hang_up(_)

    def _slow_body(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"only this")
        self._wait(_)
