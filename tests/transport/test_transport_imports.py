"""The libraries below are imported on first use."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_transport_imports_no_http_and_no_websocket_library() -> None:
    heavy = "{'httpx', 'httpcore', 'websockets', 'trio_websocket', 'wsproto', 'trio'}"
    program = f"import sys, runware_flow.transport; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
