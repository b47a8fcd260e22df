"""The address of a journal's database, which shows its password to nobody."""

from __future__ import annotations

from typing import Any, TypeGuard
from urllib.parse import unquote, urlsplit

from runware_flow.errors import JournalError
from runware_flow.secret import Secret

__all__ = ("DatabaseAddress", "is_database", "load_psycopg")

_SCHEMES = ("postgresql://", "postgres://")
_CONNECT_SECONDS = 10


def is_database(journal: object) -> TypeGuard[str]:
    """Tell whether `journal=` names a database."""
    return isinstance(journal, str) and journal.startswith(_SCHEMES)


class DatabaseAddress:
    """The address of a database. Its text has no password, nor has anything that is made of it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        userinfo, at, hosts = parts.netloc.rpartition("@")
        user, _, password = userinfo.partition(":")
        if "password=" in parts.query:
            raise JournalError(
                "the address of the journal's database has its password as a parameter, where logs show it: set"
                " PGPASSWORD, or name a service"
            )
        rest = f"{parts.path}?{parts.query}" if parts.query else parts.path
        self.shown = f"{parts.scheme}://{user}{at}{hosts}{rest}"
        self._password = Secret(unquote(password)) if password else None

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"<DatabaseAddress {self.shown}>"

    @property
    def has_password(self) -> bool:
        """Whether there is a password in it."""
        return self._password is not None

    def connect(self) -> Any:
        """Open a connection, in which statements have `?` for values.

        Raises:
            JournalError: psycopg is not installed, or the address cannot be used.
            psycopg.OperationalError: the database cannot be reached.
        """
        psycopg = load_psycopg()
        more: dict[str, Any] = {} if self._password is None else {"password": self._password.reveal()}
        made: Any = None
        failure: Any = None
        try:
            made = psycopg.connect(
                self.shown,
                autocommit=True,
                connect_timeout=_CONNECT_SECONDS,
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
                tcp_user_timeout=30_000,
                application_name="runware_flow",
                **more,
            )
        except psycopg.Error as error:
            failure = error.with_traceback(None)  # the frames of psycopg hold the password
            failure.__context__ = failure.__cause__ = None
        finally:
            more.clear()
        if isinstance(failure, psycopg.OperationalError):
            raise failure
        if failure is not None:
            raise JournalError(
                f"the address of the journal's database, {self}, cannot be used: {self.text_of(failure)}"
            )
        return made

    def text_of(self, error: Exception) -> str:
        """What an error of psycopg says, in one line and without the password."""
        text = " ".join(str(error).split())
        return text if self._password is None else self._password.redact(text).replace("<api key>", "<password>")


def load_psycopg() -> Any:
    """Import psycopg.

    Raises:
        JournalError: it is not installed.
    """
    try:
        import psycopg
    except ImportError:
        raise JournalError(
            "a journal in PostgreSQL needs psycopg, which is not installed: pip install 'runware-flow[postgres]'"
        ) from None
    return psycopg
