"""Chat completions in OpenAI's format: a request becomes a text task, the results become a completion.

What is taken: `messages`, `n`, `seed`, `stop`, `temperature`, `top_p`, `max_tokens`, `max_completion_tokens`,
`response_format`, `stream`, `stream_options`. The rest is taken and has no effect; tools are never called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.emulator.jsonvalues import as_list, as_object, is_object
from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service.kinds import KINDS, price

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from runware_flow.emulator.service.jobs import Job
    from runware_flow.emulator.service.models import Models
    from runware_flow.emulator.settings import Settings

__all__ = ("ChatEvents", "chat_error", "completion", "list_models", "read_request")

_SETTINGS = {"temperature": "temperature", "top_p": "topP", "max_tokens": "maxTokens"}
_SYSTEM = ("system", "developer")


def read_request(body: Any, task_uuid: str) -> dict[str, Any]:
    """Make the text task of a request.

    Raises:
        Problem: the request is no object, or its messages are no list.
    """
    if not is_object(body):
        raise Problem("invalidParameter", "A request is a JSON object.", type="object")
    messages = [as_object(one) for one in as_list(body.get("messages"))]
    system = "\n".join(_plain(one.get("content")) for one in messages if one.get("role") in _SYSTEM)
    settings: dict[str, Any] = {"systemPrompt": system} if system else {}
    limit = {"max_tokens": body.get("max_completion_tokens") or body.get("max_tokens")}
    settings |= {ours: value for name, ours in _SETTINGS.items() if (value := {**body, **limit}.get(name)) is not None}
    stop = body.get("stop")
    if stop:
        settings["stopSequences"] = as_list(stop) or [stop]
    task: dict[str, Any] = {
        "taskType": "textInference",
        "taskUUID": task_uuid,
        "model": body.get("model"),
        "messages": [_message(one) for one in messages if one.get("role") not in _SYSTEM],
        **({"settings": settings} if settings else {}),
        **{ours: body[name] for name, ours in (("seed", "seed"), ("n", "numberResults")) if body.get(name) is not None},
        "deliveryMethod": "stream" if body.get("stream") is True else "sync",
    }
    wanted = as_object(body.get("response_format"))
    if wanted.get("type") == "json_schema":
        task["jsonSchema"] = wanted.get("json_schema")
    elif wanted.get("type") == "json_object":
        task["jsonSchema"] = {"schema": {"type": "object"}}  # not every model takes outputFormat JSON
    return task


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with the roles that a text task has: the answer of a tool becomes a message of the user."""
    role = "assistant" if message.get("role") == "assistant" else "user"
    return {"role": role, "content": message.get("content") or ""}


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(str(as_object(part).get("text", "")) for part in as_list(content))


def completion(job: Job, created: int) -> dict[str, Any]:
    """Return the answer to a request that does not stream.

    Raises:
        Problem: the task has failed.
    """
    choices: list[dict[str, Any]] = []
    usage: dict[str, int] = {}
    for slot in job.slots:
        if slot.problem is not None:
            raise slot.problem
        item = slot.item or {}
        message = {"role": "assistant", "content": item.get("text"), "refusal": None}
        choice = {"index": slot.index, "message": message, "logprobs": None}
        choices.append({**choice, "finish_reason": item.get("finishReason")})
        for name, count in _usage(as_object(item.get("usage"))).items():
            usage[name] = count + usage.get(name, 0)
    return {**_head(job, "chat.completion", created), "choices": choices, "usage": usage}


def _head(job: Job, kind: str, created: int) -> dict[str, Any]:
    return {"id": f"chatcmpl-{job.task_id}", "object": kind, "created": created, "model": job.task["model"]}


def _usage(usage: dict[str, Any]) -> dict[str, int]:
    names = {"promptTokens": "prompt_tokens", "completionTokens": "completion_tokens", "totalTokens": "total_tokens"}
    return {theirs: usage.get(ours, 0) for ours, theirs in names.items()}


class ChatEvents:
    """The events of a stream, made from those of a text task."""

    def __init__(self, created: int, *, with_usage: bool) -> None:
        self._created = created
        self._with_usage = with_usage

    def deltas(self, job: Job, events: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Return the chunks of the answer: who speaks, then the words."""
        yield self._chunk(job, {"role": "assistant", "content": ""})
        for event in events:
            delta = event["delta"]
            thought = delta.get("reasoningContent")
            yield self._chunk(job, {"content": delta["text"]} if thought is None else {"reasoning_content": thought})

    def ending(self, job: Job, events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Return what comes last: why it ended, then the usage if it was requested; or the error."""
        problem = job.slots[0].problem
        if problem is not None:
            yield chat_error(problem)
            return
        said = {name: value for event in events for name, value in event.items()}
        yield self._chunk(job, {}, said["finishReason"])
        if self._with_usage:
            head = _head(job, "chat.completion.chunk", self._created)
            yield {**head, "choices": [], "usage": _usage(as_object(said.get("usage")))}

    def _chunk(self, job: Job, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**_head(job, "chat.completion.chunk", self._created), "choices": [choice]}


_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def chat_error(problem: Problem) -> dict[str, Any]:
    """Return an error as clients of OpenAI and Anthropic read it, with the service's own code."""
    kind = _ERROR_TYPES.get(problem.status, "invalid_request_error" if problem.status < 500 else "api_error")
    parameter = problem.parameter if isinstance(problem.parameter, str) else None
    error = {"message": problem.message, "type": kind, "param": parameter, "code": problem.code}
    return {"type": "error", "error": error}


def list_models(models: Models, settings: Settings) -> list[dict[str, Any]]:
    """Return the language models, with context length, longest answer and prices; a bare list [3p]."""
    known = {air: entry["taskType"] for air, entry in models.registry["models"].items()} | dict(settings.models)
    return [
        {
            "id": air,
            "object": "model",
            "created": 1_735_689_600,
            "owned_by": air.partition(":")[0],
            "context_length": 131_072,
            "max_output_tokens": 8_192,
            "pricing": {"prompt": _price(settings), "completion": _price(settings)},
        }
        for air, task_type in known.items()
        if task_type == "textInference"
    ]


def _price(settings: Settings) -> str:
    return f"{price(KINDS['textInference'], {}) / 1_000_000 * settings.price_factor:.8f}"
