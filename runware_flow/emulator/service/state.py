"""The state of one emulated service, which the modules that answer requests share."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from runware_flow.emulator.media.store import MediaStore
from runware_flow.emulator.network.faults import FaultBook
from runware_flow.emulator.service.log import Log
from runware_flow.emulator.service.queues import Queues
from runware_flow.emulator.service.sessions import Sessions

if TYPE_CHECKING:
    from runware_flow.emulator.media.store import Medium
    from runware_flow.emulator.service.jobs import Job
    from runware_flow.emulator.service.models import Models
    from runware_flow.emulator.settings import Settings

__all__ = ("ServiceState",)


class ServiceState:
    """The settings, the models, the faults, and what has come of the requests so far."""

    def __init__(self, settings: Settings, models: Models, faults: FaultBook | None = None) -> None:
        self.settings = settings
        self.models = models
        self.faults = FaultBook() if faults is None else faults
        self.log = Log(retained=settings.retained_tasks)
        self.media_store = MediaStore(retained=8 * settings.retained_tasks)
        self.sessions = Sessions(settings)
        self.queues = Queues(settings.parallel)
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        """The accepted tasks by taskUUID, the oldest first."""
        self.uploaded: OrderedDict[str, dict[str, Any]] = OrderedDict()
        """The account's own models: the modelUpload tasks by AIR, the oldest first."""
        self.running = 0
        """Jobs that are not settled."""

    def has_expired(self, job: Job, now: float) -> bool:
        """Tell whether getResponse has forgotten a finished job."""
        done_at = max((slot.done_at or 0.0 for slot in job.slots), default=0.0)
        return self.settings.retention is not None and job.is_settled and now - done_at > self.settings.retention

    def keep_model(self, air: str, task: dict[str, Any]) -> None:
        """Say that an uploaded model is ready for use."""
        self.uploaded[air] = task
        while len(self.uploaded) > self.settings.retained_tasks:
            self.uploaded.popitem(last=False)

    def find_medium(self, value: str, now: float) -> Medium | None:
        """Return the stored medium that a UUID or an address of this service names, or None."""
        if value.startswith(self.settings.base_url):
            return self.media_store.by_path(value, now)
        return self.media_store.by_id(value, now) if len(value) == 36 else None
