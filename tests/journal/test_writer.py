"""Groups of changes: what is written at the same time is committed together."""

from __future__ import annotations

import pytest

from runware_flow import Flow
from runware_flow.journal.sqlite import SqliteStore


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
