"""The main card: both log plots side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence

import panel as pn

from lab import words
from lab.figures.curves import METHODS, CurvePair
from lab.live import Live
from lab.pages.card import Card, bokeh_pane, grid
from lab.runner import Update
from lab.theme import Palette

# While points arrive, each update moves the thick lines by evaluations. Those by seconds follow
# less often; bands, words and markers, which take a browser much longer, once runs have lasted.
SECONDS_EVERY, ALL_EVERY = 0.1, 0.25  # seconds


class Curves(Card):
    """Streams points into both plots while solves run."""

    title = "Relative residual ||f(z) - z|| / ||f(z)||, by evaluations and by seconds"

    def __init__(self, colors: Palette, tolerance: float) -> None:
        super().__init__()
        self.pair = CurvePair(colors, tolerance)
        self._begun = self._seconds_drawn = self._all_drawn = 0.0

    def begin(self, live: Live, before: Live, kept: Sequence[str] = ()) -> None:
        """A new generation: finished curves turn pale, unfinished ones go, those of `kept` stay."""
        if live.tolerance != before.tolerance:
            self.pair.set_tolerance(live.tolerance)
        for name in METHODS:
            if name in live.methods and name not in kept:
                self.pair.start(name, complete=before.ended(name))
            elif name not in live.methods:
                self.pair.clear(name)
        self.pair.mark_crossing({})
        self.pair.label_ends({})
        self._begun = time.monotonic()

    def take(self, live: Live, updates: Sequence[Update]) -> None:
        """Add the points that arrived."""
        for update in updates:
            columns = live.take(update)
            if columns["evaluation"]:
                self.pair.extend(update.method, columns)
            if live.ended(update.method):
                self.pair.finish(update.method)
        self.pair.label_ends(live.traces)
        if not live.complete:
            self.pair.draw_medians(["evaluation"])

    def draw(self) -> None:
        """What follows the thick lines by evaluations less often."""
        now = time.monotonic()
        if now - self._begun >= ALL_EVERY:
            self.pair.show_all()
        if now - self._all_drawn >= ALL_EVERY:
            self.pair.draw()
            self._all_drawn = self._seconds_drawn = now
        elif now - self._seconds_drawn >= SECONDS_EVERY:
            self.pair.draw_medians(["seconds"])
            self._seconds_drawn = now

    def show(self, live: Live) -> None:
        """All runs have ended: fit the x axes, mark the crossover."""
        self.pair.fit(live.traces)
        self.pair.mark_crossing(self._crossing(live))
        self.pair.draw()
        self.say(words.how_drawn(live.results, live.problem_name))

    def _crossing(self, live: Live) -> dict[str, tuple[float, float, str] | None]:
        point = live.crossing
        if point is None:
            return {}
        columns = self.pair.curves["anderson"].columns
        marks: dict[str, tuple[float, float, str] | None] = {}
        for axis, where in (("evaluation", point.by_evaluations), ("seconds", point.by_seconds)):
            if where.kind != "at":
                continue
            row = int(where.evaluations) - 1
            if row < len(columns["median"]) and columns["median"][row] == columns["median"][row]:
                x = float(columns[axis][row])
                marks[axis] = (x, float(columns["median"][row]), words.short_crossing(axis, x))
        return marks

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.pair.paint(colors)

    def __panel__(self) -> pn.viewable.Viewable:
        panes = [
            bokeh_pane(plot, height=310, sizing_mode="stretch_width")
            for plot in self.pair.figures.values()
        ]
        return self.boxed(grid(*panes, name="lab-pair"), css_classes=["lab-card"])
