"""Transcripts: what passes, and what a failure shows."""

from __future__ import annotations

import pytest

from runware_flow.testing.playbook import ANY, Playbook


class Echo:
    """Answers each event with itself and its length."""

    def handle(self, event: str) -> list[object]:
        return [event, len(event)]


def test_playbook_that_agrees_passes():
    with Playbook(Echo()) as play:
        play >> "ab" << "ab" << 2
        play >> "c" << ANY << ANY


def test_playbook_that_differs_shows_the_whole_transcript():
    play = Playbook(Echo())
    play >> "ab" << "ab" << 3
    play >> "c" << "c"
    with pytest.raises(AssertionError) as caught:
        play.check()
    assert str(caught.value).splitlines()[1:] == [
        "  >> 'ab'",
        "  << 'ab'",
        "- << 3",
        "+ << 2",
        "  >> 'c'",
        "  << 'c'",
        "+ << 1",
    ]


def test_playbook_anything_is_no_difference():
    play = Playbook(Echo())
    play >> "ab" << ANY << 3
    with pytest.raises(AssertionError) as caught:
        play.check()
    assert "ANY" not in str(caught.value)


def test_playbook_ignores_commands_of_some_types():
    with Playbook(Echo(), ignore=(int,)) as play:
        play >> "ab" << "ab"
    assert play.commands() == ["ab"]


def test_playbook_gives_commands_by_type():
    play = Playbook(Echo())
    play >> "ab" >> "c"
    assert play.commands(int) == [2, 1]


def test_playbook_does_not_hide_an_exception_behind_a_difference():
    with pytest.raises(ZeroDivisionError), Playbook(Echo()) as play:
        play >> "ab"
        _ = 1 / 0


def test_playbook_commands_before_any_event_are_a_difference():
    play = Playbook(Echo())
    play << "nothing"
    with pytest.raises(AssertionError, match="- << 'nothing'"):
        play.check()
