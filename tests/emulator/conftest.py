"""What the emulator's tests share: a ban on blocking the loop and on leaving sockets open."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from blockbuster import blockbuster_ctx

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def watched() -> Iterator[None]:
    """A blocking call of the emulator on an asyncio loop is an error, and so is a socket that was left open."""
    gc.freeze()  # what was there before need not be looked through after each test
    with blockbuster_ctx(scanned_modules=["runware_flow.emulator"]):
        yield
    gc.collect()  # what was not closed becomes a warning here, and a warning is an error
