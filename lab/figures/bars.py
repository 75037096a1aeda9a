"""Bars with their numbers written beside them: the parts of a step, and devices over batch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, FactorRange, Range1d

from andersonn_core.words import seconds_text
from lab.figures.base import bare_figure, durations, paint
from lab.theme import FONT, PART_LABELS, Palette

ROOM = 2.0  # of the longest bar: space for its number


class PartBars:
    """Mean seconds of one Anderson step, part by part."""

    def __init__(self, colors: Palette) -> None:
        self.source = ColumnDataSource({"part": [], "seconds": [], "text": [], "color": []})
        self.x = Range1d(0.0, 1.0)
        self.figure = bare_figure(
            y_range=FactorRange(factors=list(reversed(PART_LABELS.values()))), x_range=self.x,
            height=170, x_axis_label="time per evaluation, mean",
        )  # fmt: skip
        self.figure.ygrid.visible = False
        durations(self.figure.xaxis)
        self.figure.xaxis.ticker.desired_num_ticks = 3
        self.figure.yaxis.major_tick_line_color = None
        self.figure.yaxis.axis_line_color = None
        self.figure.hbar(y="part", right="seconds", height=0.62, color="color", source=self.source)
        self.text = self.figure.text(
            "seconds", "part", "text", source=self.source, x_offset=6, text_baseline="middle",
            text_font=value(FONT), text_font_size="12px",
        ).glyph  # fmt: skip
        self.paint(colors)

    def paint(self, colors: Palette) -> None:
        """Give the bars the colors of a theme."""
        self.colors = colors
        paint(self.figure, colors)
        self.figure.yaxis.axis_line_color = self.figure.yaxis.major_tick_line_color = None
        self.figure.yaxis.major_label_text_color = colors.text
        self.text.text_color = colors.muted
        parts = {label: colors.parts[key] for key, label in PART_LABELS.items()}
        data = dict(self.source.data)
        data["color"] = [parts[label] for label in data["part"]]
        self.source.data = data

    def show(self, seconds: dict[str, float]) -> None:
        """Show the seconds of each part of a step."""
        total = sum(seconds.values()) or 1.0
        keys = [key for key in PART_LABELS if key in seconds]
        self.x.end = max(seconds.values(), default=1.0) * ROOM or 1.0
        self.source.data = {
            "part": [PART_LABELS[key] for key in keys],
            "seconds": [seconds[key] for key in keys],
            "text": [f"{seconds_text(seconds[key])}, {100 * seconds[key] / total:.0f} %" for key in keys],
            "color": [self.colors.parts[key] for key in keys],
        }


class DeviceBars:
    """Seconds of the same solve on several devices, a group of bars for each batch size."""

    def __init__(self, colors: Palette) -> None:
        self.source = ColumnDataSource({"place": [], "seconds": [], "text": [], "color": []})
        self.y = FactorRange(factors=[])
        self.x = Range1d(0.0, 1.0)
        self.figure = bare_figure(
            y_range=self.y, x_range=self.x, height=170, x_axis_label="time of the whole solve"
        )
        self.figure.ygrid.visible = False
        durations(self.figure.xaxis)
        self.figure.xaxis.ticker.desired_num_ticks = 3
        self.figure.hbar(y="place", right="seconds", height=0.7, color="color", source=self.source)
        self.text = self.figure.text(
            "seconds", "place", "text", source=self.source, x_offset=6, text_baseline="middle",
            text_font=value(FONT), text_font_size="12px",
        ).glyph  # fmt: skip
        self.paint(colors)

    def paint(self, colors: Palette) -> None:
        """Give the bars the colors of a theme."""
        paint(self.figure, colors)
        axis: Any = self.figure.yaxis
        axis.group_text_color, axis.group_text_font = colors.text, FONT
        axis.group_text_font_size = axis.major_label_text_font_size = "12px"
        axis.separator_line_color = None
        self.text.text_color = colors.muted

    def show(self, rows: Sequence[tuple[str, str, float, str]]) -> None:
        """Show rows of (group, bar, seconds, color), from top to bottom."""
        places = [(group, bar) for group, bar, _, _ in rows]
        self.y.factors = list(reversed(places))
        self.x.end = max((seconds for _, _, seconds, _ in rows), default=1.0) * ROOM
        self.source.data = {
            "place": places,
            "seconds": [seconds for _, _, seconds, _ in rows],
            "text": [seconds_text(seconds) for _, _, seconds, _ in rows],
            "color": [color for *_, color in rows],
        }
