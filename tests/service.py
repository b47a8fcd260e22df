"""An in-memory service behind the two methods that a run needs of a client, and tasks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import anyio.lowlevel
import msgspec

from runware_flow import RunwareError
from runware_flow.client.request import Prepared, prepare
from runware_flow.results import CaptionResult, ImageResult, UpscaleResult
from runware_flow.tasks import Caption, ImageInference, Upscale

Answer = Callable[[Prepared, int], Any]


class Service:
    """Makes what it is asked for, at once; `answer` may change that for a request, given how many came before it."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.sent: list[Prepared] = []
        self.sent_before: list[str] = []
        self.timeouts: list[float | None] = []
        self.on_result: Any = None
        self.in_flight = 0
        self.most_in_flight = 0

    def prepare(self, task: Any, /, *, include_cost: bool | None = None, task_uuid: str | None = None) -> Prepared:
        return prepare(task, new_task_id=task_uuid or str(uuid4()), include_cost=include_cost)

    async def perform(
        self,
        request: Prepared,
        /,
        *,
        timeout: float | None = None,
        on_progress: Any = None,
        on_result: Any = None,
        sent_before: str = "no",
    ) -> list[Any]:
        self.timeouts.append(timeout)
        self.on_result = on_result
        self.sent.append(request)
        self.sent_before.append(sent_before)
        count = len(self.sent)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await anyio.lowlevel.checkpoint()
            if on_progress is not None:
                on_progress(50.0)
            answer = None if self.answer is None else self.answer(request, count)
            if hasattr(answer, "__await__"):
                answer = await answer
            if isinstance(answer, Exception):
                raise answer
            return [self.result(request, slot) for slot in range(request.slots)] if answer is None else answer
        finally:
            self.in_flight -= 1

    def result(self, request: Prepared, slot: int = 0, **more: Any) -> Any:
        """A result that says what it was made of."""
        wire = request.wire
        made_of = wire.get("positivePrompt") or wire.get("inputs", {}).get("image")
        item: dict[str, Any] = {"taskType": request.task_type, "taskUUID": request.task_id}
        if wire.get("includeCost"):
            item["cost"] = 0.0012
        if request.task_type == "caption":
            item["text"] = f"caption of {made_of}"
        else:
            item |= {"imageURL": f"{request.task_type}({made_of}){slot or ''}", "imageUUID": str(uuid4())}
        return msgspec.convert({**item, **more}, request.result_type)


def art(prompt: str = "a kite", **more: Any) -> ImageInference:
    return ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512, **more)


def upscale(image: ImageResult) -> Upscale:
    return Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=2)


def caption(image: ImageResult | UpscaleResult) -> Caption:
    return Caption(model="runware:150@2", inputs={"image": image})


def failed(code: Any = "provider", raw_code: str = "providerError", **more: Any) -> RunwareError:
    return RunwareError(f"{raw_code} it is", code=code, raw_code=raw_code, **more)


def fails(*prompts: str, error: Exception | None = None) -> Answer:
    """Answer these prompts with an error, others as usual."""

    def answer(request: Prepared, count: int) -> Any:
        return (error or failed()) if request.wire.get("positivePrompt") in prompts else None

    return answer


def sent(service: Service) -> list[str]:
    return [request.wire.get("positivePrompt", request.task_type) for request in service.sent]


__all__ = ("CaptionResult", "Service", "art", "caption", "failed", "fails", "sent", "upscale")
