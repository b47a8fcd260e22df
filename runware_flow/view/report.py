"""The report of a run: one HTML page that needs no network, with the items and their pictures first.

What a reader without JavaScript needs is HTML: the cards of up to `STATIC_ITEMS` items, the figures, the drawing,
failures, stages, receipt. Cards beyond that, and the nodes of the time line, are data in the page, from which its
script makes what is in sight. Cards are written by `gallery.card` alone, also those that a live page sends: everything
that users or servers wrote is escaped there, and what the script itself makes is text. The policy in the page's head
lets no other script run and nothing be fetched but the files that the page names.
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
from runware_flow.view.advice import advice_for
from runware_flow.view.drawing import draw
from runware_flow.view.figures import STATES, Figures, figures_of
from runware_flow.view.gallery import GalleryItem, MediumFile, address_of, card, gallery_of
from runware_flow.view.progress import duration, money, short_duration
from runware_flow.view.shape import Shape  # noqa: TC001
from runware_flow.view.story import Row  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runware_flow.view.shape import Box

__all__ = ("STATIC_ITEMS", "LivePart", "PageData", "Report", "Words", "page", "page_policy", "parts_of")

STATIC_ITEMS = 500
"""Up to so many items, all cards are in the page as they are; of more, the first ones and the rest as data."""
_FIRST_ITEMS = 100
"""Cards that a page of more items has as they are; the page's script shows as many at a time."""
_FAILURES = 100
"""Kinds of failures that are listed; the nodes' own rows have them all."""
_PROMPTS = 5
"""The most prompts that are shown of each kind."""


class LivePart(msgspec.Struct, kw_only=True):
    """What a served page has beside a report.

    Attributes:
        can_stop: there is a run that can be stopped.
        marks: flows and paths that are marked to be bought anew; `None` where nothing can be marked.
        version: of the state that it shows; updates are requested from there on.
    """

    can_stop: bool = False
    marks: frozenset[tuple[str, str]] | None = None
    version: int = 0


class Report(msgspec.Struct, kw_only=True):
    """What a page shows.

    Attributes:
        name: the flow's.
        state: how the run ended, as in `RunFinished`, `running`, or `journal` where that is not known.
        made_at, began_at: dates and times, as text.
        seconds: how long the run took; 0 for unknown.
        receipt: lines as of `RunResult.receipt`.
        files: how media are shown, by row and number of the medium in it.
        notes: sentences for the head of the page: what is missing, and why.
        remarks: sentences beside the flow: what it cannot show.
        live: of a page that is served and follows a run or a journal.
    """

    name: str
    state: str
    made_at: str
    began_at: str
    seconds: float
    shape: Shape
    rows: Sequence[Row]
    receipt: Sequence[Any]
    files: Mapping[tuple[int, int], MediumFile] = {}
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()
    live: LivePart | None = None


class PageData:
    """The data of a page: its items with their cards, and its nodes.

    Args:
        report: what is shown.
        words: texts that many nodes share; a page that changes goes on with those that it has.

    Attributes:
        items, cards: in order; `rows`: the nodes, in few letters.
    """

    def __init__(self, report: Report, words: Words | None = None) -> None:
        self.words = words or Words()
        self.items = gallery_of(report.rows, report.shape)
        marks = None if report.live is None else report.live.marks
        self.cards = [card(item, report.rows, report.files, marks=marks) for item in self.items]
        boxes = [box for box in report.shape.boxes if box.kind != "fan"]
        places = {box.id: number for number, box in enumerate(boxes)}
        self.stages = [[box.id, box.label, box.kind] for box in boxes]
        self.rows = [_row(number, row, places, self.words, report.files) for number, row in enumerate(report.rows)]
        self.facts = [_item(item) for item in self.items]
        self.seconds = _number(report.seconds) or 0


def page(report: Report, known: PageData | None = None) -> str:
    """Write the page; `known`: its data, where they are known already."""
    style, script, frame = _frame()
    data = known or PageData(report)
    items, cards = data.items, data.cards
    parts = parts_of(report, items)
    is_served = report.live is not None
    has_files = any(_is_beside(file) for file in report.files.values())
    values = {
        "title": escape(report.name),
        "policy": escape(page_policy(has_files=has_files, is_served=is_served)),
        "style": style,
        "script": script,
        "remarks": "".join(f"<p class=dim>{escape(note)}</p>" for note in report.remarks),
        "notes": "".join(f"<p class=note>{escape(note)}</p>" for note in report.notes),
        "cards": "".join(cards[: len(items) if len(items) <= STATIC_ITEMS else _FIRST_ITEMS]),
        "more": _without_script(len(items)),
        "live": _live(report.live),
        "data": _in_script(
            {
                "name": report.name,
                "seconds": data.seconds,
                "stages": data.stages,
                "states": list(STATES),
                "rows": data.rows,
                "items": data.facts,
                "words": data.words.all,
            }
        ),
        "late": _late_cards(cards) if len(items) > STATIC_ITEMS else "[]",
        **parts,
    }
    split = frame.split("{{")
    filled = [split[0]]
    for part in split[1:]:
        name, _, rest = part.partition("}}")
        filled += [values[name], rest]
    return "".join(filled)


def parts_of(report: Report, items: Sequence[GalleryItem]) -> dict[str, str]:
    """Write the parts of the page that change while a run goes on, beside its cards; by the id of their place."""
    boxes = [box for box in report.shape.boxes if box.kind != "fan"]
    figures = figures_of(report.rows, [box.id for box in boxes])
    return {
        "summary": _summary(report, figures, items),
        "failures": _failures(report),
        "drawing": draw(report.shape, figures, links="stage-", title=f"flow {report.name}"),
        "stages": _stages(boxes, figures, report.shape),
        "receipt": _receipt(report.receipt),
    }


_FILES = ("report.css", "report.js", "report.html")


def _frame() -> list[str]:
    folder = files("runware_flow.view") / "page"
    return [(folder / name).read_text(encoding="utf-8") for name in _FILES]


def page_policy(*, has_files: bool, is_served: bool = False) -> str:
    """Write the content security policy: of a file, and of a served page that follows its run."""
    style, script, _ = _frame()

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    beside = "'self'" if is_served else "file: 'self'" if has_files else ""
    media = f" media-src {beside};" if beside else ""
    served = " connect-src 'self';" if is_served else ""
    return (
        f"default-src 'none'; style-src 'sha256-{digest(style)}'; script-src 'sha256-{digest(script)}';"
        f" img-src data:{' ' + beside if beside else ''};{media}{served} base-uri 'none'; form-action 'none'"
    )


def _is_beside(file: MediumFile) -> bool:
    return bool(file.file) or not file.thumbnail.startswith("data:")


def _without_script(count: int) -> str:
    if count <= STATIC_ITEMS:
        return ""
    return (
        f"<noscript><p class=note>These are the first {_FIRST_ITEMS} of {count:,} items; the others need JavaScript,"
        " which this page carries itself.</p></noscript>"
    )


def _live(live: LivePart | None) -> str:
    if live is None:
        return ""
    stop = "<button type=button id=stop>Stop the run…</button>" if live.can_stop else ""
    return f'<p id=live data-version="{live.version}"><span id=link role=status>connecting…</span>{stop}</p>'


def _in_script(data: Any) -> str:
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _late_cards(cards: Sequence[str]) -> str:
    """Cards as JSON inside a script: nothing in it may end that, or look as if another one began."""
    text = json.dumps([None] * _FIRST_ITEMS + list(cards[_FIRST_ITEMS:]), separators=(",", ":"))
    return text.replace("</", "<\\/").replace("<!", "<\\u0021")


# What is HTML


def _summary(report: Report, figures: Mapping[str, Figures], items: Sequence[GalleryItem]) -> str:
    restored = sum(one.restored for one in figures.values())
    lines = list(report.receipt)
    unknown = sum(line.unknown_count for line in lines)
    known = round(sum(line.cost or 0.0 for line in lines), 6)
    cost = money(known) + (f" and {unknown} unknown" if unknown else "")
    counts = {state: sum(item.state == state for item in items) for state in STATES}
    tiles = [
        *([("state", report.state, _tone(report.state), "")] if report.state != "journal" else []),
        ("items", f"{len(items):,}", "", "any"),
        *((state, f"{count:,}", state, state) for state, count in counts.items() if count),
        *([("restored nodes", f"{restored:,}", "", "")] if restored else []),
        ("time", duration(report.seconds) if report.seconds else "unknown", "", ""),
        ("cost", cost, "", ""),
        ("tasks", f"{sum(line.count for line in lines):,}", "", ""),
    ]
    shown = "".join(_tile(*tile) for tile in tiles)
    began = f"Begun {escape(report.began_at)}. " if report.began_at else ""
    made = "" if report.live is not None else f"Report made {escape(report.made_at)}."
    return f"<dl class=tiles>{shown}</dl><p class=dim>{began}{made}</p>"


def _tile(name: str, value: str, tone: str, state: str) -> str:
    """A count leads to the items that it counts."""
    shown = escape(value)
    if state:
        shown = f'<a href="#gallery" data-state="{state}" aria-label="{shown} {escape(name)}: show them">{shown}</a>'
    return f'<div class="tile {tone}"><dt>{escape(name)}</dt><dd>{shown}</dd></div>'


def _tone(state: str) -> str:
    return {"done": "ok", "failed": "failed", "running": "running", "journal": ""}.get(state, "abandoned")


def _failures(report: Report) -> str:
    groups: dict[tuple[str, str, str], list[int]] = {}
    errors: dict[tuple[str, str, str], Exception] = {}
    for number, row in enumerate(report.rows):
        if row.error is not None and row.state == "failed":
            key = (row.box, type(row.error).__name__, str(row.error))
            groups.setdefault(key, []).append(number)
            errors.setdefault(key, row.error)
    if not groups:
        return "<p class=dim>none</p>"
    items = [_failure(report, numbers, errors[key]) for key, numbers in list(groups.items())[:_FAILURES]]
    more = len(groups) - len(items)
    if more > 0:
        items.append(f"<li class=dim>and {more} more kinds of failures: choose the state “failed” above</li>")
    return f"<ul class=failures>{''.join(items)}</ul>"


def _failure(report: Report, numbers: list[int], error: Exception) -> str:
    row = report.rows[numbers[0]]
    code = (
        f"{error.code}" + (f" ({error.raw_code})" if error.raw_code else "") if isinstance(error, RunwareError) else ""
    )
    kind = code or type(error).__name__
    message = str(error) or type(error).__name__
    times = "" if len(numbers) == 1 else f" and {len(numbers) - 1:,} others"
    link = getattr(error, "documentation", None)
    documentation = ""
    if isinstance(link, str) and link.startswith(("https://", "http://")):
        documentation = f' <a href="{escape(link)}" rel="noreferrer noopener" target=_blank>documentation</a>'
    return (
        f"<li><p><b>{escape(row.place)}</b>{times} <span class=code>{escape(kind)}</span></p>"
        f"<p class=message>{escape(message[:2000])}</p>{_prompts(report, numbers)}"
        f"<p><b>What to do:</b> {escape(advice_for(error))}{documentation}</p>"
        f'<p class=script><button type=button data-row="{numbers[0]}">Details</button></p></li>'
    )


def _prompts(report: Report, numbers: list[int]) -> str:
    prompts = list(dict.fromkeys(report.rows[number].prompt for number in numbers if report.rows[number].prompt))
    shown = "; ".join(f"“{prompt[:200]}”" for prompt in prompts[:_PROMPTS])
    more = f" and {len(prompts) - _PROMPTS:,} more" if len(prompts) > _PROMPTS else ""
    return f"<p class=dim>Asked: {escape(shown)}{more}</p>" if prompts else ""


def _stages(boxes: Iterable[Box], figures: Mapping[str, Figures], shape: Shape) -> str:
    labels = {box.id: box.label for box in shape.boxes}
    rows: list[str] = []
    for box in boxes:
        one = figures[box.id]
        inside = f" <span class=dim>in {escape(labels[box.inside])}</span>" if box.inside else ""
        cells = [
            _counts(box, one),
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
    heads = ("stage", "nodes", "queued, on average", "took, on average", "cost")
    return _table("Stages", heads, f"<tbody>{''.join(rows)}</tbody>")


def _table(caption: str, heads: Iterable[str], body: str) -> str:
    head = "".join(f"<th scope=col>{name}</th>" for name in heads)
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead>{body}</table>"


def _counts(box: Box, one: Figures) -> str:
    counts = [
        f'<a href="#gallery" data-stage="{box.id}" data-state="{state}">{one.counts[state]:,} {state}</a>'
        for state in STATES
        if one.counts.get(state)
    ]
    if one.restored:
        counts.append(f"{one.restored:,} restored")
    return " · ".join(counts)


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
    together = (
        f"<tr><th scope=row>together</th><td></td><td></td><td>{count:,}</td><td>{money(total)}</td>"
        f"<td>{unknown or ''}</td></tr>"
    )
    return _table(
        "What was bought, by stage and model; costs in USD",
        ("stage", "task", "model", "count", "cost", "cost unknown"),
        f"<tbody>{''.join(rows)}</tbody><tfoot>{together}</tfoot>",
    )


# What is data


class Words:
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


def _item(item: GalleryItem) -> dict[str, Any]:
    """An item in few letters; the script's `items` says what they mean."""
    short = {
        "i": item.id,
        "n": item.name,
        "q": item.title if item.title != item.name else None,
        "s": STATES.index(item.state),
        "r": item.rows,
        "c": item.cost,
        "u": item.unknown_count or None,
        "d": _number(item.seconds),
        "v": sorted(f"{row}.{place}" for row, place in item.chosen) or None,
    }
    return {name: value for name, value in short.items() if value is not None}


def _row(
    number: int, row: Row, places: Mapping[str, int], words: Words, shown: Mapping[tuple[int, int], MediumFile]
) -> dict[str, Any]:
    """A node in few letters: what is not there is left out. The script's `row` says what they mean."""
    media = [
        [kind, address_of(result), file.file if (file := shown.get((number, place))) is not None else ""]
        for place, (kind, result) in enumerate(row.media)
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
        "j": row.saved,
        "f": words.number(f"{type(error).__name__}: {error}"[:2000]) if error is not None else None,
        "h": words.number(advice_for(error)) if error is not None else None,
        "z": words.number(row.because) if row.because else None,
        "d": row.after,
        "o": row.path if row.path != row.place else None,
        "v": words.number(row.flow) if row.flow else None,
    }
    return {name: value for name, value in short.items() if value or (value == 0 and name in "bsrgtceymwfhzv")}


def _number(value: float | None) -> float | None:
    return round(value, 3) if value is not None and isfinite(value) else None
