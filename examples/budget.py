"""A plan before, a budget during, and the same command again with a larger one after.

Try it: `runware-flow emulate -- python examples/budget.py`
"""

import anyio

from runware_flow import Budget, BudgetExceeded, Client, Flow, FlowFailed, Ok, RunResult
from runware_flow.results import ImageResult
from runware_flow.tasks import Caption, ImageInference

PLACES = ["a lighthouse", "a harbour", "a ferry", "a pier", "a beach", "a cliff"]

flow = Flow("coast", journal="coast.sqlite")


def draw(place: str) -> ImageInference:
    """One picture for each place."""
    return ImageInference(model="runware:400@1", positive_prompt=place, width=512, height=512)


def describe(image: ImageResult) -> Caption:
    """And a caption for each picture."""
    return Caption(model="runware:150@2", inputs={"image": image})


pictures = flow.map(PLACES, draw, label="picture")
captions = pictures.then(describe, label="caption")


async def main() -> None:
    async with Client() as client:
        prices = await flow.look_up_prices(client)
        plan = flow.plan(prices=prices)
        print(plan)

        budget = Budget(plan.cost.low / 2, prices=prices)
        try:
            await flow.execute(client, budget=budget)
        except FlowFailed as failed:
            if not isinstance(failed.__cause__, BudgetExceeded):
                raise
            kept: RunResult = failed.result
            made = sum(isinstance(one, Ok) for one in kept.outcomes(pictures))
            print(f"spent {budget.spent} USD, {made} pictures are kept: {failed.__cause__}")

        budget = Budget(plan.cost.low * 1.1, prices=prices)
        result = await flow.execute(client, budget=budget)
        print(f"{len(result[captions])} captions, {budget.spent} USD for both runs together")


if __name__ == "__main__":
    anyio.run(main)
