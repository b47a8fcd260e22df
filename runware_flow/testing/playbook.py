"""`Playbook`: a transcript of a machine's events and commands, compared as a whole.

    play = Playbook(SessionMachine(options))
    play >> TaskSubmitted(0.0, submission)
    play << OpenConnection() << SetTimer(15.0)
    play >> ConnectionOpened(0.1)
    play << Send(ANY)
    play.check()

`>>` puts in an event at once; `<<` says which command is expected next. Nothing is compared before `check`, which
prints the whole transcript with the places where it differs, so that a failure is read like a log. A playbook that is
used as a context manager is checked at the end of its block. `ANY`, which is `unittest.mock`'s, equals everything.
Works for any machine with `handle(event) -> commands`.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar
from unittest.mock import ANY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

__all__ = ("ANY", "Machine", "Playbook")

EventT = TypeVar("EventT")
EventT_contra = TypeVar("EventT_contra", contravariant=True)


class Machine(Protocol[EventT_contra]):
    """A state machine that turns events into commands."""

    def handle(self, event: EventT_contra, /) -> Sequence[Any]:
        """Handle an event; return the commands that follow."""
        ...


class Playbook(Generic[EventT]):
    """The transcript of one machine, which is written while events are given to it.

    Args:
        machine: its `handle` is called once for each `>>`.
        ignore: types of commands that are left out of the transcript.
    """

    def __init__(self, machine: Machine[EventT], *, ignore: tuple[type, ...] = ()) -> None:
        self.machine = machine
        self._ignore = ignore
        self._played: list[tuple[str, Any]] = []
        self._expected: list[tuple[str, Any]] = []

    def __rshift__(self, event: EventT) -> Self:
        self._played.append((">>", event))
        self._expected.append((">>", event))
        commands = self.machine.handle(event)
        self._played.extend(("<<", command) for command in commands if not isinstance(command, self._ignore))
        return self

    def __lshift__(self, command: object) -> Self:
        self._expected.append(("<<", command))
        return self

    def commands(self, kind: type | tuple[type, ...] = object) -> list[Any]:
        """Return the commands of these types that the machine has given so far."""
        return [line for mark, line in self._played if mark == "<<" and isinstance(line, kind)]

    def check(self) -> None:
        """Compare what was played with what was expected.

        Raises:
            AssertionError: they differ; the message is the transcript, with `-` before what was expected and did not
                come and `+` before what came and was not expected.
        """
        # ANY equals everything but does not hash alike, so positions are paired by equality alone.
        if self._played == self._expected:
            return
        raise AssertionError("the transcript differs:\n" + "\n".join(_diff(self._expected, self._played)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.check()


def _diff(expected: list[tuple[str, Any]], played: list[tuple[str, Any]]) -> list[str]:
    """Lines of both, in order: events are the fixed points, the commands after each are compared with one another."""
    lines: list[str] = []
    for (mark, event), wanted, came in zip(_turns(expected), *_answers(expected, played), strict=False):
        if event is not None:
            lines.append(f"  {mark} {event!r}")
        left, right = [repr(command) for command in wanted], [repr(command) for command in came]
        if len(wanted) == len(came):
            # ANY inside a command makes equal what looks different.
            left = [
                there if want == come else here
                for here, there, want, come in zip(left, right, wanted, came, strict=True)
            ]
        for tag, i, j, k, m in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
            if tag == "equal":
                lines.extend(f"  << {line}" for line in left[i:j])
            else:
                lines.extend(f"- << {line}" for line in left[i:j])
                lines.extend(f"+ << {line}" for line in right[k:m])
    return lines


def _turns(transcript: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [("", None), *(line for line in transcript if line[0] == ">>")]


def _answers(*transcripts: list[tuple[str, Any]]) -> list[list[list[Any]]]:
    """For each transcript, the commands before the first event and after each event."""
    answers: list[list[list[Any]]] = []
    for transcript in transcripts:
        turns: list[list[Any]] = [[]]
        for mark, line in transcript:
            if mark == ">>":
                turns.append([])
            else:
                turns[-1].append(line)
        answers.append(turns)
    return answers
