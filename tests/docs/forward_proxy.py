"""A proxy as companies have them: CONNECT for tunnels, whole addresses for plain HTTP. It counts what goes through."""

from __future__ import annotations

import re
from contextlib import contextmanager
from urllib.parse import urlsplit

import anyio
from anyio.from_thread import start_blocking_portal
from anyio.streams.buffered import BufferedByteReceiveStream


class Proxy:
    def __init__(self):
        self.url = ""
        self.methods = []

    async def serve(self, *, task_status):
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            self.url = f"http://127.0.0.1:{port}"
            task_status.started()
            await listener.serve(self.carry)

    async def carry(self, client):
        async with client:
            reader = BufferedByteReceiveStream(client)
            head = await reader.receive_until(b"\r\n\r\n", 65536)
            method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
            self.methods.append(method)
            where = urlsplit(f"//{target}" if method == "CONNECT" else target)
            async with await anyio.connect_tcp(where.hostname, where.port) as server:
                if method == "CONNECT":
                    await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:  # one request a connection, so that each is counted and rewritten
                    head = head.replace(target.encode(), f"{where.path}?{where.query}".encode(), 1)
                    head = re.sub(rb"(?im)^connection:.*\r\n", b"", head) + b"\r\nConnection: close"
                    await server.send(head + b"\r\n\r\n")
                async with anyio.create_task_group() as group:
                    group.start_soon(self.copy, reader, server)
                    await self.copy(server, client)
                    group.cancel_scope.cancel()

    async def copy(self, source, target):
        try:
            async for piece in source:
                await target.send(piece)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass


@contextmanager
def run_proxy():
    proxy = Proxy()
    with start_blocking_portal() as portal:
        future, _ = portal.start_task(proxy.serve)
        try:
            yield proxy
        finally:
            future.cancel()
