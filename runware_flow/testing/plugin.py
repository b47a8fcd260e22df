"""A pytest plugin: fixtures that start an emulator for a test, for sync, asyncio and trio tests alike.

```python
def test_my_pipeline(runware_client_options):
    async def main():
        async with Client(**runware_client_options) as client: ...
    anyio.run(main)

@pytest.mark.runware_emulator(latency=0.2, faults=["fail:nth=2"])
def test_my_pipeline_when_a_task_fails(runware_emulator, runware_client_options):
    ...
    assert runware_emulator.log.billed < 0.01
```

The emulator runs in a thread with an event loop of its own and is stopped after the test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runware_flow.emulator import Emulator

__all__ = ("runware_client_options", "runware_emulator")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker that carries the emulator's options."""
    config.addinivalue_line("markers", "runware_emulator(**options): options of the `Emulator` that the fixture starts")


@pytest.fixture
def runware_emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """A running `Emulator`, new for each test; options come from `@pytest.mark.runware_emulator(...)`."""
    from runware_flow.emulator import run_in_thread

    node: pytest.Item = request.node
    marker = node.get_closest_marker("runware_emulator")
    options: dict[str, Any] = {} if marker is None else dict(marker.kwargs)
    with run_in_thread(**options) as emulator:
        yield emulator


@pytest.fixture
def runware_client_options(runware_emulator: Emulator) -> dict[str, Any]:
    """Keywords that point a `Client` at the test's emulator."""
    return runware_emulator.client_options
