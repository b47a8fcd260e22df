"""The WebSocket sessions: which are authenticated, their undelivered frames, and how a session is resumed."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from runware_flow.emulator.media.store import make_uuid

if TYPE_CHECKING:
    from collections.abc import Callable

    from runware_flow.emulator.service.jobs import Frame
    from runware_flow.emulator.settings import Settings

__all__ = ("Session", "Sessions")


class Session:
    """One authenticated conversation; `outbox` holds the frames not yet sent, in order."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.outbox: deque[Frame] = deque()
        self.connection: object | None = None
        self.on_frame: Callable[[], None] | None = None
        """Told when a frame was put into the outbox."""
        self.lost_at: float | None = None

    def attach(self, connection: object, on_frame: Callable[[], None]) -> None:
        """Give the session to a connection; the one that had it before gets nothing more."""
        self.connection, self.on_frame = connection, on_frame

    def wake(self) -> None:
        """Tell the connection that there is something to send."""
        if self.on_frame is not None:
            self.on_frame()


class Sessions:
    """All sessions of a service. A lost one is kept for the replay window [doc]."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sessions: dict[str, Session] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, session_id: str | None) -> Session | None:
        """Return the session of that id, connected or lost."""
        return None if session_id is None else self._sessions.get(session_id)

    def open(self, session_id: Any, now: float) -> Session:
        """Resume the session of that id, or open a new one: unknown and expired ids get a fresh id [inferred]."""
        self._expire(now)
        session = self._sessions.get(session_id) if isinstance(session_id, str) else None
        if session is None:
            session = Session(self._make_id())
            self._sessions[session.session_id] = session
        while session.outbox and session.lost_at is not None and self._is_old(session.outbox[0], now):
            session.outbox.popleft()
        session.lost_at = None
        return session

    def _make_id(self) -> str:
        self._count += 1
        return make_uuid("session", self._settings.seed, self._settings.base_url, self._count)

    def rename(self, session: Session) -> None:
        """Give a session another id; the tasks that run for it follow."""
        session.session_id = self._make_id()
        self._sessions[session.session_id] = session

    def lose(self, session: Session, connection: object, now: float) -> None:
        """Say that a connection has ended; a session that has moved to another connection keeps it."""
        if session.connection is connection:
            session.connection = session.on_frame = None
            session.lost_at = now

    def _is_old(self, frame: Frame, now: float) -> bool:
        return now - frame.queued_at > self._settings.replay_window

    def _expire(self, now: float) -> None:
        window = self._settings.replay_window
        gone = [key for key, one in self._sessions.items() if one.lost_at is not None and now - one.lost_at > window]
        for key in gone:
            del self._sessions[key]
