"""The pictures of notebook 02: polynomials, their roots, products, and what mixing costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import panel as pn
from bokeh.layouts import column, row
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    CustomJSTickFormatter,
    FixedTicker,
    LinearColorMapper,
    Range1d,
    Slider,
    Span,
)
from bokeh.palettes import interp_palette
from bokeh.plotting import figure
from drawing import ANDERSON, FORWARD, WIDTH, _figure, _pane, _text
from torch import Tensor

from lab.figures.base import decades
from lab.theme import FONT, LIGHT

OTHERS = ("#855a00", "#7a4fa3", "#51606f")  # dark enough for words, unlike one another
ONE_TO_THE_RIGHT = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
MOVE_K = """
const k = slider.value, n = table.data.x.length / rows
for (const name of Object.keys(shown)) {
  const values = table.data[name].slice(k * n, (k + 1) * n)
  shown[name].data = {x: table.data.x.slice(0, n), y: values}
}
here.data = {x: [k, k], y: levels[k]}
"""


def _titled(plot: figure, words: str) -> figure:
    plot.title.text, plot.title.text_font, plot.title.text_font_size = words, FONT, "13px"
    plot.title.text_font_style, plot.title.text_color = "normal", LIGHT.text
    return plot


def _vertical(plot: figure, x: float, words: str = "", y: float = 0.5) -> None:
    """A thin line across the figure, with words at a height."""
    plot.add_layout(Span(dimension="height", location=x, line_color=LIGHT.muted, line_width=1))
    if words:
        _text(plot, [x], [y], [words], LIGHT.muted, x_offset=-6, text_align="right")


# -- polynomials over the spectrum ----------------------------------------------------------------


def _spectrum_figure(width: int, low: float, eigenvalues: Tensor) -> figure:
    """Axes for |p_k| over real lambda; the eigenvalues stand as dots on the lower edge."""
    plot = _figure(
        width, 340, x_range=Range1d(-0.9, 1.06), y_range=Range1d(low, 3), y_axis_type="log",
        x_axis_label="eigenvalue λ", y_axis_label="size of p(λ)",
    )  # fmt: skip
    decades(plot.yaxis)
    plot.xgrid.visible = False
    _vertical(plot, 1.0)
    plot.scatter(
        eigenvalues.numpy(), np.full(len(eigenvalues), 1.25 * low), size=4,
        fill_color="#D55E00", line_color=None,
    )  # fmt: skip
    return plot


def powers(points: Tensor, eigenvalues: Tensor, rows: Mapping[int, Tensor]) -> pn.pane.Bokeh:
    """|p_k| of forward iteration for some k: {k: values (G,) at the points (G,)}."""
    plot = _spectrum_figure(WIDTH * 2 // 3, 1e-4, eigenvalues)
    for k, values in rows.items():
        plot.line(points.numpy(), values.abs().numpy(), line_color=FORWARD.color, line_width=1.8)
        y = {1: 0.4, 80: 4e-4}.get(k, 2e-3)
        _text(plot, [y ** (1 / k)], [y], [f"k = {k}"], FORWARD.ink, x_offset=-7, y_offset=-6,
              text_align="right")  # fmt: skip
    return _pane(plot)


def best_polynomial(
    points: Tensor,  # (G,)
    eigenvalues: Tensor,  # (n,)
    forward: Tensor,  # (K, G) p_0, p_1, ... at the points
    anderson: Tensor,  # (K, G)
    norms: tuple[Tensor, Tensor],  # (K,) each: their residuals
    optimum: Tensor,  # (K,) of GMRES, which is one step ahead
    k: int,
) -> pn.pane.Bokeh:
    """|p_k| of both methods under a slider for k, and their residuals beside GMRES's."""
    low, rows = 1e-7, len(forward)
    plot = _spectrum_figure(WIDTH // 2, low, eigenvalues)
    table = ColumnDataSource({"x": np.tile(points.numpy(), rows)} | {
        name: values.abs().clamp_min(low).numpy().ravel().astype(np.float32)
        for name, values in (("forward", forward), ("anderson", anderson))
    })  # fmt: skip
    shown = {}
    for name, stroke in (("forward", FORWARD), ("anderson", ANDERSON)):
        n = len(points)
        values = table.data[name][k * n : (k + 1) * n]
        shown[name] = ColumnDataSource({"x": points.numpy(), "y": values})
        plot.line(
            "x", "y", source=shown[name], line_color=stroke.color, line_dash=stroke.dash,
            line_width=stroke.width,
        )  # fmt: skip
    levels = [[float(max(norm[at], low)) for norm in norms] for at in range(rows)]
    here = ColumnDataSource({"x": [k, k], "y": levels[k]}, name="shown k")
    right = _norms_figure(norms, optimum, low, here)
    slider = Slider(title="k", start=0, end=rows - 1, step=1, value=k, width=WIDTH // 2 - 20,
                    bar_color=ANDERSON.color)  # fmt: skip
    arguments = dict(table=table, shown=shown, here=here, levels=levels, rows=rows, slider=slider)
    slider.js_on_change("value", CustomJS(args=arguments, code=MOVE_K))
    return _pane(row(column(_titled(plot, "the polynomials p_k"), slider), right))


def _norms_figure(
    norms: tuple[Tensor, Tensor], optimum: Tensor, low: float, here: ColumnDataSource
) -> figure:
    plot = _residual_figure(WIDTH // 2, low)
    k = np.arange(len(norms[0]))
    for norm, stroke, words in zip(
        norms, (FORWARD, ANDERSON), ("forward", "Anderson"), strict=True
    ):
        plot.line(k, norm.numpy(), line_color=stroke.color, line_dash=stroke.dash,
                  line_width=stroke.width)  # fmt: skip
        at = len(k) * 2 // 3
        right, away = stroke is FORWARD, 12 if stroke is FORWARD else 8
        _text(plot, [k[at]], [float(norm[at])], [words], stroke.ink, x_offset=away,
              y_offset=-away if right else -6)  # fmt: skip
    plot.scatter(np.arange(len(optimum)), optimum.numpy(), size=7, fill_color=None,
                 line_color=OTHERS[0], line_width=1.4)  # fmt: skip
    _text(plot, [1], [6e-3], ["circles: GMRES, one step ahead"], OTHERS[0])
    plot.scatter("x", "y", source=here, size=10, fill_color=LIGHT.text, line_color=LIGHT.paper)
    return _titled(plot, "the residual's length over its first")


def _residual_figure(width: int, low: float, height: int = 340) -> figure:
    plot = _figure(
        width, height, y_axis_type="log", y_range=Range1d(low, 3), x_axis_label="k",
        y_axis_label="residual / first residual",
    )  # fmt: skip
    decades(plot.yaxis)
    plot.xgrid.visible = False
    return plot


def residual_lengths(curves: Mapping[str, Tensor], low: float = 1e-10) -> figure:
    """Residuals over their first, from {"words": (K,)}; the first three are Anderson's kin."""
    plot = _residual_figure(WIDTH // 2, low, 380)
    longest = max(len(values) for values in curves.values())
    plot.x_range = Range1d(0, 1.36 * longest)
    for color, (words, values) in zip((*OTHERS[:2], ANDERSON.color, OTHERS[2]), curves.items(),
                                      strict=False):  # fmt: skip
        plot.line(np.arange(len(values)), values.numpy(), line_color=color, line_width=2,
                  line_dash="6 4" if color == OTHERS[2] else "solid")  # fmt: skip
        last = max(float(values[-1]), low)
        _text(plot, [len(values) - 1], [last], [words], color, x_offset=6)
    return _titled(plot, "residuals")


# -- roots ----------------------------------------------------------------------------------------


def root_paths(
    panels: Mapping[str, tuple[Tensor, Tensor]],  # title: (R,) k and (R,) the roots of p_k
    eigenvalues: Tensor,
    restarts: Mapping[str, Sequence[int]],
    beside: figure | None = None,
) -> pn.pane.Bokeh:
    """Where the roots of p_k lie, k by k; the axis is stretched towards 1."""
    plots = []
    for title, (k, roots) in panels.items():
        plot = _figure(
            WIDTH // 2, 380, x_range=Range1d(_stretch(0.72), _stretch(0.998)),
            y_range=Range1d(0, 46), x_axis_label="roots of p_k (thin lines: eigenvalues)",
            y_axis_label="k",
        )  # fmt: skip
        ticks = {_stretch(x): f"{x:g}" for x in ONE_TO_THE_RIGHT if x > 0.75}
        plot.xaxis.ticker = FixedTicker(ticks=list(ticks))
        plot.xaxis.major_label_overrides = ticks
        plot.grid.visible = False
        for x in eigenvalues[eigenvalues > 0.72].tolist():
            plot.add_layout(Span(dimension="height", location=_stretch(x), line_width=1,
                                 line_color="#D55E00", line_alpha=0.55))  # fmt: skip
        for at in restarts.get(title, ()):
            plot.add_layout(Span(dimension="width", location=at - 0.5, line_color=LIGHT.muted,
                                 line_dash="dotted"))  # fmt: skip
        plot.scatter(_stretch(roots.numpy()), k.numpy(), size=5, fill_color=ANDERSON.color,
                     line_color=None)  # fmt: skip
        plots.append(_titled(plot, title))
    return _pane(row(*plots, *([beside] if beside is not None else [])))


def _stretch(x: Any) -> Any:
    """-log10(1 - lambda): 0.9, 0.99, 0.999 stand at equal distances."""
    return -np.log10(1 - np.asarray(x)) if np.ndim(x) else float(-np.log10(1 - x))


# -- how many -------------------------------------------------------------------------------------


def counts_by_condition(
    kappa: Sequence[float],
    counts: Mapping[str, Sequence[int]],  # "forward", "Anderson"
    theory: Mapping[str, tuple[str, Callable[[Any], Any]]],  # what it says, in words and numbers
) -> pn.pane.Bokeh:
    """Evaluations against the condition number, with a line for each theory."""
    plot = _figure(
        WIDTH * 2 // 3, 360, x_axis_type="log", y_axis_type="log", y_range=Range1d(6, 2e4),
        x_axis_label="condition number κ = (1 - a) / (1 - b)", y_axis_label="evaluations",
    )  # fmt: skip
    _plain_numbers(plot)
    x = np.geomspace(min(kappa) * 0.8, max(kappa) * 1.2, 50)
    for (name, found), stroke in zip(counts.items(), (FORWARD, ANDERSON), strict=True):
        words, line = theory[name]
        plot.line(x, line(x), line_color=stroke.color, line_dash=stroke.dash, line_width=2)
        _text(plot, [x[22]], [line(x[22])], [words], stroke.ink, x_offset=-8, y_offset=-12,
              text_align="right")  # fmt: skip
        plot.scatter(list(kappa), list(found), marker=stroke.marker, size=9, line_width=2,
                     fill_color=LIGHT.paper, line_color=stroke.color)  # fmt: skip
        _text(plot, [kappa[2]], [found[2]], [name], stroke.ink, x_offset=12, y_offset=10)
    return _pane(plot)


def _plain_numbers(plot: figure) -> None:
    """Axes with 0.1, 1, 10 on them."""
    plot.grid.visible = False
    for axis in plot.axis:
        axis.formatter = CustomJSTickFormatter(code="return +tick.toPrecision(1)")


# -- products -------------------------------------------------------------------------------------


def _map_of(
    sizes: np.ndarray, title: str, x: str, y: str, first: tuple[int, int], decades: float
) -> figure:
    """log10 of sizes (rows, columns) as a heat map, row 0 on top; dark is nothing."""
    rows, columns = sizes.shape
    plot = _figure(
        WIDTH // 2, 380, x_range=Range1d(first[1] - 0.5, first[1] + columns - 0.5),
        y_range=Range1d(first[0] + rows - 0.5, first[0] - 0.5), x_axis_label=x, y_axis_label=y,
    )  # fmt: skip
    colors = LinearColorMapper(palette=interp_palette(LIGHT.heat, 64), low=-decades, high=0)
    logs = np.log10(np.clip(sizes, 10.0**-decades, 1.0))
    at, place = np.meshgrid(np.arange(columns) + first[1], np.arange(rows) + first[0])
    seen = np.isfinite(logs.ravel())
    source = ColumnDataSource({"x": at.ravel()[seen], "y": place.ravel()[seen],
                               "log": logs.ravel()[seen]})  # fmt: skip
    plot.rect("x", "y", 1, 1, source=source, line_color=LIGHT.paper, line_width=1,
              fill_color={"field": "log", "transform": colors})  # fmt: skip
    plot.grid.visible = False
    return _titled(plot, title)


def products(panels: Mapping[str, Tensor]) -> pn.pane.Bokeh:
    """|<q_j, dg_k>| on and above the diagonal, of some maps."""
    plots = []
    for title, matrix in panels.items():
        sizes = matrix.abs().numpy().copy()
        sizes[np.tril_indices(len(sizes), -1)] = np.nan
        plots.append(_map_of(sizes, title, "new difference k", "older one j", (0, 0), 14))
    return _pane(row(*plots))


def stairs(sizes: Tensor, counts: Mapping[str, int]) -> pn.pane.Bokeh:
    """Which conditions (rows, from 1) the residual of each evaluation (from 1) meets: the dark."""
    plot = _map_of(
        sizes.numpy(), "sizes of P J^-j g, j downwards: dark ones are zero",
        "evaluation", "j", (1, 1), 10,
    )  # fmt: skip
    plot.width, plot.height = WIDTH * 2 // 3, 260
    bars = _figure(
        WIDTH // 3, 260, y_range=list(counts)[::-1], x_axis_label="evaluations",
        x_range=Range1d(0, 1.25 * max(counts.values())),
    )  # fmt: skip
    colors = [ANDERSON.color if "IDR" in name else FORWARD.color for name in counts]
    bars.hbar(y=list(counts), right=list(counts.values()), height=0.6, color=colors)
    _text(bars, list(counts.values()), list(counts), [str(count) for count in counts.values()],
          LIGHT.text, x_offset=5)  # fmt: skip
    bars.grid.visible = False
    bars.xaxis.ticker = FixedTicker(ticks=[0, 50, 100])
    return _pane(row(plot, bars))


# -- what a probe finds ---------------------------------------------------------------------------


def probes(off: Mapping[str, float], misled: float) -> pn.pane.Bokeh:
    """How far off a foretold residual was, of some maps, and what follows from it."""
    names = list(off)
    plot = _figure(
        WIDTH * 5 // 6, 60 + 34 * len(names), x_axis_type="log", x_range=Range1d(1e-16, 40),
        y_range=names[::-1], x_axis_label="foretold residual off by this part of itself",
    )  # fmt: skip
    decades(plot.xaxis)
    plot.grid.visible = False
    plot.add_layout(Span(dimension="height", location=misled, line_color=LIGHT.muted,
                         line_dash="dotted"))  # fmt: skip
    plot.scatter(list(off.values()), names, size=12, fill_color=ANDERSON.color, line_color=None)
    heads = {1e-14: "rounding: affine", 4e-3: "nearly affine", 4.0: "misled"}
    top = (names[0], 0.72)
    _text(plot, list(heads), [top] * len(heads), list(heads.values()), LIGHT.muted,
          text_align="center")  # fmt: skip
    plot.y_range.range_padding = 0.35
    return _pane(plot)


# -- what it costs --------------------------------------------------------------------------------


def speedups(
    measured: Mapping[str, tuple[float, float]],  # ratio of evaluations, map / mixing seconds
    speedup: Callable[[float, float, float, float], float],
) -> pn.pane.Bokeh:
    """S against the price of the map in mixing steps: a curve for each ratio of evaluations."""
    plot = _figure(
        WIDTH * 2 // 3, 380, x_axis_type="log", y_axis_type="log", x_range=Range1d(0.03, 130),
        y_range=Range1d(0.008, 150),
        x_axis_label="price of the map, in mixing steps: t / c",
        y_axis_label="S, times as fast as forward iteration",
    )  # fmt: skip
    _plain_numbers(plot)
    plot.add_layout(Span(dimension="width", location=1, line_color=LIGHT.muted, line_width=1))
    prices = np.geomspace(0.03, 100, 80)
    for name, (ratio, price) in measured.items():
        curve = [speedup(ratio, 1.0, one, 1.0) for one in prices]
        plot.line(prices, curve, line_color=ANDERSON.color, line_width=2)
        plot.scatter([price], [speedup(ratio, 1.0, price, 1.0)], size=11, line_width=2.4,
                     fill_color=LIGHT.paper, line_color=ANDERSON.color)  # fmt: skip
        words = f"{ratio:.2g} times fewer evaluations" if ratio > 1 else "more evaluations"
        _text(plot, [prices[-1]], [curve[-1]], [f"{name}: {words}"], ANDERSON.ink, y_offset=-12,
              text_align="right")  # fmt: skip
    return _pane(plot)
