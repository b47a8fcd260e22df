"""Flows and batches that share a budget, with limits, retries, races, caches and cancels: no wait is endless."""

from __future__ import annotations

import random

import anyio
import anyio.lowlevel
import pytest
from service import Service, art, caption

from runware_flow import Batch, Budget, Flow, FlowFailed, RunwareError

PRICES = {"imageInference": (0.0, 0.003), "caption": 0.0012}
ENDS = ("stop", "cancel", "continue")


class Storm:
    """Everything that one seed leads to."""

    def __init__(self, seed, folder):
        self.folder = folder
        self.pick = random.Random(seed).choice
        self.budget = Budget(
            self.pick([0.002, 0.006, 0.02, 0.1]), prices=self.pick([None, PRICES, {"caption": 0.0012}])
        )
        self.service = Service(lambda request, count: self.answer())

    async def answer(self):
        for _ in range(self.pick(range(4))):
            await anyio.lowlevel.checkpoint()
        return self.pick(
            [None] * 8
            + [
                RunwareError("later", code="provider", raw_code="providerError", retry_after=0.0),
                RunwareError("never", code="validation", raw_code="invalidParameter"),
            ]
        )

    def flow(self):
        limits = self.pick([None, {"image": 1}, {"image": 2, "text": 1}, {"type:caption": 1}])
        flow = Flow(
            budget=self.budget,
            concurrency=self.pick([1, 2, 5]),
            on_error=self.pick(ENDS),
            limits=limits,
            cache=self.pick([None, self.folder]),
        )
        different = self.pick([1, 2, 8])
        prompts = [str(number % different) for number in range(8)]
        flow.map(prompts, lambda prompt: art(prompt, seed=1), retry=self.pick([1, 3])).then(caption)
        if self.pick([True, False]):
            flow.race(flow.then(art("one", seed=1)), flow.then(art("other"))).then(caption, deadline=0.01)
        if self.pick([True, False]):
            flow.then(art("dear"), fallback=lambda: art("0", seed=1))
        if self.pick([True, False]):
            flow.each(art(number_results=3)).then(caption)
        return flow

    def batch(self):
        def chain(flow, prompt):
            return flow.then(art("all the same", seed=1), retry=2).then(caption)

        def wide(flow, prompt):
            return flow.join(flow.then(art(prompt)), flow.then(art(prompt + "!"))).then(lambda a, b: art("both"))

        limits = self.pick([None, {"image": 1}])
        return Batch(
            self.pick([chain, wide]),
            concurrency=self.pick([1, 3]),
            budget=self.budget,
            on_error=self.pick(ENDS),
            limits=limits,
            cache=self.pick([None, self.folder]),
        )

    async def one(self):
        with anyio.move_on_after(self.pick([None, None, 0.0005, 0.005]) or float("inf")):
            try:
                if self.pick([True, True, False]):
                    await self.flow().execute(self.service)
                else:
                    await self.batch().collect([str(number) for number in range(8)], self.service)
            except FlowFailed:
                pass


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(4))
def test_storm_ends_and_leaves_nothing_reserved(run, seed, tmp_path):
    async def main():
        for number in range(15):
            storm = Storm(f"{seed} {number}", tmp_path)
            async with anyio.create_task_group() as group:
                for _ in range(storm.pick([1, 2, 3])):
                    group.start_soon(storm.one)
            machine = storm.budget.machine
            assert (machine.in_flight, machine.waiting_count, machine.reserved) == (0, 0, 0), number
            if "imageInference" in storm.budget.prices:
                assert machine.spent + machine.withheld <= machine.limit

    run(main)
