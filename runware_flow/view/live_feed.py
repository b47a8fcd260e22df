"""The messages to a live page: the cards, nodes and parts that have changed since the last one.

Each state has a version. A reader that has seen one is told of everything that has changed since, in one message,
however many versions lie between: a slow reader is told less often, and nothing is kept for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.view.report import PageData, Words, page, parts_of

if TYPE_CHECKING:
    from runware_flow.view.report import Report

__all__ = ("Feed",)


class Feed:
    """Attributes: version: of the newest state, 0 before the first one."""

    def __init__(self) -> None:
        self.version = 0
        self._words = Words()
        self._report: Report | None = None
        self._data: PageData | None = None
        self._cards: dict[str, tuple[str, dict[str, Any], int]] = {}
        self._rows: list[tuple[dict[str, Any], int]] = []
        self._parts: dict[str, tuple[str, int]] = {}
        self._gone: dict[str, int] = {}
        self._word_counts: list[int] = [0]

    def refresh(self, report: Report) -> bool:
        """Take a new state; tells whether anything that is shown has changed."""
        data = PageData(report, self._words)
        version = self.version + 1
        is_changed = self._data is None
        cards: dict[str, tuple[str, dict[str, Any], int]] = {}
        for item, html, facts in zip(data.items, data.cards, data.facts, strict=True):
            old = self._cards.get(item.id)
            if old is None or old[0] != html or old[1] != facts:
                cards[item.id], is_changed = (html, facts, version), True
            else:
                cards[item.id] = old
        gone = self._cards.keys() - cards.keys()
        if len(data.rows) < len(self._rows):  # another run has begun
            self._rows.clear()
        rows: list[tuple[dict[str, Any], int]] = []
        for number, row in enumerate(data.rows):
            old_row = self._rows[number] if number < len(self._rows) else None
            if old_row is None or old_row[0] != row:
                rows.append((row, version))
                is_changed = True
            else:
                rows.append(old_row)
        for name, html in parts_of(report, data.items).items():
            if self._parts.get(name, ("", 0))[0] != html:
                self._parts[name] = (html, version)
                is_changed = True
        self._report, self._data, self._cards, self._rows = report, data, cards, rows
        if is_changed or gone:
            self.version = version
            self._gone.update(dict.fromkeys(gone, version))
            self._word_counts.append(len(self._words.all))
        return is_changed

    @property
    def has_page(self) -> bool:
        """Whether there is a state to write a page of."""
        return self._report is not None

    def page(self) -> str:
        """Write the page of the newest state."""
        assert self._report is not None
        if self._report.live is not None:
            self._report.live.version = self.version
        return page(self._report, self._data)

    def since(self, version: int) -> dict[str, Any]:
        """Tell what has changed since a version; of one that is not known, everything."""
        assert self._data is not None
        assert self._report is not None
        version = version if 0 <= version <= self.version else 0
        known = self._word_counts[version]
        return {
            "version": self.version,
            "seconds": self._data.seconds,
            "state": self._report.state,
            "name": self._report.name,
            "stages": self._data.stages,
            "from": known,
            "words": self._words.all[known:],
            "count": len(self._rows),
            "rows": [[number, row] for number, (row, at) in enumerate(self._rows) if at > version],
            "cards": [[facts, html] for html, facts, at in self._cards.values() if at > version],
            "gone": [name for name, at in self._gone.items() if at > version and name not in self._cards],
            "parts": {name: html for name, (html, at) in self._parts.items() if at > version},
        }
