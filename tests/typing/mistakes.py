"""Never run: what users get wrong, each line refused by mypy strict and by pyright strict.

Both tools report an ignore comment that hides nothing, so a mistake that starts to be accepted fails the check.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from runware_flow import Batch, Flow, Node
from runware_flow.results import CaptionResult, ImageResult
from runware_flow.tasks import Caption, ImageInference, Upscale

flow = Flow("mistakes")
art = flow.then(ImageInference(model="runware:400@1", positive_prompt="a kite"))


async def waiting() -> None:
    await art  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]


# A parameter that no image model has, one of the wrong type, and one missing.
ImageInference(model="runware:400@1", positive_prompt="a kite", colour="red")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
ImageInference(model="runware:400@1", positive_prompt="a kite", width="wide")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
Caption(inputs={"image": "https://example.com/kite.jpg"})  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]

# A Node is not the picture it stands for.
Upscale(model="runware:504@1", inputs={"image": art})  # type: ignore[dict-item] # pyright: ignore[reportArgumentType]
art.url  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

# What a builder is given has the type of the node before it; what it returns is a task.
art.then(lambda image: Caption(model="runware:150@2", inputs={"image": image.text}))  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
art.then(lambda image: 42)  # type: ignore[arg-type, return-value] # pyright: ignore[reportArgumentType]
flow.then(42)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
flow.then("a kite")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]

# A way of a branch is a sub-pipeline, from node to node; a condition is one of the result; a race is between nodes.
art.branch(lambda image: True, lambda node: 42, lambda node: node)  # type: ignore[arg-type, return-value] # pyright: ignore[reportArgumentType]
art.branch(lambda image: image.text, lambda node: node, lambda node: node)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownLambdaType, reportUnknownMemberType]
flow.race(art, 42)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]

# A fallback is called with the same results as what it stands in for.
art.then(lambda a: Caption(model="m", inputs={"image": a}), fallback=lambda: 42)  # type: ignore[arg-type, misc] # pyright: ignore[reportArgumentType]

# The result of a node has the node's type.
wrong: Node[CaptionResult] = art  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]


async def executing() -> None:
    result = await flow.execute()
    caption: CaptionResult = result[art]  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    image: ImageResult = result[art]
    print(caption, image)  # noqa: T201


# Keywords that do not exist.
Flow("x", parallel=3)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
Flow("x", on_error="explode")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
flow.then(ImageInference(model="m", positive_prompt="p"), retries=3)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]


# What a batch shares has the type that its builder expects, and is given exactly where it is expected.
def captioned(flow: Flow, prompt: str, caption: CaptionResult) -> Node[ImageResult]:
    return flow.then(ImageInference(model="runware:400@1", positive_prompt=caption.text or prompt))


def style(flow: Flow) -> Node[ImageResult]:
    return art


Batch(captioned).run(["a kite"], shared=style)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
Batch(captioned).run(["a kite"])  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
Batch(captioned).run([3], shared=lambda flow: flow.then(Caption(model="m", inputs={"image": "u"})))  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
