"""The address of a journal: a file or a database. The text of an address never shows the password."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard
from urllib.parse import parse_qsl, unquote

from runware_flow.errors import JournalError
from runware_flow.secret import Secret

__all__ = ("DatabaseAddress", "JournalAddress", "address_of", "is_database", "load_psycopg")

_SCHEMES = ("postgresql://", "postgres://")
_OTHER_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})
"""Parameters of an address that must not be shown."""
_CONNECT_SECONDS = 10
_FULL = re.compile(
    "sorry, too many clients already|too many connections for |connection slots are reserved"
    "|no more connections allowed"
)
"""What PostgreSQL and PgBouncer say where there is no connection left; libpq tells no code of a failed connection."""


def is_database(journal: object) -> TypeGuard[str]:
    """Tell whether `journal=` names a database."""
    return isinstance(journal, str) and journal.startswith(_SCHEMES)


class DatabaseAddress:
    """The address of a database. Its text has no password, nor has anything that is made of it.

    Attributes:
        shown: its text.
        name: of the database, if it has one.
    """

    def __init__(self, url: str) -> None:
        # As libpq reads it: what is before the @ that is before the first slash is the user's name and password.
        scheme, _, rest = url.partition("://")
        authority, slash, path = rest.partition("/")
        userinfo, at, hosts = authority.rpartition("@")
        user, _, password = userinfo.partition(":")
        place, question, query = f"{hosts}{slash}{path}".partition("?")
        if _SECRETS.intersection(name for name, _ in parse_qsl(query, keep_blank_values=True)):
            raise JournalError(
                "the address of the journal's database has its password as a parameter, where logs show it: set"
                " PGPASSWORD, or name a service"
            )
        if "@" in place:  # which would show a part of the password
            raise JournalError(
                "the address of the journal's database has an @ after its first slash: a slash in a password is %2F"
            )
        self.shown = f"{scheme}://{user}{at}{place}{question}{query}"
        self.name = unquote(place.partition("/")[2].strip("/")) or "journal"
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

    def answers(self) -> bool:
        """Tell whether a server is there that takes connections, whatever it says to this user; blocks."""
        psycopg = load_psycopg()
        asked = psycopg.conninfo.make_conninfo(self.shown, connect_timeout=_CONNECT_SECONDS)
        return bool(psycopg.pq.PGconn.ping(asked.encode()) == psycopg.pq.Ping.OK)

    def is_full(self, error: Exception) -> bool:
        """Tell whether a connection was refused because there are too many, as far as the server says so in English."""
        return _FULL.search(str(error)) is not None

    def text_of(self, error: Exception) -> str:
        """What an error of psycopg says, in one line and without the password."""
        text = " ".join(str(error).split())
        return text if self._password is None else self._password.redact(text).replace("<api key>", "<password>")


JournalAddress: TypeAlias = Path | DatabaseAddress
"""Where a journal is. Its text may be shown."""


def address_of(journal: str | os.PathLike[str] | DatabaseAddress) -> JournalAddress:
    """Read what a user names a journal by: the path of a file, or the URL of a database.

    Raises:
        JournalError: it is the URL of something else, or has its password where it would be shown.
    """
    if isinstance(journal, DatabaseAddress):
        return journal
    name = os.fspath(journal)
    if is_database(name):
        return DatabaseAddress(name)
    other = _OTHER_SCHEME.match(name)
    if other is not None:  # what follows may be a password
        raise JournalError(f"a journal is a file or a postgresql:// URL, and this one is named by a {other[1]}:// URL")
    return Path(name)


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
