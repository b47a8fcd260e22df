"""A structured-concurrency client and task-graph runner for the Runware API, on asyncio and trio.

The everyday names live here and are imported when they are first used, so that `import runware_flow` costs next to
nothing: neither an HTTP nor a WebSocket library is loaded before a connection is opened. Tasks are in
`runware_flow.tasks`, results in `runware_flow.results`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runware_flow.batch.batch import Batch as Batch
    from runware_flow.batch.item import BatchItem as BatchItem
    from runware_flow.batch.report import BatchOutcomes as BatchOutcomes
    from runware_flow.batch.report import BatchReport as BatchReport
    from runware_flow.cache.store import Cache as Cache
    from runware_flow.catalog.documentation import create_runware_error as create_runware_error
    from runware_flow.client.client import Client as Client
    from runware_flow.client.delivery import Delivery as Delivery
    from runware_flow.client.delivery import Progress as Progress
    from runware_flow.client.log import LogEntry as LogEntry
    from runware_flow.client.media import file_to_data_uri as file_to_data_uri
    from runware_flow.client.options import ClientOptions as ClientOptions
    from runware_flow.client.stream import TextStream as TextStream
    from runware_flow.client.webhooks import WebhookReceiver as WebhookReceiver
    from runware_flow.errors import BudgetExceeded as BudgetExceeded
    from runware_flow.errors import ClientStateError as ClientStateError
    from runware_flow.errors import DeclarationError as DeclarationError
    from runware_flow.errors import FlowFailed as FlowFailed
    from runware_flow.errors import JournalError as JournalError
    from runware_flow.errors import NodeNotAvailable as NodeNotAvailable
    from runware_flow.errors import ProtocolError as ProtocolError
    from runware_flow.errors import RunwareError as RunwareError
    from runware_flow.errors import RunwareFlowError as RunwareFlowError
    from runware_flow.errors import RunwareTimeoutError as RunwareTimeoutError
    from runware_flow.errors import TooFewSucceeded as TooFewSucceeded
    from runware_flow.errors import is_runware_error as is_runware_error
    from runware_flow.flow.flow import Flow as Flow
    from runware_flow.flow.node import Many as Many
    from runware_flow.flow.node import Node as Node
    from runware_flow.graph.events import NodeDelta as NodeDelta
    from runware_flow.graph.events import NodeProgress as NodeProgress
    from runware_flow.graph.events import NodeRefused as NodeRefused
    from runware_flow.graph.events import NodeSettled as NodeSettled
    from runware_flow.graph.events import NodeStarted as NodeStarted
    from runware_flow.graph.events import RunFinished as RunFinished
    from runware_flow.graph.events import RunStarted as RunStarted
    from runware_flow.graph.forecast import Plan as Plan
    from runware_flow.graph.forecast import PlannedStage as PlannedStage
    from runware_flow.graph.outcomes import Abandoned as Abandoned
    from runware_flow.graph.outcomes import Failed as Failed
    from runware_flow.graph.outcomes import Ok as Ok
    from runware_flow.graph.outcomes import Outcome as Outcome
    from runware_flow.graph.outcomes import Skipped as Skipped
    from runware_flow.graph.policies import Retry as Retry
    from runware_flow.graph.prices import Price as Price
    from runware_flow.runner.budget import Budget as Budget
    from runware_flow.runner.context import current_run as current_run
    from runware_flow.runner.handle import Run as Run
    from runware_flow.runner.result import RunResult as RunResult
    from runware_flow.session.streaming import StreamResult as StreamResult
    from runware_flow.types import MediaResult as MediaResult
    from runware_flow.types import Result as Result
    from runware_flow.types import Task as Task
    from runware_flow.wire.webhooks import WebhookNotice as WebhookNotice
    from runware_flow.wire.webhooks import read_webhook as read_webhook

__version__ = "0.1.0"

_HOMES = {
    "catalog.documentation": ("create_runware_error",),
    "client.client": ("Client",),
    "client.log": ("LogEntry",),
    "client.delivery": ("Delivery", "Progress"),
    "client.media": ("file_to_data_uri",),
    "client.options": ("ClientOptions",),
    "client.stream": ("TextStream",),
    "client.webhooks": ("WebhookReceiver",),
    "errors": (
        "BudgetExceeded",
        "ClientStateError",
        "DeclarationError",
        "FlowFailed",
        "JournalError",
        "NodeNotAvailable",
        "ProtocolError",
        "RunwareError",
        "RunwareFlowError",
        "RunwareTimeoutError",
        "TooFewSucceeded",
        "is_runware_error",
    ),
    "graph.events": (
        "NodeDelta",
        "NodeProgress",
        "NodeRefused",
        "NodeSettled",
        "NodeStarted",
        "RunFinished",
        "RunStarted",
    ),
    "graph.forecast": ("Plan", "PlannedStage"),
    "graph.prices": ("Price",),
    "graph.outcomes": ("Abandoned", "Failed", "Ok", "Outcome", "Skipped"),
    "graph.policies": ("Retry",),
    "batch.batch": ("Batch",),
    "batch.item": ("BatchItem",),
    "batch.report": ("BatchOutcomes", "BatchReport"),
    "runner.budget": ("Budget",),
    "cache.store": ("Cache",),
    "runner.context": ("current_run",),
    "flow.flow": ("Flow",),
    "runner.handle": ("Run",),
    "flow.node": ("Many", "Node"),
    "runner.result": ("RunResult",),
    "session.streaming": ("StreamResult",),
    "types": ("MediaResult", "Result", "Task"),
    "wire.webhooks": ("WebhookNotice", "read_webhook"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = tuple(sorted(_HOME_OF))  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
