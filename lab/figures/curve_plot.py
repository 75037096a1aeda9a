"""One log plot of the Convergence page: residual against evaluations, or against seconds.

A browser pays for each renderer whose data changes, and for axes and grid at every painting. So
what moves most (the median lines and the pale ones that they replace) is one renderer each, on
Bokeh's overlay, which is painted alone; bands, words and markers follow when a run has lasted.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, CustomJSHover, HoverTool, Range1d
from bokeh.plotting import figure

from lab.also import ALSO
from lab.figures.base import DURATION, bare_figure, decades, durations, paint, tooltip
from lab.theme import FONT, LABELS, Palette
from lab.traces import COLUMNS, empty_columns

METHODS = ("picard", *ALSO, "anderson")  # painted in this order, the hero last
TITLES = {
    "evaluation": "evaluations of the map f",
    "seconds": "time on this machine ({clock})",
}
CLOCK = "CPU time of one thread"
BAND_ALPHA, GHOST_ALPHA = 0.13, 0.28
MOST_POINTS = 400  # of a line that moves: more would take longer to send than to look at

RUNS = itertools.count(1)

Columns = dict[str, list[float]]


@dataclass(frozen=True)
class Line:
    """A line; `role` is a method or a color of the palette."""

    x: Sequence[float]
    y: Sequence[float]
    role: str
    width: float
    alpha: float
    dash: str = ""  # empty: the role's own
    name: str = ""  # tells one run from the next


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


TOLD = {
    "time": "@seconds{custom}", "median residual": "@median{custom}",
    "worst residual": "@worst{custom}",
}  # fmt: skip
LINE = ("x", "y", "width", "alpha", "name")
MARKER = ("x", "y", "size", "width")
LABEL = ("x", "y", "text", "align", "baseline", "right", "down", "size", "style")


@dataclass
class Curve:
    """One method's curve as it stands, and the one before it."""

    columns: Columns = field(default_factory=empty_columns)
    before: Columns = field(default_factory=empty_columns)  # pale until the new one stands
    number: int = 0  # tells one run's points from those of any other

    def restart(self, columns: Columns | None = None, keep: bool = False) -> None:
        """Begin with these points instead; `keep` what stood as the curve before."""
        if keep and self.columns["median"]:
            self.before = self.columns
        self.columns = empty_columns() if columns is None else columns
        self.number = next(RUNS)

    def extend(self, columns: Columns) -> None:
        """Add points."""
        for name, values in columns.items():
            self.columns[name] += values

    def finish(self) -> None:
        """The curve stands: the one before it goes."""
        self.before = empty_columns()


class CurvePlot:
    """The figure and its sources; every change is a change of data, never a rebuild."""

    def __init__(self, axis: str, y: Range1d, end: float, colors: Palette) -> None:
        self.axis, self.colors = axis, colors
        self.x = Range1d(0.0, end)
        self.y = y
        self.details: dict[str, ColumnDataSource] = {}  # band, worst sample and tooltip of a method
        self.renderers: dict[str, list[Any]] = {}
        self.hovers: dict[str, HoverTool] = {}
        self._drawn: dict[str, int] = {}  # the run whose details are drawn
        self.lines, self.ghosts = (_source(*LINE, "color", "dash") for _ in range(2))
        self.medians = _source(*LINE, "color", "dash", name=f"medians by {axis}")
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
        for source, level in (
            (self.lines, "underlay"), (self.ghosts, "overlay"), (self.medians, "overlay"),
        ):  # fmt: skip
            plot.multi_line(
                "x", "y", source=source, line_color="color", line_dash="dash", line_width="width",
                line_alpha="alpha", level=level,
            )  # fmt: skip
        self._words_and_dots(plot)
        return plot

    def _words_and_dots(self, plot: figure) -> None:
        plot.scatter(
            "x", "y", source=self.markers, size="size", line_width="width", line_color="color",
            fill_color="fill", marker="marker", level="overlay",
        )  # fmt: skip
        plot.text(
            "x", "y", "text", source=self.labels, text_color="color", text_align="align",
            text_baseline="baseline", x_offset="right", y_offset="down", text_font=value(FONT),
            text_font_size={"field": "size"}, text_font_style={"field": "style"},
            level="annotation",
        )  # fmt: skip

    def _add(self, name: str) -> None:
        """The renderers of a method that is shown for the first time."""
        plot, axis = self.figure, self.axis
        source = self.details[name] = _source(*COLUMNS, name=f"{name} by {axis}")
        band = plot.varea(axis, "low", "high", source=source, fill_alpha=BAND_ALPHA)
        worst = plot.line(axis, "worst", source=source, line_width=1, line_alpha=0.5)
        felt = plot.line(axis, "median", source=source, line_alpha=0)  # by the mouse
        self.renderers[name] = [band, worst, felt]
        own = [item for key in METHODS for item in self.renderers.get(key, [])]
        plot.renderers = [*(item for item in plot.renderers if item not in own), *own]
        self.hovers[name] = _hover(felt)
        plot.add_tools(self.hovers[name])
        self._paint_method(name)

    # -- colors -----------------------------------------------------------------------------------

    def paint(self, colors: Palette) -> None:
        """Give the figure the colors of a theme; what is drawn next has them, too."""
        self.colors = colors
        paint(self.figure, colors)
        for name in self.renderers:
            self._paint_method(name)

    def _paint_method(self, name: str) -> None:
        stroke = self.colors.strokes[name]
        band, worst, _ = (renderer.glyph for renderer in self.renderers[name])
        band.fill_color = worst.line_color = stroke.color
        worst.line_dash = stroke.dash
        first = {LABELS[name]: "evaluation @evaluation"}
        self.hovers[name].tooltips = tooltip(first | TOLD, self.colors)

    # -- data -------------------------------------------------------------------------------------

    def draw_medians(self, curves: Mapping[str, Curve]) -> None:
        """Show these median lines and those they replace, and no others."""
        lines, ghosts = [], []
        for name, curve in curves.items():
            width = self.colors.strokes[name].width
            run = f"{name} {curve.number}"
            lines.append(Line(*self._inside(curve.columns), name, width, 1.0, name=run))
            if curve.before["median"]:
                ghosts.append(Line(*self._inside(curve.before), name, width, GHOST_ALPHA))
        self._send_lines(self.ghosts, ghosts)
        self._send_lines(self.medians, lines)

    def draw_rest(
        self,
        curves: Mapping[str, Curve],
        lines: Sequence[Line],
        markers: Sequence[Marker],
        labels: Sequence[Label],
    ) -> None:
        """Bands and worst samples of these curves, straight lines, markers and words."""
        for name in METHODS:
            if name in curves and name not in self.details:
                self._add(name)
            if name in self.details:
                self._feed(name, curves.get(name, Curve()))
        self._send_lines(self.lines, lines)
        paper = {"fill": [self.colors.paper] * len(markers)}
        _send(self.markers, MARKER, markers, paper | self._strokes(markers, "color", "marker"))
        _send(self.labels, LABEL, labels, {"color": self._strokes(labels, "ink")["ink"]})

    def _send_lines(self, source: ColumnDataSource, lines: Sequence[Line]) -> None:
        strokes = self._strokes(lines, "color", "dash")
        own = [line.dash or dash for line, dash in zip(lines, strokes["dash"], strict=True)]
        _send(source, LINE, lines, strokes | {"dash": own})

    def _strokes(self, items: Sequence[Any], *names: str) -> dict[str, list[str]]:
        strokes = [self.colors.of(item.role) for item in items]
        return {name: [getattr(stroke, name) for stroke in strokes] for name in names}

    def _feed(self, name: str, curve: Curve) -> None:
        """Bring a method's details up to date: with what is new, or, of another run, with all."""
        source = self.details[name]
        drawn = len(source.data["median"])
        if self._drawn.get(name) != curve.number or drawn > len(curve.columns["median"]):
            self._drawn[name] = curve.number
            if drawn or curve.columns["median"]:
                source.data = {key: list(values) for key, values in curve.columns.items()}
        elif drawn < len(curve.columns["median"]):
            source.stream({key: values[drawn:] for key, values in curve.columns.items()})

    def _inside(self, columns: Columns) -> tuple[list[float], list[float]]:
        """The median line inside the frame, to which Bokeh does not clip its overlay."""
        x, y = columns[self.axis], columns["median"]
        end = bisect.bisect_right(x, float(self.x.end))
        while end and not math.isfinite(y[end - 1]):
            end -= 1
        # Powers of two: while a line grows, the points that stand for it stay the same.
        stride = 1 << max(0, math.ceil(math.log2(max(end, 1) / MOST_POINTS)))
        rows = [*range(0, end - 1, stride), end - 1] if end else []
        low, high = float(self.y.start), float(self.y.end)
        return [x[row] for row in rows], [min(max(y[row], low), high) for row in rows]


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
