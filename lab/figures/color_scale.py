"""A color scale beside a figure, drawn with ordinary glyphs.

BokehJS's own ColorBar throws where it is changed before the browser has laid it out, or where it
comes late; what came in the same message is lost with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.models import LinearAxis, Range1d

from lab.figures.base import bare_figure, columns, paint
from lab.figures.word_ticks import WordTicks
from lab.theme import Palette

WIDTH, ROOM = 58, 44  # px: all of it, and of that for the words
LABELS, ABOVE = 54, 9  # px below and above a figure's frame


class ColorScale:
    """A palette from bottom to top, with words at parts of its length."""

    def __init__(self, height: int) -> None:
        self.steps = columns("y", "color")
        self.y = Range1d(-0.5, 0.5)
        self.figure = self._figure(height)
        self.ticks = WordTicks(self.figure.right[0])

    def _figure(self, height: int) -> Any:
        plot = bare_figure(
            width=WIDTH, height=height, sizing_mode="fixed", y_range=self.y,
            x_range=Range1d(0, 1), y_axis_type=None, x_axis_type=None, min_border_left=0,
            min_border_right=ROOM, min_border_bottom=LABELS, min_border_top=ABOVE,
        )  # fmt: skip
        plot.add_layout(LinearAxis(axis_line_color=None, major_label_standoff=3), "right")
        plot.grid.visible = False
        plot.rect(0.5, "y", 1, 1, source=self.steps, fill_color="color", line_color="color")
        return plot

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        paint(self.figure, colors)
        for axis in self.figure.axis:
            axis.axis_line_color = axis.major_tick_line_color = None
            axis.major_label_text_font_size = "11px"

    def show(self, palette: Sequence[str], ticks: Mapping[float, str]) -> None:
        """Show these colors; `ticks` are words at parts, 0 (bottom) to 1 (top)."""
        last = len(palette) - 1
        if list(palette) != self.steps.data["color"]:
            self.y.update(start=-0.5, end=last + 0.5)
            self.steps.data = {"y": list(range(len(palette))), "color": list(palette)}
        self.ticks.show({last * part: word for part, word in ticks.items()}, "")
