"""A PostgreSQL server of its own for tests: in a temporary folder, on a socket there, run by an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Self

import psycopg
import pytest


def programs() -> Path | None:
    """The folder of Debian's newest server programs, or of those on the path; `None` if there are none."""
    found = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if (folder / "initdb").exists()]
    if found:
        return max(found, key=lambda folder: float(folder.parent.name))
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class PostgresServer:
    """A server; `url()` makes a new database in it. Without TCP: whoever may open the folder may connect, unless the
    user needs a password."""

    def __init__(self, password: str | None = None, *, is_durable: bool = False) -> None:
        """Args: is_durable: a commit waits for the disk, as it does on a server that is used."""
        self._password = password
        self._is_durable = is_durable
        found = programs()
        assert found is not None
        self._programs = found
        self.folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # the path of a socket is short
        self._user = (
            "postgres" if os.getuid() == 0 and _has_user("postgres") else "nobody" if os.getuid() == 0 else None
        )
        self._numbers = count()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if self._user is not None:
            shutil.chown(self.folder, self._user)
            self.folder.chmod(0o755)
        command = ["initdb", "-D", f"{self.folder}/data", "-U", "tester", "-E", "UTF8", "--no-sync"]
        if self._password is None:
            command += ["-A", "trust"]
        else:
            (self.folder / "password").write_text(self._password)
            command += ["-A", "scram-sha-256", f"--pwfile={self.folder}/password"]
        self._run(command)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        command = [f"{self._programs}/postgres", "-D", f"{self.folder}/data", "-k", str(self.folder)]
        command += [] if self._is_durable else ["-F"]
        command += ["-c", "listen_addresses=", "-c", "max_connections=60", "-c", "shared_buffers=32MB"]
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(command, user=self._user, stdout=log, stderr=log, cwd=self.folder)
        for _ in range(200):
            try:
                self._connect().close()
            except psycopg.OperationalError:
                time.sleep(0.05)  # the server says nowhere else that it is ready
            else:
                return
        raise AssertionError((self.folder / "log").read_text())

    @property
    def pid(self) -> int:
        """Of its first process."""
        assert self._process is not None
        return self._process.pid

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT disconnects all clients, SIGQUIT is a crash."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(30)

    def url(self) -> str:
        """Make a new database."""
        name = f"journal_{next(self._numbers)}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name} STRATEGY file_copy".encode())
        return self._url(name)

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self._url("postgres"), autocommit=True, password=self._password)

    def _url(self, name: str) -> str:
        return f"postgresql://tester@/{name}?host={self.folder}"

    def _run(self, command: list[str]) -> None:
        command[0] = f"{self._programs}/{command[0]}"
        subprocess.run(command, user=self._user, check=True, capture_output=True, cwd=self.folder)


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


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
