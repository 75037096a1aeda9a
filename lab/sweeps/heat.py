"""The heat map: two axes of a sweep, each cell the median of what was swept besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from bokeh.core.properties import value
from bokeh.events import Tap
from bokeh.layouts import row
from bokeh.models import HoverTool, Range1d

from lab.figures.base import bare_figure, columns, ink_on, tooltip
from lab.figures.color_scale import ColorScale
from lab.figures.word_ticks import WordTicks
from lab.sweeps.brush import Box, Brushable, Region, fit
from lab.sweeps.cells import Cells, Cellwise
from lab.sweeps.columns import Levels
from lab.sweeps.quantities import FRACTION, QUANTITIES
from lab.sweeps.shown import Brush, Shown
from lab.sweeps.statuses import MARKS, STATUSES
from lab.sweeps.trials import Axis, Trials
from lab.theme import FONT, Palette

NAME = "heat map"
HEIGHT = 262
PALE = 0.22  # of a cell without a selected trial
ROOM = (18, 13)  # columns and rows up to which there is room for numbers
CELLS = 4096  # beyond, the words of a hover would be most of what is sent
FILL = ("x", "y", "color", "alpha", "text", "ink")
TOLD = {
    "setting": "@setting", "median": "@median", "10-90 %": "@spread",
    "trials": "@trials", "not converged": "@lost",
}  # fmt: skip
TOLD_COLUMNS = tuple(shown.removeprefix("@") for shown in TOLD.values())


class Heat:
    """One figure; every change is a change of data. A tap opens the trial in a cell's middle."""

    def __init__(self, brush: Brush, opened: Callable[[int], None]) -> None:
        self._brush, self._opened = brush, opened
        self._cellwise: Cellwise | None = None
        self._levels: tuple[Levels, Levels | None] | None = None
        self._shown: Shown | None = None
        self.x, self.y = Range1d(-0.5, 0.5), Range1d(-0.5, 0.5)
        self.cells = columns(*FILL, *TOLD_COLUMNS)
        self.cells.name = "cells of the sweep"
        self.missing, self.partial = columns("x", "y"), columns("x", "y")
        self.lost, self.pale_lost = columns("x", "y"), columns("x", "y")
        self.figure = self._figure()
        self.brushable = Brushable(self.figure, self._brushed)
        self.region = Region(self.figure)
        self.ticks = WordTicks(self.figure.xaxis[0]), WordTicks(self.figure.yaxis[0])
        self.figure.on_event(Tap, self._tapped)
        self.scale = ColorScale(HEIGHT)
        self.drawn = row(self.figure, self.scale.figure, sizing_mode="stretch_width", height=HEIGHT)

    # -- building ---------------------------------------------------------------------------------

    def _figure(self) -> Any:
        plot = bare_figure(x_range=self.x, y_range=self.y, height=HEIGHT)
        plot.grid.visible = False
        self.square = plot.rect(
            "x", "y", 1, 1, source=self.cells, fill_color="color", fill_alpha="alpha",
            line_width=1.5,
        )  # fmt: skip
        # Apart from the others: a browser makes a pattern for each cell of a glyph that has any.
        self.hatches = [
            plot.rect(
                "x", "y", 0.94, 0.92, source=source, fill_alpha=0, line_alpha=0, hatch_scale=7,
                hatch_pattern="right_diagonal_line", hatch_alpha=alpha,
            ).glyph
            for source, alpha in ((self.lost, 1.0), (self.pale_lost, 1.2 * PALE))
        ]  # fmt: skip
        self.dot = plot.scatter("x", "y", source=self.missing, size=2.5, line_color=None).glyph
        plot.text(
            "x", "y", "text", source=self.cells, text_color="ink", text_alpha="alpha",
            text_baseline="middle", text_align="center", text_font_size="11px",
            text_font=value(FONT),
        )  # fmt: skip
        self.flag = plot.scatter(
            "x", "y", source=self.partial, marker="triangle", size=5, line_color=None
        ).glyph
        self.hover = HoverTool(renderers=[self.square], limit=1)
        plot.add_tools(self.hover)
        return plot

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme; `draw` follows."""
        self.brushable.paint(colors)
        self.region.paint(colors)
        for axis in self.figure.axis:
            axis.axis_line_color = axis.major_tick_line_color = None
        self.hover.tooltips = tooltip(TOLD, colors)
        self.square.glyph.line_color = colors.paper
        for hatch in self.hatches:
            hatch.hatch_color = colors.bad
        self.dot.fill_color, self.flag.fill_color = colors.muted, colors.bad
        self.scale.paint(colors)

    # -- showing ----------------------------------------------------------------------------------

    def draw(self, shown: Shown, x: Axis, y: Axis | None) -> Cells:
        """Draw the cells of two axes, or of one; returns them."""
        self._shown = shown
        self._levels = Levels(x, 0.5), None if y is None else Levels(y, 0.5)
        cellwise = self._cells_of(shown, x, y)
        chosen = cellwise.gather(shown.mask)
        self._lay_out()
        self._scale(shown)
        self._fill(shown, chosen, cellwise.every)
        return chosen

    def _cells_of(self, shown: Shown, x: Axis, y: Axis | None) -> Cellwise:
        column = shown.quantity.column
        key = ("cells", x.name, None if y is None else y.name, column)
        self._cellwise = shown.trials.shared(key, lambda: Cellwise(shown.trials, x, y, column))
        return self._cellwise

    def _lay_out(self) -> None:
        assert self._levels is not None
        x, y = self._levels
        self.ticks[0].show(x.ticks(), x.label)
        self.ticks[1].show({} if y is None else y.ticks(), "" if y is None else y.label)
        fit(self.x, x.span[0] - 0.05, x.span[1] + 0.05)
        fit(self.y, -0.55, 0.55 if y is None else y.span[1] + 0.05)

    def _scale(self, shown: Shown) -> None:
        tint = shown.tint
        parts = tint.part(np.array([*tint.scale.ticks])).tolist()
        self.scale.show(tint.palette, dict(zip(parts, tint.scale.ticks.values(), strict=True)))

    def _fill(self, shown: Shown, chosen: Cells, every: Cells) -> None:
        """Colors, numbers and hatches; what is not selected is pale."""
        drawn = chosen.chosen > 0
        values = np.where(drawn, _values(shown, chosen), _values(shown, every))
        lost = np.where(drawn, chosen.converged, every.converged) == 0
        lost &= every.total > 0
        fills = shown.tint.fills(values)
        fills[np.isnan(values) | lost | (every.total == 0)] = shown.colors.paper
        nx, ny = values.shape
        xs, ys = (each.ravel() for each in np.indices(values.shape))
        written = nx <= ROOM[0] and ny <= ROOM[1]
        texts = [
            self._text(shown, each) if written else ""
            for each in np.where(lost, np.nan, values).ravel()
        ]
        told = self._told(shown, chosen, every) if values.size <= CELLS else {}
        self.cells.data = {
            "x": xs, "y": ys, "color": fills.ravel(),
            "alpha": np.where(drawn, 1.0, PALE).ravel(),
            "text": texts, "ink": [ink_on(fill) for fill in fills.ravel()],
        } | {name: told.get(name, [""] * values.size) for name in TOLD_COLUMNS}  # fmt: skip
        for source, which in ((self.lost, lost & drawn), (self.pale_lost, lost & ~drawn)):
            source.data = {"x": xs[which.ravel()], "y": ys[which.ravel()]}
        none = (every.total == 0).ravel()
        self.missing.data = {"x": xs[none], "y": ys[none]}
        some = (drawn & ~lost & (chosen.converged < chosen.chosen)).ravel() & written
        self.partial.data = {"x": xs[some] + 0.36, "y": ys[some] + 0.34}

    @staticmethod
    def _text(shown: Shown, each: float) -> str:
        """A value in a cell: short, without the unit where the title has it."""
        if not np.isfinite(each):
            return ""
        if shown.quantity.column.endswith("seconds"):
            return f"{float(f'{1e3 * each:.2g}'):g}"  # milliseconds
        return shown.quantity.text(each).removesuffix(" %").removesuffix("x")

    def _told(self, shown: Shown, chosen: Cells, every: Cells) -> dict[str, list[str]]:
        """What a hover says of each cell."""
        assert self._levels is not None
        x, y = self._levels
        rows: list[tuple[str, ...]] = []
        for i, j in np.ndindex(every.total.shape):
            setting = f"{x.label} {x.axis.texts[i]}"
            setting += "" if y is None else f", {y.label} {y.axis.texts[j]}"
            rows.append((setting, *_facts(shown, chosen, every, (i, j))))
        return dict(zip(TOLD_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))

    # -- answering --------------------------------------------------------------------------------

    def _brushed(self, box: Box) -> None:
        if self._levels is None:
            return
        (x, y), (left, right, bottom, top) = self._levels, box
        found = [x.within(left, right)] + ([] if y is None else [y.within(bottom, top)])
        known = [each for each in found if each is not None]
        if len(known) < len(found):
            return
        expression, words = known[0]
        for more, name in known[1:]:
            expression, words = expression & more, f"{words}, {name}"
        inner = (round(left), round(right), round(bottom), round(top))
        self._region(inner)
        self._brush(NAME, expression, words)

    def _region(self, inner: tuple[int, int, int, int]) -> None:
        """Outline whole cells."""
        left, right, bottom, top = inner
        x_last, y_last = round(self.x.end - 0.55), round(self.y.end - 0.55)
        self.region.show((
            max(left, 0) - 0.5, min(right, x_last) + 0.5,
            max(bottom, 0) - 0.5, min(top, y_last) + 0.5,
        ))  # fmt: skip

    def forget(self) -> None:
        """Nothing is brushed here any longer."""
        self.region.show(None)

    def _tapped(self, event: Tap) -> None:
        """Open the trial in the middle of a cell."""
        if self._shown is None or self._cellwise is None or event.x is None or event.y is None:
            return
        place, cellwise = (round(event.x), round(event.y)), self._cellwise
        if not all(0 <= k < n for k, n in zip(place, cellwise.shape, strict=True)):
            return
        index = cellwise.typical(place, self._shown.mask)
        if index is None:
            index = cellwise.typical(place, None)
        if index is not None:
            self._opened(index)


def _values(shown: Shown, cells: Cells) -> Any:
    return cells.fraction if shown.quantity is QUANTITIES[FRACTION] else cells.median


def _facts(shown: Shown, chosen: Cells, every: Cells, place: tuple[int, int]) -> tuple[str, ...]:
    """A cell's median, spread, counts and statuses, of the selected trials."""
    total, mine = int(every.total[place]), int(chosen.chosen[place])
    if not total:
        return "not computed yet", "", "", ""
    cells, counted = (chosen, mine) if mine else (every, total)
    reached = int(cells.converged[place])
    trials = f"{reached:,} of {counted:,} converged"
    if mine < total:
        trials += f"; {mine:,} of {total:,} selected" if mine else "; none selected"
    lost = ", ".join(
        f"{int(cells.statuses[k][place]):,} {MARKS[name].word}"
        for k, name in enumerate(STATUSES) if k and cells.statuses[k][place]
    )  # fmt: skip
    if shown.quantity is QUANTITIES[FRACTION]:
        return shown.quantity.words(float(cells.fraction[place])), "", trials, lost or "none"
    median, low, high = (float(each[place]) for each in (cells.median, cells.low, cells.high))
    if not np.isfinite(median):
        return "none converged" if not reached else "unknown", "", trials, lost or "none"
    text = shown.quantity.text
    return shown.quantity.words(median), f"{text(low)} to {text(high)}", trials, lost or "none"


def default_axes(trials: Trials) -> tuple[str, str]:
    """The two axes with the most levels, the longer one across; "" for one that is not there."""
    names = sorted(trials.axes, key=lambda name: -len(trials.axes[name].levels))
    names += list(trials.replicas)
    return (*names, "", "")[0], (*names, "", "")[1]
