"""The connection's side of a session: opened, authenticated, kept alive, replaced when lost.

    IDLE            no connection was wanted yet, or the last attempts were given up
    CONNECTING      the driver opens one
    AUTHENTICATING  it is open; the key is sent and not yet answered
    OPEN            tasks may be sent
    CLOSING         given up by us (silent, not authenticated in time): waits until the driver reports that it is closed
    BROKEN          lost after the session had been authenticated once: waits for the next attempt to connect
    REJECTED        the key is bad; final
    CLOSED          the client is closed; final

Over REST there is no connection, and the link is OPEN until it is CLOSED.

Until the first successful authentication a failure ends the attempt with an error, and the link is IDLE again: the next
task tries anew. Afterwards a failure is followed by another attempt, up to `max_reconnect_attempts` in a row.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import TYPE_CHECKING

from runware_flow.errors import ClientStateError, RunwareError
from runware_flow.session.commands import (
    CloseConnection,
    EndSession,
    Lane,
    Log,
    OpenConnection,
    Outgoing,
    SessionReady,
)
from runware_flow.session.handshake import authentication_body, is_about_authentication, read_verdict
from runware_flow.session.retry import reconnect_delay

if TYPE_CHECKING:
    from collections.abc import Callable

    from runware_flow.session.commands import Command
    from runware_flow.session.options import SessionOptions
    from runware_flow.session.timer_queue import TimerQueue
    from runware_flow.wire.frames import Frame

__all__ = ("TRANSITIONS", "Link", "LinkDue", "LinkState")

PING = b'{"taskType":"ping","ping":true}'

_STEADY = 10.0
"""A connection that stood so long, or brought a frame, starts the count of attempts anew when it is lost."""


class LinkState(Enum):
    """Where the connection stands."""

    IDLE = "idle"
    CONNECTING = "connecting"
    AUTHENTICATING = "authenticating"
    OPEN = "open"
    CLOSING = "closing"
    BROKEN = "broken"
    REJECTED = "rejected"
    CLOSED = "closed"


class LinkDue(StrEnum):
    """What of the link may be due."""

    AUTH = "auth"
    KEEPALIVE = "keepalive"
    RECONNECT = "reconnect"


TRANSITIONS: dict[tuple[LinkState, str], LinkState] = {
    (LinkState.IDLE, "wanted"): LinkState.CONNECTING,
    (LinkState.CONNECTING, "opened"): LinkState.AUTHENTICATING,
    (LinkState.CONNECTING, "failed, first time"): LinkState.IDLE,
    (LinkState.CONNECTING, "failed"): LinkState.BROKEN,
    (LinkState.CONNECTING, "overdue"): LinkState.CLOSING,
    (LinkState.AUTHENTICATING, "accepted"): LinkState.OPEN,
    (LinkState.AUTHENTICATING, "rejected"): LinkState.REJECTED,
    (LinkState.AUTHENTICATING, "overdue"): LinkState.CLOSING,
    (LinkState.AUTHENTICATING, "failed, first time"): LinkState.IDLE,
    (LinkState.AUTHENTICATING, "failed"): LinkState.BROKEN,
    (LinkState.OPEN, "silent"): LinkState.CLOSING,
    (LinkState.OPEN, "disowned"): LinkState.CLOSING,
    (LinkState.OPEN, "failed"): LinkState.BROKEN,
    (LinkState.CLOSING, "opened"): LinkState.CLOSING,
    (LinkState.CLOSING, "failed, first time"): LinkState.IDLE,
    (LinkState.CLOSING, "failed"): LinkState.BROKEN,
    (LinkState.BROKEN, "due"): LinkState.CONNECTING,
    (LinkState.BROKEN, "given up"): LinkState.IDLE,
}
"""(state, what happened) → state. Besides, every state is left for CLOSED when the client closes."""

_ENDED = (LinkState.REJECTED, LinkState.CLOSED)


class Link:
    """The connection of one session, as far as decisions go; see the module's docstring.

    The methods that end an attempt return the error that the waiting tasks are to get, or `None` if they go on waiting.
    """

    def __init__(
        self,
        options: SessionOptions,
        timers: TimerQueue[LinkDue],
        emit: Callable[[Command], None],
        send: Callable[[Outgoing], None],
    ) -> None:
        self._options = options
        self._timers = timers
        self._emit = emit
        self._send = send
        self.state = LinkState.IDLE if options.duplex else LinkState.OPEN
        self.session_id: str | None = None
        self.error: RunwareError | None = None
        """Why the session was REJECTED."""
        self.reconnects = 0
        self._attempts = 0
        self._opened_at = 0.0
        self._received_at = 0.0
        self._pinged_at = 0.0
        self._failure: RunwareError | None = None
        self._is_proven = False
        self._is_wanted = False

    @property
    def is_open(self) -> bool:
        """Whether tasks may be sent now."""
        return self.state is LinkState.OPEN

    def move(self, happening: str) -> None:
        """Change the state by `TRANSITIONS`; what is not in it is an error that names both."""
        try:
            self.state = TRANSITIONS[self.state, happening]
        except KeyError:
            raise ClientStateError(f"a session in state {self.state.name} cannot take {happening!r}") from None

    def want(self, at: float) -> None:
        """A connection is needed."""
        if self.state is LinkState.OPEN:
            return
        self._is_wanted = True
        if self.state is LinkState.IDLE:
            self._connect(at, "wanted")

    def opened(self, at: float) -> None:
        """The driver has opened one: authenticate."""
        if self.state in _ENDED:
            return
        self.move("opened")
        if self.state is LinkState.AUTHENTICATING:
            self._received_at = at
            body = authentication_body(self._options.api_key, self.session_id)
            self._send(Outgoing(body, Lane.CONTROL, joins=False))
        else:
            # It was given up while it was being opened, perhaps before there was a connection to close.
            self._emit(CloseConnection("not wanted any more"))

    def received(self, frame: Frame, at: float) -> RunwareError | None:
        """A frame came. Returns the error of a rejected key, for every waiting task."""
        self._received_at = at
        if self.state is LinkState.OPEN:
            if frame.errors and any(is_about_authentication(error) for error in frame.errors):
                # The count of attempts goes on: a service that rejects each connection later is not tried for ever.
                self._give_up("disowned", "the service no longer accepts this connection")
            else:
                self._attempts = 0
            return None
        verdict = read_verdict(frame) if self.state is LinkState.AUTHENTICATING else None
        if verdict is None:
            return None
        if verdict[0] == "accepted":
            self._accepted(verdict[1], at)
            return None
        if verdict[0] == "failed":
            self._failure = verdict[1]
            self._give_up("overdue", "the service could not authenticate the connection")
            return self._end_first_attempt(verdict[1])
        self.error = verdict[1]
        self.move("rejected")
        self._drop_all()
        self._emit(CloseConnection("the key was rejected"))
        return self._end(self.error)

    def failed(self, reason: str, at: float, jitter: float) -> RunwareError | None:
        """The connection was refused or lost."""
        if self.state in (LinkState.REJECTED, LinkState.CLOSED, LinkState.IDLE, LinkState.BROKEN):
            return None
        was_open = self.state is LinkState.OPEN
        self._drop_all()
        self._emit(Log("connection", f"connection lost: {reason}", {"state": self.state.value}))
        error = self._failure or _connection_error(reason, "connectionLost" if was_open else "connectionFailed")
        self._failure = None
        if not self._is_proven:
            is_told = self.state is LinkState.CLOSING
            self.move("failed, first time")
            if not is_told:
                return self._end(error)
            if self._is_wanted:
                self._connect(at, "wanted")
            return None
        if was_open and at - self._opened_at >= _STEADY:
            self._attempts = 0
        self.move("failed")
        if self._attempts >= self._options.max_reconnect_attempts:
            return self._give_up_reconnecting(reason)
        self._attempts += 1
        delay = reconnect_delay(self._attempts, self._options.retry_delay, self._options.retry_strategy, jitter)
        self._timers.set(LinkDue.RECONNECT, at + delay)
        return None

    def forget_session(self) -> None:
        """Begin a new session with the next connection: in the old one the service sends again what was not taken."""
        self.session_id = None

    def due(self, what: LinkDue, at: float) -> RunwareError | None:
        """Something of the link is due."""
        if what is LinkDue.RECONNECT:
            self.reconnects += 1
            self._connect(at, "due")
        elif what is LinkDue.KEEPALIVE:
            self._keep_alive(at)
        elif self.state in (LinkState.CONNECTING, LinkState.AUTHENTICATING):
            was = "connect" if self.state is LinkState.CONNECTING else "authenticate"
            reason = f"could not {was} within {self._options.auth_timeout:g} s"
            raw_code = "connectionFailed" if was == "connect" else "authTimeout"
            self._failure = _connection_error(reason, raw_code)
            self._give_up("overdue", reason)
            return self._end_first_attempt(self._failure)
        return None

    def close(self) -> None:
        """The client closes."""
        if self.state is LinkState.CLOSED:
            return
        if self._options.duplex and self.state not in (LinkState.IDLE, LinkState.BROKEN, LinkState.REJECTED):
            self._emit(CloseConnection("the client closes"))
        self._drop_all()
        self.state = LinkState.CLOSED

    def _connect(self, at: float, happening: str) -> None:
        self.move(happening)
        self._timers.set(LinkDue.AUTH, at + self._options.auth_timeout)
        self._emit(OpenConnection())

    def _accepted(self, session_id: str, at: float) -> None:
        resumed = self.session_id == session_id
        self.session_id = session_id
        self.move("accepted")
        self._is_proven = True
        self._is_wanted = False
        self._opened_at = at
        self._timers.drop(LinkDue.AUTH)
        self._timers.set(LinkDue.KEEPALIVE, at + self._next_look())
        self._emit(Log("auth", "authenticated", {"resumed": resumed}))
        self._emit(SessionReady())

    def _keep_alive(self, at: float) -> None:
        if self.state is not LinkState.OPEN:
            return
        # Times are compared as they were set: a difference of two may round to just below what it should be.
        silent_at = self._received_at + self._options.silence_timeout
        if at >= silent_at:
            self._give_up("silent", f"nothing came for {at - self._received_at:.0f} s")
            return
        ping_at = max(self._received_at, self._pinged_at) + self._options.ping_interval
        if at >= ping_at:
            self._pinged_at = at
            self._send(Outgoing(PING, Lane.CONTROL))
            ping_at = at + self._options.ping_interval
        self._timers.set(LinkDue.KEEPALIVE, min(ping_at, silent_at))

    def _next_look(self) -> float:
        return min(self._options.ping_interval, self._options.silence_timeout)

    def _give_up(self, happening: str, reason: str) -> None:
        self.move(happening)
        self._drop_all()
        self._emit(CloseConnection(reason))

    def _end_first_attempt(self, error: RunwareError) -> RunwareError | None:
        """End the first attempt with an error at once, before the driver reports that the connection is closed."""
        return None if self._is_proven else self._end(error)

    def _give_up_reconnecting(self, reason: str) -> RunwareError:
        self.move("given up")
        attempts = self._attempts
        self._attempts = 0
        self._is_proven = False
        tries = "and reconnecting is off" if attempts == 0 else f"and {attempts} attempts to reconnect failed"
        error = _connection_error(f"{reason}; the connection was lost {tries}", "reconnectionFailed")
        return self._end(error)

    def _end(self, error: RunwareError) -> RunwareError:
        self._is_wanted = False
        self._emit(EndSession(error, is_final=self.state is LinkState.REJECTED))
        return error

    def _drop_all(self) -> None:
        for what in LinkDue:
            self._timers.drop(what)


def _connection_error(reason: str, raw_code: str) -> RunwareError:
    message = reason if raw_code == "authTimeout" else f"no connection to the service: {reason}"
    return RunwareError(message, code="connection", raw_code=raw_code)
