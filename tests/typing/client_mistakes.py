"""Never run: what users of a client get wrong, each line refused by mypy strict and by pyright strict.

Both tools report an ignore comment that hides nothing, so a mistake that starts to be accepted fails the check.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from runware_flow import Client, Flow
from runware_flow.architectures import Sdxl
from runware_flow.operations import UpscaleImage
from runware_flow.results import CaptionResult
from runware_flow.tasks import ImageInference, TextInference

# Parameters of architectures and operations: what the catalog does not list for them, or lists with another type.
Sdxl(model="m", positive_prompt="p", width=1024, height=1024, duration=8)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
Sdxl(model="m", positive_prompt="p", width=1024, height=1024, scheduler=7)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
Sdxl(model="m", positive_prompt="p", width=1024)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
UpscaleImage(model="m", inputs={"image": "u"}, positive_prompt="p")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
TextInference(model="m", messages="Hi")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

# Enums that are strict, since this library acts on them: those of the client and of its calls.
Client(transport="smoke-signals")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
Client(retry_strategy="hopeful")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
Client(timeout="60")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
Client(timeout_ms=60_000)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


async def calling(client: Client) -> None:
    kite = ImageInference(model="runware:400@1", positive_prompt="a kite")
    await client.run(kite, delivery="pigeon")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await client.run(kite, on_result=show)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType, reportCallIssue]
    await client.run(42)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    captions: list[CaptionResult] = await client.run(kite)  # type: ignore[arg-type] # pyright: ignore[reportAssignmentType]
    caption: CaptionResult = await client.run_one(kite)  # type: ignore[arg-type] # pyright: ignore[reportAssignmentType]
    await client.run_one(kite, on_result=print)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    client.stream(kite)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await client.media_storage("id", operation="forget")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await client.content.list_models(order="sideways")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
    await client.model_search(pattern="flux")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    print(captions, caption)  # noqa: T201


def show(text: str) -> None: ...


# What is not a medium has no file.
flow = Flow("mistakes")
flow.then(TextInference(model="m", messages=[])).save("{label}")  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
