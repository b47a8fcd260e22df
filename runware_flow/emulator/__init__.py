"""The emulator: the service on this machine, with real HTTP, WebSocket and pictures, and with faults on request.

It shares no code with the client side of this library (catalog data apart), so that a misunderstanding of the
protocol cannot hide by being on both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runware_flow.emulator.emulator import Emulator as Emulator
    from runware_flow.emulator.emulator import run_in_thread as run_in_thread
    from runware_flow.emulator.network.faults import FAULT_KINDS as FAULT_KINDS
    from runware_flow.emulator.network.faults import Fault as Fault
    from runware_flow.emulator.network.faults import parse_fault as parse_fault
    from runware_flow.emulator.service.log import CallEntry as CallEntry
    from runware_flow.emulator.service.log import Log as Log
    from runware_flow.emulator.service.log import TaskEntry as TaskEntry
    from runware_flow.emulator.settings import Settings as Settings

__all__ = (
    "FAULT_KINDS",
    "CallEntry",
    "Emulator",
    "Fault",
    "Log",
    "Settings",
    "TaskEntry",
    "parse_fault",
    "run_in_thread",
)

_HOMES = {
    "Emulator": "emulator",
    "run_in_thread": "emulator",
    "FAULT_KINDS": "network.faults",
    "Fault": "network.faults",
    "parse_fault": "network.faults",
    "CallEntry": "service.log",
    "Log": "service.log",
    "TaskEntry": "service.log",
    "Settings": "settings",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
