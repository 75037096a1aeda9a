"""The scatter: two columns of a sweep; what did not converge lies in a strip of its own above."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import HoverTool, LogColorMapper, Range1d
from numpy.typing import NDArray

from lab.figures.base import bare_figure, columns, ramp, tooltip
from lab.figures.word_ticks import WordTicks
from lab.sweeps import raster
from lab.sweeps.brush import Box, Brushable, Region, fit
from lab.sweeps.columns import Column, Of
from lab.sweeps.shown import Brush, Shown
from lab.sweeps.statuses import MARKS, STATUSES
from lab.sweeps.trials import Floats, Indices, Trials
from lab.theme import Palette

NAME = "scatter"
HEIGHT = 262
FIRST, STEP = 0.12, 0.115  # of the height: where the strip begins, and from status to status
EDGE = 0.04  # of the width, left and right
MOST_LOST = 3_000  # markers of their own; beyond, one for all in a bin
BINS = 120
LOST = ("x", "y", "color", "marker", "alpha", "told")


class Scatter:
    """One figure; every change is a change of data."""

    def __init__(self, brush: Brush) -> None:
        self._brush = brush
        self._columns: tuple[Column, Column] | None = None
        self._rows: list[int] = []  # statuses that have a place in the strip, from below
        self._x, self._inside = np.zeros(0), np.zeros(0, np.int64)
        self._points = np.zeros(0), np.zeros(0)
        self._back: Any = None
        self._told: tuple[Trials | None, list[str]] = (None, [])
        self.x, self.y = Range1d(0, 1), Range1d(0, 1)
        self.points, self.pale = columns("x", "y", "told"), columns("x", "y")
        self.points.name = "points of the sweep"
        self.picture = columns("image", "x", "y", "dw", "dh")
        self.picture.name = "picture of the points"
        self.pale_picture = columns("image", "x", "y", "dw", "dh")
        self.lost, self.edge = columns(*LOST), columns("y")
        self.lost.name = "trials that did not converge"
        self.figure = self._figure()
        self.brushable = Brushable(self.figure, self._brushed)
        self.region = Region(self.figure)
        self.ticks = WordTicks(self.figure.xaxis[0]), WordTicks(self.figure.yaxis[0])

    # -- building ---------------------------------------------------------------------------------

    def _figure(self) -> Any:
        plot = bare_figure(x_range=self.x, y_range=self.y, height=HEIGHT)
        self.rule = plot.hspan(y="y", source=self.edge, line_width=1, line_dash=[2, 3]).glyph
        self.mappers = [
            LogColorMapper(palette=["#000000"], low=1, high=10, low_color="#00000000")
            for _ in range(2)
        ]
        pictures = [
            plot.image("image", "x", "y", "dw", "dh", source=source, color_mapper=mapper)
            for source, mapper in zip((self.pale_picture, self.picture), self.mappers, strict=True)
        ]
        style: dict[str, Any] = dict(size=6, line_width=0.6)
        self.pale_dot = plot.scatter("x", "y", source=self.pale, alpha=0.25, **style).glyph
        dots = plot.scatter("x", "y", source=self.points, fill_alpha=0.75, **style)
        self.dot = dots.glyph
        lost = plot.scatter(
            "x", "y", source=self.lost, marker="marker", fill_color="color", line_color="color",
            fill_alpha="alpha", line_alpha="alpha", size=7, line_width=1.2,
        )  # fmt: skip
        self.hovers = (
            HoverTool(renderers=[dots, lost], limit=3), HoverTool(renderers=pictures[1:]),
        )  # fmt: skip
        plot.add_tools(*self.hovers)
        return plot

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme; `draw` follows."""
        self.brushable.paint(colors)
        self.region.paint(colors)
        converged = MARKS["CONVERGED"].color(colors)
        self.rule.line_color = colors.muted
        self.dot.fill_color, self.dot.line_color = converged, colors.paper
        self.pale_dot.fill_color, self.pale_dot.line_color = colors.muted, None
        deep = "#cfe6f5" if colors.dark else "#00335c"
        self.mappers[1].palette = ramp((_between(converged, colors.paper), converged, deep))
        pale = _between(colors.muted, colors.paper, 0.75)
        self.mappers[0].palette = ramp((_between(pale, colors.paper), pale))
        self.hovers[0].tooltips = tooltip({"trial": "@told"}, colors)
        self.hovers[1].tooltips = tooltip({"converged trials here": "@image{0,0}"}, colors)
        self._back = None

    # -- showing ----------------------------------------------------------------------------------

    def draw(self, shown: Shown, x: Column, y: Column) -> None:
        """Draw the trials over two columns."""
        self._columns = x, y
        trials = shown.trials
        self._place(trials)
        self._lay_out(trials)
        if trials.count <= raster.MANY:
            self._draw_points(shown)
        elif raster.prepare():
            self._draw_picture(shown)
        self._draw_lost(shown)

    def _place(self, trials: Trials) -> None:
        """Where all trials lie, and which of them lie inside: converged, both columns known."""
        assert self._columns is not None
        x, y = self._columns
        x.look(trials)
        y.look(trials)
        self._x, self._inside, self._points = trials.shared(
            ("points", x.name, y.name),
            lambda: _inside(trials, x.places(trials), y.places(trials)),
        )

    def _lay_out(self, trials: Trials) -> None:
        """Axes that only widen while one sweep is shown, with a row for each way to end."""
        assert self._columns is not None
        x, y = self._columns
        self._rows = sorted({*trials.lost, *self._rows})
        rows = {self._height(status): MARKS[STATUSES[status]].short for status in self._rows}
        side, top = EDGE * (x.span[1] - x.span[0]), y.span[1]
        fit(self.x, x.span[0] - side, x.span[1] + side)
        high = max(rows, default=top) + 0.6 * STEP * (top - y.span[0])
        fit(self.y, y.span[0] - EDGE * (top - y.span[0]), high)
        self.ticks[0].show(x.ticks(), x.label)
        self.ticks[1].show(y.ticks() | rows, y.label)
        edge = [top + 0.5 * FIRST * (top - y.span[0])] if rows else []
        if list(self.edge.data["y"]) != edge:
            self.edge.data = {"y": edge}

    def _height(self, status: int) -> float:
        """Where the trials with a status lie."""
        assert self._columns is not None
        low, high = self._columns[1].span
        return high + (high - low) * (FIRST + STEP * self._rows.index(status))

    def _draw_points(self, shown: Shown) -> None:
        told, (xs, ys) = self._texts(shown.trials), self._points
        chosen = np.ones(len(xs), bool) if shown.mask is None else shown.mask[self._inside]
        self.points.data = {
            "x": xs[chosen], "y": ys[chosen], "told": [told[k] for k in self._inside[chosen]],
        }  # fmt: skip
        self.pale.data = {"x": xs[~chosen], "y": ys[~chosen]}
        for source in (self.picture, self.pale_picture):
            if len(source.data["x"]):
                source.data = {name: [] for name in source.data}

    def _texts(self, trials: Trials) -> list[str]:
        """Each trial in words."""
        if self._told[0] is not trials:
            evaluations, texts = trials.values("num_evals"), []
            for k in range(trials.count):
                ended = MARKS[STATUSES[trials.statuses[k]]].word
                after = (
                    "" if np.isnan(evaluations[k]) else f" after {evaluations[k]:.0f} evaluations"
                )
                texts.append(f"{trials.setting(k)}: {ended}{after}")
            self._told = trials, texts
        return self._told[1]

    def _draw_picture(self, shown: Shown) -> None:
        assert self._columns is not None
        (x, y), mask, (xs, ys) = self._columns, shown.mask, self._points
        top = y.span[1] + EDGE * (y.span[1] - y.span[0])
        box = (float(self.x.start), float(self.x.end), float(self.y.start), top)
        key = ("every point", x.name, y.name, box)
        every = shown.trials.shared(key, lambda: raster.points(xs, ys, box))
        back = shown.trials, x.name, y.name, mask is not None
        if self._back != back:
            self._back = back
            self.mappers[0].high = self.mappers[1].high = max(int(every.max()), 2)
            self.pale_picture.data = _image(every if mask is not None else every[:0], box)
            self.points.data = {name: [] for name in self.points.data}
            self.pale.data = {"x": [], "y": []}
        if mask is None:
            counts = every
        else:
            chosen = mask[self._inside]
            counts = raster.points(xs[chosen], ys[chosen], box)
        self.picture.data = _image(counts, box)

    def _draw_lost(self, shown: Shown) -> None:
        """What did not converge, each with its status' marker; at the left if its x is unknown."""
        trials, mask, xs = shown.trials, shown.mask, self._x
        lost = np.concatenate([*trials.lost.values(), np.zeros(0, np.int64)])
        if len(lost) > MOST_LOST:
            self.lost.data = self._binned(shown)
            return
        inset = 0.3 * EDGE * (float(self.x.end) - float(self.x.start))  # half a marker
        low, high = float(self.x.start) + inset, float(self.x.end) - inset
        places = np.clip(np.where(np.isfinite(xs[lost]), xs[lost], low), low, high)
        names = [STATUSES[status] for status in trials.statuses[lost]]
        told = self._texts(trials) if trials.count <= raster.MANY else []
        self.lost.data = {
            "x": places, "y": [self._height(status) for status in trials.statuses[lost]],
            "color": [MARKS[name].color(shown.colors) for name in names],
            "marker": [MARKS[name].marker for name in names],
            "alpha": np.ones(len(lost)) if mask is None else np.where(mask[lost], 1.0, 0.15),
            "told": [told[k] if told else trials.setting(k) for k in lost],
        }  # fmt: skip

    def _binned(self, shown: Shown) -> dict[str, Any]:
        """One marker for all in a bin that ended alike; strong where some of them are selected."""
        low, high = float(self.x.start), float(self.x.end)
        rows: list[tuple[Any, ...]] = []
        for status, every in shown.trials.lost.items():
            place = np.nan_to_num((self._x[every] - low) / (high - low) * BINS)
            key = np.clip(place, 0, BINS - 1).astype(int)
            total = np.bincount(key, minlength=BINS)
            mine = total
            if shown.mask is not None:
                mine = np.bincount(key[shown.mask[every]], minlength=BINS)
            mark, y = MARKS[STATUSES[status]], self._height(status)
            color = mark.color(shown.colors)
            for k in np.flatnonzero(total):
                x = low + (k + 0.5) * (high - low) / BINS
                told = f"{mark.word}: {mine[k]:,} of {total[k]:,} trials here are selected"
                rows.append((x, y, color, mark.marker, 1.0 if mine[k] else 0.15, told))
        return {name: [row[k] for row in rows] for k, name in enumerate(LOST)}

    # -- answering --------------------------------------------------------------------------------

    def _brushed(self, box: Box) -> None:
        if self._columns is None:
            return
        left, right, bottom, top = box
        x, y = self._columns
        parts, words = [], []
        across, up = x.within(left, right), y.within(bottom, min(top, y.span[1]))
        if across is not None and up is not None and bottom <= y.span[1]:
            parts.append(across[0] & up[0])
            words.append(f"{across[1]}, {up[1]}")
        rows = [status for status in self._rows if bottom <= self._height(status) <= top]
        reaching = x.reaching(left, right)
        if rows and reaching is not None:
            ended = [Of("status") == STATUSES[status] for status in rows]
            parts.append(functools.reduce(operator.or_, ended) & reaching)
            words.append(" or ".join(MARKS[STATUSES[status]].word for status in rows))
        if parts:
            self.region.show(box)
            self._brush(NAME, functools.reduce(operator.or_, parts), "; ".join(words))

    def forget(self) -> None:
        """Nothing is brushed here any longer."""
        self.region.show(None)


def _inside(trials: Trials, x: Floats, y: Floats) -> tuple[Floats, Indices, tuple[Floats, Floats]]:
    """The first places, which trials converged and have both places, and their places."""
    inside = trials.converged & np.isfinite(x) & np.isfinite(y)
    return x, np.flatnonzero(inside), (x[inside], y[inside])


def _between(one: str, other: str, part: float = 0.45) -> str:
    """A color this part of the way from another to it."""
    ends = ([int(each[k : k + 2], 16) for k in (1, 3, 5)] for each in (other, one))
    return "#" + "".join(f"{round(a + part * (b - a)):02x}" for a, b in zip(*ends, strict=True))


def _image(counts: NDArray[np.uint32], box: Sequence[float]) -> dict[str, list[Any]]:
    left, right, bottom, top = box
    if not counts.size:
        return {"image": [], "x": [], "y": [], "dw": [], "dh": []}
    return {"image": [counts], "x": [left], "y": [bottom], "dw": [right - left],
            "dh": [top - bottom]}  # fmt: skip
