"""The settings of a run: the keywords of `Flow`, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, Literal, TypeAlias, TypedDict, get_args

import msgspec

from runware_flow.cache.store import CacheStore, read_cache
from runware_flow.errors import DeclarationError, RunwareError
from runware_flow.graph.events import Event
from runware_flow.graph.limits import read_limits
from runware_flow.graph.policies import OnError
from runware_flow.journal.address import DatabaseAddress, is_database
from runware_flow.journal.store import JournalStore, is_store
from runware_flow.runner.budget import Budget, read_budget
from runware_flow.runner.progress import check_progress

__all__ = ("BudgetOption", "CacheOption", "FlowOptions", "JournalOption", "Progress", "Settings", "read_settings")

Progress: TypeAlias = bool | Literal["rich", "json"] | Callable[[Event], object] | None
"""`True` shows bars on a terminal and in a notebook, elsewhere a plain line now and then; `"json"` a line of JSON a
second; a callable gets each event of the run. All on standard error."""


JournalOption: TypeAlias = str | PathLike[str] | JournalStore | None
"""The path of a journal's file, the `postgresql://` URL of a database, or what keeps one."""

BudgetOption: TypeAlias = float | Budget | None
"""USD for one run, or a `Budget` to share."""

CacheOption: TypeAlias = str | PathLike[str] | CacheStore | None
"""The path of a cache's folder, a `Cache`, or another store."""


class FlowOptions(TypedDict, total=False):
    """The keywords of `Flow`, which `execute`, `start` and `run` may override for one run."""

    concurrency: int
    """The most nodes in flight at a time; a whole number from 1, 64 by default."""
    limits: Mapping[str, int] | None
    """The most nodes in flight at a time for a modality (`image`, `video`, `audio`, `text`, `3d`), a task type
    (`type:caption`), a model (`model:` and its AIR or slug), or a name that nodes give with `limit=`."""
    on_error: OnError
    """What happens once a node has failed and no retry or fallback is left. `"stop"`, the default: nothing new is sent,
    what is in flight is collected, and `FlowFailed` is raised. `"cancel"`: the same, but what is in flight is abandoned
    (and may be billed). `"continue"`: only the nodes that depend on the failed one are skipped."""
    budget: BudgetOption
    """The most that the run may spend, in USD, or a `Budget` that several runs share."""
    journal: JournalOption
    """Where requests and results are recorded, so that the next run continues from them: the path of a file, a
    `postgresql://` URL (with the extra `postgres`), or a `JournalStore`."""
    cache: CacheOption
    """Where results are kept for later runs of any flow: the path of a folder, or a `CacheStore`."""
    progress: Progress
    """What shows how far the run is: `True` or `"rich"` (on the terminal), `"json"` (lines on standard error), or a
    callable that is given each event."""


class Settings(msgspec.Struct, frozen=True):
    """The options of `Flow(...)`, with what an `execute` overrode."""

    concurrency: int = 64
    on_error: OnError = "stop"
    progress: Any = None
    journal: Any = None
    limits: Mapping[str, int] | None = None
    budget: Any = None
    cache: Any = None


def read_settings(base: Settings, options: FlowOptions, owner: str = "Flow") -> Settings:
    """Check `options` and lay them over `base`.

    Raises:
        DeclarationError: a value that makes no sense, or a keyword that does not exist.
    """
    if all(value is getattr(base, name, options) for name, value in options.items()):
        return base  # as for each item of a batch
    given: dict[str, Any] = dict(options)
    concurrency = given.get("concurrency", base.concurrency)
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
        raise DeclarationError(f"concurrency= is a whole number from 1, not {concurrency!r}")
    on_error = given.get("on_error", base.on_error)
    if on_error not in get_args(OnError):
        raise DeclarationError(f'on_error= is "stop", "cancel" or "continue", not {on_error!r}')
    progress = given.get("progress", base.progress)
    wrong = check_progress(progress)
    if wrong is not None:
        raise DeclarationError(wrong)
    journal: Any = given.get("journal", base.journal)
    if (
        not (journal is None or isinstance(journal, (str, PathLike, DatabaseAddress)) or is_store(journal))
        or journal == ""
    ):
        raise DeclarationError(
            f"journal= is the path of a file, a postgresql:// URL, or a JournalStore, not {journal!r}"
        )
    if isinstance(journal, str) and is_database(journal):
        journal = DatabaseAddress(journal)  # whose text has no password
    budget = given.get("budget", base.budget)
    read_budget(budget)
    limits = _read_limits(given["limits"]) if given.get("limits") is not None else base.limits
    try:
        cache = read_cache(given.get("cache", base.cache))
    except ValueError as error:
        raise DeclarationError(str(error)) from None
    unknown = given.keys() - set(Settings.__struct_fields__)
    if unknown:
        from difflib import get_close_matches

        name = min(unknown)
        like = [f"; is it {one}=?" for one in get_close_matches(name, Settings.__struct_fields__, 1)]
        raise DeclarationError(f"{name}= is not a keyword of {owner}{''.join(like)}")
    return Settings(concurrency, on_error, progress, journal, limits, budget, cache)


def _read_limits(given: Any) -> dict[str, int]:
    """Check the limits; a model that is named by its slug is known by its AIR from here on."""
    try:
        limits = read_limits(given)
    except ValueError as error:
        raise DeclarationError(str(error)) from None
    from runware_flow.catalog import resolve_model  # a run without limits on models does without

    for key in [key for key in limits if key.startswith("model:")]:
        try:
            air, _ = resolve_model(key.removeprefix("model:"))
        except RunwareError as error:
            raise DeclarationError(f"limits= has {key!r}, but {error}") from None
        size = limits.pop(key)
        if limits.setdefault(f"model:{air}", size) != size:
            raise DeclarationError(f"limits= has two limits for the model {air}")
    return limits
