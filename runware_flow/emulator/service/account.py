"""The account: its members, its balance, and its usage by day, model and key (protocol facts, section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from runware_flow.emulator.jsonvalues import as_list
from runware_flow.emulator.media.store import make_uuid
from runware_flow.emulator.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import tzinfo

    from runware_flow.emulator.service.state import ServiceState

__all__ = ("AIR_SOURCE", "account")

_LONGEST = 30
"""Days between startDate and endDate at most [doc]."""
AIR_SOURCE = "emulator"
"""The source of the account's own models, the part of their AIR before the colon."""
_GROUPS = {"date": "timeseries", "model": "model", "apiKey": "apiKey"}


def _masked(key: str) -> str:
    """Return a key as the service shows it: the first half, 16 characters at most, then asterisks [doc]."""
    shown = key[: min(16, len(key) // 2)]
    return shown + "*" * (len(key) - len(shown))


@dataclass(frozen=True, slots=True)
class _Used:
    """One task that was accepted, or one that was refused."""

    day: date
    model: str
    results: int
    spend: float
    seconds: float | None
    client_errors: int
    server_errors: int


def account(state: ServiceState, task: dict[str, Any]) -> dict[str, Any] | Problem:
    """Answer an accountManagement task."""
    if task["operation"] == "getDetails":
        return _details(state)
    try:
        first, last, zone = _span(state, task)
    except Problem as problem:
        return problem
    models = as_list(task.get("models"))
    used = [one for one in _all_used(state, zone) if first <= one.day <= last and (not models or one.model in models)]
    keys = as_list(task.get("apiKeys"))
    if keys and not {_masked(state.settings.api_key), state.settings.api_key} & set(map(str, keys)):
        used = []
    usage: dict[str, Any] = {}
    for group in as_list(task.get("groupBy")) or ["date"]:
        place = _GROUPS.get(str(group))
        if place is None:
            return _wrong("groupBy", "It lists: date, model, apiKey.", allowedValues=list(_GROUPS))
        usage[place] = {"data": _rows(state, str(group), used, first, last), "meta": _meta(used, first, last)}
    return {
        "operation": task["operation"],
        "startDate": first.isoformat(),
        "endDate": last.isoformat(),
        "usage": usage,
    }


def _details(state: ServiceState) -> dict[str, Any]:
    billed = state.log.billed
    totals = {"credits": billed, "requests": len(state.log.tasks)}
    last_used = max((entry.asked_at for entry in state.log.asked), default=None)
    key = {
        "apiKey": _masked(state.settings.api_key),
        "name": "emulator",
        "description": "",
        "enabled": True,
        "requests": totals["requests"],
    }
    return {
        "operation": "getDetails",
        "organizationName": "Emulator",
        "organizationUUID": make_uuid("organization", state.settings.seed),
        "AIRSource": AIR_SOURCE,
        "balance": {"amount": round(state.settings.balance - billed, 6), "freeBalance": 0.0, "currency": "USD"},
        "team": [{"name": "You", "email": "you@example.com", "roles": ["Owner"], "joinedAt": "2026-01-01T00:00:00Z"}],
        "apiKeys": [
            {
                **key,
                "requests": totals["requests"],
                "createdAt": "2026-01-01T00:00:00Z",
                "lastUsedAt": None if last_used is None else _moment(state, last_used, UTC).isoformat(),
            }
        ],
        "usage": dict.fromkeys(("total", "today", "last7Days", "last30Days"), totals),
    }


def _moment(state: ServiceState, at: float, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(state.settings.epoch + at, zone)


def _wrong(name: str, message: str, **details: Any) -> Problem:
    return Problem("invalidParameter", f"Invalid value for '{name}' parameter. {message}", parameter=name, **details)


def _span(state: ServiceState, task: dict[str, Any]) -> tuple[date, date, tzinfo]:
    """Return the first and the last day: by default the last 30 days of the log."""
    name = task.get("timezone") or "UTC"
    zone: tzinfo = UTC
    if name != "UTC":
        try:
            zone = ZoneInfo(str(name))
        except (KeyError, OSError, ValueError):
            raise _wrong("timezone", "It is the name of a time zone, as Europe/Berlin.") from None
    today = max((_moment(state, entry.asked_at, zone).date() for entry in state.log.asked), default=None)
    last = _day(task, "endDate") or today or _moment(state, 0.0, zone).date()
    first = _day(task, "startDate") or last - timedelta(days=_LONGEST - 1)
    if last < first:
        raise _wrong("endDate", "It must not be before 'startDate'.")
    if (last - first).days > _LONGEST:
        raise _wrong("endDate", f"It must be at most {_LONGEST} days after 'startDate'.")
    return first, last, zone


def _day(task: dict[str, Any], name: str) -> date | None:
    value = task.get(name)
    if value is None:
        return None
    try:
        return datetime.fromisoformat(str(value)).date()
    except ValueError:
        raise _wrong(name, "It is a date, as 2026-01-31.", type="string") from None


def _all_used(state: ServiceState, zone: tzinfo) -> Iterable[_Used]:
    for entry in state.log.asked:
        ready = [at - entry.asked_at for at in entry.ready_at if at is not None]
        yield _Used(
            day=_moment(state, entry.asked_at, zone).date(),
            model=entry.model or entry.task_type,
            results=len(ready) - len(entry.errors),
            spend=entry.cost,
            seconds=max(ready, default=None),
            client_errors=0,
            server_errors=len(entry.errors),
        )
    for refused in state.log.rejected:
        day = _moment(state, refused["at"], zone).date()
        yield _Used(day, str(refused.get("model") or refused.get("taskType")), 0, 0.0, None, 1, 0)


def _rows(state: ServiceState, group: str, used: Sequence[_Used], first: date, last: date) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if group == "date":
        days = [first + timedelta(days=step) for step in range((last - first).days + 1)]
        rows += [{"date": day.isoformat(), **_sums([one for one in used if one.day == day])} for day in days]
    elif group == "model":
        for model in sorted({one.model for one in used}):
            name = (state.models.slug(model) or model).replace("-", " ").title()
            rows.append({"model": model, "modelName": name, **_sums([one for one in used if one.model == model])})
    else:
        rows.append({"apiKey": _masked(state.settings.api_key), **_sums(used)})
    return rows


def _sums(used: Sequence[_Used]) -> dict[str, Any]:
    times = sorted(one.seconds for one in used if one.seconds is not None)
    return {
        "count": len(used),
        "spend": round(sum(one.spend for one in used), 6),
        "clientErrors": sum(one.client_errors for one in used),
        "serverErrors": sum(one.server_errors for one in used),
        "avgInferenceTime": round(sum(times) / len(times), 6) if times else 0.0,
        "p90InferenceTime": _quantile(times, 0.9),
        "p99InferenceTime": _quantile(times, 0.99),
    }


def _quantile(times: Sequence[float], share: float) -> float:
    return round(times[min(len(times) - 1, int(share * len(times)))], 6) if times else 0.0


def _meta(used: Sequence[_Used], first: date, last: date) -> dict[str, Any]:
    days = (last - first).days + 1
    times = sorted(one.seconds for one in used if one.seconds is not None)
    spend = sum(one.spend for one in used)
    errors = sum(one.client_errors + one.server_errors for one in used)
    return {
        "totalRequests": len(used),
        "totalResults": sum(one.results for one in used),
        "totalSpend": round(spend, 6),
        "avgDailySpend": round(spend / days, 6),
        "projectedSpend": round(spend / days * 30, 6),
        "totalErrors": errors,
        "errorRate": round(errors / len(used), 6) if used else 0.0,
        "avg": round(sum(times) / len(times), 6) if times else 0.0,
        **{name: _quantile(times, share) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))},
    }
