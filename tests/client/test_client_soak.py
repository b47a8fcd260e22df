"""The soak of `benchmarks.soak`, shortened: the connection is cut again and again, nothing is lost or bought twice."""

from __future__ import annotations

import pytest

from benchmarks import soak


@pytest.mark.parametrize("delivery", ["sync", "async"])
def test_connection_cut_at_random_moments_loses_nothing_and_buys_nothing_twice(backend, delivery):
    came = soak.run(200, 6, delivery, backend, seed=3)
    assert came.errors == []
    assert came.is_clean(200), came
    assert came.kills == 6
