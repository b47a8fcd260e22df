"""What the tests of failing to open share."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from runware_flow.transport import TransportError, open_websocket


async def failure_to_open(url: str, **options: Any) -> TransportError:
    with pytest.raises(TransportError) as caught:
        async with open_websocket(url, **options):
            pytest.fail("the connection was opened")
    assert caught.value.sent is False
    gc.collect()
    return caught.value
