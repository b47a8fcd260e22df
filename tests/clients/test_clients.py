"""Other people's clients get from the emulator what they get from the service.

`make test` runs those for Python; those for JavaScript need Node.js and packages that `make clients` installs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from matrix import CLIENTS, OtherClient

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "emulator.md"
WANTED = os.environ.get("RUNWARE_FLOW_CLIENTS") == "1"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_client_gets_the_answers_it_must_get(client: OtherClient) -> None:
    if not client.program:
        assert not WANTED, f"{client.name} is not installed: make clients"
        pytest.skip("needs its own environment: make clients")
    answers = client.run()
    assert len(answers) >= 10
    wrong = {name: error for name, error in answers.items() if error is not None}
    assert wrong.keys() == client.faults.keys(), wrong
    (line,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{client.name}` ")]
    named, counted, works, fails = (cell.strip() for cell in line.strip("|").split(" | "))
    assert named == f"`{client.name}` {client.version}"
    assert counted == f"{len(answers) - len(wrong)} of {len(answers)}"
    assert works.split(", ") == [name for name in answers if name not in wrong]
    assert fails == ("; ".join(f"{name} ({why})" for name, why in client.faults.items()) or "nothing")
