"""What most frames say is read in a few steps; it must change what the general way changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from session_conversation import (
    SESSION,
    done,
    frame,
    image,
    item,
    options,
    problem,
    processing,
    sync_task,
    task,
    welcome,
)

from runware_flow.session import reading
from runware_flow.session.commands import Command, Lane, Log, Send, SetTimer
from runware_flow.session.events import ConnectionOpened, ConnectRequested, FrameReceived, TaskSubmitted, TimerFired
from runware_flow.session.machine import SessionMachine

TASKS = ("t1", "t2", "t3", "t4", "t5", "t6", "t7")
PUSHED = ("t5", "t6", "t7")


def items_of(task_id: str, number: int) -> dict[str, list[dict[str, Any]]]:
    """What the service may say of one task, by kind."""
    first, second = f"{task_id}-{number}", f"{task_id}-{number}-again"
    return {
        "running": [processing(task_id)],
        "further": [processing(task_id, progress=number % 100)],
        "queued": [item(task_id, status="queued")],
        "accepted": [item(task_id)],
        "done": [done(task_id, first)],
        "pushed": [image(task_id, first)],  # as sync results come, without a status
        "slot": [done(task_id, f"{task_id}-slot"), processing(task_id)],  # of a task of two results, one is ready
        "both": [item(task_id), image(task_id, first)],
        "odd": [item(task_id, status="processing", error={"code": "providerError"})],
        "refused": [item(task_id)],  # and an error beside it
        "twice": [done(task_id, first), done(task_id, second, resultIndex=3)],
    }


PROBLEMS = {
    "busy": "rateLimitExceeded",
    "unknown": "taskNotFound",
    "failed": "providerError",
    "refused": "invalidModel",
}
KINDS = [*items_of("", 0), "nothing"]
SINGLE = [kind for kind in KINDS if len(items_of("", 0).get(kind, [])) < 2]


def rounds_of(kinds: list[str]) -> st.SearchStrategy[tuple[Any, ...]]:
    """One answer for each task, and the seconds until they come."""
    return st.tuples(*(st.sampled_from(kinds) for _ in TASKS), st.floats(0.0, 0.6))


# A frame with an error, or with two items of one task, is read part by part: most have none.
ROUNDS = st.lists(rounds_of(SINGLE) | rounds_of(SINGLE) | rounds_of([*KINDS, *PROBLEMS]), max_size=12)


def play(rounds: list[tuple[Any, ...]]) -> list[list[str]]:
    """Drive a session through polls with those answers; returns its commands, those of one frame in any order."""
    machine = SessionMachine(options())
    told: list[list[str]] = []
    timer: float | None = None
    polled: list[str] = []
    now = 0.0

    def handle(event: Any) -> None:
        nonlocal timer
        commands: list[Command] = machine.handle(event)
        for command in commands:
            if isinstance(command, SetTimer):
                timer = command.at
            elif isinstance(command, Send):
                polled.extend(str(sent.task_id) for sent in command.entries if sent.lane is not Lane.CONTROL)
        parts = [part for command in commands for part in (command.entries if isinstance(command, Send) else [command])]
        told.append(sorted(repr(part) for part in parts if not isinstance(part, Log)))

    handle(ConnectRequested(0.0))
    handle(ConnectionOpened(0.1))
    handle(welcome(0.2, SESSION))
    handle(TaskSubmitted(0.3, task("t1")))
    handle(TaskSubmitted(0.3, task("t2", slots=2)))
    handle(TaskSubmitted(0.3, task("t3", model="runware:101@1")))
    handle(TaskSubmitted(0.3, sync_task("t4", sent_before="yes")))
    handle(TaskSubmitted(0.3, sync_task("t5")))
    handle(TaskSubmitted(0.3, sync_task("t6", slots=2)))
    handle(TaskSubmitted(0.3, task("t7", task_type="modelSearch")))
    handle(FrameReceived(0.35, frame(*(item(name) for name in TASKS[:3]))))
    now = 0.35
    for number, (*kinds, wait) in enumerate(rounds):
        polled.clear()
        now = max(now, now if timer is None else timer)
        handle(TimerFired(now))
        now += wait
        items: list[dict[str, Any]] = []
        problems: list[dict[str, Any]] = []
        for task_id, kind in zip(TASKS, kinds, strict=True):
            if task_id in polled or task_id in PUSHED:
                items += items_of(task_id, number).get(kind, [])
                problems += [problem(PROBLEMS[kind], task_id)] if kind in PROBLEMS else []
        if items or problems:
            handle(FrameReceived(now, frame(*items, errors=problems)))
    return told


@example([(*("nothing" for _ in TASKS[1:]), "pushed", 0.1)])
@given(ROUNDS)
def test_what_most_frames_say_changes_what_it_changes_when_it_is_read_part_by_part(rounds: list[Any]) -> None:
    shortly = play(rounds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_read_usual", lambda tracker, frame, at: frame)
        assert play(rounds) == shortly


def test_the_short_way_is_taken() -> None:
    taken: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        short = reading._read_usual

        def count(tracker: Any, whole: Any, at: float) -> Any:
            rest = short(tracker, whole, at)
            taken.append(len(whole.items) - len(rest.items))
            return rest

        patch.setattr(reading, "_read_usual", count)
        play([(*("running" for _ in TASKS), 0.01)] * 3 + [(*("done" for _ in TASKS), 0.01)])
    assert taken[:2] == [0, 3]  # the welcome, what was accepted
    assert sum(taken) > 8
