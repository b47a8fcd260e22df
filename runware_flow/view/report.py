"""A run as one HTML page that needs nothing around it: no network, no other file.

What a reader without JavaScript needs is HTML: the figures, the drawing, failures, stages, receipt. The nodes
themselves are data in the page, from which its script makes what is in sight. Everything that users or servers wrote is
text: it is escaped here, and the script only ever sets text. The policy in the page's head lets no other script run and
nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence  # noqa: TC003  # help() reads the annotations of a struct
from html import escape
from importlib.resources import files
from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec

from runware_flow.errors import RunwareError
from runware_flow.types import MediaResult
from runware_flow.view.advice import advice_for
from runware_flow.view.drawing import draw
from runware_flow.view.figures import STATES, Figures, figures_of
from runware_flow.view.progress import duration, money, short_duration
from runware_flow.view.shape import Shape  # noqa: TC001
from runware_flow.view.story import Row  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runware_flow.view.shape import Box

__all__ = ("Report", "page")

_FAILURES = 100
"""Kinds of failures that are listed; the nodes' own rows have them all."""


class Report(msgspec.Struct, kw_only=True):
    """What a page shows.

    Attributes:
        name: the flow's.
        state: how the run ended, as in `RunFinished`, `running`, or `journal` where that is not known.
        made_at, began_at: dates and times, as text.
        seconds: how long the run took; 0 for unknown.
        receipt: lines as of `RunResult.receipt`.
        pictures: thumbnails as data URIs, by row and number of the medium in it.
        notes: sentences for the head of the page: what is missing, and why.
    """

    name: str
    state: str
    made_at: str
    began_at: str
    seconds: float
    shape: Shape
    rows: Sequence[Row]
    receipt: Sequence[Any]
    pictures: Mapping[tuple[int, int], str] = {}
    notes: Sequence[str] = ()


def page(report: Report) -> str:
    """Write the page."""
    folder = files("runware_flow.view") / "page"
    style, script, frame = ((folder / name).read_text(encoding="utf-8") for name in _FILES)
    boxes = [box for box in report.shape.boxes if box.kind != "fan"]
    figures = figures_of(report.rows, [box.id for box in boxes])
    values = {
        "title": escape(report.name),
        "policy": escape(_policy(style, script)),
        "style": style,
        "script": script,
        "summary": _summary(report, figures),
        "notes": "".join(f"<p class=note>{escape(note)}</p>" for note in report.notes),
        "failures": _failures(report),
        "drawing": draw(report.shape, figures, links="stage-", title=f"flow {report.name}"),
        "stages": _stages(boxes, figures, report.shape),
        "receipt": _receipt(report.receipt),
        "data": _data(report, boxes),
    }
    parts = frame.split("{{")
    filled = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition("}}")
        filled += [values[name], rest]
    return "".join(filled)


_FILES = ("report.css", "report.js", "report.html")


def _policy(style: str, script: str) -> str:
    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; style-src 'sha256-{digest(style)}'; script-src 'sha256-{digest(script)}';"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )


# What is HTML


def _summary(report: Report, figures: Mapping[str, Figures]) -> str:
    total = Figures()
    for one in figures.values():
        for state, count in one.counts.items():
            total.counts[state] = total.counts.get(state, 0) + count
        total.restored += one.restored
    lines = list(report.receipt)
    unknown = sum(line.unknown_count for line in lines)
    known = round(sum(line.cost or 0.0 for line in lines), 6)
    cost = money(known) + (f" and {unknown} unknown" if unknown else "")
    tiles = [
        ("state", report.state, _tone(report.state)),
        *((state, f"{total.counts[state]:,}", state) for state in STATES if total.counts.get(state)),
        *([("restored", f"{total.restored:,}", "")] if total.restored else []),
        ("time", duration(report.seconds) if report.seconds else "unknown", ""),
        ("cost", cost, ""),
        ("tasks", f"{sum(line.count for line in lines):,}", ""),
    ]
    shown = "".join(f'<div class="tile {tone}"><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>' for k, v, tone in tiles)
    began = f"Begun {escape(report.began_at)}. " if report.began_at else ""
    return f"<dl class=tiles>{shown}</dl><p class=dim>{began}Report made {escape(report.made_at)}.</p>"


def _tone(state: str) -> str:
    return {"done": "ok", "failed": "failed", "running": "running"}.get(
        state, "abandoned" if state != "journal" else ""
    )


def _failures(report: Report) -> str:
    groups: dict[tuple[str, str, str], list[int]] = {}
    errors: dict[tuple[str, str, str], Exception] = {}
    for number, row in enumerate(report.rows):
        if row.error is not None and row.state == "failed":
            key = (row.box, type(row.error).__name__, str(row.error))
            groups.setdefault(key, []).append(number)
            errors.setdefault(key, row.error)
    if not groups:
        return ""
    items = [_failure(report, numbers, errors[key]) for key, numbers in list(groups.items())[:_FAILURES]]
    more = len(groups) - len(items)
    if more > 0:
        items.append(f"<li class=dim>and {more} more kinds of failures: choose the state “failed” below</li>")
    title = f"Failures <small>{sum(map(len, groups.values())):,}</small>"
    listed = f"<h2 id=h-fail>{title}</h2><ul class=failures>{''.join(items)}</ul>"
    return f"<section id=failures aria-labelledby=h-fail>{listed}</section>"


def _failure(report: Report, numbers: list[int], error: Exception) -> str:
    row = report.rows[numbers[0]]
    told = (
        f"{error.code}" + (f" ({error.raw_code})" if error.raw_code else "") if isinstance(error, RunwareError) else ""
    )
    kind = told or type(error).__name__
    message = str(error) or type(error).__name__
    times = "" if len(numbers) == 1 else f" and {len(numbers) - 1:,} others"
    link = getattr(error, "documentation", None)
    documentation = ""
    if isinstance(link, str) and link.startswith(("https://", "http://")):
        documentation = f' <a href="{escape(link)}" rel="noreferrer noopener" target=_blank>documentation</a>'
    return (
        f"<li><p><b>{escape(row.place)}</b>{times} <span class=code>{escape(kind)}</span></p>"
        f"<p class=message>{escape(message[:2000])}</p>"
        f"<p><b>What to do:</b> {escape(advice_for(error))}{documentation}</p>"
        f'<p class=script><button type=button data-row="{numbers[0]}">Details</button></p></li>'
    )


def _stages(boxes: Iterable[Box], figures: Mapping[str, Figures], shape: Shape) -> str:
    labels = {box.id: box.label for box in shape.boxes}
    rows: list[str] = []
    for box in boxes:
        one = figures[box.id]
        counts, _ = one.words()
        inside = f" <span class=dim>in {escape(labels[box.inside])}</span>" if box.inside else ""
        cells = [
            escape(counts),
            _mean(one.queue_seconds, one.queue_count),
            _mean(one.work_seconds, one.work_count),
            "" if one.cost is None and not one.unknown_count else escape(_cost(one)),
        ]
        name = f'<button type=button class=link data-stage="{box.id}">{escape(box.label)}</button>'
        rows.append(
            f'<tr id="stage-{box.id}" tabindex=-1><th scope=row>{name}{inside}</th>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    return "".join(rows)


def _mean(seconds: float, count: int) -> str:
    return short_duration(seconds / count) if count else "<span class=dim>unknown</span>"


def _cost(one: Figures) -> str:
    known = "" if one.cost is None else money(one.cost)
    return known + (f" + {one.unknown_count} unknown" if one.unknown_count else "")


def _receipt(lines: Sequence[Any]) -> str:
    rows: list[str] = []
    for line in lines:
        unknown = str(line.unknown_count or "")
        cells = [
            line.task_type,
            line.model or "",
            f"{line.count:,}",
            "" if line.cost is None else money(line.cost),
            unknown,
        ]
        rows.append(
            f"<tr><th scope=row>{escape(line.stage)}</th>"
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + "</tr>"
        )
    total = round(sum(line.cost or 0.0 for line in lines), 6)
    count, unknown = sum(line.count for line in lines), sum(line.unknown_count for line in lines)
    return (
        f"<tbody>{''.join(rows)}</tbody><tfoot><tr><th scope=row>together</th><td></td><td></td><td>{count:,}</td>"
        f"<td>{money(total)}</td><td>{unknown or ''}</td></tr></tfoot>"
    )


# What is data


class _Words:
    """Strings that many rows share, each once."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, word: str) -> int:
        number = self._numbers.get(word)
        if number is None:
            number = self._numbers[word] = len(self.all)
            self.all.append(word)
        return number


def _data(report: Report, boxes: Sequence[Box]) -> str:
    words = _Words()
    places = {box.id: number for number, box in enumerate(boxes)}
    data = {
        "seconds": _number(report.seconds) or 0,
        "stages": [[box.id, box.label, box.kind] for box in boxes],
        "states": list(STATES),
        "rows": [_row(number, row, places, words, report.pictures) for number, row in enumerate(report.rows)],
        "words": words.all,
    }
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _row(
    number: int, row: Row, places: Mapping[str, int], words: _Words, pictures: Mapping[tuple[int, int], str]
) -> dict[str, Any]:
    """A node in few letters: what is not there is left out. The script's `row` says what they mean."""
    media = [
        [kind, _address(result), pictures.get((number, place), "")] for place, (kind, result) in enumerate(row.media)
    ]
    error = row.error if row.state == "failed" else None
    short: dict[str, Any] = {
        "b": places.get(row.box, -1),
        "p": row.place,
        "s": STATES.index(row.state),
        "r": _number(row.ready),
        "g": _number(row.began),
        "t": _number(row.started),
        "c": _number(row.processing),
        "e": _number(row.settled),
        "n": row.attempts,
        "k": row.cost if row.cost is not None and isfinite(row.cost) else None,
        "x": int(row.restored),
        "l": int(row.may_be_billed),
        "u": row.task_uuid,
        "y": words.number(row.task_type) if row.task_type else None,
        "m": words.number(row.model) if row.model else None,
        "w": words.number(row.where) if row.where else None,
        "q": row.prompt,
        "a": row.text,
        "i": media,
        "f": words.number(f"{type(error).__name__}: {error}"[:2000]) if error is not None else None,
        "h": words.number(advice_for(error)) if error is not None else None,
        "z": words.number(row.because) if row.because else None,
        "d": row.after,
        "o": row.path if row.path != row.place else None,
    }
    return {name: value for name, value in short.items() if value or (value == 0 and name in "bsrgtceymwfhz")}


def _number(value: float | None) -> float | None:
    return round(value, 3) if value is not None and isfinite(value) else None


def _address(result: Any) -> str:
    """The address of a medium, if it is one that a page may link to."""
    if isinstance(result, MediaResult):
        try:
            reference = result.reference
        except ValueError:
            return ""
    else:
        reference = str(result)
    return reference[:4000] if reference.startswith(("https://", "http://")) else ""
