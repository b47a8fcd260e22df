"""Names are the terms of the field, one term for one thing: words that have stood for them do not come back.

The names are those of modules, classes, functions, parameters and attributes; comments and local variables are for
readers alone.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import runware_flow

PACKAGE = Path(runware_flow.__file__).parent
GENERATED = {"tasks.py", "results.py", "architectures.py", "operations.py"}

# The word that is not used, and what is said instead.
EVERYWHERE = {
    "agenda": "timer queue",
    "ask": "poll, submit, request",
    "asked": "polled, requested",
    "asking": "polling, requesting",
    "asks": "polls, requests",
    "bell": "event",
    "bid": "attempt, request",
    "bids": "attempts, requests",
    "borne": "tolerated",
    "bought": "sent, paid",
    "buy": "submit",
    "buys": "sends",
    "carriage": "transport selector",
    "common": "the subject of the module",
    "conversation": "session driver",
    "course": "send state",
    "crew": "batch runner",
    "desk": "admission",
    "flight": "attempt",
    "governor": "window",
    "grant": "permit",
    "handler": "the event that it reacts to",
    "hear": "receive",
    "heard": "received",
    "helper": "what it does",
    "helpers": "what they do",
    "luck": "jitter",
    "manager": "machine",
    "news": "event bus",
    "party": "waiter",
    "performer": "node runner",
    "puller": "source iterator",
    "purchase": "request",
    "purchases": "requests",
    "purse": "budget account",
    "said": "described",
    "sayings": "reply summary",
    "shelf": "result cache",
    "surroundings": "context",
    "tally": "counts, result slots",
    "tell": "report, notify",
    "telling": "reporting",
    "told": "reported",
    "twins": "single-flight",
    "utils": "the subject of the module",
}

# Words that have an ordinary meaning too, and are not used for these subjects.
FOR_A_SUBJECT = {
    "hold": ("graph/budget.py", "withhold, reserve"),
    "held": ("graph/budget.py", "withheld, reserved"),
    "place": ("graph/limits.py", "a permit, a waiter"),
    "turn": ("graph/limits.py", "the number in a queue"),
    "show": ("runner/progress.py", "display"),
    "reader": ("runner/event_stream.py", "an event stream"),
}

# Names that stay, and why.
ALLOWED = {
    "single_flight": "the field's own term",
    "SingleFlight": "the field's own term",
    "_leave_single_flight": "the field's own term",
    "_release_single_flight": "the field's own term",
    "_in_flight": "the field's own term",
    "in_flight": "the field's own term",
    "_single_flight": "the field's own term",
    "asked_at": "documented: `JournalEntry.asked_at`, and a column of journals",
    "handler": "the name that pydantic gives its parameter",
    "asked": "documented: `emulator.log.asked`",
}


def words_of(name: str) -> list[str]:
    """Cut a name into its words, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", name)]


def names_of(source: str) -> list[tuple[int, str]]:
    """The names of classes, functions, parameters and attributes that a source declares, with their lines."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            found.append((node.lineno, node.name))
            fields = [one.target for one in node.body if isinstance(one, ast.AnnAssign)]
            fields += [target for one in node.body if isinstance(one, ast.Assign) for target in one.targets]
            found += [(one.lineno, one.id) for one in fields if isinstance(one, ast.Name)]
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.append((node.lineno, node.attr))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append((node.lineno, node.name))
            found += [(one.lineno, one.arg) for one in ast.walk(node.args) if isinstance(one, ast.arg)]
    return found


def problems(file: str, source: str, allowed: frozenset[str] = frozenset(ALLOWED)) -> list[str]:
    """One sentence for each name that uses a word which is not used."""
    found: list[str] = []
    for line, name in [(1, Path(file).stem), *names_of(source)]:
        if name in allowed:
            continue
        for word in words_of(name):
            subject, instead = FOR_A_SUBJECT.get(word, ("", ""))
            say = EVERYWHERE.get(word) or (instead if file == subject else None)
            if say is not None:
                found.append(f"{file}:{line}: {name} uses {word!r}: say {say}")
    return found


FILES = sorted(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py") if file.name not in GENERATED)


def test_names_are_terms_of_the_field() -> None:
    found = [one for file in FILES for one in problems(file, (PACKAGE / file).read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    ("file", "source", "words"),
    [
        ("runner/x.py", "class RunPurchases: ...", ["purchases"]),
        ("runner/x.py", "async def _ask(buy, *told, heard=1, **news): ...", ["ask", "buy", "told", "heard", "news"]),
        ("runner/desk.py", "", ["desk"]),
        ("graph/limits.py", "def take_place(turn): ...", ["place", "turn"]),
        ("client/media.py", "def place(turn): ...", []),
        ("cache/x.py", "class SingleFlight: ...", []),
        ("graph/x.py", "def task(basking, tells): told = basking", []),
        (
            "graph/x.py",
            "class Entry:\n    asks: int\n    TOLD = 1\n    def f(self): self._news = 1",
            ["asks", "told", "news"],
        ),
    ],
)
def test_a_word_that_is_not_used_is_found(file, source, words) -> None:
    assert sorted(re.findall(r"uses '(\w+)'", " ".join(problems(file, source)))) == sorted(words)
