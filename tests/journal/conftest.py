"""Stores to test, each by the same tests; that of PostgreSQL where there is its server."""

from __future__ import annotations

import os

import pytest
from postgres_server import PostgresServer, programs

from runware_flow.journal.postgres import PostgresStore
from runware_flow.journal.sqlite import SqliteStore


@pytest.fixture(scope="session")
def server():
    if programs() is None or os.name != "posix":
        assert "RUNWARE_FLOW_CLUSTER" not in os.environ, "there is no PostgreSQL server"
        pytest.skip("there is no PostgreSQL server here: `make cluster` installs Debian's and runs these tests")
    with PostgresServer() as running:
        yield running


@pytest.fixture
def database(server):
    """The URL of a new database."""
    return server.url()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.cluster)])
def make_store(request, tmp_path):
    """A function that makes a store on one and the same journal."""
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "run.sqlite")
    url = request.getfixturevalue("database")
    return lambda: PostgresStore(url, patience=5)
