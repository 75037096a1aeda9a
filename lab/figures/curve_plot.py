"""One log plot of the Convergence page: residual against evaluations, or against seconds.

A browser pays for each renderer at every update, whatever it shows, and for axes and grid at every
painting. So what moves most (the median lines, the pale ones that they replace, the words) lies on
Bokeh's overlay, which is painted alone; straight lines, words and markers have one renderer each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, CustomJSHover, HoverTool, Range1d
from bokeh.plotting import figure

from lab.figures.base import DURATION, bare_figure, decades, durations, paint, tooltip
from lab.theme import FONT, LABELS, Palette
from lab.traces import empty_columns

METHODS = ("picard", "broyden", "anderson")  # painted in this order, the hero last
TITLES = {
    "evaluation": "evaluations of the map f",
    "seconds": "time on this machine ({clock})",
}
CLOCK = "CPU time of one thread"
BAND_ALPHA, GHOST_ALPHA = 0.13, 0.28

Columns = dict[str, list[float]]


@dataclass(frozen=True)
class Line:
    """A pale line; `role` is a method or a color of the palette."""

    x: Sequence[float]
    y: Sequence[float]
    role: str
    width: float
    alpha: float
    dash: str = ""  # empty: the role's own


@dataclass(frozen=True)
class Label:
    """A few words at a point; `right` and `down` are pixels from it."""

    x: float
    y: float
    text: str
    role: str
    align: str = "left"
    baseline: str = "top"
    right: float = 0.0
    down: float = 0.0
    size: str = "12px"
    style: str = "normal"


@dataclass(frozen=True)
class Marker:
    """A dot that tells a method apart without its color, or the crossover's."""

    x: float
    y: float
    role: str
    size: float = 7.0
    width: float = 1.8


MEDIAN = ("x", "y", "evaluation", "seconds", "median", "worst")  # all but x and y: for the tooltip
TOLD = {
    "time": "@seconds{custom}", "median residual": "@median{custom}",
    "worst residual": "@worst{custom}",
}  # fmt: skip
LINE = ("x", "y", "width", "alpha")
MARKER = ("x", "y", "size", "width")
LABEL = ("x", "y", "text", "align", "baseline", "right", "down", "size", "style")


@dataclass
class Curve:
    """One method's curve as it stands, and the one before it."""

    columns: Columns = field(default_factory=empty_columns)
    before: Columns = field(default_factory=empty_columns)  # pale until the new one stands
    number: int = 0  # tells one run's points from the next one's
    before_number: int = 0

    def restart(self, columns: Columns | None = None, keep: bool = False) -> None:
        """Begin with these points instead; `keep` what stood as the curve before."""
        if keep and self.columns["median"]:
            self._put_before(self.columns)
        self.columns = empty_columns() if columns is None else columns
        self.number += 1

    def extend(self, columns: Columns) -> None:
        """Add points."""
        for name, values in columns.items():
            self.columns[name] += values

    def finish(self) -> None:
        """The curve stands: the one before it goes."""
        if self.before["median"]:
            self._put_before(empty_columns())

    def _put_before(self, columns: Columns) -> None:
        self.before = columns
        self.before_number += 1


class CurvePlot:
    """The figure and its sources; every change is a change of data, never a rebuild."""

    def __init__(self, axis: str, y: Range1d, end: float, colors: Palette) -> None:
        self.axis, self.colors = axis, colors
        self.x = Range1d(0.0, end)
        self.y = y
        self.medians: dict[str, ColumnDataSource] = {}
        self.ghosts: dict[str, ColumnDataSource] = {}
        self.spreads: dict[str, ColumnDataSource] = {}
        self.renderers: dict[str, list[Any]] = {}
        self.hovers: dict[str, HoverTool] = {}
        self._drawn: dict[str, Any] = {}  # what tells the run and the axes apart, by source
        self.lines = _source(*LINE, "color", "dash")
        self.labels = _source(*LABEL, "color")
        self.markers = _source(*MARKER, "color", "fill", "marker")
        self.figure = self._figure()
        self.paint(colors)

    # -- building ---------------------------------------------------------------------------------

    def _figure(self) -> figure:
        plot = bare_figure(
            y_axis_type="log", y_range=self.y, x_range=self.x, height=320, min_border_bottom=62,
            x_axis_label=TITLES[self.axis].format(clock=CLOCK),
        )  # fmt: skip
        decades(plot.yaxis)
        plot.center.remove(plot.xgrid[0])
        if self.axis == "seconds":
            durations(plot.xaxis)
            plot.yaxis.major_label_text_font_size = "0px"
        else:
            plot.yaxis.axis_label = "relative residual"
        self._pale(plot)
        return plot

    def _pale(self, plot: figure) -> None:
        plot.multi_line(
            "x", "y", source=self.lines, line_color="color", line_dash="dash", line_width="width",
            line_alpha="alpha", level="underlay",
        )  # fmt: skip
        self._dots = plot.scatter(
            "x", "y", source=self.markers, size="size", line_width="width", line_color="color",
            fill_color="fill", marker="marker", level="overlay",
        )  # fmt: skip
        plot.text(
            "x", "y", "text", source=self.labels, text_color="color", text_align="align",
            text_baseline="baseline", x_offset="right", y_offset="down", text_font=value(FONT),
            text_font_size={"field": "size"}, text_font_style={"field": "style"}, level="overlay",
        )  # fmt: skip

    def _add(self, name: str) -> None:
        """The renderers of a method that is shown for the first time."""
        plot, axis = self.figure, self.axis
        medians = self.medians[name] = _source(*MEDIAN, name=f"{name} by {axis}")
        ghost = self.ghosts[name] = _source("x", "y")
        spread = self.spreads[name] = _source(axis, "low", "high", "worst")
        band = plot.varea(axis, "low", "high", source=spread, fill_alpha=BAND_ALPHA)
        worst = plot.line(axis, "worst", source=spread, line_width=1, line_alpha=0.5)
        pale = plot.line("x", "y", source=ghost, line_alpha=GHOST_ALPHA, level="overlay")
        median = plot.line("x", "y", source=medians, level="overlay")
        self.renderers[name] = [band, worst, pale, median]
        own = [item for key in METHODS for item in self.renderers.get(key, [])]
        common = [item for item in plot.renderers if item not in own and item is not self._dots]
        plot.renderers = [*common, *own, self._dots]
        self.hovers[name] = _hover(median)
        plot.add_tools(self.hovers[name])
        self._paint_method(name)

    # -- colors -----------------------------------------------------------------------------------

    def paint(self, colors: Palette) -> None:
        """Give the figure the colors of a theme."""
        self.colors = colors
        paint(self.figure, colors)
        for name in self.renderers:
            self._paint_method(name)

    def _paint_method(self, name: str) -> None:
        stroke = self.colors.strokes[name]
        band, *lines = (renderer.glyph for renderer in self.renderers[name])
        band.fill_color = stroke.color
        for line, width in zip(lines, (1.0, stroke.width, stroke.width), strict=True):
            line.line_color, line.line_dash, line.line_width = stroke.color, stroke.dash, width
        first = {LABELS[name]: "evaluation @evaluation"}
        self.hovers[name].tooltips = tooltip(first | TOLD, self.colors)

    # -- data -------------------------------------------------------------------------------------

    def draw_medians(self, curves: Mapping[str, Curve]) -> None:
        """Show these median lines and nothing else; only what differs is sent."""
        for name, curve in curves.items():
            if name not in self.renderers:
                self._add(name)
            self._feed(self.ghosts[name], curve.before, (curve.before_number, self._box))
            self._feed(self.medians[name], curve.columns, (curve.number, self._box))
        for name, renderers in self.renderers.items():
            for renderer in renderers:
                if renderer.visible != (name in curves):
                    renderer.visible = name in curves

    @property
    def _box(self) -> tuple[float, float, float]:
        return float(self.x.end), float(self.y.start), float(self.y.end)

    def draw_labels(self, labels: Sequence[Label]) -> None:
        """Write these words and no others."""
        _send(self.labels, LABEL, labels, {"color": self._strokes(labels, "ink")["ink"]})

    def draw_rest(
        self, curves: Mapping[str, Curve], lines: Sequence[Line], markers: Sequence[Marker]
    ) -> None:
        """Bands and worst samples, straight lines and markers."""
        for name, curve in curves.items():
            self._feed(self.spreads[name], curve.columns, curve.number)
        strokes = self._strokes(lines, "color", "dash")
        own = [line.dash or dash for line, dash in zip(lines, strokes["dash"], strict=True)]
        _send(self.lines, LINE, lines, strokes | {"dash": own})
        paper = {"fill": [self.colors.paper] * len(markers)}
        _send(self.markers, MARKER, markers, paper | self._strokes(markers, "color", "marker"))

    def _strokes(self, items: Sequence[Any], *names: str) -> dict[str, list[str]]:
        strokes = [self.colors.of(item.role) for item in items]
        return {name: [getattr(stroke, name) for stroke in strokes] for name in names}

    def _feed(self, source: ColumnDataSource, columns: Columns, state: Any) -> None:
        """Bring a source up to date: with what is new, or, in another state, with everything."""
        names = list(source.data)
        fresh = self._drawn.get(source.id) != state
        drawn = 0 if fresh else len(source.data[names[0]])
        if fresh and not columns["median"] and not len(source.data[names[0]]):
            return
        if fresh or drawn < len(columns["median"]):
            new = {name: values[drawn:] for name, values in columns.items()}
            new |= self._inside(new) if "y" in names else {}
            self._drawn[source.id] = state
            new = {name: new[name] for name in names}
            if fresh:
                source.data = new
            else:
                source.stream(new)

    def _inside(self, columns: Columns) -> dict[str, list[float]]:
        """The median line inside the frame, to which Bokeh does not clip its overlay."""
        right, low, high = self._box
        return {
            "x": [x if x <= right else math.nan for x in columns[self.axis]],
            "y": [min(max(y, low), high) for y in columns["median"]],
        }


def _source(*names: str, **options: Any) -> ColumnDataSource:
    return ColumnDataSource({name: [] for name in names}, **options)


def _send(
    source: ColumnDataSource, names: Sequence[str], items: Sequence[Any], more: dict[str, list[str]]
) -> None:
    columns = {name: [getattr(item, name) for item in items] for name in names} | more
    if columns != source.data:
        source.data = columns


def _hover(renderer: Any) -> HoverTool:
    duration = CustomJSHover(code=DURATION.replace("tick", "value"))
    residual = CustomJSHover(code="return value.toExponential(1)")
    return HoverTool(
        renderers=[renderer],
        mode="mouse",
        attachment="above",
        line_policy="nearest",
        formatters={"@seconds": duration, "@median": residual, "@worst": residual},
    )
