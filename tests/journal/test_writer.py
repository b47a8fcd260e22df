"""Groups of changes: what is written at the same time is committed together."""

from __future__ import annotations

import anyio
import pytest

from runware_flow import Flow, JournalError
from runware_flow.journal.sqlite import SqliteStore
from runware_flow.journal.store import StoreAway


class CountingStore(SqliteStore):
    """A journal that counts its commits."""

    commits = 0

    def apply(self, changes):
        self.commits += 1
        return super().apply(changes)


async def nothing(number: int) -> int:
    return number


@pytest.mark.parametrize("at_once", [1, 8, 64])
def test_steps_that_waited_for_one_commit_share_the_next_one(run, tmp_path, at_once):
    store = CountingStore(tmp_path / "steps.sqlite")
    flow = Flow("steps", concurrency=at_once, journal=store)
    steps = flow.map(range(at_once * 10), nothing)

    async def main():
        assert len((await flow.execute())[steps]) == at_once * 10

    run(main)
    # In two halves that take turns it would be twice as many; the first and the last few are not full.
    assert store.commits <= 10 + 4


def test_chains_of_steps_need_one_commit_for_each_step_of_the_longest(run, tmp_path):
    store = CountingStore(tmp_path / "chains.sqlite")
    flow = Flow("chains", concurrency=16, journal=store)
    chains = flow.map(range(16), nothing).then(nothing).then(nothing)

    async def main():
        assert len((await flow.execute())[chains]) == 16

    run(main)
    assert store.commits <= 3 + 3


class LateStore(SqliteStore):
    """A journal that does not answer at first."""

    def __init__(self, path, patience, answers_at):
        super().__init__(path)
        self.patience, self.answers_at, self.opened = patience, answers_at, 0

    def open(self):
        self.opened += 1
        if self.opened < self.answers_at:
            raise StoreAway("the journal's database does not answer (refused)")
        super().open()


def test_store_that_does_not_answer_at_first_is_waited_for_and_logged_once(run, tmp_path, caplog):
    store = LateStore(tmp_path / "late.sqlite", 30.0, 3)
    flow = Flow("late", journal=store)
    node = flow.map([1], nothing)

    async def main():
        assert (await flow.execute())[node] == [1]

    run(main)
    assert store.opened == 3
    [warning] = caplog.messages
    assert warning == (
        "the journal's database does not answer (refused): the journal is tried again for 30 s,"
        " and nothing is sent until it answers"
    )


def test_store_that_does_not_answer_within_its_patience_is_one_sentence(run, tmp_path, caplog):
    flow = Flow("late", journal=LateStore(tmp_path / "late.sqlite", 0.0, 99))
    flow.map([1], nothing)

    async def main():
        with pytest.raises(
            JournalError, match=r"does not answer .refused.; it was tried for 0 s, and nothing was sent"
        ):
            await flow.execute()

    run(main)
    assert caplog.messages == []


def test_cancel_ends_the_wait_for_a_store(run, tmp_path):
    store = LateStore(tmp_path / "late.sqlite", 3600.0, 10**9)
    flow = Flow("late", journal=store)
    flow.map([1], nothing)

    async def main():
        with anyio.move_on_after(0.1) as scope:
            await flow.execute()
        assert scope.cancelled_caught

    run(main)
    assert store.opened <= 2
