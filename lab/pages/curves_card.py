"""The main card: both log plots side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import panel as pn
import panel_material_ui as pmui

from andersonn_core import SolveSpec
from andersonn_core.record.curves import ResidualCurve
from lab import words
from lab.figures.curve_plot import CLOCK
from lab.figures.curves import METHODS, CurvePair
from lab.figures.recorded import Recorded
from lab.live import Live
from lab.pages.banner import Banner
from lab.pages.card import Card, Later, bokeh_pane, escape, grid, text
from lab.pages.widgets import WORD
from lab.recorded_words import OFFER, curves_line
from lab.recordings import Recording, look
from lab.runner import Update
from lab.theme import Palette

# While points arrive, each update moves the thick lines by evaluations. Those by seconds follow
# less often; bands, words and markers, which take a browser much longer, once runs have lasted.
SECONDS_EVERY, ALL_EVERY = 0.1, 0.25  # seconds


class Curves(Card):
    """Streams points into both plots while solves run; lays a recorded run beside them."""

    title = "Relative residual ||f(z) - z|| / ||f(z)||, by evaluations and by seconds"

    def __init__(
        self, colors: Palette, tolerance: float, schedule: Callable[[Callable[[], None]], Any]
    ) -> None:
        super().__init__()
        self.pair = CurvePair(colors, tolerance)
        self._begun = self._seconds_drawn = self._all_drawn = 0.0
        self.live = Live()
        self.recording: Recording | None = None  # the newest with a GPU run of this problem,
        self.recorded: Sequence[ResidualCurve] = ()  # and the curves of that
        self.beside = pmui.Checkbox(label=OFFER, sx=WORD, size="small", margin=0)
        self.beside.param.watch(lambda _: schedule(self._lay_beside), "value")
        self.banner, self.settings = Banner(), text("", "lab-note")
        self.offer_pane = Later(self.beside, self.banner, self.settings)

    def begin(self, live: Live, before: Live, kept: Sequence[str] = ()) -> None:
        """A new generation: finished curves turn pale, unfinished ones go, those of `kept` stay."""
        self.live = live
        if live.tolerance != before.tolerance:
            self.pair.set_tolerance(live.tolerance)
        if live.problem_name != before.problem_name:
            self.recording, self.recorded = None, ()
            self._lay_beside()
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

    # -- a recorded run ---------------------------------------------------------------------------

    def offer(self, spec: SolveSpec | None) -> None:
        """Offer the newest recorded GPU run of the problem that is solved, if there is one."""
        self.recording, self.recorded = None, ()
        if spec is not None:
            name = spec.problem.name
            self.recording, self.recorded = look().newest(lambda each: each.gpu_curves(name))
        self.offer_pane.show(self.recording is not None)
        self._lay_beside()

    def _lay_beside(self) -> None:
        """Show the recorded run, or take it away, as the visitor chose."""
        curves = self.recorded if self.beside.value else ()
        self.banner.tell(self.recording if curves else None)
        words = escape(curves_line(curves, self.live.tolerance)) if curves else ""
        if self.settings.object != words:
            self.settings.object = words
        lines = [line for curve in curves if (line := Recorded.of(curve)).columns["median"]]
        if lines != self.pair.recorded:
            self.pair.set_recorded(lines)
            self.pair.set_clock(CLOCK, curves[0].clock if curves else "")
            if self.live.complete:
                self.pair.fit(self.live.traces)
            self.pair.draw()

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
        pair = grid(*panes, name="lab-pair")
        return self.boxed(pair, self.offer_pane, css_classes=["lab-card"])
