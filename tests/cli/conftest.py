"""Journals to try commands on: a file, and a database where there is its server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "journal"))
from postgres_server import database, server  # noqa: F401 - fixtures


@pytest.fixture(scope="module", params=["file", pytest.param("database", marks=pytest.mark.cluster)])
def journal(request):
    """What a command names a journal by."""
    return "j.sqlite" if request.param == "file" else request.getfixturevalue("server").url()
