"""Bars with their numbers written beside them: the parts of a step, and devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, FactorRange, LogTicker, Range1d

from andersonn_core.words import seconds_text
from lab.figures.base import bare_figure, durations, paint
from lab.theme import FONT, GPU_GREEN, PART_LABELS, Palette

ROOM = 2.0  # of the longest bar: space for its number


class PartBars:
    """Mean seconds of one Anderson step, part by part."""

    def __init__(self, colors: Palette) -> None:
        self.source = ColumnDataSource({"part": [], "seconds": [], "text": [], "color": []})
        self.x = Range1d(0.0, 1.0)
        self.figure = bare_figure(
            y_range=FactorRange(factors=list(reversed(PART_LABELS.values()))), x_range=self.x,
            height=150, x_axis_label="time per evaluation, mean",
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
            "text": [
                f"{seconds_text(seconds[key])}, {100 * seconds[key] / total:.0f} %" for key in keys
            ],
            "color": [self.colors.parts[key] for key in keys],
        }


class DeviceBars:
    """Seconds of one evaluation on several devices, a group of bars for each batch size."""

    def __init__(self, colors: Palette) -> None:
        self.source = ColumnDataSource(
            {"place": [], "seconds": [], "text": [], "gpu": [], "color": []}
        )
        self.y, self.x = FactorRange(factors=[], range_padding=0.02), Range1d(1e-5, 1.0)
        self.figure = bare_figure(
            y_range=self.y, x_range=self.x, x_axis_type="log", height=190,
            x_axis_label="one evaluation (log scale)",
        )  # fmt: skip
        self.figure.ygrid.visible = False
        self.figure.xaxis.ticker = LogTicker(num_minor_ticks=0, desired_num_ticks=4)
        durations(self.figure.xaxis)
        self.figure.hbar(
            y="place", left=1e-12, right="seconds", height=0.72, color="color", source=self.source
        )
        self.text = self.figure.text(
            "seconds", "place", "text", source=self.source, x_offset=5, text_baseline="middle",
            text_font=value(FONT), text_font_size="11px",
        ).glyph  # fmt: skip
        self.paint(colors)

    def paint(self, colors: Palette) -> None:
        """Give the bars the colors of a theme."""
        self.colors = colors
        paint(self.figure, colors)
        axis: Any = self.figure.yaxis
        axis.major_label_text_font_size = "11px"
        axis.axis_line_color = axis.major_tick_line_color = axis.separator_line_color = None
        self.text.text_color = colors.muted
        self.source.data = dict(self.source.data) | {"color": self._fills(self.source.data["gpu"])}

    def _fills(self, gpu: Sequence[bool]) -> list[str]:
        return [GPU_GREEN if each else self.colors.muted for each in gpu]

    def show(self, rows: Sequence[tuple[str, float, bool]]) -> None:
        """Show rows of (label, seconds, whether on a GPU), from top to bottom."""
        if not rows:
            return
        labels, seconds, gpu = (list(column) for column in zip(*rows, strict=True))
        self.figure.height = 60 + 18 * len(rows)
        self.y.factors = list(reversed(labels))
        self.x.start, self.x.end = min(seconds) / 4, max(seconds) * 8
        self.source.data = {
            "place": labels, "seconds": seconds, "text": [seconds_text(each) for each in seconds],
            "gpu": gpu, "color": self._fills(gpu),
        }  # fmt: skip
