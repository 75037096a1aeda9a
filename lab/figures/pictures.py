"""What the map computes: digits with their predictions settling, or the fields of both methods."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, FixedTicker, LinearColorMapper, Range1d
from numpy.typing import NDArray

from lab.figures.base import bare_figure, keep_square, paint, ramp
from lab.theme import FONT, LABELS, Palette

MOST_DIGITS = 64
TILE = 1.3  # from one digit to the next, in digits
ROW = 1.75  # from one row to the next: a digit and the line of readings below it
ROW_PIXELS = 86
MOST_PIXELS = 96  # along a field's side
SHOWN = ("picard", "anderson")


class DigitsPicture:
    """The digits in a grid; under each, what either method would read now, paler when less sure."""

    def __init__(self, colors: Palette) -> None:
        self.tiles = ColumnDataSource({"image": [], "x": [], "y": [], "dw": [], "dh": []})
        self.reads = {name: ColumnDataSource(_no_text()) for name in SHOWN}
        self.marks = ColumnDataSource({"left": [], "right": [], "top": [], "bottom": []})
        self.x, self.y = Range1d(0, 1), Range1d(0, 1)
        self.figure = bare_figure(x_range=self.x, y_range=self.y, height=ROW_PIXELS)
        self.figure.axis.visible = self.figure.grid.visible = False
        self.mapper = LinearColorMapper(palette=["#ffffff", "#000000"], low=0, high=1)
        self.figure.image(
            "image", "x", "y", "dw", "dh", source=self.tiles, color_mapper=self.mapper
        )
        self.frame = self.figure.quad(
            source=self.marks,
            fill_color=None,
            line_width=1.6,
            left="left",
            right="right",
            top="top",
            bottom="bottom",
        ).glyph
        self.texts = {
            name: self.figure.text(
                "x",
                "y",
                "text",
                text_alpha="alpha",
                source=self.reads[name],
                text_align="center",
                text_baseline="middle",
                text_font=value(FONT),
                text_font_style="bold",
                text_font_size="13px",
            ).glyph
            for name in SHOWN
        }
        self.columns, self.rows = 16, 1
        self.paint(colors)

    def paint(self, colors: Palette) -> None:
        """Give the digits the colors of a theme."""
        paint(self.figure, colors)
        self.mapper.palette = ramp((colors.canvas, colors.text))
        self.frame.line_color = colors.bad
        for name in SHOWN:
            self.texts[name].text_color = colors.strokes[name].ink

    def lay_out(self, images: NDArray[Any]) -> None:  # (B, height, width)
        """Place the digits in a grid."""
        images = images[:MOST_DIGITS]
        count = len(images)
        self.columns = 16 if count <= 32 else 22
        self.rows = max(math.ceil(count / self.columns), 1)
        self.x.end = self.columns * TILE
        self.y.end = self.rows * ROW
        self.figure.height = round(self.rows * ROW_PIXELS)
        places = [self._place(index) for index in range(count)]
        high = float(images.max()) if count else 1.0
        self.tiles.data = {
            "image": [np.flipud(image).astype(np.float32) / (high or 1.0) for image in images],
            "x": [x for x, _ in places], "y": [y for _, y in places],
            "dw": [1.0] * count, "dh": [1.0] * count,
        }  # fmt: skip

    def _place(self, index: int) -> tuple[float, float]:
        """The lower left corner of a digit."""
        row, column = divmod(index, self.columns)
        return column * TILE + (TILE - 1) / 2, (self.rows - row) * ROW - 1.02

    def show(self, chances: Mapping[str, NDArray[Any] | None], final: NDArray[Any] | None) -> None:
        """Write each method's present readings; frame the digits that Anderson gets wrong."""
        count = len(self.tiles.data["x"])
        wrong: set[int] = set()
        for name, offset in zip(SHOWN, (0.26, 0.74), strict=True):
            probabilities = chances.get(name)
            if probabilities is None or not count:
                self.reads[name].data = _no_text()
                continue
            sure = probabilities[:count].astype(float)
            reading = sure.argmax(1)
            if final is not None and name == "anderson":
                wrong |= set(np.nonzero(reading != final[:count])[0].tolist())
            self.reads[name].data = self._texts(reading, sure.max(1), offset)
        self._frame(sorted(wrong))

    def _texts(self, reading: NDArray[Any], sure: NDArray[Any], offset: float) -> dict[str, Any]:
        places = [self._place(index) for index in range(len(reading))]
        return {
            "x": [x + offset for x, _ in places],
            "y": [y - 0.34 for _, y in places],
            "text": [str(digit) for digit in reading],
            "alpha": np.clip(sure, 0.35, 1.0),
        }

    def _frame(self, which: list[int]) -> None:
        places = [self._place(index) for index in which]
        self.marks.data = {
            "left": [x for x, _ in places], "right": [x + 1 for x, _ in places],
            "top": [y + 1 for _, y in places], "bottom": [y for _, y in places],
        }  # fmt: skip


class FieldPicture:
    """One sample's field under forward iteration and under Anderson, on the final field's scale."""

    def __init__(self, colors: Palette) -> None:
        self.mapper = LinearColorMapper(palette=list(colors.heat), low=0, high=1)
        self.sources = {name: ColumnDataSource({"image": []}) for name in SHOWN}
        self.figures = {name: self._field(name) for name in SHOWN}
        self.paint(colors)

    def _field(self, name: str) -> Any:
        plot = bare_figure(
            x_range=Range1d(0, 1), y_range=Range1d(0, 1), height=230, title=LABELS[name],
        )  # fmt: skip
        keep_square(plot, (0.0, 1.0, 0.0, 1.0))
        plot.grid.visible = False
        plot.axis.ticker = FixedTicker(ticks=[])
        plot.axis.axis_line_color = None
        plot.image("image", 0, 0, 1, 1, source=self.sources[name], color_mapper=self.mapper)
        return plot

    def paint(self, colors: Palette) -> None:
        """Give the fields the colors of a theme."""
        self.mapper.palette = ramp(tuple(reversed(colors.heat)))
        for name, plot in self.figures.items():
            paint(plot, colors)
            plot.axis.axis_line_color = None
            plot.title.text_color = colors.strokes[name].ink
            plot.title.text_font, plot.title.text_font_size = FONT, "13px"

    def scale(self, final: NDArray[Any]) -> None:  # (height, width)
        """The color scale that the final field needs."""
        low, high = float(np.nanmin(final)), float(np.nanmax(final))
        self.mapper.low, self.mapper.high = low, max(high, low + 1e-12)

    def show(self, name: str, field: NDArray[Any] | None) -> None:
        """Draw one method's field."""
        if field is not None:
            step = max(1, math.ceil(max(field.shape) / MOST_PIXELS))
            self.sources[name].data = {"image": [field[::step, ::step].astype(np.float32)]}


def _no_text() -> dict[str, list[Any]]:
    return {"x": [], "y": [], "text": [], "alpha": []}
