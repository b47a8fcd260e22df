"""Webhook calls, by transcript: they settle tasks, and never end one that lacks results."""

from __future__ import annotations

import pytest
from session_conversation import (
    ask,
    done,
    errors,
    frame,
    image,
    item,
    opened,
    problem,
    processing,
    received,
    submit,
    task,
    text,
)

from runware_flow.session.commands import Deliver, Send, Settle
from runware_flow.session.events import TaskSubmitted, TimerFired, WebhookReceived
from runware_flow.testing.playbook import ANY


def called(at, *data, errors=None):
    return WebhookReceived(at, frame(*data, errors=errors))


def waiting(**changes):
    """A session with one task that was acknowledged and is polled at 1.1."""
    play = opened()
    submission = task(**changes)
    play >> TaskSubmitted(1.0, submission) << Send((submit(submission),))
    return play


def test_call_settles_a_task_before_it_is_polled():
    with waiting() as play:
        play >> called(1.05, image()) << Deliver("t1", 0, item=ANY) << Settle("t1")


@pytest.mark.parametrize("is_polled", [True, False])
def test_what_a_task_took_is_known_by_the_call_and_not_by_the_poll_before(is_polled):
    play = waiting()
    play >> received(1.05, item())
    if is_polled:
        play >> TimerFired(1.2) >> received(1.25, processing())
    play >> called(1.5, image())
    assert play.machine._tracker.poller.history.of(("imageInference", "runware:400@1")).ordered == [0.5]


def test_call_stands_for_an_acknowledgement_that_is_missing():
    play = waiting(slots=2)
    play >> called(1.05, image(uuid="i1"))
    play >> TimerFired(1.2)
    assert Send((ask(),)) in play.commands(Send)


def test_repeated_call_and_poll_count_once():
    play = waiting(slots=2)
    for at in (1.05, 1.06):
        play >> called(at, image(uuid="i1"))
    play >> TimerFired(1.2)
    play >> called(1.25, image(uuid="i1"))
    assert [delivered.position for delivered in play.commands(Deliver)] == [0]
    play >> called(1.3, done(uuid="i2"))
    assert len(play.commands(Deliver)) == 2
    assert errors(play) == {"t1": None}


def test_calls_over_a_long_time_never_end_a_task_that_is_not_full():
    """An answer to a poll that leaves slots open again and again does; a call tells of one result alone."""
    play = waiting(slots=20)
    for number in range(19):
        play >> called(2.0 + number, image(uuid=f"i{number}"))
    assert not play.commands(Settle)
    play >> called(60.0, image(uuid="last"))
    assert errors(play) == {"t1": None}


def test_failure_fills_its_slot():
    play = waiting(slots=2)
    play >> called(1.05, errors=[problem("inferenceError")])
    assert not play.commands(Settle)
    play >> called(1.06, image())
    assert errors(play) == {"t1": ("provider", "inferenceError")}


def test_call_for_a_task_that_is_gone_is_dropped_and_one_without_an_end_changes_nothing():
    play = waiting()
    play >> called(1.05, image("other")) >> called(1.06, item(status="processing"))
    play >> called(1.07, text("of another kind"))
    assert not play.commands(Deliver)
    assert play.machine.statistics().dropped == 1
