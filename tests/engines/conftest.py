"""A database, and a Dask cluster of real processes with a service in another one."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "journal"))
sys.path.append(str(Path(__file__).parents[2]))
from postgres_server import database, server  # noqa: F401 - fixtures

from benchmarks import cluster as benchmark
from benchmarks.crash import service


@contextmanager
def workers():
    """Two workers, and the environment that names their service."""
    pytest.importorskip("distributed")
    with service("0.1..0.3", ()) as environment:
        environment["PGPASSWORD"] = "S3cret"
        with benchmark.cluster(2, environment) as running:
            running.environment = environment
            yield running


@pytest.fixture
def cluster(server):  # noqa: F811 - a worker needs the database's library
    """Two workers and a service, which counts what this test buys."""
    with workers() as running:
        yield running


@pytest.fixture(scope="module")
def shared_cluster(server):  # noqa: F811
    """Two workers and a service, of all tests of a module that neither count purchases nor stop a part."""
    with workers() as running:
        yield running
