"""The servers of the WebSocket tests, one for all tests of a module."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from peers import CERTIFICATE, WebSocketPeer, server_tls

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def peer() -> Iterator[WebSocketPeer]:
    with WebSocketPeer() as peer:
        yield peer


@pytest.fixture(scope="module")
def tls_peer() -> Iterator[WebSocketPeer]:
    with WebSocketPeer(server_tls()) as peer:
        yield peer


@pytest.fixture
def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATE))
