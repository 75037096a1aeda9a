"""The notebooks' pictures: numbers come in, a Panel pane with a Bokeh figure goes out."""

from __future__ import annotations

import html
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import panel as pn
import torch
from bokeh.core.properties import value
from bokeh.layouts import column, row
from bokeh.models import (
    BasicTicker,
    ColorBar,
    ColumnDataSource,
    CustomJS,
    Div,
    LinearColorMapper,
    Range1d,
    Slider,
    Span,
)
from bokeh.palettes import interp_palette
from bokeh.plotting import figure
from IPython.display import HTML
from torch import Tensor

from andersonn_core import Crossover, SolveResult
from andersonn_core.words import residual_text, seconds_text
from lab.figures.base import bare_figure, decades, paint
from lab.figures.curves import CurvePair
from lab.theme import FONT, LIGHT, Stroke
from lab.traces import columns_of

FORWARD, ANDERSON = LIGHT.strokes["picard"], LIGHT.strokes["anderson"]
WIDTH = 900
SUBSCRIPTS = "₀₁₂₃₄₅"
MOVE_START = (Path(__file__).parent / "move_start.js").read_text()
CURVES = ("path", "forward", "weight", "size", "forward_size")
SAYS = (
    "Started at <b>{angle} degrees</b>, Anderson multiplies the distance by <b>{rate}</b> per step "
    "in the long run, forward iteration by 0.667."
)


def _figure(width: int, height: int, **options: Any) -> figure:
    """A bare figure of a fixed size in the light theme."""
    plot = bare_figure(width=width, height=height, sizing_mode="fixed", **options)
    paint(plot, LIGHT)
    return plot


def _pane(model: Any) -> pn.pane.Bokeh:
    """Without a design of its own: the dashboard's would put its whole bundle into each output."""
    return pn.pane.Bokeh(model, sizing_mode="fixed", design=pn.theme.Native)


def _text(plot: figure, x: Any, y: Any, text: Any, color: str, **options: Any) -> None:
    style = dict(
        text_font=value(FONT), text_font_size="13px", text_color=color, text_baseline="middle"
    )
    plot.text(x, y, text, **(style | options))


def _draw(plot: figure, x: Any, y: Any, stroke: Stroke, **options: Any) -> None:
    """A line with markers, in one method's color, dash and marker."""
    line = dict(line_color=stroke.color, line_dash=stroke.dash, line_width=stroke.width)
    plot.line(x, y, **line, **options)
    plot.scatter(
        x, y, marker=stroke.marker, size=7, line_color=stroke.color, fill_color=LIGHT.paper,
        line_width=1.8, **options,
    )  # fmt: skip


# -- one dimension --------------------------------------------------------------------------------


def cobwebs(
    f: Callable[[Tensor], Tensor], forward: Tensor, secant: Tensor, low: float, high: float
) -> pn.pane.Bokeh:
    """Two ways from the same start to where the graph of f meets the diagonal."""
    left, right = (_graph(f, forward, low, high) for _ in range(2))
    z = forward[:8].tolist()
    xs = [z[0]] + [a for a in z[1:-1] for _ in range(2)]
    ys = [z[1]] + [b for pair in zip(z[1:], z[2:], strict=False) for b in pair]
    left.line(xs, ys, line_color=FORWARD.color, line_dash=FORWARD.dash, line_width=FORWARD.width)
    _points(left, z[:3], f(forward[:3]).tolist(), FORWARD)
    left.title.text = "forward iteration: across to the diagonal, up or down to the graph"

    z, image = secant.tolist(), f(secant).tolist()
    for a, b, new in ((0, 1, 2), (1, 2, 3)):
        ends = sorted([(z[a], image[a]), (z[b], image[b]), (z[new], z[new])])
        xs, ys = zip(*ends, strict=True)
        right.line(xs, ys, line_color=ANDERSON.color, line_width=ANDERSON.width if a == 0 else 1.4)
    right.line([z[2], z[2]], [z[2], image[2]], line_color=ANDERSON.color, line_dash="dotted")
    _points(right, z[:3], image[:3], ANDERSON)
    right.title.text = "secant: a line through two points, down to the diagonal"
    return _pane(row(left, right))


def _graph(f: Callable[[Tensor], Tensor], like: Tensor, low: float, high: float) -> figure:
    """The graph of f and the diagonal."""
    z = like.new_tensor(np.linspace(low, high, 200))
    plot = _figure(
        WIDTH // 2, 340, x_range=Range1d(low, high), y_range=Range1d(0.4, 1.1),
        x_axis_label="z", y_axis_label="f(z)",
    )  # fmt: skip
    plot.line(z.numpy(), f(z).numpy(), line_color=LIGHT.text, line_width=2)
    plot.line([low, high], [low, high], line_color=LIGHT.muted, line_width=1)
    _text(plot, [0.43], [0.43], ["f(z) = z"], LIGHT.muted, x_offset=10)
    plot.title.text_font, plot.title.text_font_size = FONT, "13px"
    plot.title.text_font_style, plot.title.text_color = "normal", LIGHT.text
    return plot


def _points(plot: figure, x: list[float], y: list[float], stroke: Stroke) -> None:
    """Numbered points on the graph."""
    plot.scatter(
        x,
        y,
        size=9,
        marker=stroke.marker,
        fill_color=LIGHT.paper,
        line_color=stroke.color,
        line_width=2,
    )
    names = [f"z{SUBSCRIPTS[k]}" for k in range(len(x))]
    _text(plot, x, y, names, stroke.ink, x_offset=9, y_offset=-10)


# -- residual curves ------------------------------------------------------------------------------


class Curves:
    """Relative residual by evaluations and, if wanted, by seconds: the page's own figures."""

    def __init__(self, rtol: float, seconds: bool = True) -> None:
        self.rtol = rtol
        self.pair = CurvePair(LIGHT, rtol)
        shown = [
            plot for axis, plot in self.pair.figures.items() if seconds or axis == "evaluation"
        ]
        for plot in shown:
            plot.sizing_mode = "fixed"
            plot.width = WIDTH // 2 if seconds else WIDTH * 2 // 3
        self.pane = _pane(row(shown))

    def show(
        self, point: Crossover | None = None, crop: bool = False, **results: SolveResult
    ) -> pn.pane.Bokeh:
        """Draw these results (picard=..., anderson=...), each called as the palette calls it.

        With `crop` the axes end soon after the median lines; worst samples may run out of them.
        """
        pair, traces = self.pair, {}
        for name, result in results.items():
            traces[name], columns = columns_of(result, self.rtol)
            pair.put(name, columns)
        pair.fit(traces)
        pair.set_clock(next(iter(results.values())).history.clock)
        pair.label_ends(traces)
        if crop:
            pair.crop(1.6)
        if point is not None and point.by_seconds.kind == "at":
            by = {"evaluation": point.by_evaluations, "seconds": point.by_seconds}
            pair.mark_crossing({axis: _crossing(axis, where) for axis, where in by.items()})
        pair.draw()
        pn.io.push_notebook(self.pane)
        return self.pane


def _crossing(axis: str, point: Any) -> tuple[float, float, str] | None:
    if point.kind != "at":
        return None
    if axis == "seconds":
        return point.seconds, point.residual, f"crossover {seconds_text(point.seconds)}"
    return point.evaluations, point.residual, f"crossover {point.evaluations:.0f}"


def residual_curves(
    rtol: float, point: Crossover | None = None, seconds: bool = True, crop: bool = False,
    **results: SolveResult,
) -> pn.pane.Bokeh:  # fmt: skip
    """The curves of some results, with the crossover if one is given; see `Curves.show`."""
    return Curves(rtol, seconds).show(point, crop, **results)


def stubborn_picture(
    image: Tensor, sample: int, rtol: float, runs: Mapping[str, tuple[str, SolveResult]]
) -> pn.pane.Bokeh:
    """One digit, and its residual in several runs: {"what is written": ("picard", result)}."""
    digit = _figure(150, 150, x_range=Range1d(0, 1), y_range=Range1d(0, 1))
    digit.image(
        [np.flipud(image.numpy())], 0, 0, 1, 1, palette=interp_palette(("#ffffff", LIGHT.text), 64)
    )
    digit.axis.visible = digit.grid.visible = False
    curves = {}
    for words, (name, result) in runs.items():
        count = int(result.sample_evals[sample])
        curves[words] = name, result.history.relative_residual[:count, sample]
    plot = _residual_figure(curves, rtol, f"relative residual of digit {sample}")
    return _pane(row(column(digit, Div(text=f"held-out digit {sample}")), plot))


def residual_lines(
    curves: Mapping[str, tuple[str, Tensor]],  # what is written: whose stroke, (K,) from z0 on
    rtol: float | None = None,
    marks: Mapping[str, tuple[str, int, float]] | None = None,  # whose, evaluation, residual
    log: bool = True,
) -> pn.pane.Bokeh:
    """Relative residual of one sample by evaluations."""
    plot = _residual_figure(curves, rtol, "relative residual", log)
    for words, (name, x, y) in (marks or {}).items():
        stroke = LIGHT.of(name)
        plot.scatter(
            [x], [y], size=11, marker=stroke.marker, fill_color=LIGHT.paper,
            line_color=stroke.color, line_width=2.5,
        )  # fmt: skip
        _text(plot, [x], [y], [words], stroke.ink, x_offset=10)
    return _pane(plot)


def _residual_figure(
    curves: Mapping[str, tuple[str, Tensor]], rtol: float | None, label: str, log: bool = True
) -> figure:  # fmt: skip
    """A line for each curve, its words at the end."""
    plot = _figure(
        WIDTH - 170, 340, y_axis_type="log" if log else "linear", y_axis_label=label,
        x_axis_label="evaluations of the map f",
    )  # fmt: skip
    plot.xgrid.visible = False
    if log:
        decades(plot.yaxis)
    if rtol is not None:
        span = dict(dimension="width", line_color=LIGHT.muted, line_dash="dotted", level="underlay")
        plot.add_layout(Span(location=rtol, **span))
        _text(plot, [1], [rtol], [f"tolerance {residual_text(rtol)}"], LIGHT.muted, y_offset=-9)
    plot.x_range = Range1d(0, 1.35 * max(len(values) for _, values in curves.values()))
    ends = _apart([values.numpy() for _, values in curves.values()], log)
    for (words, (name, values)), end in zip(curves.items(), ends, strict=True):
        stroke = LIGHT.of(name)
        plot.line(
            np.arange(1, len(values) + 1), values.numpy(), line_color=stroke.color,
            line_dash=stroke.dash, line_width=stroke.width,
            line_alpha=0.45 if "without" in words else 1.0,
        )  # fmt: skip
        _text(
            plot, [len(values)], [end], [words], stroke.ink, x_offset=6,
            background_fill_color=LIGHT.paper,
        )  # fmt: skip
    return plot


def _apart(curves: list[np.ndarray], log: bool) -> list[float]:
    """Where the curves end, moved up where two lines of words would overlap."""
    heights = [np.log10(curve) if log else curve for curve in curves]
    line = np.ptp(np.concatenate(heights)) / 16
    ends = np.array([height[-1] for height in heights])
    lengths = np.array([len(curve) for curve in curves])
    order = np.argsort(ends)
    for above, below in ((order[k], order[:k]) for k in range(1, len(order))):
        near = below[abs(lengths[below] - lengths[above]) < 0.3 * lengths.max()]
        ends[above] = max([ends[above], *(ends[near] + line)])
    return [float(end) for end in (10**ends if log else ends)]


def evaluations_spent(needed: Tensor, spent: int, height: int = 300) -> pn.pane.Bokeh:
    """A bar for each sample: the evaluations that it needed (B,), and those of the whole batch."""
    samples = len(needed)
    plot = _figure(
        WIDTH - 170, height, x_range=Range1d(0, 1.25 * spent), y_range=Range1d(0, samples),
        x_axis_label="evaluations of the map f", y_axis_label="samples",
    )  # fmt: skip
    bars = ((torch.full((samples,), spent), LIGHT.rule), (needed.sort().values, ANDERSON.color))
    for right, color in bars:
        y = np.arange(samples) + 0.5
        plot.hbar(y=y, right=right.numpy(), height=0.8, color=color, line_color=None)
    plot.grid.visible = False
    plot.yaxis.major_tick_line_color, plot.yaxis.major_label_text_font_size = None, "0px"
    for share, words, ink in (
        (0.75, "spent", LIGHT.muted),
        (0.25, "needed", ANDERSON.ink),
    ):
        _text(plot, [spent], [share * samples], [words], ink, x_offset=8)
    return _pane(plot)


# -- the plane ------------------------------------------------------------------------------------


def plane_paths(center: Tensor, forward: Tensor, anderson: Tensor) -> pn.pane.Bokeh:
    """Iterates (K, 2) of both methods in the plane, numbered from the start."""
    plot = _figure(
        440, 420, match_aspect=True, x_axis_label="first number", y_axis_label="second number"
    )
    for points, stroke in ((forward, FORWARD), (anderson, ANDERSON)):
        _draw(plot, points[:, 0].numpy(), points[:, 1].numpy(), stroke)
    x, y = center.tolist()
    plot.scatter([x], [y], marker="x", size=14, line_color=LIGHT.text, line_width=2.5)
    _text(plot, [x], [y], ["center"], LIGHT.text, x_offset=-12, text_align="right")
    (x, y), last = forward[0].tolist(), forward[len(forward) // 2].tolist()
    _text(plot, [x], [y], ["start"], LIGHT.text, x_offset=-10, text_align="right")
    _text(plot, [last[0]], [last[1]], ["forward"], FORWARD.ink, x_offset=10)
    (x, y) = anderson[-2].tolist()
    _text(plot, [x], [y], ["Anderson"], ANDERSON.ink, x_offset=-8, y_offset=12, text_align="right")
    return _pane(plot)


def rate_fan(
    factors: Tensor,  # (N, N) over [-1, 1]^2, [i, j] = (x_i, y_j)
    rates: Tensor,  # (A,) for A starts on the half circle, evenly spaced from 0 degrees
    anderson: Tensor,  # (K, A, 2) their iterates
    forward: Tensor,  # (K, A, 2)
    gamma: Tensor,  # (K - 2, A) the weights of the steps that have one
    angle: float = 30.0,
) -> pn.pane.Bokeh:
    """The plane of starts colored by rate; click, drag or use the slider to move the start.

    Rates and weights depend on the angle of the start alone and the iterates scale with it, so a
    table over angles holds every answer: the figure needs no kernel.
    """
    table = _angle_table(rates, anderson, forward, gamma)
    steps = len(anderson)
    turn = math.radians(angle)
    start = ColumnDataSource({"x": [0.8 * math.cos(turn)], "y": [0.8 * math.sin(turn)]})
    shown = {name: ColumnDataSource(_rows(table, name, angle, steps)) for name in CURVES}
    plane = _fan(factors, start, shown)
    slider = Slider(
        title="angle of the start, in degrees", start=0, end=360 - 180 / len(rates),
        step=180 / len(rates), value=angle, width=400, bar_color=ANDERSON.color,
    )  # fmt: skip
    rate = rates[round(angle / slider.step)]
    says = Div(text=SAYS.format(angle=f"{angle:.1f}", rate=f"{rate:.3f}"), width=WIDTH // 2 - 20,
               styles={"font": f"14px {FONT}", "color": LIGHT.text})  # fmt: skip
    move = CustomJS(
        args=dict(
            table=table, start=start, shown=shown, slider=slider, says=says, sentence=SAYS,
            steps=steps, angles=len(rates),
        ),
        code=MOVE_START,
    )  # fmt: skip
    slider.js_on_change("value", move)
    for event in ("tap", "pan"):
        plane.js_on_event(event, move)
    right = column(says, _weights_figure(shown["weight"], steps), _size_figure(shown, steps))
    return _pane(row(column(plane, slider), right))


def _angle_table(
    rates: Tensor, anderson: Tensor, forward: Tensor, gamma: Tensor
) -> ColumnDataSource:
    """Row by row: angle 0 with its K steps, the next angle with its K steps, ..."""
    steps, angles = anderson.shape[:2]
    weights = gamma.new_full((steps, angles), math.nan)
    weights[1:-1] = gamma
    columns = {
        "path_x": anderson[..., 0], "path_y": anderson[..., 1],
        "forward_x": forward[..., 0], "forward_y": forward[..., 1],
        "weight_y": weights, "size_y": anderson.norm(dim=2), "forward_size_y": forward.norm(dim=2),
    }  # fmt: skip
    data = {name: values.T.numpy().ravel() for name, values in columns.items()}
    k = np.tile(np.arange(steps, dtype=float), angles)
    data |= dict.fromkeys(("weight_x", "size_x", "forward_size_x"), k)
    return ColumnDataSource(data | {"rate": np.repeat(rates.numpy(), steps)})


def _rows(table: ColumnDataSource, name: str, angle: float, steps: int) -> dict[str, Any]:
    """One curve of the table for an angle below 180 degrees; move_start.js does the same."""
    place = round(angle * len(table.data["rate"]) / steps / 180) * steps
    scale = 0.8 if name in ("path", "forward") else 1.0
    return {axis: scale * table.data[f"{name}_{axis}"][place : place + steps] for axis in "xy"}


def _fan(factors: Tensor, start: ColumnDataSource, shown: Mapping[str, ColumnDataSource]) -> figure:
    plot = _figure(
        WIDTH // 2, 400, x_range=Range1d(-1, 1), y_range=Range1d(-1, 1),
        x_axis_label="first number of the start", y_axis_label="second number of the start",
        name="rate fan",
    )  # fmt: skip
    colors = LinearColorMapper(palette=interp_palette(LIGHT.heat, 128), low=0, high=0.42)
    plot.image([factors.T.numpy()], -1, -1, 2, 2, color_mapper=colors)
    bar = ColorBar(
        color_mapper=colors, width=10, ticker=BasicTicker(desired_num_ticks=5), bar_line_color=None,
        title="r-linear factor", title_text_font=FONT, title_text_font_style="normal",
        major_tick_line_color=None, major_label_text_color=LIGHT.muted, title_text_color=LIGHT.text,
    )  # fmt: skip
    plot.add_layout(bar, "right")
    for name in ("forward", "path"):
        plot.line(
            "x", "y", source=shown[name], line_color=LIGHT.paper, line_width=6, line_alpha=0.75
        )
    for name, stroke in (("forward", FORWARD), ("path", ANDERSON)):
        _draw(plot, "x", "y", stroke, source=shown[name])
    plot.scatter(
        "x", "y", source=start, size=16, fill_color=LIGHT.text, line_color=LIGHT.paper, line_width=2
    )
    plot.grid.visible = False
    return plot


def _weights_figure(source: Any, steps: int) -> figure:
    plot = _figure(
        WIDTH // 2, 170, x_range=Range1d(0, steps - 1), y_range=Range1d(-2.6, 0.3),
        x_axis_label="step k", y_axis_label="weight gamma",
    )  # fmt: skip
    plot.xgrid.visible = False
    _draw(plot, "x", "y", ANDERSON, source=source)
    return plot


def _size_figure(shown: Mapping[str, ColumnDataSource], steps: int) -> figure:
    plot = _figure(
        WIDTH // 2, 200, x_range=Range1d(0, steps - 1), y_axis_type="log",
        y_range=Range1d(1e-20, 10), x_axis_label="step k", y_axis_label="distance / first distance",
    )  # fmt: skip
    decades(plot.yaxis)
    plot.xgrid.visible = False
    for name, stroke in (("forward_size", FORWARD), ("size", ANDERSON)):
        line = dict(line_color=stroke.color, line_dash=stroke.dash, line_width=stroke.width)
        plot.line("x", "y", source=shown[name], **line)
    _text(plot, [steps - 3], [1e-3], ["forward"], FORWARD.ink, text_align="right")
    _text(plot, [1], [1e-18], ["Anderson"], ANDERSON.ink)
    return plot


def table(frame: pd.DataFrame) -> Any:
    """A table of words: never cut, and on the left."""
    left = [{"selector": "th, td", "props": "text-align: left"}]
    return frame.style.set_table_styles(left)


def reveal(words: str, function: Callable[..., Any]) -> Any:
    """The source of a function, behind words that have to be clicked."""
    source = html.escape(inspect.getsource(function))
    return HTML(f"<details><summary>{html.escape(words)}</summary><pre>{source}</pre></details>")
