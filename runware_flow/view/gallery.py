"""The gallery of a run as HTML: for each item, the results of its stages side by side.

An item is what one element of an outer fan-out or of a batch became, nested fan-outs included. Nodes outside fan-outs
that follow each other are one item too. Several results of one stage are variants; those that a later stage of the
item was given are the chosen ones.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

import msgspec

from runware_flow.types import MediaResult
from runware_flow.view.advice import advice_for
from runware_flow.view.progress import money, short_duration
from runware_flow.view.request import references_to

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from runware_flow.view.shape import Box, Shape
    from runware_flow.view.story import Row

__all__ = ("NO_FILE", "GalleryItem", "MediumFile", "address_of", "card", "gallery_of")

_KEYED = re.compile(r"^([^/\[]*)\[([^\]]*)\](?:/|$)")
_TITLE_LETTERS = 400
_TEXT_LETTERS = 600
_WORST_FIRST = ("failed", "running", "abandoned", "waiting")


class MediumFile(msgspec.Struct, frozen=True):
    """How a page shows one medium.

    Attributes:
        thumbnail: a data URI, or the address of a file beside the page; of pictures.
        file: the address of the medium itself as a file, relative to the page.
        name: of the file, as people know it.
        note: why there is no file, if there was to be one.
    """

    thumbnail: str = ""
    file: str = ""
    name: str = ""
    note: str = ""


NO_FILE = MediumFile()


class Cell(msgspec.Struct):
    """What one stage made of an item: the rows of one box."""

    box: str
    label: str
    rows: list[int]


class GalleryItem(msgspec.Struct):
    """One item.

    Attributes:
        id: of its card in the page.
        name: how it is known: its key, or the node of it.
        title: what it is about: its first prompt, else its name.
        state: as `Row.state`, of all its nodes together; failures that something later made good do not count.
        rows: all of its rows; `cells`: those that are shown, by stage.
        chosen: variants that a later stage was given, as (row, number of the medium).
        cost: USD, the known ones together.
        unknown_count: how many of its tasks may have been billed without a known cost.
        seconds: of work, from its first start to its last outcome.
    """

    id: str
    name: str
    title: str
    state: str
    rows: list[int]
    cells: list[Cell]
    chosen: set[tuple[int, int]]
    cost: float | None
    unknown_count: int
    seconds: float | None


def gallery_of(rows: Sequence[Row], shape: Shape) -> list[GalleryItem]:
    """Group rows by item, in the order of their first nodes."""
    boxes = {box.id: box for box in shape.boxes}
    order = {box.id: place for place, box in enumerate(shape.boxes)}
    return [_item(group, rows, boxes, order) for group in _groups(rows).values()]


def _groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[int]]:
    outer = [number for number, row in enumerate(rows) if _KEYED.match(row.path) is None]
    heads = _components(outer, rows)
    tasks = {(rows[number].flow, rows[number].path): number for number in outer}
    groups: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(rows):
        found = _KEYED.match(row.path)
        if found is None:
            name = f"nodes {heads[number]}"
        else:
            # The results of one task of several are variants of one thing, not items.
            of = tasks.get((row.flow, found[1].removesuffix(".each"))) if found[1].endswith(".each") else None
            name = found[0] if of is None else f"nodes {heads[of]}"
        groups.setdefault((row.flow, name), []).append(number)
    return groups


def _components(outer: list[int], rows: Sequence[Row]) -> dict[int, int]:
    """Of each row outside fan-outs, the first one of those that it hangs together with."""
    heads = {number: number for number in outer}

    def head(number: int) -> int:
        while heads[number] != number:
            heads[number] = heads[heads[number]]
            number = heads[number]
        return number

    for number in outer:
        for before in rows[number].after:
            if before in heads:
                one, other = sorted((head(number), head(before)))
                heads[other] = one
    return {number: head(number) for number in outer}


def _item(numbers: list[int], rows: Sequence[Row], boxes: Mapping[str, Box], order: Mapping[str, int]) -> GalleryItem:
    mine = [rows[number] for number in numbers]
    cells: dict[str, Cell] = {}
    for number in sorted(numbers, key=lambda number: order.get(rows[number].box, 0)):
        row = rows[number]
        box = boxes.get(row.box)
        if _is_shown(row, box):
            label = box.label if box is not None else row.place
            cells.setdefault(row.box, Cell(row.box, label, [])).rows.append(number)
    first = mine[0]
    keyed = _KEYED.match(first.place)
    name = (keyed[0].rstrip("/") if keyed else first.place) or first.place
    times = [time for row in mine for time in (row.began, row.started) if time is not None and not row.restored]
    ends = [row.settled for row in mine if row.settled is not None and not row.restored]
    known = [row.cost for row in mine if row.cost is not None]
    return GalleryItem(
        id=f"item-{numbers[0]}",
        name=name,
        title=next((row.prompt for row in mine if row.prompt), "")[:_TITLE_LETTERS] or name,
        state=_state(numbers, rows),
        rows=numbers,
        cells=list(cells.values()),
        chosen=_chosen(cells.values(), rows, numbers),
        cost=round(sum(known), 6) if known else None,
        unknown_count=sum(row.cost is None and row.may_be_billed for row in mine),
        seconds=max(ends) - min(times) if times and ends else None,
    )


def _is_shown(row: Row, box: Box | None) -> bool:
    """Steps that only pass values on have no place in a card, and neither has a saved file, which is its picture's."""
    if row.state in ("failed", "running", "abandoned"):
        return True
    if row.saved:
        return False
    return box is None or box.kind in ("task", "function")


def _state(numbers: list[int], rows: Sequence[Row]) -> str:
    used = {before for number in numbers for before in rows[number].after}
    last = [rows[number].state for number in numbers if number not in used]
    if all(state == "ok" for state in last):
        return "ok"
    states = {rows[number].state for number in numbers}
    return next((state for state in _WORST_FIRST if state in states), "skipped" if "skipped" in last else "ok")


def _chosen(cells: Iterable[Cell], rows: Sequence[Row], numbers: list[int]) -> set[tuple[int, int]]:
    """Variants of a stage that something later in the item was given; what was given all of them has chosen none."""
    chosen: set[tuple[int, int]] = set()
    users = [(rows[number].path.count("["), rows[number].uses) for number in numbers if rows[number].uses]
    for cell in cells:
        media = {
            (number, place): set(references_to(result))
            for number in cell.rows
            for place, (_, result) in enumerate(rows[number].media)
        }
        if len(media) < 2:
            continue
        # What follows each variant by itself is as deep in fan-outs as the variants are, or deeper.
        deepest = rows[cell.rows[0]].path.count("[") - (len(cell.rows) > 1)
        for depth, uses in users:
            found = [key for key, names in media.items() if depth <= deepest and not names.isdisjoint(uses)]
            if len(found) < len(media):
                chosen.update(found)
    return chosen


# As HTML


def card(
    item: GalleryItem,
    rows: Sequence[Row],
    files: Mapping[tuple[int, int], MediumFile],
    *,
    marks: frozenset[tuple[str, str]] | None = None,
) -> str:
    """Write the card of an item.

    Args:
        item: the item.
        rows: of the whole run.
        files: how media are shown, by row and number of the medium in it.
        marks: flows and paths that are marked to be bought anew; `None` where nothing can be marked.
    """
    facts = [item.name] if item.title != item.name else []
    if item.seconds is not None:
        facts.append(short_duration(item.seconds))
    if item.cost is not None:
        facts.append(money(item.cost))
    if item.unknown_count:
        facts.append(f"{item.unknown_count} of unknown cost")
    shown = "".join(_cell(cell, item, rows, files) for cell in item.cells)
    redo = "" if marks is None else _redo(item, rows, marks)
    return (
        f'<article class="card {item.state}" id="{item.id}" aria-labelledby="{item.id}-t">'
        f'<header><h3 id="{item.id}-t" class=clamp>{escape(item.title)}</h3>'
        f'<span class="state s-{item.state}">{item.state}</span>'
        f"<p class=facts>{escape(' · '.join(facts))}</p>{redo}</header><ul class=strip>{shown}</ul></article>"
    )


def _redo(item: GalleryItem, rows: Sequence[Row], marks: frozenset[tuple[str, str]]) -> str:
    is_marked = any((rows[number].flow, rows[number].path) in marks for number in item.rows)
    word = "Take the mark back" if is_marked else "Buy anew…"
    marked = "<span class=marked>will be bought anew</span>" if is_marked else ""
    return (
        f'<p class=redo>{marked}<button type=button data-redo="{item.rows[0]}" data-marked="{int(is_marked)}"'
        f' aria-describedby="{item.id}-t">{word}</button></p>'
    )


def _cell(cell: Cell, item: GalleryItem, rows: Sequence[Row], files: Mapping[tuple[int, int], MediumFile]) -> str:
    media: list[str] = []
    texts: list[str] = []
    whys: dict[str, None] = {}
    count = sum(len(rows[number].media) for number in cell.rows)
    for number in cell.rows:
        row = rows[number]
        alt = row.prompt or item.title
        for place, (kind, result) in enumerate(row.media):
            which = f", variant {len(media) + 1} of {count}" if count > 1 else ""
            shown = _medium(kind, result, files.get((number, place), NO_FILE), f"{cell.label}{which}: {alt}")
            is_chosen = (number, place) in item.chosen
            badge = "<span class=chosen>✓ chosen</span>" if is_chosen else ""
            media.append(
                f'<div class="shot{" picked" if is_chosen else ""}" data-m="{number}.{place}">{shown}{badge}</div>'
            )
        is_spoken = row.prompt and row.prompt != item.title and any(kind == "audio" for kind, _ in row.media)
        if is_spoken:
            texts.append(f"<p class=say>{escape(row.prompt[:_TEXT_LETTERS])}</p>")
        if row.text and row.state == "ok":
            texts.append(f"<p class=say>{escape(row.text[:_TEXT_LETTERS])}</p>")
        if row.state != "ok":
            whys[_why(row, item.title)] = None
    pictures = f'<div class="shots n{min(count, 4)}">{"".join(media)}</div>' if media else ""
    worst = next((s for s in (*_WORST_FIRST, "skipped") if any(rows[n].state == s for n in cell.rows)), "ok")
    more = f" <span class=dim>{len(cell.rows)} times</span>" if len(cell.rows) > 1 else ""
    restored = " <span class=dim title='restored from the journal'>↺</span>" if rows[cell.rows[0]].restored else ""
    return (
        f'<li class="cell c-{worst}"><p class=stage><button type=button class=link data-row="{cell.rows[0]}"'
        f' aria-label="Details of {escape(cell.label)}">{escape(cell.label)}</button>{more}{restored}</p>'
        f"{pictures}{''.join(texts[:6])}{''.join(list(whys)[:4])}</li>"
    )


def _why(row: Row, title: str) -> str:
    state = f"<p class=s-{row.state}>{row.state}</p>"
    if row.error is not None and row.state == "failed":
        message = str(row.error) or type(row.error).__name__
        prompted = row.prompt[:_TITLE_LETTERS] if row.prompt != title else ""
        prompt = f"<p class=dim>Prompt: {escape(prompted)}</p>" if prompted else ""
        return (
            f"{state}<p class=why>{escape(message[:_TEXT_LETTERS])}</p>{prompt}"
            f"<p class=dim>{escape(advice_for(row.error))}</p>"
        )
    return f"{state}<p class=dim>{escape(row.because[:_TEXT_LETTERS])}</p>" if row.because else state


def _medium(kind: str, result: Any, file: MediumFile, alt: str) -> str:
    name = escape(file.name or kind)
    if kind == "image" and file.thumbnail:
        target = file.file or address_of(result)
        image = f'<img src="{escape(file.thumbnail)}" alt="{escape(alt[:300])}" loading=lazy decoding=async>'
        if target:
            return f'<a class=open href="{escape(target)}" target=_blank rel="noreferrer noopener">{image}</a>'
        return f'<a class=open href="#lightbox">{image}</a>'
    if kind in ("video", "audio") and file.file:
        return (
            f'<{kind} controls preload=metadata src="{escape(file.file)}" aria-label="{escape(alt[:300])}"></{kind}>'
            f'<a class=dim href="{escape(file.file)}" target=_blank>{name}</a>'
        )
    if file.file:
        return f'<a class=blank href="{escape(file.file)}" target=_blank>{name}</a>'
    address = address_of(result)
    where = (
        f' <a href="{escape(address)}" target=_blank rel="noreferrer noopener">at the service, for a limited time</a>'
        if address
        else ""
    )
    return f"<span class=blank>{escape(kind)}: {escape(file.note or 'not kept')}{where}</span>"


def address_of(result: Any) -> str:
    """The address of a medium, if it is one that a page may link to."""
    if isinstance(result, MediaResult):
        try:
            reference = result.reference
        except ValueError:
            return ""
    else:
        reference = str(result)
    return reference[:4000] if reference.startswith(("https://", "http://")) else ""
