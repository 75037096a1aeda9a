"""The complex plane: eigenvalues as points, |p_k| as a heat map whose roots walk onto them."""

from __future__ import annotations

import numpy as np
from bokeh.models import (
    BasicTicker,
    ColorBar,
    ColumnDataSource,
    CustomJSTickFormatter,
    LinearColorMapper,
    Range1d,
)
from numpy.typing import NDArray

from lab.figures.base import bare_figure, keep_square, paint, ramp
from lab.theme import FONT, Palette

DECADES_SHOWN = 5.0
HEIGHT = 340


class Plane:
    """log10 |p_k| over the plane, with the unit circle, the point 1 and the eigenvalues."""

    def __init__(self, colors: Palette) -> None:
        self.x, self.y = Range1d(-1.4, 1.4), Range1d(-1.2, 1.2)
        self.image = ColumnDataSource({"image": [], "x": [], "y": [], "dw": [], "dh": []})
        self.eigenvalues = ColumnDataSource({"x": [], "y": []})
        self.mapper = LinearColorMapper(palette=list(colors.heat), low=-DECADES_SHOWN, high=0)
        self.figure = bare_figure(
            x_range=self.x, y_range=self.y, height=HEIGHT,
            x_axis_label="real part", y_axis_label="imaginary part",
        )  # fmt: skip
        self.figure.grid.visible = False
        self.box = keep_square(self.figure, (-1.4, 1.4, -1.2, 1.2))
        self.figure.image(
            "image", "x", "y", "dw", "dh", source=self.image, color_mapper=self.mapper
        )
        turn = np.linspace(0, 2 * np.pi, 181)
        self.circle = self.figure.line(
            np.cos(turn), np.sin(turn), line_width=1, line_dash=[3, 3]
        ).glyph
        self.dots = self.figure.scatter(
            "x", "y", source=self.eigenvalues, size=6, line_width=1.2
        ).glyph
        self.one = self.figure.scatter([1.0], [0.0], marker="x", size=10, line_width=2).glyph
        self.bar = ColorBar(
            color_mapper=self.mapper,
            width=8,
            padding=2,
            label_standoff=5,
            bar_line_color=None,
            major_label_text_font=FONT,
            major_label_text_font_size="11px",
            major_tick_line_color=None,
            ticker=BasicTicker(desired_num_ticks=4, min_interval=1),
            formatter=CustomJSTickFormatter(code="return tick == 0 ? '1' : '1e' + tick"),
        )
        self.figure.add_layout(self.bar, "right")
        self.paint(colors)

    def paint(self, colors: Palette) -> None:
        """Give the plane the colors of a theme."""
        paint(self.figure, colors)
        self.mapper.palette = ramp(colors.heat)
        self.circle.line_color = colors.text
        self.dots.fill_color, self.dots.line_color = "#D55E00", colors.paper
        self.one.line_color = colors.text
        self.bar.background_fill_color = colors.paper
        self.bar.major_label_text_color = colors.muted

    def place(
        self, box: tuple[float, float, float, float], eigenvalues: NDArray[np.complex128]
    ) -> None:
        """Show this part of the plane (left, right, bottom, top) and these eigenvalues."""
        left, right, bottom, top = box
        self.box.data = {"edge": [left, right, bottom, top]}
        self.eigenvalues.data = {"x": eigenvalues.real, "y": eigenvalues.imag}
        few = len(eigenvalues) <= 60
        self.dots.size = 7 if few else 4 if len(eigenvalues) <= 500 else 2.5
        self.dots.line_width = 1.2 if few else 0.3

    def show(self, magnitude: NDArray[np.float64], box: tuple[float, float, float, float]) -> None:
        """Draw |p_k| on a grid (rows from bottom to top)."""
        left, right, bottom, top = box
        logs = np.log10(np.clip(magnitude, 1e-30, 1e30)).astype(np.float32)
        self.image.data = {
            "image": [logs],
            "x": [left],
            "y": [bottom],
            "dw": [right - left],
            "dh": [top - bottom],
        }
