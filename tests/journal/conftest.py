"""Stores to test, each by the same tests; that of PostgreSQL where there is its server."""

from __future__ import annotations

import pytest
from postgres_server import database, server  # noqa: F401 - fixtures

from runware_flow.journal.postgres import PostgresStore
from runware_flow.journal.sqlite import SqliteStore


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.cluster)])
def make_store(request, tmp_path):
    """A function that makes a store on one and the same journal."""
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "run.sqlite")
    url = request.getfixturevalue("database")
    return lambda: PostgresStore(url, patience=5)
