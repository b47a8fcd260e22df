"""Random runs and batches at once on one governed client, with failures, refusals, races, cancels and deadlines."""

from __future__ import annotations

import random

import anyio
import pytest
from service import art, caption, upscale
from test_governed import Governed

from runware_flow import Batch, Flow, FlowFailed, RunwareError
from runware_flow.runner.admission import Admission


class Storm:
    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.service = Governed(self.answer)

    def pick(self, *choices):
        return self.chance.choice(choices)

    async def answer(self, request, count):
        for _ in range(self.chance.randint(0, 4)):
            await anyio.lowlevel.checkpoint()
        luck = self.chance.random()
        if luck < 0.05:
            wait = self.pick(0, 0.005)
            return RunwareError("slow down", code="rateLimit", raw_code="rateLimitExceeded", retry_after=wait)
        if luck < 0.1:
            return RunwareError("bad", code="validation", raw_code="invalidParameter")
        return ValueError("broken") if luck < 0.12 else None

    def options(self):
        limits = self.pick(None, {"image": self.chance.randint(1, 5)}, {"image": 3, "type:caption": 1})
        return {"concurrency": self.chance.randint(1, 20), "limits": limits}

    def policy(self):
        return {"retry": self.chance.randint(1, 3), **self.pick({}, {}, {"deadline": 0.02}, {"deadline": 1.0})}

    async def one(self, name):
        names = [f"{name} {n}" for n in range(self.chance.randint(1, 30))]
        with anyio.CancelScope() as scope:
            if self.chance.random() < 0.4:
                scope.deadline = anyio.current_time() + self.chance.random() * 0.03
            await self.pick(self.flow, self.batch)(names)

    async def flow(self, names):
        flow = Flow(on_error=self.pick("stop", "cancel", "continue"), **self.options())
        many = flow.map(names, art, **self.policy())
        many.then(upscale).then(caption)
        if self.chance.random() < 0.5:
            flow.race(flow.then(art("one")), flow.then(art("two")).then(upscale))
            many.first(max(1, len(names) // 3))
        try:
            async with flow.start(self.service) as run:
                async for _ in run.as_completed(many):
                    if self.chance.random() < 0.05:
                        run.stop()
        except FlowFailed:
            pass

    async def batch(self, names):
        is_wide = self.chance.random() < 0.5

        def poster(flow, name):
            image = flow.then(art(name), **self.policy())
            if is_wide:
                return flow.join(image.then(upscale), flow.then(art(name + "!"))).then(lambda a, _: caption(a))
            return image.then(upscale).then(caption)

        async with Batch(poster, on_error="continue", **self.options()).run(names, self.service) as outcomes:
            async for _ in outcomes:
                if self.chance.random() < 0.02:
                    break


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_everything_is_given_back_and_nobody_waits_for_ever(run, seed, monkeypatch):
    admissions = []
    begin = Admission.__init__

    def begin_and_note(admission, *args, **more):
        begin(admission, *args, **more)
        admissions.append(admission)

    monkeypatch.setattr(Admission, "__init__", begin_and_note)

    async def main():
        storm = Storm(seed)
        async with anyio.create_task_group() as group:
            for number in range(storm.chance.randint(1, 6)):
                group.start_soon(storm.one, str(number))
        assert storm.service.in_flight == 0
        storm.service.check()
        assert admissions
        for admission in admissions:
            assert admission.is_idle, admission

    run(main)
