"""A tile for each way to end: its marker, and how many trials ended so."""

from __future__ import annotations

from lab.pages.card import escape
from lab.sweeps.shown import Shown
from lab.sweeps.statuses import MARKS
from lab.sweeps.words import counts_by_status

SHAPES = {
    "circle": "\N{BLACK CIRCLE}", "square": "\N{BLACK SQUARE}", "diamond": "\N{BLACK DIAMOND}",
    "triangle": "\N{BLACK UP-POINTING TRIANGLE}", "x": "\N{MULTIPLICATION SIGN}",
    "inverted_triangle": "\N{BLACK DOWN-POINTING TRIANGLE}", "dash": "\N{EM DASH}",
}  # fmt: skip


def tiles(shown: Shown) -> str:
    """The tiles as markup."""
    counts = counts_by_status(shown.trials, None)
    mine = counts_by_status(shown.trials, shown.mask)
    parts = []
    for name, total in counts.items():
        mark, some = MARKS[name], mine.get(name, 0)
        number = f"{total:,}" if shown.mask is None else f"{some:,} of {total:,}"
        parts.append(
            f"<span class='tile'><span style='color:{mark.color(shown.colors)}'>"
            f"{SHAPES[mark.marker]}</span>{escape(mark.word)} <b>{number}</b></span>"
        )
    return f"<div class='tiles'>{''.join(parts)}</div>"
