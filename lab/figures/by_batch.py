"""Lines over the batch size on two log axes, with quartiles or intervals as whiskers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bokeh.core.properties import value
from bokeh.models import CustomJSTickFormatter, FixedTicker, HoverTool, LogTicker, Range1d

from lab.figures.base import bare_figure, columns, durations, paint, tooltip
from lab.figures.curves import stacked
from lab.theme import FONT, Palette

Kind = Literal["seconds", "speedup"]
Y_TITLES: dict[Kind, str] = {
    "seconds": "wall seconds of a solve",
    "speedup": "speed-up S (forward / Anderson)",
}
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
FRAME = 220.0  # pixels from the lowest to the highest value, about
HEIGHT = 300
WORDS_ROOM = 2.6  # times the axis' decades: space for the labels at the lines' ends
LINES = ("x", "y", "color", "dash", "width")
DOTS = ("x", "y", "low", "high", "told", "name", "color", "marker")
LABELS = ("x", "y", "text", "color", "down")


@dataclass(frozen=True)
class Series:
    """One line: values at batch sizes, their spreads, and each in words."""

    role: str
    name: str
    sizes: Sequence[int]
    values: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    told: Sequence[str]


class ByBatch:
    """The figure; every change is a change of data."""

    def __init__(self, kind: Kind, colors: Palette) -> None:
        self.kind = kind
        self.shown: Sequence[Series] = ()
        self.lines, self.dots = columns(*LINES), columns(*DOTS)
        self.labels, self.even = columns(*LABELS), columns("y")
        self.x, self.y = Range1d(0.8, 1000.0), Range1d(0.1, 10.0)
        self.sizes = FixedTicker(ticks=[])
        self.figure = self._figure()
        self.paint(colors)

    def _figure(self) -> Any:
        plot = bare_figure(
            x_axis_type="log", y_axis_type="log", x_range=self.x, y_range=self.y, height=HEIGHT,
            x_axis_label="batch size B", y_axis_label=Y_TITLES[self.kind],
        )  # fmt: skip
        plot.xaxis.ticker, plot.xgrid.visible = self.sizes, False
        plot.xaxis.formatter = CustomJSTickFormatter(code="return String(tick)")
        if self.kind == "seconds":
            plot.yaxis.ticker = LogTicker(num_minor_ticks=0, desired_num_ticks=5)
            durations(plot.yaxis)
        else:
            plot.yaxis.ticker = FixedTicker(ticks=list(TICKS))
            plot.yaxis.formatter = CustomJSTickFormatter(code="return tick + 'x'")
        self.rule = plot.hspan(y="y", source=self.even, line_width=1, line_dash=[1, 3]).glyph
        plot.multi_line(
            "x", "y", source=self.lines, line_color="color", line_dash="dash", line_width="width"
        )
        plot.segment("x", "low", "x", "high", source=self.dots, line_color="color", line_width=1.5)
        dots = plot.scatter(
            "x", "y", source=self.dots, marker="marker", size=9, line_width=2, line_color="color"
        )
        self.dot = dots.glyph
        plot.text(
            "x", "y", "text", source=self.labels, text_color="color", x_offset=10, y_offset="down",
            text_baseline="middle", text_font=value(FONT), text_font_size="13px",
            text_font_style="bold", level="annotation",
        )  # fmt: skip
        self.hover = HoverTool(renderers=[dots])
        plot.add_tools(self.hover)
        return plot

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.colors = colors
        paint(self.figure, colors)
        self.rule.line_color, self.dot.fill_color = colors.muted, colors.paper
        self.hover.tooltips = tooltip({"batch size": "@x", "@name": "@told"}, colors)
        self.show(self.shown)

    def show(self, series: Sequence[Series]) -> None:
        """Draw these lines."""
        self.shown = series
        if not series:
            return
        self._fit(series)
        strokes = [self.colors.of(each.role) for each in series]
        self.lines.data = {
            "x": [list(each.sizes) for each in series],
            "y": [list(each.values) for each in series],
            "color": [stroke.color for stroke in strokes],
            "dash": [stroke.dash for stroke in strokes],
            "width": [stroke.width for stroke in strokes],
        }  # fmt: skip
        rows = [
            (*point, each.name, stroke.color, stroke.marker)
            for each, stroke in zip(series, strokes, strict=True)
            for point in zip(each.sizes, each.values, each.lows, each.highs, each.told, strict=True)
        ]
        self.dots.data = dict(zip(DOTS, map(list, zip(*rows, strict=True)), strict=True))
        self.even.data = {"y": [1.0] if self.kind == "speedup" else []}
        self._label(series)

    def _fit(self, series: Sequence[Series]) -> None:
        """Axes around all values and spreads; at the right there is room for names."""
        sizes = sorted({size for each in series for size in each.sizes})
        self.sizes.ticks = sizes
        decades = max(math.log10(sizes[-1] / sizes[0]), 0.5)
        self.x.start = sizes[0] / 10 ** (0.06 * decades)
        self.x.end = sizes[-1] * 10 ** (decades / WORDS_ROOM)
        every = [end for each in series for end in (*each.lows, *each.highs, *each.values)]
        every += [1.0] if self.kind == "speedup" else []
        self.y.start, self.y.end = min(every) / 1.4, max(every) * 1.4

    def _label(self, series: Sequence[Series]) -> None:
        """Each line's name at its end."""
        ends = [(float(each.sizes[-1]), float(each.values[-1])) for each in series]
        decade = FRAME / math.log10(float(self.y.end) / float(self.y.start))  # pixels
        heights = [decade * math.log10(y) for _, y in ends]
        shifts = stacked([(0.0, 1.0)] * len(ends), heights, below=0.0)
        rows = [
            (*end, each.name, self.colors.of(each.role).ink, shift)
            for end, each, shift in zip(ends, series, shifts, strict=True)
        ]
        self.labels.data = dict(zip(LABELS, map(list, zip(*rows, strict=True)), strict=True))
