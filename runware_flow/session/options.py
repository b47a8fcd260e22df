"""The options of a session. Times are seconds."""

from __future__ import annotations

from math import inf
from typing import Literal, TypeAlias

import msgspec

from runware_flow.secret import Secret  # noqa: TC001  # help() reads the annotations of a struct
from runware_flow.session.polling import PollPolicy

__all__ = ("RetryStrategy", "SessionOptions")

RetryStrategy: TypeAlias = Literal["exponential", "linear"]


class SessionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one session behaves. Times are seconds."""

    api_key: Secret
    duplex: bool = True
    """True: one WebSocket with a handshake, pings and pushed results. False: REST, one exchange a POST."""
    auth_timeout: float = 15.0
    """From the wish to connect to the service's answer to the key."""
    ack_timeout: float = 30.0
    """From the send of an async task, while connected, to the first sign that the service knows it."""
    sync_timeout: float = 125.0
    """From the send of a sync task, while connected, to looking it up; the service's own budget is 120 s [doc]."""
    ping_interval: float = 30.0
    silence_timeout: float = 100.0
    """A connection on which nothing came for so long is given up: it is half-open."""
    max_reconnect_attempts: float = inf
    """Consecutive attempts after a loss, before every task in flight fails."""
    max_retries: int = 3
    """How often a request is sent again whose send failed; a refusal does not count."""
    refusal_timeout: float = 1200.0
    """For how long a model may refuse everything, with nothing in flight, before what waits for it fails."""
    retry_delay: float = 1.0
    retry_strategy: RetryStrategy = "exponential"
    poll: PollPolicy = PollPolicy()
