"""The roofline: what a byte and an operation cost here, and where map and mixing stand below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bokeh.core.properties import value
from bokeh.models import CustomJSTickFormatter, LogTicker, Range1d

from andersonn_core.machine import Machine
from andersonn_core.roofline import Roof
from andersonn_core.words import rate_text
from lab.figures.base import bare_figure, columns, paint
from lab.theme import FONT, Palette

ROLES = {"map": "picard", "mixing": "anderson"}
SPEED = "const g = tick / 1e9; return +g.toPrecision(2) + ''"
LEAST, MOST = 0.02, 50.0  # flops per byte that are always shown


class Roofline:
    """Attained flop/s over flops per byte, on log axes."""

    def __init__(self, colors: Palette) -> None:
        self.roof = columns("x", "y", "width", "dash")
        self.points = columns("x", "y", "top", "color", "marker")
        self.words = columns("x", "y", "text", "color", "align", "right", "down")
        self.x, self.y = Range1d(LEAST, MOST), Range1d(1e8, 1e11)
        self.figure = self._figure()
        self._last: tuple[Machine, Sequence[Roof]] | None = None
        self.paint(colors)

    def _figure(self) -> Any:
        plot = bare_figure(
            x_axis_type="log", y_axis_type="log", x_range=self.x, y_range=self.y, height=260,
            x_axis_label="operations per byte moved (flop/B)", y_axis_label="speed (Gflop/s)",
        )  # fmt: skip
        plot.xaxis.ticker = LogTicker(num_minor_ticks=0, desired_num_ticks=5)
        plot.yaxis.ticker = LogTicker(num_minor_ticks=0, desired_num_ticks=5)
        plot.xaxis.formatter = CustomJSTickFormatter(code="return +tick.toPrecision(2) + ''")
        plot.yaxis.formatter = CustomJSTickFormatter(code=SPEED)
        self.lines = plot.multi_line(
            "x", "y", source=self.roof, line_width="width", line_dash="dash"
        ).glyph
        plot.segment(
            "x", "y", "x", "top", source=self.points, line_color="color", line_dash="dotted",
            line_width=1.5,
        )  # fmt: skip
        plot.scatter(
            "x", "y", source=self.points, marker="marker", size=10, fill_color="color",
            line_color=None,
        )  # fmt: skip
        plot.text(
            "x", "y", "text", source=self.words, text_color="color", text_align="align",
            x_offset="right", y_offset="down", text_font=value(FONT), text_font_size="11.5px",
            text_baseline="middle",
        )  # fmt: skip
        return plot

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.colors = colors
        paint(self.figure, colors)
        self.lines.line_color = colors.text
        if self._last is not None:
            self.show(*self._last)

    def show(self, machine: Machine, roofs: Sequence[Roof]) -> None:
        """Draw the roof of the memory that the solve works in, and the main memory's."""
        self._last = machine, roofs
        known = [roof for roof in roofs if math.isfinite(roof.attained) and roof.attained > 0]
        intensities = [roof.work.intensity for roof in known]
        left = min([LEAST, *(each / 3 for each in intensities)])
        right = max([MOST, *(each * 3 for each in intensities)])
        peak = max(roof.peak for roof in roofs)
        slopes = self._slopes(machine, roofs[0])
        self.x.start, self.x.end = left, right
        lowest = min([slopes[-1][1] * left * 2, *(roof.attained / 3 for roof in known)])
        self.y.start, self.y.end = lowest, peak * 3
        self.roof.data = {
            "x": [[left, peak / speed, right] for _, speed in slopes],
            "y": [[left * speed, peak, peak] for _, speed in slopes],
            "width": [2.2, 1.2][: len(slopes)], "dash": ["solid", "4 3"][: len(slopes)],
        }  # fmt: skip
        strokes = [self.colors.strokes[ROLES[roof.what]] for roof in known]
        self.points.data = {
            "x": intensities, "y": [roof.attained for roof in known],
            "top": [roof.attainable for roof in known],
            "color": [stroke.color for stroke in strokes],
            "marker": [stroke.marker for stroke in strokes],
        }  # fmt: skip
        self._label(known, slopes, peak, right)

    def _slopes(self, machine: Machine, roof: Roof) -> list[tuple[str, float]]:
        """Name and speed: of where the solve's memory lies, and of the main memory."""
        slopes = [(roof.place, roof.bandwidth)]
        if roof.place != "memory":
            slopes.append(("memory", machine.bandwidth(2.0**40)))
        return slopes

    def _label(
        self, known: Sequence[Roof], slopes: Sequence[tuple[str, float]], peak: float, right: float
    ) -> None:
        words = [(right, peak, rate_text(peak, "flop/s"), self.colors.text, "right", -4, -10)]
        (name, speed), *rest = slopes
        told = f"{name} {rate_text(speed, 'B/s')}"
        words.append((peak / speed, peak, told, self.colors.text, "right", -2, -10))
        for name, speed in rest:
            at = (self.x.start**3 * peak / speed) ** 0.25  # low on the slope
            told = f"{name} {rate_text(speed, 'B/s')}"
            words.append((at, at * speed, told, self.colors.muted, "left", 10, 12))
        for roof in known:
            ink = self.colors.strokes[ROLES[roof.what]].ink
            words.append((roof.work.intensity, roof.attained, roof.what, ink, "left", 10, 0))
        names = ("x", "y", "text", "color", "align", "right", "down")
        self.words.data = dict(zip(names, map(list, zip(*words, strict=True)), strict=True))
