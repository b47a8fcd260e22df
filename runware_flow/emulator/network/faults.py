"""`Fault`: a fault of the service or the network, in Python or on the command line as `kind:key=value,...`.

A fault of some kind waits for events of that kind (an authentication, an acknowledgement, a poll, ...), counts those
that fit its conditions, and strikes at the ones it names: all of them, the `nth`, each `every`-th, or by `chance`,
which is drawn from the emulator's seed: the same seed and the same order of events make the same faults.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from runware_flow.emulator.jsonvalues import as_list, as_object
from runware_flow.emulator.settings import draw

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ("BYTE_FAULTS", "FAULT_KINDS", "Fault", "FaultBook", "parse_fault")

BYTE_FAULTS: dict[str, str] = {
    "kill-mid-frame": "the connection ends in the middle of a message of the service, after `after` bytes (half of it)",
    "reset": "the connection is reset in place of a message, or after `after` bytes of it",
    "half-open": "from a message on, nothing passes in either direction, and the connection stays open",
    "fragment": "a message comes in pieces of `size` bytes (default 7)",
    "throttle": "a message comes at `rate` bytes a second (default 10,000)",
    "delay": "a message, and what follows it, comes `seconds` late (default 0.1)",
    "slow-reader": "what the client sends on a connection is read at `rate` bytes a second (default 10,000)",
    "refuse-connection": "a connection is reset as soon as it is open",
}
"""What happens to bytes: events are the service's messages on all connections (WebSocket frames, HTTP answers, media
too), and for the last two the connections. They meet connections that are opened after the fault was added.
"""

FAULT_KINDS: dict[str, str] = {
    "reject-key": "an authentication is refused (`code`, default invalidApiKey; `shape`: errors, error or legacy)",
    "slow-auth": "the answer to an authentication comes `seconds` late; frames for the session may come before it",
    "stray-frame": "a frame with a pong comes before the answer to an authentication",
    "rotate-session": "a session that is resumed gets another connectionSessionUUID",
    "swallow-pong": "a ping is not answered",
    "swallow-ack": "a task is accepted and its acknowledgement is never sent; on REST the connection is cut",
    "delay-ack": "the acknowledgement comes `seconds` late",
    "empty-ack": "the acknowledgement is an empty `data` list",
    "drop-poll": "the answer to a getResponse is never sent; on REST the connection is cut",
    "reject": "a task is refused at submit (`code`, default invalidParameter; `status`; `shape`: errors or error)",
    "fail": "a task fails at the end of its time (`code`, default inferenceError); with `index` only that result fails",
    "never": "a task never finishes",
    "slow": "a task takes `seconds` longer",
    "kill": "the WebSocket is cut, without a closing frame, instead of a frame from the service",
    "drop-frame": "a frame from the service is lost; the client stays connected",
    "duplicate": "a frame from the service is sent twice",
    "split": "a frame is sent as one frame an item",
    "shuffle": "the items of a frame come in reverse order",
    "merge": "frames that wait, or come within `seconds` (default 0.02), are sent as one",
    "empty-data": "an empty `data` frame goes out before a frame",
    "empty-errors": "a frame carries an empty `errors` list beside its data",
    "http": "a POST is answered with `status` (default 503) and not carried out; `retry_after`, `code`, `body`",
    "truncate-stream": "a text stream ends without finishReason and without [DONE]",
    "split-stream": "a text stream comes in pieces of seven bytes, which cut through characters",
    "cut": "a POST is carried out, and the connection is cut instead of an answer",
    "bare-data": "a frame with one item has it as `data` itself, not in a list",
    "drop-webhook": "a call of a webhook is never made",
    "duplicate-webhook": "a webhook is called twice for the same result",
    "slow-registry": "the registry of models comes `seconds` late",
    "serverless": "a request to an app is answered with `status` (default 503), `code` and `retry_after`",
    "late-task": "a task of an app that exists is answered with 404",
    **BYTE_FAULTS,
}
"""Each kind of fault and what it does."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: what goes wrong, one of `FAULT_KINDS`.
        nth: strike at the n-th event that fits (from 1); without it, from the first one on.
        every: strike at each `every`-th event that fits.
        chance: strike at an event with this probability (0 to 1).
        times: how often at most; one if `nth` is given, without end otherwise.
        task_type, model, prompt: only for such tasks; `prompt` is a part of the prompt or of the last message.
        index: only this result of the task, from 0.
        code, message, status, retry_after, seconds, after, size, rate: what the fault does, see `FAULT_KINDS`.
        shape: `errors` or `item`: where a failed generation is reported; `error`: under that key instead of `errors`;
            `legacy`: as the first version of the service refused a key.
        body: `json`, `text` or `empty`: the body of an `http` fault.
    """

    kind: str
    nth: int | None = None
    every: int | None = None
    chance: float | None = None
    times: int | None = None
    task_type: str | None = None
    model: str | None = None
    prompt: str | None = None
    index: int | None = None
    code: str | None = None
    message: str | None = None
    status: int | None = None
    retry_after: float | None = None
    seconds: float | None = None
    after: int | None = None
    size: int | None = None
    rate: float | None = None
    shape: str | None = None
    body: str = "json"

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            raise ValueError(f"there is no fault {self.kind!r}; there are: {', '.join(FAULT_KINDS)}")

    def fits(self, task: Mapping[str, Any] | None) -> bool:
        """Tell whether the fault is meant for that task (None: an event that concerns no single task)."""
        if self.task_type is None and self.model is None and self.prompt is None:
            return True
        if task is None:
            return False
        if self.task_type is not None and task.get("taskType") != self.task_type:
            return False
        if self.model is not None and task.get("model") != self.model:
            return False
        return self.prompt is None or self.prompt in _words(task)


def _words(task: Mapping[str, Any]) -> str:
    messages = as_list(task.get("messages"))
    said = as_object(messages[-1]).get("content") if messages else ""
    return f"{task.get('positivePrompt', '')} {task.get('prompt', '')} {said}"


def parse_fault(text: str) -> Fault:
    """Read a fault from `kind` or `kind:key=value,key=value`.

    Raises:
        ValueError: an unknown kind or key, or a value that is no number where one is wanted.
    """
    kind, _, rest = text.partition(":")
    known = {field.name: str(field.type) for field in fields(Fault)}
    values: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, separator, value = part.partition("=")
        name = key.strip().replace("-", "_")
        if not separator or name not in known or name == "kind":
            raise ValueError(
                f"{part!r} is not key=value with one of the keys {', '.join(k for k in known if k != 'kind')}"
            )
        read = next((one for one in (int, float) if known[name].startswith(one.__name__)), str)
        try:
            values[name] = read(value)
        except ValueError:
            raise ValueError(f"{part!r} is not a number, as {name} wants") from None
    return Fault(kind=kind.strip(), **values)


class FaultBook:
    """The faults of one emulator and how often each has met its event.

    Args:
        faults: what goes wrong.
        seed: what those with a `chance` are drawn from.
    """

    def __init__(self, faults: Iterable[Fault | str] = (), seed: int = 7) -> None:
        self._entries: list[_Entry] = []
        self._seed = seed
        self._added = 0
        for fault in [faults] if isinstance(faults, str) else faults:  # a text is one fault, not its letters
            self.add(fault)

    def add(self, fault: Fault | str) -> Fault:
        """Add a fault while the emulator runs; its counting starts now."""
        made = parse_fault(fault) if isinstance(fault, str) else fault
        self._added += 1
        self._entries.append(_Entry(made, f"{self._seed} {self._added}"))
        return made

    def clear(self) -> None:
        """Forget all faults."""
        self._entries.clear()

    @property
    def has_byte_faults(self) -> bool:
        """Whether there is a fault that only a relay of bytes can show."""
        return any(entry.fault.kind in BYTE_FAULTS for entry in self._entries)

    def trigger(self, kind: str, task: Mapping[str, Any] | None = None) -> Fault | None:
        """Count one event of `kind`, and return the fault that strikes at it, if one does."""
        struck = None
        for entry in self._entries:
            if entry.fault.kind == kind and entry.fault.fits(task) and entry.meets() and struck is None:
                struck = entry.fault
        return struck


class _Entry:
    def __init__(self, fault: Fault, seed: str) -> None:
        self.fault = fault
        self._seed = seed
        self._events = 0
        self._strikes = 0

    def meets(self) -> bool:
        fault = self.fault
        self._events += 1
        times = fault.times if fault.times is not None else (1 if fault.nth is not None else None)
        if times is not None and self._strikes >= times:
            return False
        strikes = self._events % fault.every == 0 if fault.every else self._events >= (fault.nth or 1)
        if fault.chance is not None:
            strikes = strikes and draw(self._seed, self._events) < fault.chance
        self._strikes += strikes
        return strikes
