"""`Emulator`: the service on a port of this machine, in this process, for the time of a block."""

from __future__ import annotations

import dataclasses
import secrets
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from anyio.from_thread import start_blocking_portal

from runware_flow.emulator.http.app import create_app
from runware_flow.emulator.http.driver import ServiceDriver
from runware_flow.emulator.http.origins import OriginPolicy
from runware_flow.emulator.http.server import Server
from runware_flow.emulator.network.faults import Fault, FaultBook
from runware_flow.emulator.service.models import Models, load_models
from runware_flow.emulator.service.service import Service
from runware_flow.emulator.settings import Latency, Settings
from runware_flow.extras import import_extra
from runware_flow.lifetime import open_task_group

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable
    from types import TracebackType
    from typing import Self

    from runware_flow.emulator.service.log import Log

__all__ = ("Emulator", "run_in_thread")


class Emulator:
    """An emulated service on real sockets, which runs inside an `async with` block.

    ```python
    async with Emulator(seed=7, latency=0.05) as emulator:
        async with Client(**emulator.client_options) as client: ...
    ```

    Leaving the block closes its WebSockets (1001), ends waiting requests and frees the port; so does a cancel.

    Args:
        seed: the source of all random choices; the same seed and taskUUIDs give the same behaviour.
        latency: seconds a task takes; a `(low, high)` range, or a mapping by task type (`"*"` for the rest).
        faults: faults to inject, as `Fault`s or as text (`"swallow-ack:nth=3"`); see `emulator.faults`.
        host: the address to listen on.
        port: 0 takes a free one.
        **settings: any other field of `Settings` (`api_key`, `idle_timeout`, `unknown_task`, ...).
    """

    def __init__(
        self,
        *,
        seed: int = 7,
        latency: Latency = 0.05,
        faults: Iterable[Fault | str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        **settings: Any,
    ) -> None:
        unknown = settings.keys() - {field.name for field in dataclasses.fields(Settings)}
        if unknown:
            raise TypeError(
                f"Emulator has no option {min(unknown)!r}: there are seed, latency, faults, host, port and the fields"
                " of runware_flow.emulator.Settings"
            )
        if isinstance(latency, str):
            raise TypeError(f"latency= is seconds, a range (low, high) or either by task type, not {latency!r}")
        for name in ("allow_origin", "allow_host"):
            if isinstance(settings.get(name), str):
                settings[name] = [settings[name]]  # a text is one of them, not its letters
        OriginPolicy(origins=settings.get("allow_origin", ()))  # says now what is no origin
        self._host, self._port = host, port
        self._faults = FaultBook(faults, seed)
        self._settings = Settings(seed=seed, latency=latency, **settings)
        self._service: Service | None = None
        self._base_url = ""
        self._stack: AsyncExitStack | None = None

    @property
    def base_url(self) -> str:
        """Where it listens, without a path."""
        self._running()
        return self._base_url

    @property
    def client_options(self) -> dict[str, Any]:
        """Keywords that point a `Client` at this emulator: its key and all its addresses."""
        return {
            "api_key": self._running().settings.api_key,
            "http_base_url": f"{self.base_url}/v1",
            "ws_base_url": f"ws{self.base_url.removeprefix('http')}/v1",
            "schemas_base_url": f"{self.base_url}/schemas",
            "content_base_url": f"{self.base_url}/content",
            "serverless_base_url": f"{self.base_url}/serverless",
        }

    @property
    def log(self) -> Log:
        """The requests, the times of their results, and what was billed."""
        return self._running().log

    @property
    def service(self) -> Service:
        """The emulated service itself; touch it only from the emulator's own event loop."""
        return self._running()

    @property
    def faults(self) -> FaultBook:
        """The faults; you may add some while it runs (`emulator.faults.add("kill:nth=2")`)."""
        return self._faults

    def _running(self) -> Service:
        if self._service is None:
            raise RuntimeError("this emulator does not run yet: use it inside its `async with` block")
        return self._service

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise RuntimeError("this emulator runs already")
        stack = AsyncExitStack()
        await stack.enter_async_context(self._serve())
        self._stack = stack
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        stack, self._stack = self._stack, None
        return None if stack is None else await stack.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _serve(self) -> AsyncGenerator[None]:
        listener = _listen(self._host, self._port)
        try:
            host, port = listener.getsockname()[:2]
            self._base_url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            settings = replace(
                self._settings,
                api_key=self._settings.api_key or f"emulator-{secrets.token_hex(16)}",
                base_url=self._base_url,
                epoch=time.time() - time.monotonic(),
            )
            models = await anyio.to_thread.run_sync(_prepare)
        except BaseException:
            listener.close()
            raise
        self._service = Service(settings, models, self._faults)
        driver = ServiceDriver(self._service)
        server = Server(create_app(driver, self._host), listener, self._faults, settings.max_frame_bytes)
        async with open_task_group() as workers:
            try:
                await workers.start(driver.run)
                await workers.start(server.run)
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await server.aclose()
                workers.cancel_scope.cancel()


@contextmanager
def run_in_thread(*, backend: str = "asyncio", **options: Any) -> Generator[Emulator]:
    """Run an emulator in a thread with an event loop of its own, for synchronous code and for tests on any loop.

    Args:
        backend: the loop's library, `asyncio` or `trio`.
        **options: those of `Emulator`.
    """
    with (
        start_blocking_portal(backend) as portal,
        portal.wrap_async_context_manager(Emulator(**options)) as emulator,
    ):
        yield emulator


def _prepare() -> Models:
    """Do what blocks: import the server, the framework and the drawing library, and read the catalog."""
    servers = ("hypercorn.asyncio.tcp_server", "hypercorn.trio.tcp_server")
    import_extra("emulator", *servers, "starlette.routing", "starlette.responses", "PIL.Image")
    return load_models()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(1024)
        listener.settimeout(0)
    except OSError:
        listener.close()
        raise
    return listener
