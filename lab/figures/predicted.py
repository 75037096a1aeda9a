"""Speed-ups as predicted and as measured, a dot a cell: right on the diagonal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.core.properties import value
from bokeh.models import CustomJSTickFormatter, FixedTicker, HoverTool, Range1d

from andersonn_core.words import ratio_text
from lab.figures.base import bare_figure, columns, paint, tooltip
from lab.phase import Cell, setting_text
from lab.theme import FONT, Palette

WITHIN = 0.2  # of the measured value: the band
FURTHEST = 50.0  # times 1 that is still drawn
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
TOLD = {"setting": "@setting", "predicted": "@predicted", "measured": "@measured"}


class Predicted:
    """Predicted S against measured S on log axes."""

    def __init__(self, colors: Palette) -> None:
        self.dots = columns("x", "y", "color", "setting", "predicted", "measured")
        self.here, self.bar = columns("x", "y"), columns("low", "high", "y")
        self.band = columns("x", "low", "high")
        self.lines = columns("x0", "y0", "x1", "y1", "width")
        self.words = columns("x", "y", "text", "align", "right", "down")
        self.x, self.y = Range1d(0.5, 2.0), Range1d(0.5, 2.0)
        self.figure = self._figure()
        self.paint(colors)

    def _figure(self) -> Any:
        plot = bare_figure(
            x_axis_type="log", y_axis_type="log", x_range=self.x, y_range=self.y, height=260,
            x_axis_label="S predicted from the first quarter of both solves",
            y_axis_label="S measured",
        )  # fmt: skip
        for axis in plot.axis:
            axis.ticker = FixedTicker(ticks=list(TICKS))
            axis.formatter = CustomJSTickFormatter(code="return tick + 'x'")
        self.shade = plot.varea("x", "low", "high", source=self.band, fill_alpha=0.12).glyph
        self.line = plot.segment(
            "x0", "y0", "x1", "y1", source=self.lines, line_dash=[5, 4], line_width="width"
        ).glyph
        painted = plot.scatter(
            "x", "y", source=self.dots, size=6, fill_color="color", fill_alpha=0.55, line_color=None
        )
        self.whisker = plot.segment("low", "y", "high", "y", source=self.bar, line_width=2).glyph
        self.ring = plot.scatter(
            "x", "y", source=self.here, size=12, fill_alpha=0, line_width=2.2
        ).glyph
        self.word = plot.text(
            "x", "y", "text", source=self.words, text_align="align", x_offset="right",
            y_offset="down", text_font=value(FONT), text_font_size="11.5px", text_baseline="middle",
            padding=1, border_radius=3, background_fill_alpha=0.85,
        ).glyph  # fmt: skip
        self.hover = HoverTool(renderers=[painted])
        plot.add_tools(self.hover)
        return plot

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.colors = colors
        paint(self.figure, colors)
        self.shade.fill_color = self.line.line_color = colors.muted
        self.whisker.line_color = self.ring.line_color = colors.text
        self.word.text_color, self.word.background_fill_color = colors.muted, colors.paper
        self.hover.tooltips = tooltip(TOLD, colors)
        if self.dots.data:
            self.dots.data = dict(self.dots.data) | {"color": self._colors(self.dots.data["y"])}

    def _colors(self, measured: Sequence[float]) -> list[str]:
        """Blue where Anderson wins, slate where forward iteration does."""
        names = ("anderson" if each > 1 else "picard" for each in measured)
        return [self.colors.strokes[name].color for name in names]

    def show(self, cells: Sequence[Cell], here: Cell | None) -> None:
        """Draw the cells that have both numbers."""
        shown = drawable(cells)
        pairs = [(cell.predicted, cell.speedup) for cell in shown]
        end = 1.3 * max((_far(each) for pair in pairs for each in pair), default=2.0)
        end = min(max(end, 1.6), FURTHEST)
        for span in (self.x, self.y):
            span.start, span.end = 1 / end, end
        edge = np.array([1 / end, end])
        self.band.data = {"x": edge, "low": edge * (1 - WITHIN), "high": edge * (1 + WITHIN)}
        self.lines.data = {
            "x0": [1 / end, 1, 1 / end], "y0": [1 / end, 1 / end, 1], "x1": [end, 1, end],
            "y1": [end, end, 1], "width": [1.2, 0.8, 0.8],
        }  # fmt: skip
        measured = [cell.speedup for cell in shown]
        self.dots.data = {
            "x": [cell.predicted for cell in shown], "y": measured, "color": self._colors(measured),
            "setting": [setting_text(cell.setting) for cell in shown],
            "predicted": [ratio_text(cell.predicted) for cell in shown],
            "measured": [ratio_text(cell.speedup) for cell in shown],
        }  # fmt: skip
        mine = drawable([here] if here is not None else [])
        self.here.data = {"x": [c.predicted for c in mine], "y": [c.speedup for c in mine]}
        self.bar.data = {
            "low": [max(c.predicted_low, 1 / end) for c in mine],
            "high": [min(c.predicted_high, end) for c in mine], "y": [c.speedup for c in mine],
        }  # fmt: skip
        words = [(1 / end, 1 / end * (1 + WITHIN), "within 20 %", "left", 6, -16)]
        sides = {True: ("right", -10, -12), False: ("left", 10, 12)}  # away from the nearer edge
        words += [(c.predicted, c.speedup, "you are here", *sides[c.predicted > 1]) for c in mine]
        names = ("x", "y", "text", "align", "right", "down")
        self.words.data = dict(zip(names, map(list, zip(*words, strict=True)), strict=True))


def drawable(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with a prediction and a measurement that can be compared."""
    return [
        cell
        for cell in cells
        if cell.converged and not cell.bound and _is_factor(cell.predicted, cell.speedup)
    ]


def _is_factor(*values: float) -> bool:
    return all(1 / FURTHEST < each < FURTHEST for each in values)


def _far(factor: float) -> float:
    return max(factor, 1 / factor)


def hits(cells: Sequence[Cell]) -> tuple[int, int]:
    """How many of the comparable cells lie in the band, and of how many."""
    shown = drawable(cells)
    good = [math.fabs(cell.predicted / cell.speedup - 1) <= WITHIN for cell in shown]
    return sum(good), len(good)
