"""The pictures of notebook 04: heat maps with their spread, batch sizes, and samples of a plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import panel as pn
from bokeh.layouts import row
from bokeh.models import ColorBar, ColumnDataSource, FixedTicker, LogColorMapper, Range1d
from bokeh.palettes import interp_palette
from bokeh.plotting import figure
from drawing import ANDERSON, FORWARD, WIDTH, _figure, _pane, _text
from drawing_deq import _line, _whole
from drawing_roots import _titled

from lab.theme import FONT, LIGHT, Stroke

WINDOW, MIXING = "method.window", "method.mixing"
COMPACT = Stroke("#56B4E9", "#0b6a9c", "8 3 2 3", "diamond", 2.2)  # Anderson's blue, paler
PLATES = interp_palette(LIGHT.heat, 128)
SHOWN = 4.0  # times the best: what is worse has the palest color
PALE_FROM = 1.5  # above this times the best, cells are so pale that their words are dark


# -- points of a grid -----------------------------------------------------------------------------


def heat_maps(
    panels: Mapping[str, tuple[pd.DataFrame, str]],  # title: a table by point, how its numbers look
    also: str | None = None,
) -> pn.pane.Bokeh:
    """Median and spread at each window and mixing; the points with `region` are outlined.

    `also` names a second column of points, outlined by a dotted line.
    """
    last = list(panels)[-1]
    return _pane(row(*(_heat_map(title, table, numbers, also, bar=title == last)
                       for title, (table, numbers) in panels.items())))  # fmt: skip


def _heat_map(title: str, table: pd.DataFrame, numbers: str, also: str | None, bar: bool) -> figure:
    plot, place = _grid_figure(table, WIDTH // 2 + (36 if bar else -36))
    part = table["median"] / table["median"].min()
    colors = LogColorMapper(palette=PLATES, low=1.0, high=SHOWN)
    plot.rect(
        "x", "y", 1, 1, line_color=LIGHT.paper, line_width=2,
        fill_color={"field": "part", "transform": colors},
        source=ColumnDataSource({**place, "part": part}),
    )  # fmt: skip
    inks = np.where(part < PALE_FROM, LIGHT.paper, LIGHT.text)
    _write(plot, place, table, numbers, inks)
    for name, dash in (("region", "solid"), (also, "2 5")):
        if name in table:
            _outline(plot, place, table[name].to_numpy(), dash)
    if bar:
        _add_bar(plot, colors)
    return _titled(plot, title)


def _grid_figure(table: pd.DataFrame, width: int) -> tuple[figure, dict[str, np.ndarray]]:
    """Axes with one place for each window and mixing, and the places of the table's points."""
    windows, mixings = (sorted(table[name].unique()) for name in (WINDOW, MIXING))
    plot = _figure(
        width, 90 + 46 * len(mixings), x_range=Range1d(-0.56, len(windows) - 0.44),
        y_range=Range1d(-0.56, len(mixings) - 0.44), x_axis_label="window m",
        y_axis_label="mixing β",
    )  # fmt: skip
    for axis, values in ((plot.xaxis, windows), (plot.yaxis, mixings)):
        axis.ticker = FixedTicker(ticks=list(range(len(values))))
        axis.major_label_overrides = {at: f"{value:g}" for at, value in enumerate(values)}
    plot.grid.visible = False
    places = {"x": [windows.index(value) for value in table[WINDOW]],
              "y": [mixings.index(value) for value in table[MIXING]]}  # fmt: skip
    return plot, {axis: np.array(at) for axis, at in places.items()}


def _write(
    plot: figure, place: Mapping[str, np.ndarray], table: pd.DataFrame, numbers: str,
    inks: np.ndarray,
) -> None:  # fmt: skip
    """The median in each cell, and under it where 80 % of the trials lie."""
    written = {
        "median": table["median"].map(numbers.format),
        "spread": [f"{numbers.format(low)} to {numbers.format(high)}"
                   for low, high in zip(table["low"], table["high"], strict=True)],
    }  # fmt: skip
    source = ColumnDataSource({**place, **written, "ink": inks})
    for name, size, lower in (("median", "14px", -7), ("spread", "10px", 9)):
        plot.text(
            "x", "y", name, source=source, y_offset=lower, text_align="center", text_color="ink",
            text_baseline="middle", text_font_size=size, text_font={"value": FONT},
        )  # fmt: skip


def _outline(plot: figure, place: Mapping[str, np.ndarray], inside: np.ndarray, dash: str) -> None:
    """A line around these points of the grid."""
    points = set(zip(place["x"][inside].tolist(), place["y"][inside].tolist(), strict=True))
    xs, ys = [], []
    for x, y in points:
        for (dx, dy), edge in _edges(x, y):
            if (x + dx, y + dy) not in points:
                xs.append(edge[0])
                ys.append(edge[1])
    plot.multi_line(xs, ys, line_color="#D55E00", line_width=3, line_dash=dash, line_cap="square")


def _edges(x: int, y: int) -> Iterator[tuple[tuple[int, int], tuple[list[float], list[float]]]]:
    """The neighbor behind each edge of a cell, and the edge."""
    half = 0.5
    for side in (-1, 1):
        yield (side, 0), ([x + side * half] * 2, [y - half, y + half])
        yield (0, side), ([x - half, x + half], [y + side * half] * 2)


def _add_bar(plot: figure, colors: LogColorMapper) -> None:
    bar = ColorBar(
        color_mapper=colors, width=10, ticker=FixedTicker(ticks=[1, 1.5, 2, 3, 4]),
        bar_line_color=None, title="median / best", title_text_font=FONT,
        title_text_font_style="normal", title_text_color=LIGHT.text, title_text_font_size="11px",
        major_tick_line_color=None, major_label_text_color=LIGHT.muted,
    )  # fmt: skip
    plot.add_layout(bar, "right")


# -- lines over one axis --------------------------------------------------------------------------


def windows_over_mixing(table: pd.DataFrame) -> pn.pane.Bokeh:
    """Median evaluations against mixing, a line with its spread for each window."""
    mixings = sorted(table[MIXING].unique())
    plot = _figure(
        WIDTH * 2 // 3, 360, y_axis_type="log", x_axis_label="mixing β",
        y_axis_label="evaluations of the map f",
        x_range=Range1d(mixings[0] - 0.05, mixings[-1] + 0.45),
    )  # fmt: skip
    plot.xgrid.visible = False
    _whole(plot.xaxis, mixings)
    _whole(plot.yaxis, (20, 50, 100, 200, 500, 1000))
    groups = dict(tuple(table.sort_values(MIXING).groupby(WINDOW)))
    inks = interp_palette(("#8CCBF0", ANDERSON.ink), len(groups))
    for (window, line), color in zip(groups.items(), inks, strict=True):
        _band(plot, line[MIXING], line, color)
        plot.line(line[MIXING], line["median"], line_color=color, line_width=2.4)
        words = f"window {window}"
        _text(plot, [mixings[-1]], [line["median"].iloc[-1]], [words], ANDERSON.ink, x_offset=8)
    return _pane(plot)


def _band(plot: figure, x: Any, line: pd.DataFrame, color: str) -> None:
    plot.varea(np.asarray(x), line["low"], line["high"], fill_color=color, fill_alpha=0.16)


def batch_sizes(
    panels: Mapping[str, Mapping[str, pd.DataFrame]],  # title: method: a table by batch size
) -> pn.pane.Bokeh:
    """Milliseconds per sample against the batch size, with their spread."""
    strokes = {"forward": FORWARD, "Anderson": ANDERSON, "Anderson, compact": COMPACT}
    plots = []
    for title, lines in panels.items():
        sizes = sorted({size for line in lines.values() for size in line["problem.batch_size"]})
        plot = _figure(
            WIDTH // 2, 340, x_axis_type="log", y_axis_type="log",
            x_range=Range1d(0.8 * sizes[0], 14 * sizes[-1]), x_axis_label="batch size B",
            y_axis_label="milliseconds per sample",
        )  # fmt: skip
        _whole(plot.xaxis, sizes)
        _whole(plot.yaxis, [digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)])
        plot.xgrid.visible = False
        ends = _label_heights([float(line["median"].iloc[-1]) for line in lines.values()])
        for (method, line), end in zip(lines.items(), ends, strict=True):
            stroke = strokes[method]
            _band(plot, line["problem.batch_size"], line, stroke.color)
            _line(plot, line["problem.batch_size"], line["median"], stroke)
            plot.scatter(line["problem.batch_size"], line["median"], size=7, line_width=1.8,
                         marker=stroke.marker, fill_color=LIGHT.paper,
                         line_color=stroke.color)  # fmt: skip
            _text(plot, [sizes[-1]], [end], [method], stroke.ink, x_offset=9)
        plots.append(_titled(plot, title))
    return _pane(row(*plots))


def _label_heights(ends: Sequence[float], apart: float = 1.16) -> list[float]:
    """Where lines end on a log axis, moved up where two labels would overlap."""
    heights, floor = list(ends), 0.0
    for at in np.argsort(ends):
        floor = heights[at] = max(heights[at], floor * apart)
    return heights


# -- samples of a plane ---------------------------------------------------------------------------


def samples(
    panels: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]],  # title: the grid, the samples
) -> pn.pane.Bokeh:
    """Sampled windows and mixings in their order, over the grid's region; good ones are filled."""
    plots = []
    for title, (grid, drawn) in panels.items():
        windows, mixings = (sorted(grid[name].unique()) for name in (WINDOW, MIXING))
        across, up = _cells(windows, log=True), _cells(mixings, log=False)
        plot = _figure(
            WIDTH // 2, 360, x_axis_type="log", x_axis_label="window m", y_axis_label="mixing β",
            x_range=Range1d(across(windows[0])[0], across(windows[-1])[1]),
            y_range=Range1d(up(mixings[0])[0], up(mixings[-1])[1]),
        )  # fmt: skip
        _whole(plot.xaxis, windows)
        _whole(plot.yaxis, mixings)
        plot.grid.visible = False
        plot.scatter(grid[WINDOW], grid[MIXING], marker="cross", size=8, line_color=LIGHT.muted)
        for window, mixing in grid.loc[grid["region"], [WINDOW, MIXING]].to_numpy():
            (left, right), (bottom, top) = across(window), up(mixing)
            plot.quad(left, right, top, bottom, fill_color="#D55E00", fill_alpha=0.13,
                      line_color=None, level="underlay")  # fmt: skip
        _numbered(plot, drawn)
        plots.append(_titled(plot, title))
    return _pane(row(*plots))


def _numbered(plot: figure, drawn: pd.DataFrame) -> None:
    """A circle for each sample with its number; filled where it belongs to the best."""
    good = drawn["region"]
    plot.scatter(
        drawn[WINDOW], drawn[MIXING], size=21, line_color=ANDERSON.color, line_width=1.6,
        fill_color=np.where(good, ANDERSON.color, LIGHT.paper),
    )  # fmt: skip
    _text(
        plot, drawn[WINDOW], drawn[MIXING], (drawn["sample"] + 1).astype(str), LIGHT.text,
        text_align="center", text_font_size="11px",
        text_color=np.where(good, LIGHT.paper, LIGHT.text),
    )  # fmt: skip


def _cells(values: Sequence[float], log: bool) -> Callable[[float], tuple[float, float]]:
    """From a value of a grid to where its cell begins and ends: half way to its neighbors."""
    scale, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
    at = scale(np.asarray(values, dtype=float))
    middles = (at[1:] + at[:-1]) / 2
    edges = back(np.concatenate(
        [[2 * at[0] - middles[0]], middles, [2 * at[-1] - middles[-1]]]
    ))  # fmt: skip

    def cell(value: float) -> tuple[float, float]:
        index = list(values).index(value)
        return float(edges[index]), float(edges[index + 1])

    return cell
