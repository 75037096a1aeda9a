"""Sample x evaluation: the residual as color, what the method did as marks on it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from bokeh.models import (
    BasicTicker,
    ColorBar,
    ColumnDataSource,
    CustomJSTickFormatter,
    HoverTool,
    LinearColorMapper,
    Range1d,
    Span,
)

from andersonn_core.curves import events, heat_map
from andersonn_core.results import SolveResult
from lab.figures.base import bare_figure, paint, ramp, tooltip
from lab.theme import FONT, Palette

TOLD = {"evaluation": "$x{0}", "sample": "$y{0}", "log10 residual": "@image{0.0}"}
MOST_RESTARTS = 3000  # marks; more would be a gray veil


class HeatMap:
    """One row per sample, ending where the sample stopped."""

    def __init__(self, colors: Palette) -> None:
        self.image = ColumnDataSource({"image": [], "x": [], "y": [], "dw": [], "dh": []})
        self.marks = {
            kind: ColumnDataSource({"evaluation": [], "sample": []})
            for kind in ("restart", "probe", "drop", "fallback")
        }
        self.x, self.y = Range1d(0.5, 10.5), Range1d(0.5, 1.5)
        self.mapper = LinearColorMapper(
            palette=list(colors.heat), low=-6, high=0, nan_color="rgba(0,0,0,0)"
        )
        self.figure = bare_figure(
            x_range=self.x,
            y_range=self.y,
            height=150,
            x_axis_label="evaluation",
            y_axis_label="sample",
        )
        self.figure.grid.visible = False
        self.figure.yaxis.ticker = BasicTicker(
            desired_num_ticks=3, mantissas=[1, 2, 4, 8], min_interval=1
        )
        self.figure.yaxis.formatter = CustomJSTickFormatter(
            code="return Number.isInteger(tick) ? tick : ''"
        )
        painted = self.figure.image(
            "image", "x", "y", "dw", "dh", source=self.image, color_mapper=self.mapper
        )
        self._marks()
        self._color_bar()
        self.hover = HoverTool(renderers=[painted])
        self.figure.add_tools(self.hover)
        self.cursor = Span(dimension="height", line_width=1.5, visible=False)
        self.figure.add_layout(self.cursor)
        self.paint(colors)

    def _marks(self) -> None:
        style: dict[str, Any] = dict(x="evaluation", y="sample")
        self.dots = {
            "restart": self.figure.scatter(
                marker="dash",
                angle=math.pi / 2,
                size=5,
                line_width=1,
                line_alpha=0.5,
                source=self.marks["restart"],
                **style,
            ),
            "probe": self.figure.scatter(
                marker="circle",
                size=5,
                line_width=1,
                fill_alpha=0,
                source=self.marks["probe"],
                **style,
            ),
            "drop": self.figure.scatter(
                marker="x", size=4, line_width=1, line_alpha=0.5, source=self.marks["drop"], **style
            ),
            "fallback": self.figure.scatter(
                marker="triangle", size=9, line_width=1.2, source=self.marks["fallback"], **style
            ),
        }

    def _color_bar(self) -> None:
        self.bar = ColorBar(
            color_mapper=self.mapper, width=8, height="auto", padding=2, label_standoff=5,
            major_label_text_font=FONT, major_label_text_font_size="11px", bar_line_color=None,
            ticker=BasicTicker(desired_num_ticks=4, mantissas=[1, 2, 5], min_interval=1),
            formatter=CustomJSTickFormatter(code="return tick == 0 ? '1' : '1e' + tick"),
            major_tick_line_color=None, title=None,
        )  # fmt: skip
        self.figure.add_layout(self.bar, "right")

    def paint(self, colors: Palette) -> None:
        """Give the map the colors of a theme."""
        paint(self.figure, colors)
        self.mapper.palette = ramp(colors.heat)
        self.hover.tooltips = tooltip(TOLD, colors)
        self.bar.background_fill_color = colors.paper
        self.bar.major_label_text_color = colors.muted
        self.cursor.line_color = colors.text
        for kind in ("restart", "probe", "drop"):
            self.dots[kind].glyph.line_color = colors.text
        fallback = self.dots["fallback"].glyph
        fallback.fill_color, fallback.line_color = "#D55E00", colors.paper

    def show(self, result: SolveResult, tolerance: float) -> None:
        """Draw a finished run."""
        frame = heat_map(result)
        samples, evaluations = frame.shape
        self.mapper.low = math.floor(math.log10(tolerance)) if tolerance > 0 else -15
        self.image.data = {
            "image": [frame.to_numpy(dtype=np.float32)], "x": [0.5], "y": [0.5],
            "dw": [evaluations], "dh": [samples],
        }  # fmt: skip
        self.x.start, self.x.end = 0.5, evaluations + 0.5
        self.y.start, self.y.end = 0.5, samples + 0.5
        table = events(result)
        for kind, source in self.marks.items():
            rows = table[table["event"] == kind]
            crowded = kind == "restart" and len(rows) > MOST_RESTARTS
            rows = rows.head(0) if crowded else rows
            source.data = {
                "evaluation": rows["evaluation"].to_numpy(),
                "sample": rows["sample"].to_numpy() + 1,
            }
        self.dots["restart"].glyph.size = max(2.0, min(8.0, 90 / samples))
        self.dots["restart"].glyph.line_alpha = 0.5 if samples <= 32 else 0.3

    def show_cursor(self, evaluation: float | None) -> None:
        """The line that scrubbing moves."""
        self.cursor.visible = evaluation is not None
        if evaluation is not None:
            self.cursor.location = evaluation
