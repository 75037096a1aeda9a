"""Residual curves of the selected trials; of many, those spread evenly from fastest to slowest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd
from bokeh.models import CustomJSTickFormatter, HoverTool, Range1d

from andersonn_core.words import seconds_text
from lab.figures.base import bare_figure, columns, decades, durations, tooltip
from lab.sweeps.brush import Box, Brushable, Region, fit
from lab.sweeps.columns import Of
from lab.sweeps.shown import Brush, Shown, trial_colors
from lab.sweeps.trials import Indices, Mask, Trials
from lab.sweeps.words import many
from lab.theme import Palette

NAME = "residual curves"
HEIGHT = 262
MOST = 200  # curves
FLOOR = 1e-16  # below which a level is drawn as this
HIGHEST = 1e2  # level that the axis shows: what diverges leaves the frame
LINES = ("x", "seconds", "y", "color", "width", "told")
By = Literal["evaluation", "seconds"]
X_TITLES: dict[By, str] = {"evaluation": "evaluations of the map", "seconds": "seconds"}


def sample(trials: Trials, mask: Mask | None, most: int = MOST) -> Indices:
    """At most so many selected trials, the fastest and the slowest among them."""
    reached = trials.order("num_evals")
    reached = reached if mask is None else reached[mask[reached]]
    rest = [each if mask is None else each[mask[each]] for each in trials.lost.values()]
    every = np.concatenate([reached, *rest])
    if len(every) <= most:
        return every
    return np.asarray(every[np.round(np.linspace(0, len(every) - 1, most)).astype(np.int64)])


class Curves:
    """One figure; every change is a change of data."""

    def __init__(self, brush: Brush) -> None:
        self._brush = brush
        self.by: By = "evaluation"
        self._frame = pd.DataFrame(columns=["row", "evaluation", "seconds", "level"])
        self._shown: Shown | None = None
        self._index: Indices = np.zeros(0, np.int64)
        self._ends: dict[By, tuple[float, float]] = {}
        self._lowest = 1.0
        self.x = {"evaluation": Range1d(0, 10), "seconds": Range1d(1e-3, 1)}
        self.y = Range1d(1e-6, 10.0)
        self.lines = columns(*LINES)
        self.lines.name = "curves of the selection"
        self.figures = {by: self._figure(by) for by in X_TITLES}
        self.brushables = [
            Brushable(plot, lambda box, by=by: self._brushed(by, box))
            for by, plot in self.figures.items()
        ]
        self.regions = {by: Region(plot) for by, plot in self.figures.items()}

    def _figure(self, by: By) -> Any:
        plot = bare_figure(
            x_range=self.x[by], y_range=self.y, height=HEIGHT, y_axis_type="log",
            x_axis_type="log" if by == "seconds" else "linear", x_axis_label=X_TITLES[by],
            y_axis_label="relative residual",
        )  # fmt: skip
        decades(plot.yaxis[0])
        if by == "seconds":
            durations(plot.xaxis[0])
        else:
            plot.xaxis[0].formatter = CustomJSTickFormatter(
                code="return Number.isInteger(tick) ? String(tick) : ''"
            )
        drawn = plot.multi_line(
            "x" if by == "evaluation" else "seconds", "y", source=self.lines, line_color="color",
            line_width="width", line_alpha=0.75,
        )  # fmt: skip
        plot.add_tools(HoverTool(renderers=[drawn], line_policy="interp", limit=3))
        return plot

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme; `draw` follows."""
        for brushable in self.brushables:
            brushable.paint(colors)
        for region in self.regions.values():
            region.paint(colors)
        for plot in self.figures.values():
            plot.select_one(HoverTool).tooltips = tooltip({"trial": "@told"}, colors)

    # -- showing ----------------------------------------------------------------------------------

    def draw(self, shown: Shown, index: Indices, frame: pd.DataFrame) -> None:
        """Draw the curves of these trials: row, evaluation, seconds and level in `frame`."""
        self._shown, self._index, self._frame = shown, index, frame
        trials = shown.trials
        colors = dict(zip(index.tolist(), trial_colors(shown, index).tolist(), strict=True))
        place = dict(zip(trials.rows[index].tolist(), index.tolist(), strict=True))
        starts, keys, columns_ = _split(frame)
        width = 2.2 if len(keys) <= 12 else 1.2
        rows: list[tuple[Any, ...]] = []
        for number, row in enumerate(keys):
            if row in place:
                part = slice(starts[number], starts[number + 1])
                told = (colors[place[row]], width, trials.setting(place[row]))
                rows.append((*(each[part] for each in columns_), *told))
        self.lines.data = {name: [row[k] for row in rows] for k, name in enumerate(LINES)}
        reached = set(trials.rows[index[trials.converged[index]]].tolist())
        self._lay_out(frame, frame[frame["row"].isin(reached)] if reached else frame)

    def _lay_out(self, frame: pd.DataFrame, reached: pd.DataFrame) -> None:
        """Axes around the curves that converged, if any did; that of residuals only widens."""
        if frame.empty:
            return
        level = frame["level"].to_numpy(float)
        level = level[np.isfinite(level) & (level > 0)]
        if level.size:
            lowest = 10.0 ** math.floor(math.log10(max(float(level.min()), FLOOR)))
            self._lowest = min(self._lowest, lowest)
            highest = 10.0 ** math.ceil(math.log10(min(float(level.max()), HIGHEST)))
            fit(self.y, self._lowest / 2, 1.5 * max(highest, float(self.y.end) / 1.5))
        fit(self.x["evaluation"], 0.0, 1.03 * float(reached["evaluation"].max()))
        seconds = reached["seconds"].to_numpy(float)
        seconds = seconds[np.isfinite(seconds) & (seconds > 0)]
        if seconds.size:
            fit(self.x["seconds"], 0.9 * float(seconds.min()), 1.15 * float(seconds.max()))

    def note(self, shown: Shown, chosen: int) -> str:
        """How many of the selected trials' curves are drawn, and which."""
        drawn = len(self.lines.data["x"])
        if not chosen:
            return "No trial is selected."
        if not drawn:
            return "The selected trials have no stored curves."
        words = f"All {many(chosen, 'selected trial')}"
        if drawn < chosen:
            words = f"{drawn} of {many(chosen, 'selected trial')}, from the fastest to the slowest"
        return f"{words}; the median of each batch. Drag a box: the trials that pass through it."

    # -- answering --------------------------------------------------------------------------------

    def _brushed(self, by: By, box: Box) -> None:
        """The trials whose curve has a point in the box."""
        left, right, bottom, top = box
        frame = self._frame
        inside = frame[by].between(left, right) & frame["level"].between(bottom, top)
        rows = frame.loc[inside, "row"].unique().tolist()
        if not rows:
            return
        self.forget()
        self.regions[by].show(box)
        where = (
            f"{math.ceil(left)} to {math.floor(right)} evaluations" if by == "evaluation"
            else f"{seconds_text(left)} to {seconds_text(right)}"
        )  # fmt: skip
        words = (
            f"{many(len(rows), 'curve')} with a residual of {bottom:.0e} to {top:.0e} at {where}"
        )
        self._brush(NAME, Of("row").isin(rows), words)

    def forget(self) -> None:
        """Nothing is brushed here any longer."""
        for region in self.regions.values():
            region.show(None)


def _split(frame: pd.DataFrame) -> tuple[list[int], list[int], list[Any]]:
    """Where each row's curve starts (and the last ends), the rows, and the sorted columns."""
    row = frame["row"].to_numpy(np.int64)
    order = np.argsort(row, kind="stable")
    keys, starts = np.unique(row[order], return_index=True)
    names = ("evaluation", "seconds", "level")
    evaluation, seconds, level = (frame[name].to_numpy(float)[order] for name in names)
    ends = [*starts.tolist(), len(row)]
    return ends, keys.tolist(), [evaluation, seconds, np.maximum(level, FLOOR)]


Read = Callable[[list[int], int], pd.DataFrame]  # rows, most -> row, evaluation, seconds, level
