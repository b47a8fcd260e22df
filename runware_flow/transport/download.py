"""Fetches the files that results name: by http(s) only, in pieces, bounded in size and time.

They are fetched with no header of the user's, and without the key.

Where a file is, the service says, and so it is fetched from there. Where a server of files redirects to is another
matter: at most `MAX_REDIRECTS` times, never from https to http, and never from the internet into a private network or
to this machine. The last rule looks names up before the request goes out. A name that answers differently a moment
later is not caught, and behind a proxy the proxy looks names up.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING

import anyio

from runware_flow.errors import RunwareError, RunwareTimeoutError

from .address import parse_address
from .connection import CLOSE_TIMEOUT, CONNECT_TIMEOUT, TransportError
from .decoding import BodyDecoder, EncodingError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    import httpx

    from .address import Address

__all__ = ("MAX_DOWNLOAD_BYTES", "MAX_REDIRECTS", "download", "is_there")

MAX_DOWNLOAD_BYTES = 4 * 2**30
MAX_REDIRECTS = 5
DOWNLOAD_SECONDS = 1200.0
_LOOK_SECONDS = 60.0
_GONE = (403, 404, 410)
_REDIRECTS = (301, 302, 303, 307, 308)
_SILENT_SECONDS = 60.0
"""A server that sends nothing for so long is given up, unless the HTTP client has a limit of its own."""


async def download(
    http_client: httpx.AsyncClient,
    url: str,
    sink: Callable[[bytes], Awaitable[None]],
    *,
    timeout: float = DOWNLOAD_SECONDS,
    max_bytes: int = MAX_DOWNLOAD_BYTES,
) -> None:
    """Hand a file of the service to `sink`, piece by piece. A cancel, or an error of `sink`, closes the connection.

    Result files need no key [doc], so none is sent, and no header, cookie or authentication of the user's client
    either: the address came from a server.

    Args:
        http_client: carries the request; its proxies, certificates and event hooks hold.
        url: where the file is.
        sink: gets the content, decoded.
        timeout: seconds for all of it.
        max_bytes: the largest file.

    Raises:
        RunwareError: `notFound` when the file is gone (its `ttl` has passed, say), `connection` when the network or the
            server fails, falls silent, or redirects to where it must not, `validation` for an address that is not
            http(s) or a file over `max_bytes`.
        RunwareTimeoutError: the time is over.
    """
    with anyio.move_on_after(timeout):
        async with _open(http_client, "GET", url) as response:
            if response.status_code >= 400:
                raise _refused(url, response.status_code)
            await _drain(response, url, sink, max_bytes)
            return
    raise RunwareTimeoutError(
        f"downloading {url} took longer than {timeout:g} s; it can be downloaded later",
        code="timeout",
        raw_code="timeout",
    )


async def is_there(http_client: httpx.AsyncClient, url: str) -> bool:
    """Return whether a file of the service still exists; yes if that is not known, as without a network.

    Only "gone" is a no (403, 404, 410): a server that does not know HEAD, or fails, says nothing of the file.
    """
    with anyio.move_on_after(_LOOK_SECONDS):
        try:
            async with _open(http_client, "HEAD", url) as response:
                return response.status_code not in _GONE
        except RunwareError:
            return True
    return True


@asynccontextmanager
async def _open(http_client: httpx.AsyncClient, method: str, url: str) -> AsyncGenerator[httpx.Response]:
    """Send a request, and follow where it is redirected to as far as that is allowed."""
    import httpx

    place = url
    try:
        address = _parse(url)
        for _ in range(MAX_REDIRECTS + 1):
            response = await http_client.send(
                _request(http_client, method, place), stream=True, auth=None, follow_redirects=False
            )
            try:
                location = response.headers.get("location")
                if response.status_code not in _REDIRECTS or location is None:
                    yield response
                    return
            finally:
                with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                    await response.aclose()
            place = str(httpx.URL(place).join(location))
            address = await _redirected(address, _parse(place))
        raise _failed(url, f"it was redirected more than {MAX_REDIRECTS} times")
    except TransportError as error:
        raise _failed(url, error.message) from error
    except EncodingError as error:
        raise _failed(url, str(error)) from error
    except httpx.ConnectError as error:
        raise _failed(url, f"{error}{_hint_of_emulator(httpx.URL(place).host)}") from error
    except (httpx.HTTPError, httpx.InvalidURL, ExceptionGroup) as error:
        # A port beyond 65535 is an OverflowError in a group, which httpx lets through.
        at_fault = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        raise _failed(url, str(at_fault) or type(at_fault).__name__) from error


def _request(http_client: httpx.AsyncClient, method: str, url: str) -> httpx.Request:
    """A request that does not know the client it goes through: headers, cookies and parameters are not added."""
    import httpx

    own = http_client.timeout
    read = _SILENT_SECONDS if own.read is None else own.read
    connect = CONNECT_TIMEOUT if own.connect is None else own.connect
    timeout = httpx.Timeout(connect=connect, read=read, write=own.write, pool=own.pool)
    headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
    return httpx.Request(method, url, headers=headers, extensions={"timeout": timeout.as_dict()})


def _parse(url: str) -> Address:
    if not url.lower().startswith(("http://", "https://")):
        raise RunwareError("a result's file is fetched by http or https only", code="validation")
    import httpx

    return parse_address(str(httpx.URL(url)), ("http", "https"), name="Its address")


async def _redirected(before: Address, to: Address) -> Address:
    """Give the address that a redirect names, if it may be asked.

    Raises:
        TransportError: of kind `refused`: it may not.
    """
    if before.secure and not to.secure:
        raise TransportError(f"{before} redirects from https to http", kind="refused", sent=False)
    if await _is_private(to) and not await _is_private(before):
        problem = f"{before} redirects into a private network or to this machine ({to})"
        raise TransportError(problem, kind="refused", sent=False)
    return to


async def _is_private(address: Address) -> bool:
    """Tell whether a host has an address that is not of the internet; a name that cannot be looked up has none."""
    try:
        return not ip_address(address.host).is_global
    except ValueError:
        pass
    with anyio.move_on_after(CONNECT_TIMEOUT):
        try:
            found = await anyio.getaddrinfo(address.host, address.port)
        except OSError:
            return False
        return any(not ip_address(str(one[4][0]).partition("%")[0]).is_global for one in found)
    return False


async def _drain(response: httpx.Response, url: str, sink: Callable[[bytes], Awaitable[None]], max_bytes: int) -> None:
    """Read to the end, or until something fails.

    httpx reads through async generators, and one that is left half-way is left to the garbage collector, which trio
    warns of. So whatever ends the reading early, a cancel included, is kept for a moment, the generators are ended from
    the inside by a cancel of their own, and then it goes on its way unchanged.
    """
    failure: BaseException | None = None
    taken = 0
    in_memory = response.is_stream_consumed  # by a transport that made its reply there, and decoded it
    decoder = BodyDecoder("" if in_memory else response.headers.get("content-encoding", ""))
    with anyio.CancelScope() as reading:
        async for encoded in _InMemory(response.content) if in_memory else response.aiter_raw():
            try:
                for piece in decoder.feed(encoded):
                    taken += len(piece)
                    if taken > max_bytes:
                        raise RunwareError(
                            f"{url} is larger than {max_bytes} bytes", code="validation", raw_code="valueTooLarge"
                        )
                    await sink(piece)
            except BaseException as error:  # noqa: BLE001  # raised again below
                failure = error
                reading.cancel()
    if failure is not None:
        raise failure
    decoder.end()
    if not taken:
        raise _failed(url, "the file is empty")


class _InMemory:
    def __init__(self, content: bytes) -> None:
        self._content: bytes | None = content

    def __aiter__(self) -> _InMemory:
        return self

    async def __anext__(self) -> bytes:
        content, self._content = self._content, None
        if content is None:
            raise StopAsyncIteration
        return content


def _failed(url: str, reason: str) -> RunwareError:
    return RunwareError(f"downloading {url} failed: {reason}", code="connection", raw_code="downloadFailed")


def _hint_of_emulator(host: str) -> str:
    """Results at an address of this machine are an emulator's, which keeps nothing when it stops."""
    try:
        is_local = ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    return "; if an emulator that has stopped made it, use another journal with the next one" if is_local else ""


def _refused(url: str, status: int) -> RunwareError:
    if status in _GONE:
        return RunwareError(
            f"{url} is gone (HTTP {status}): result files live as long as the task's ttl or the account's default",
            code="notFound",
            raw_code="mediaExpired",
            status_code=status,
        )
    return RunwareError(f"downloading {url} failed: HTTP {status}", code="connection", status_code=status)
