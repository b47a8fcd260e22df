"""`Problem`: a refused or failed task, and its entry in `errors` (protocol facts, section 8)."""

from __future__ import annotations

from typing import Any

__all__ = ("Problem", "http_status")

_STATUS = {
    "missingAuthentication": 401,
    "invalidApiKey": 401,
    "missingApiKey": 401,
    "accountSuspended": 403,
    "forbidden": 403,
    "insufficientCredits": 402,
    "modelNotFound": 404,
    "taskNotFound": 404,
    "mediaNotFound": 404,
    "rateLimitExceeded": 429,
    "inferenceRateLimitExceeded": 429,
    "requestTimeout": 504,
    "serviceUnavailable": 503,
    "serverUnavailable": 503,
    "internalServerError": 500,
    "timeoutProvider": 504,
    "providerTimeout": 504,
}


def http_status(code: str) -> int:
    """Return the HTTP status that goes with a raw code [doc]: 5xx for what is the service's or a provider's fault."""
    if code in _STATUS:
        return _STATUS[code]
    if code.startswith("provider") or code in {"inferenceError", "taskFailed", "processingFailed", "downloadFailed"}:
        return 500
    return 400


class Problem(Exception):
    """Why a task is refused or has failed."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        parameter: str | list[str] | None = None,
        status: int | None = None,
        shape: str = "errors",
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.parameter = parameter
        self.status = http_status(code) if status is None else status
        self.shape = shape
        self.details = details

    def entry(self, task_type: Any = None, task_uuid: Any = None) -> dict[str, Any]:
        """Return the entry of `errors` for this problem of that task."""
        entry: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.parameter is not None:
            entry["parameter"] = self.parameter
        entry.update(self.details)
        entry["documentation"] = "https://runware.ai/docs/platform/errors"
        if isinstance(task_type, str):
            entry["taskType"] = task_type
        if isinstance(task_uuid, str):
            entry["taskUUID"] = task_uuid
        return entry
