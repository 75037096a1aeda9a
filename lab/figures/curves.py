"""The two log plots of the Convergence page: residual by evaluations and by seconds, one y axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, CustomJSHover, HoverTool, Label, Range1d, Span
from bokeh.plotting import figure

from andersonn_core.words import residual_text, seconds_text
from lab.figures.base import DURATION, bare_figure, decades, durations, paint
from lab.theme import FONT, LABELS, Palette
from lab.traces import Trace, empty_columns, marks

METHODS = ("picard", "broyden", "anderson")  # painted in this order, the hero last
AXES = ("evaluation", "seconds")
TITLES = {
    "evaluation": "evaluations of the map f",
    "seconds": "time on this machine ({clock})",
}
ROOM = 1.28  # of the longest curve: space for the label at its end
HIGHEST = 2  # decades above 1: a relative residual has poles where f(z) passes 0
SHARE_BELOW, SHARE_ABOVE = 0.21, 0.14  # of the decades with curves: space for labels
GHOST_ALPHA, BAND_ALPHA = 0.28, 0.13
BELOW, LINE, NEAR = 7.0, 16.0, 0.24  # labels at line ends: pixels, pixels, part of the width


def _empty(source: ColumnDataSource) -> None:
    """Take the points off; an empty source stays as it is, since every change is sent."""
    if len(source.data["evaluation"]):
        source.data = empty_columns()


class CurvePair:
    """Both figures and the sources they draw; every change is a change of data, never a rebuild."""

    def __init__(self, colors: Palette, tolerance: float) -> None:
        self.live = {
            name: ColumnDataSource(empty_columns(), name=f"curve {name}") for name in METHODS
        }
        self.ghost = {name: ColumnDataSource(empty_columns()) for name in METHODS}
        self._started: set[str] = set()  # begun, and nothing drawn of it
        self.pins = ColumnDataSource(
            {"x_evaluation": [], "x_seconds": [], "y": [], "dash": [], "color": []}
        )
        self.pin_labels = ColumnDataSource({"evaluation": [], "seconds": [], "y": [], "text": []})
        self.ends = ColumnDataSource(_no_labels())
        self.crossing = {axis: ColumnDataSource({"x": [], "y": [], "text": []}) for axis in AXES}
        self.y = Range1d(1e-7, 20.0)
        self.x = {"evaluation": Range1d(0.0, 60.0), "seconds": Range1d(0.0, 0.2)}
        self.tolerance_lines: list[Span] = []
        self.tolerance_labels: list[Label] = []
        self.cursors: dict[str, Span] = {}
        self.renderers: dict[str, list[Any]] = {name: [] for name in METHODS}
        self.figures = {axis: self._figure(axis) for axis in AXES}
        self.paint(colors)
        self.set_tolerance(tolerance)

    # -- building ---------------------------------------------------------------------------------

    def _figure(self, axis: str) -> figure:
        plot = bare_figure(
            y_axis_type="log", y_range=self.y, x_range=self.x[axis], height=320,
            x_axis_label=TITLES[axis].format(clock="CPU time of one thread"),
        )  # fmt: skip
        decades(plot.yaxis)
        plot.xgrid.visible = False
        if axis == "seconds":
            durations(plot.xaxis)
            plot.yaxis.major_label_text_font_size = "0px"
        else:
            plot.yaxis.axis_label = "relative residual"
        self._furniture(plot, axis)
        self._pins(plot, axis)
        for name in METHODS:
            self._curve(plot, axis, name)
        self._labels(plot, axis)
        return plot

    def _furniture(self, plot: figure, axis: str) -> None:
        tolerance = Span(dimension="width", line_width=1, line_dash=[2, 3], location=1e-6)
        label = Label(
            x=self.x[axis].end,
            y=1e-6,
            x_offset=-4,
            y_offset=3,
            text="",
            text_font=FONT,
            text_align="right",
            text_font_size="12px",
            text_baseline="bottom",
        )
        self.x[axis].js_link("end", label, "x")
        self.x[axis].on_change("end", lambda _attr, _old, new: label.update(x=new))
        cursor = Span(dimension="height", line_width=1.5, location=1.0, visible=False)
        for item in (tolerance, label, cursor):
            plot.add_layout(item)
        self.tolerance_lines.append(tolerance)
        self.tolerance_labels.append(label)
        self.cursors[axis] = cursor

    def _pins(self, plot: figure, axis: str) -> None:
        lines = plot.multi_line(
            f"x_{axis}", "y", source=self.pins, line_color="color", line_dash="dash",
            line_width=1.2, line_alpha=0.55,
        )  # fmt: skip
        lines.level = "underlay"
        plot.text(
            axis, "y", "text", source=self.pin_labels, x_offset=3, text_font_size="11px",
            text_baseline="middle", name="pin label",
        )  # fmt: skip

    def _curve(self, plot: figure, axis: str, name: str) -> None:
        ghost = plot.line(axis, "median", source=self.ghost[name], line_alpha=GHOST_ALPHA)
        band = plot.varea(axis, "low", "high", source=self.live[name], fill_alpha=BAND_ALPHA)
        worst = plot.line(axis, "worst", source=self.live[name], line_width=1, line_alpha=0.5)
        median = plot.line(axis, "median", source=self.live[name])
        marks = plot.scatter(axis, "median", size="mark", source=self.live[name])
        self.renderers[name] += [ghost, band, worst, median, marks]
        plot.add_tools(_hover(name, [median, marks]))

    def _labels(self, plot: figure, axis: str) -> None:
        plot.text(
            f"x_{axis}", "y", f"text_{axis}", source=self.ends, text_color="color",
            text_align=f"align_{axis}", y_offset=f"shift_{axis}", text_font_size="13px",
            text_baseline="top", text_font_style="bold", text_font=value(FONT),
        )  # fmt: skip
        self.crossing[axis].data = {"x": [], "y": [], "text": []}
        plot.segment("x", "y", "x", 1e9, source=self.crossing[axis], line_width=1, line_dash=[1, 3],
                     name="crossing line")  # fmt: skip
        plot.scatter(
            "x", "y", source=self.crossing[axis], size=11, line_width=2, name="crossing dot"
        )
        plot.text("x", self._label_height(), "text", source=self.crossing[axis], x_offset=6,
                  text_font_size="12px", text_baseline="top", text_font=value(FONT),
                  name="crossing label")  # fmt: skip

    def _label_height(self) -> float:
        return float(self.y.end) * 0.9

    # -- colors -----------------------------------------------------------------------------------

    def paint(self, colors: Palette) -> None:
        """Give both figures the colors of a theme."""
        for plot in self.figures.values():
            paint(plot, colors)
            for name, glyph in (("crossing line", "line"), ("crossing dot", "line")):
                setattr(_named(plot, name), f"{glyph}_color", colors.text)
            _named(plot, "crossing dot").fill_color = colors.paper
            _named(plot, "crossing label").text_color = colors.text
            _named(plot, "pin label").text_color = colors.muted
        for span in (*self.tolerance_lines, *self.cursors.values()):
            span.line_color = colors.muted
        for label in self.tolerance_labels:
            label.text_color = colors.muted
        for name in METHODS:
            self._paint_method(name, colors)
        self.colors = colors
        self._recolor_ends()

    def _paint_method(self, name: str, colors: Palette) -> None:
        stroke = colors.strokes[name]
        for renderer in self.renderers[name]:
            glyph = renderer.glyph
            kind = type(glyph).__name__
            if kind == "VArea":
                glyph.fill_color = stroke.color
                continue
            glyph.line_color = stroke.color
            if kind == "Scatter":
                glyph.marker, glyph.fill_color = stroke.marker, colors.paper
                glyph.line_width = 1.8
            else:
                glyph.line_dash = stroke.dash
        for index in (3, 8):
            self.renderers[name][index].glyph.line_width = stroke.width
        for index in (0, 5):
            self.renderers[name][index].glyph.line_width = stroke.width

    # -- data -------------------------------------------------------------------------------------

    def set_tolerance(self, tolerance: float) -> None:
        """Move the tolerance line, and the decades with it: nothing else moves them early."""
        shown = tolerance if tolerance > 0 else 1e-15
        for span, label in zip(self.tolerance_lines, self.tolerance_labels, strict=True):
            span.location = label.y = shown
            label.text = f"tolerance {residual_text(tolerance)}"
            span.visible = label.visible = tolerance > 0
        self._fit_decades()

    def start(self, name: str, complete: bool) -> None:
        """A new run of this method: what stood turns pale until the new curve stands."""
        if complete:
            self.ghost[name].data = dict(self.live[name].data)
        self._started.add(name)
        self._show(name, True)

    def stream(self, name: str, columns: Mapping[str, list[float]]) -> None:
        """Add points to a live curve; the first ones of a run replace the curve before.

        A column that is emptied and streamed into within one event can reach the browser twice:
        Panel may hold the emptied column back and send it when it is full already.
        """
        if name in self._started:
            self._started.remove(name)
            self.live[name].data = {key: list(values) for key, values in columns.items()}
        else:
            self.live[name].stream(dict(columns))

    def empty_rest(self) -> None:
        """Runs that have begun and have no point yet have no curve."""
        for name in self._started:
            self.live[name].data = empty_columns()
        self._started.clear()

    def clear(self, name: str) -> None:
        """Take a method off the figures."""
        for source in (self.live[name], self.ghost[name]):
            _empty(source)
        self._show(name, False)

    def _show(self, name: str, yes: bool) -> None:
        """Paint a method's lines, or spend no time on them."""
        for renderer in self.renderers[name]:
            renderer.visible = yes

    def finish(self, name: str) -> None:
        """The new curve stands: its pale predecessor goes."""
        _empty(self.ghost[name])
        count = len(self.live[name].data["mark"])
        if count:
            self.live[name].patch({"mark": [(slice(0, count), marks(count))]})

    @property
    def expected(self) -> float:
        """About how many evaluations the x axis shows."""
        return float(self.x["evaluation"].end) / ROOM

    def fit(self, traces: Mapping[str, Trace], grow_only: bool = False) -> None:
        """Fit both x axes to the curves; only called when runs have ended."""
        ends = {
            axis: max((_last(self.live[name], axis) for name in traces), default=0) for axis in AXES
        }
        for axis, end in ends.items():
            now = float(self.x[axis].end)
            if end > 0 and (end * ROOM > now * 1.02 or (end * ROOM < 0.7 * now and not grow_only)):
                self.x[axis].end = end * ROOM
        top = max((trace.largest for trace in traces.values()), default=1.0)
        self._fit_decades(top)

    def _fit_decades(self, largest: float = 1.0) -> None:
        """Whole decades for the curves; above and below them as many pixels as the labels need."""
        low = math.log10(float(self.tolerance_lines[0].location))
        high = min(math.ceil(math.log10(largest) - 1e-9), HIGHEST)
        self.y.start = 10.0 ** (low - SHARE_BELOW * (high - low))
        self.y.end = 10.0 ** (high + SHARE_ABOVE * (high - low))

    def label_ends(self, traces: Mapping[str, Trace]) -> None:
        """Write each method's name and count at the end of its line, apart from one another."""
        data = _no_labels()
        for name, trace in traces.items():
            source = self.live[name].data
            if not trace.median_evaluations:
                continue
            row = trace.median_evaluations - 1
            data["name"].append(name)
            data["x_evaluation"].append(source["evaluation"][row])
            data["x_seconds"].append(source["seconds"][row])
            data["y"].append(max(source["median"][row], float(self.tolerance_lines[0].location)))
            data["text_evaluation"].append(f"{_short(name)} {trace.median_evaluations}")
            data["text_seconds"].append(f"{_short(name)} {seconds_text(source['seconds'][row])}")
            data["color"].append(self.colors.strokes[name].ink)
        for axis in AXES:
            width = float(self.x[axis].end)
            data[f"shift_{axis}"] = _stacked(data[f"x_{axis}"], data["y"], width)
            data[f"align_{axis}"] = [_aligned(x / width) for x in data[f"x_{axis}"]]
        if data != self.ends.data:
            self.ends.data = data

    def _recolor_ends(self) -> None:
        names = self.ends.data["name"]
        self.ends.data = self.ends.data | {
            "color": [self.colors.strokes[name].ink for name in names]
        }

    def mark_crossing(self, points: Mapping[str, tuple[float, float, str] | None]) -> None:
        """The crossover as a dot on each axis, with a short label above all curves."""
        for axis in AXES:
            point = points.get(axis)
            x, y, text = ([point[0]], [point[1]], [point[2]]) if point else ([], [], [])
            if x or self.crossing[axis].data["x"]:
                self.crossing[axis].data = {"x": x, "y": y, "text": text}
                _named(self.figures[axis], "crossing label").y = self._label_height()

    def show_cursor(self, evaluation: float | None, seconds: float | None) -> None:
        """The line that scrubbing moves; None takes it away."""
        for axis, place in (("evaluation", evaluation), ("seconds", seconds)):
            self.cursors[axis].visible = place is not None
            if place is not None:
                self.cursors[axis].location = place

    def set_pins(self, lines: Sequence[dict[str, Any]], labels: Sequence[dict[str, Any]]) -> None:
        """Draw pinned runs as thin lines with their numbers."""
        self.pins.data = {key: [line[key] for line in lines] for key in self.pins.data}
        self.pin_labels.data = {
            key: [label[key] for label in labels] for key in self.pin_labels.data
        }

    def set_clock(self, clock: str) -> None:
        """Say by which clock the seconds were taken."""
        self.figures["seconds"].xaxis.axis_label = TITLES["seconds"].format(clock=clock)


def _named(plot: figure, name: str) -> Any:
    """The glyph of the renderer with this name."""
    return next(item.glyph for item in plot.renderers if item.name == name)


def _no_labels() -> dict[str, list[Any]]:
    each = [f"{kind}_{axis}" for kind in ("x", "text", "shift", "align") for axis in AXES]
    return {key: [] for key in ("name", "y", "color", *each)}


def _short(name: str) -> str:
    return {"picard": "forward"}.get(name, LABELS[name])


def _last(source: ColumnDataSource, axis: str) -> float:
    values = source.data[axis]
    return float(values[-1]) if len(values) else 0.0


def _stacked(x: Sequence[float], y: Sequence[float], width: float) -> list[float]:
    """Pixels below its line's end at which each label is written, so that none covers another."""
    shifts = [BELOW] * len(x)
    for index in range(len(x)):
        for other in range(index):
            near = abs(x[index] - x[other]) < NEAR * width and 0.1 < y[index] / y[other] < 10
            if near and shifts[index] <= shifts[other]:
                shifts[index] = shifts[other] + LINE
    return shifts


def _aligned(place: float) -> str:
    """Labels are centered below the end of their line, except at the edges."""
    return "left" if place < 0.1 else "right" if place > 0.9 else "center"


def _hover(name: str, renderers: list[Any]) -> HoverTool:
    duration = CustomJSHover(code=DURATION.replace("tick", "value"))
    residual = CustomJSHover(code="return value.toExponential(1)")
    return HoverTool(
        renderers=renderers[:1],
        mode="mouse",
        attachment="above",
        line_policy="nearest",
        tooltips=[
            (LABELS[name], "evaluation @evaluation"),
            ("time", "@seconds{custom}"),
            ("median residual", "@median{custom}"),
            ("worst residual", "@worst{custom}"),
        ],
        formatters={"@seconds": duration, "@median": residual, "@worst": residual},
    )
