"""What all figures share: a bare plot without furniture, decades as 1e-2, times as 20 ms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, CustomJS, CustomJSTickFormatter, LogTicker
from bokeh.plotting import figure

from lab.theme import FONT, Palette

DECADES = "const p = Math.log10(tick); return Math.abs(p - Math.round(p)) > 0.01 ? '' : (Math.round(p) == 0 ? '1' : '1e' + Math.round(p))"  # noqa: E501
DURATION = "return tick == 0 ? '0' : Math.abs(tick) < 0.9995 ? +(tick * 1e3).toPrecision(3) + ' ms' : +tick.toPrecision(3) + ' s'"  # noqa: E501

SQUARE = """
const known = !plot.properties.inner_width.is_unset && !plot.properties.inner_height.is_unset
const [left, right, bottom, top] = box.data.edge
const w = known ? plot.inner_width : 0, h = known ? plot.inner_height : 0
if (w > 0 && h > 0) {
  const scale = Math.max((right - left) / w, (top - bottom) / h) / 2
  const x = (left + right) / 2, y = (bottom + top) / 2
  plot.x_range.setv({start: x - scale * w, end: x + scale * w})
  plot.y_range.setv({start: y - scale * h, end: y + scale * h})
}
"""


def bare_figure(**options: Any) -> figure:
    """A figure that fills its card, without toolbar, outline or default grays."""
    settings: dict[str, Any] = dict(
        sizing_mode="stretch_width", toolbar_location=None, tools="", outline_line_color=None,
        min_border=4, output_backend="canvas",
    )  # fmt: skip
    plot = figure(**(settings | options))
    plot.grid.grid_line_width = 1
    for axis in plot.axis:
        axis.axis_label_text_font_style = "normal"
        axis.minor_tick_line_color = None
        axis.axis_label_standoff = 6
    return plot


def decades(axis: Any) -> None:
    """Label a logarithmic axis 1e-2, 1e-4."""
    axis.ticker = LogTicker(num_minor_ticks=0, desired_num_ticks=6)
    axis.formatter = CustomJSTickFormatter(code=DECADES)


def durations(axis: Any) -> None:
    """Label an axis of seconds 20 ms, 1.5 s."""
    axis.formatter = CustomJSTickFormatter(code=DURATION)


def columns(*names: str) -> ColumnDataSource:
    """A source with these columns, empty: a browser complains of columns that are not there."""
    return ColumnDataSource({name: [] for name in names})


def paint(plot: figure, colors: Palette) -> None:
    """Give plot, axes and grid the colors of a theme."""
    plot.background_fill_color = plot.border_fill_color = colors.paper
    for axis in plot.axis:
        axis.axis_line_color = axis.major_tick_line_color = colors.rule
        axis.major_label_text_color, axis.axis_label_text_color = colors.muted, colors.text
        axis.major_label_text_font = axis.axis_label_text_font = FONT
        axis.major_label_text_font_size = "12px"
        axis.axis_label_text_font_size = "13px"
    plot.grid.grid_line_color = colors.rule
    plot.grid.grid_line_alpha = 0.6


def tooltip(rows: Mapping[str, str], colors: Palette) -> str:
    """What a hover shows, label by label, in the colors of a theme; Bokeh's own is always white."""
    style = f"--tooltip-color:{colors.paper};--tooltip-text:{colors.text};"
    style += f"--tooltip-border:{colors.rule};--tooltip-arrow-color:{colors.paper};"
    cells = "".join(
        f"<span style='color:{colors.muted}'>{label}</span><span>{shown}</span>"
        for label, shown in rows.items()
    )
    grid = "display:grid;grid-template-columns:auto auto;gap:1px 8px;font:12px " + FONT
    own = f"<style>:host {{{style.replace(';', ' !important;')}}}</style>"
    return f'<div style="{grid}">{own}{cells}</div>'


def keep_square(plot: figure, edge: tuple[float, float, float, float]) -> ColumnDataSource:
    """Give both axes one scale, whatever the figure's size; the source holds the box to be shown.

    Bokeh's own match_aspect needs automatic ranges, which would follow every change of the data.
    """
    box = ColumnDataSource({"edge": list(edge)})
    fit = CustomJS(args={"plot": plot, "box": box}, code=SQUARE)
    plot.js_on_change("inner_width", fit)
    plot.js_on_change("inner_height", fit)
    box.js_on_change("data", fit)
    return box


def ramp(colors: tuple[str, ...], count: int = 64) -> list[str]:
    """The colors of a ramp, interpolated."""
    stops = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in colors])
    places = np.linspace(0, len(stops) - 1, count)
    channels = [np.interp(places, np.arange(len(stops)), stops[:, channel]) for channel in range(3)]
    return [f"#{int(r):02x}{int(g):02x}{int(b):02x}" for r, g, b in zip(*channels, strict=True)]


def ink_on(fill: str) -> str:
    """Black or white, whichever can be read on a color."""
    red, green, blue = (int(fill[k : k + 2], 16) for k in (1, 3, 5))
    return "#16202b" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"
