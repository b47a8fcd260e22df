"""The errors of this library, as plain data, and the mapping of the service's codes to the stable ones.

    RunwareFlowError                 the root: `except RunwareFlowError` catches all of it
    ├── RunwareError                 a request failed; `code` is one of the twelve stable codes
    │   └── RunwareTimeoutError      a deadline of ours passed (also a TimeoutError)
    ├── TransportError               bytes could not be carried (in `transport`, for those who write a connector)
    ├── ProtocolError                the service sent something that is not a frame of the protocol
    ├── ClientStateError             a client was used outside of its block, loop or thread (also a RuntimeError)
    ├── DeclarationError             a declaration is wrong; names its line (also a TypeError)
    ├── SourceError                  the items of a fan-out cannot be read (the cause of a `FlowFailed`)
    ├── JournalError                 a journal cannot be opened, read or written
    ├── TooFewSucceeded              all nodes of a race failed, or fewer than n items of a `first(n)` succeeded
    ├── BudgetExceeded               a task was not sent, because the budget does not allow it
    ├── NodeNotAvailable             a node has no result (also a LookupError)
    └── FlowFailed                   a run failed; `.result` holds everything that finished

Cancellation is not an error of this library: the event loop's own exception passes through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = (
    "BudgetExceeded",
    "ClientStateError",
    "DeclarationError",
    "ErrorCode",
    "FlowFailed",
    "JournalError",
    "NodeNotAvailable",
    "ProtocolError",
    "RunwareError",
    "RunwareFlowError",
    "RunwareTimeoutError",
    "TooFewSucceeded",
    "is_runware_error",
    "stable_code",
)

ErrorCode: TypeAlias = Literal[
    "validation",
    "auth",
    "quota",
    "rateLimit",
    "safety",
    "provider",
    "timeout",
    "notFound",
    "serverError",
    "connection",
    "aborted",
    "unknown",
]
"""The stable codes, the same twelve as the official clients have."""

RETRYABLE: frozenset[ErrorCode] = frozenset({"provider", "timeout", "connection", "rateLimit", "serverError"})


class RunwareFlowError(Exception):
    """The root of everything that this library raises. Pickled and copied with its attributes and notes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self._plain())

    def _plain(self) -> dict[str, Any]:
        """Its attributes, as far as they can be pickled."""
        return vars(self)


class RunwareError(RunwareFlowError):
    """A request failed: the service refused it, could not do it, or could not be reached.

    Attributes:
        code: one of the twelve stable codes; switch on this.
        raw_code: the service's own identifier. It has hundreds of values and they change; `None` if there was none.
        message: what happened, for a human.
        retryable: whether the same request may succeed later; a second request is a second purchase.
        parameter: the wire name of the wrong parameter, or a tuple of names if a rule concerns several.
        task_type, task_uuid: the task that failed, where one is known.
        documentation: a link, where the service gave one.
        status_code: the HTTP status; `None` by WebSocket.
        validation_errors: what a local check found, as plain data.
        retry_after: seconds to wait, as the service asked.
        results: the finished results of a task that failed in part.
        may_be_billed: only the waiting has ended with this error, as when the key is rejected while the task is polled.
            The service has the task, or may have it, and may finish and bill it. A journal keeps it open, to be
            collected.
        problem_type, request_id: of an RFC 9457 problem document (the serverless API sends them): the URI that names
            the kind of problem, and the id under which support finds the request.
    """

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode = "unknown",
        raw_code: str | None = None,
        retryable: bool | None = None,
        parameter: str | tuple[str, ...] | None = None,
        task_type: str | None = None,
        task_uuid: str | None = None,
        documentation: str | None = None,
        status_code: int | None = None,
        validation_errors: Sequence[Mapping[str, Any]] = (),
        retry_after: float | None = None,
        results: Sequence[Any] = (),
        may_be_billed: bool = False,
        problem_type: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code: ErrorCode = code
        self.raw_code = raw_code
        self.retryable = code in RETRYABLE if retryable is None else retryable
        self.parameter = parameter
        self.task_type = task_type
        self.task_uuid = task_uuid
        self.documentation = documentation
        self.status_code = status_code
        self.validation_errors = tuple(validation_errors)
        self.retry_after = retry_after
        self.results: list[Any] = list(results)
        self.may_be_billed = may_be_billed
        self.problem_type = problem_type
        self.request_id = request_id

    def __repr__(self) -> str:
        known = {"raw_code": self.raw_code, "parameter": self.parameter, "task_uuid": self.task_uuid}
        extras = "".join(f", {name}={value!r}" for name, value in known.items() if value is not None)
        return f"{type(self).__name__}({self.message!r}, code={self.code!r}{extras})"


class RunwareTimeoutError(RunwareError, TimeoutError):
    """A deadline of ours passed. The task may still finish, and be billed, at the service."""


class ProtocolError(RunwareFlowError):
    """The service sent bytes that are not a frame of the protocol."""


class ClientStateError(RunwareFlowError, RuntimeError):
    """A client was used before its block was entered, after it was left, or from another thread, loop or process."""


class DeclarationError(RunwareFlowError, TypeError):
    """A declaration is wrong; the message names the node and the line that declared it."""


class JournalError(RunwareFlowError):
    """A journal cannot be opened, read or written; the message names the file.

    A request that cannot be recorded is not sent.
    """


class NodeNotAvailable(RunwareFlowError, LookupError):
    """A node has no result; the message names the node and says why."""


class TooFewSucceeded(RunwareFlowError):
    """All nodes of a race failed, or fewer than n items of `first(n)` succeeded.

    Attributes:
        errors: those of the nodes that failed, in the order of their declaration; of many items, the first sixteen.
    """

    def __init__(self, message: str, *, errors: Sequence[Exception]) -> None:
        super().__init__(message)
        self.errors = list(errors)


class BudgetExceeded(RunwareFlowError):
    """A task was not sent, because it would not fit into the budget, whatever the tasks in flight cost.

    It is not billed.

    Attributes:
        node: the label of the node.
        need: USD that the task may cost; `None` if no price of its model is known.
        left, spent, limit: USD of the budget at that time. The rest is reserved for tasks that may be billed.
    """

    def __init__(
        self, message: str, *, node: str, limit: float, spent: float, left: float, need: float | None = None
    ) -> None:
        super().__init__(message)
        self.node = node
        self.limit = limit
        self.spent = spent
        self.left = left
        self.need = need


class FlowFailed(RunwareFlowError):
    """A run failed. The text says what failed and why, what is kept, what may be billed, and what to do next.

    Attributes:
        result: the `RunResult` with everything that finished, and an outcome for every node.
        node: the node whose failure ended the run; `label` is its name.
        path: its identity in the run, items' keys included.
        where: the line that declared it, as `file:line`.
        task_type, model, task_uuid: its last request; `None` if it had none.
        attempt: the number of its last attempt.
        summary: the first line of the text: which node of which flow, and why.

    The node's own error is the `__cause__`. A run cannot be pickled: what comes out of a pickle has the text and all
    plain attributes, the label of the node as `node`, and `None` as `result`.
    """

    def __init__(
        self,
        message: str,
        *,
        result: Any,
        node: Any,
        path: str | None = None,
        where: str | None = None,
        task_type: str | None = None,
        model: str | None = None,
        task_uuid: str | None = None,
        attempt: int | None = None,
    ) -> None:
        super().__init__(message)
        self.result = result
        self.node = node
        self.label: str | None = getattr(node, "label", node)
        self.path = path
        self.where = where
        self.task_type = task_type
        self.model = model
        self.task_uuid = task_uuid
        self.attempt = attempt

    @property
    def summary(self) -> str:
        """The first line of the text."""
        return str(self).partition("\n")[0]

    def _plain(self) -> dict[str, Any]:
        return {**vars(self), "result": None, "node": self.label}


def _restore(kind: type[RunwareFlowError], args: tuple[Any, ...], attributes: dict[str, Any]) -> RunwareFlowError:
    error = kind.__new__(kind)  # its `__init__` may take anything
    error.args = args
    vars(error).update(attributes)
    return error


def is_runware_error(error: object) -> TypeGuard[RunwareError]:
    """Tell whether `error` is a `RunwareError`, also one that came from another copy of this library.

    Objects that only look like one (a proxy, an unpickled error of another version) count when they carry a stable
    `code` and a `message`.
    """
    if isinstance(error, RunwareError):
        return True
    return getattr(error, "code", None) in get_args(ErrorCode) and isinstance(getattr(error, "message", None), str)


_CONNECTION = {
    "connection",
    "connectionFailed",
    "connectionLost",
    "disconnected",
    "notConnected",
    "notOpen",
    "reconnectionFailed",
    "sendFailed",
}
_SAFETY = {
    "contentPolicyViolation",
    "providerContentPolicyViolation",
    "sensitiveContentDetected",
    "unsafeContentDetected",
    "nsfwContentDetected",
    "promptBlocked",
    "imageBlocked",
    "moderationFailed",
    "invalidProviderContent",
    "contentModeration",
}
_AUTH = {
    "unauthorized",
    "forbidden",
    "permissionDenied",
    "insufficientPermissions",
    "authenticationFailed",
    "authFailed",
    "authTimeout",
    "invalidAuthentication",
    "invalidCredentials",
    "missingAuthentication",
    "tokenExpired",
    "tokenInvalid",
    "tokenMissing",
    "tokenRevoked",
    "accountSuspended",
    "accountDisabled",
    "organizationSuspended",
    "organizationDisabled",
    "workspaceSuspended",
    "workspaceDisabled",
}
_PROVIDER = {
    "inferenceError",
    "processingFailed",
    "taskFailed",
    "downloadFailed",
    "uploadFailed",
    "noAvailableServer",
    "modelUnavailable",
    "modelDisabled",
    "modelNotReady",
    "mediaStorageFileCouldNotBeMoved",
}
_SERVER = {
    "internalServerError",
    "serviceUnavailable",
    "serverUnavailable",
    "serverError",
    "standardError",
    "unknownError",
    "undefinedError",
    "defaultError",
    "unrecognizedResponse",
    "errorRetrievingAccountManagement",
}
_VALIDATION_STARTS = ("invalid", "missing", "conflict", "duplicate", "unsupported", "value", "array", "max")
_VALIDATION = {
    "validationError",
    "validationFailed",
    "validation",
    "unknownParameter",
    "incompatibleParameters",
    "mismatchProviderSettingsProvider",
    "unknownProviderSettingsProvider",
    "transparentModelMismatch",
    "modelOwnershipValidationError",
    "modelAlreadyExists",
    "failedIpAdapterLoad",
    "notImplemented",
}
_NOT_FOUND = {"taskCancelled", "taskFailedOrNotFound", "unknownModel"}
_VAGUE = {"unknownError", "undefinedError", "defaultError", "standardError", "unrecognizedResponse"}
"""Raw codes that say nothing: an HTTP status that does say something wins over them."""
_TELLING = {401, 402, 403, 404, 408, 429, 504}
_WORDS: tuple[tuple[tuple[str, ...], ErrorCode], ...] = (
    (("timed out", "timeout"), "timeout"),
    (("api key",), "auth"),
    (("rate limit", "too many requests"), "rateLimit"),
    (("insufficient credit", "insufficient balance"), "quota"),
)
"""What a message is searched for where there is neither a code nor a status (the legacy error shapes have none)."""
_STATUS: dict[int, ErrorCode] = {
    400: "validation",
    401: "auth",
    402: "quota",
    403: "auth",
    404: "notFound",
    408: "timeout",
    422: "validation",
    429: "rateLimit",
    503: "serverError",
    504: "timeout",
}


def stable_code(raw_code: str | None, status: int | None = None, message: str = "") -> ErrorCode:
    """Derive the stable code from the service's raw code, the HTTP status and the message, in that order of weight.

    The order of the rules is that of the official clients (protocol facts, section 8.4); it differs where theirs is
    odd: `timeoutProvider` is a timeout, `authTimeout` may be retried, a provider's lack of credit or of a resource is
    the provider's fault, a code that says nothing (`unknownError`) yields to a status that does, and one that no rule
    knows falls back to the status, then to the words of the message. docs/reference/errors.md lists every difference.
    """
    known = None if raw_code is None else _code_from_raw(raw_code)
    if known is not None and not (raw_code in _VAGUE and status in _TELLING):
        return known
    if status is not None and status >= 400:
        return _STATUS.get(status, "serverError" if status >= 500 else "validation")
    lowered = message.lower()
    for words, code in _WORDS:
        if any(word in lowered for word in words):
            return code
    return "unknown"


def _code_from_raw(raw: str) -> ErrorCode | None:
    lowered = raw.lower()
    rules: tuple[tuple[bool, ErrorCode], ...] = (
        (raw == "aborted", "aborted"),
        (raw in _CONNECTION, "connection"),
        (raw in _SAFETY, "safety"),
        ("ratelimit" in lowered, "rateLimit"),
        ("timeout" in lowered, "timeout"),
        (raw.startswith(("provider", "thirdParty")), "provider"),
        (any(word in lowered for word in ("credits", "quota", "balance")), "quota"),
        (raw in ("paymentRequired", "environmentPaused"), "quota"),
        (raw in _AUTH or "apikey" in lowered, "auth"),
        (raw in _NOT_FOUND or raw.endswith(("NotFound", "Expired")), "notFound"),
        (raw in _SERVER, "serverError"),
        (raw in _PROVIDER, "provider"),
        (raw in _VALIDATION or raw.startswith(_VALIDATION_STARTS) or "Conflict" in raw, "validation"),
    )
    return next((code for applies, code in rules if applies), None)
