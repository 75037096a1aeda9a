"""The pictures of notebook 03: layers becoming one, gradients, training, and how beliefs settle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import panel as pn
from bokeh.layouts import row
from bokeh.models import FixedTicker, Range1d, Span
from bokeh.palettes import interp_palette
from bokeh.plotting import figure
from drawing import ANDERSON, FORWARD, WIDTH, _draw, _figure, _pane, _text
from drawing_roots import _titled
from torch import Tensor

from lab.figures.base import decades
from lab.theme import LIGHT, Stroke

THIRD = LIGHT.strokes["broyden"]  # whatever is neither forward iteration nor Anderson
PLAIN = Stroke(LIGHT.text, LIGHT.text, "solid", "circle", 2.2)  # what no method owns
ANGLE_WORDS = (  # at the last value above this, there
    (0.009, {"x_offset": 8}),
    (7.0, {"x_offset": 8, "y_offset": -12}),
    (0.4, {"x_offset": -10, "y_offset": 10, "text_align": "right"}),
)
PALE = interp_palette(("#c9d3dc", FORWARD.ink), 64)


def _line(plot: figure, x: Any, y: Any, stroke: Stroke, **options: Any) -> None:
    style = dict(line_color=stroke.color, line_dash=stroke.dash, line_width=stroke.width)
    plot.line(np.asarray(x), np.asarray(y), **(style | options))


def _level(plot: figure, y: float, words: str, x: float, **options: Any) -> None:
    """A thin line from left to right, with words on it."""
    plot.add_layout(Span(dimension="width", location=y, line_color=LIGHT.muted, line_width=1,
                         line_dash="dotted", level="underlay"))  # fmt: skip
    _text(plot, [x], [y], [words], LIGHT.muted, **({"y_offset": -9} | options))


def _whole(axis: Any, ticks: Sequence[float]) -> None:
    axis.ticker = FixedTicker(ticks=list(ticks))
    axis.major_label_overrides = {tick: f"{tick:g}" for tick in ticks}


# -- from many layers to one ----------------------------------------------------------------------


def depths(
    x: Tensor,  # (B,)
    outputs: Mapping[int, Tensor],  # by depth, (B,) each
    equilibrium: Tensor,  # (B,)
    distances: Tensor,  # (K,) of the states of depth 1, 2, ... from the equilibrium
) -> pn.pane.Bokeh:
    """What networks of some depths answer, and how far all depths are from the equilibrium."""
    left = _figure(WIDTH // 2, 340, x_axis_label="input x", y_axis_label="output",
                   x_range=Range1d(x.min().item(), 1.8 * x.max().item()))  # fmt: skip
    left.xgrid.visible = False
    for place, output in enumerate(outputs.values()):
        color = PALE[(place * 63) // max(len(outputs) - 1, 1)]
        left.line(x.numpy(), output.numpy(), line_color=color, line_width=1.8)
    left.line(x.numpy(), equilibrium.numpy(), line_color=ANDERSON.color, line_width=2.6)
    _label_ends(left, x[-1].item(), outputs, equilibrium)

    right = _figure(WIDTH // 2, 340, y_axis_type="log", x_axis_label="depth, in layers",
                    y_axis_label="distance from the equilibrium")  # fmt: skip
    decades(right.yaxis)
    right.xgrid.visible = False
    _line(right, np.arange(1, len(distances) + 1), distances, FORWARD)
    return _pane(row(_titled(left, "the answer of a network of so many layers"),
                     _titled(right, "in the long run, every layer helps by the same factor"),
                     ))  # fmt: skip


def _label_ends(plot: figure, x: float, outputs: Mapping[int, Tensor], equilibrium: Tensor) -> None:
    """The depths at the lines' ends, those that would overlap left out; then the equilibrium."""
    ends = {f"{depth}": output[-1].item() for depth, output in outputs.items()}
    final = equilibrium[-1].item()
    apart = 0.06 * np.ptp([*ends.values(), final])
    taken = [final]
    for words, y in ends.items():
        if min(abs(y - other) for other in taken) > apart:
            _text(plot, [x], [y], [words], FORWARD.ink, x_offset=6)
            taken.append(y)
    _text(plot, [x], [final], ["equilibrium"], ANDERSON.ink, x_offset=6)


def odd_and_even(x: Tensor, even: Tensor, odd: Tensor, root: Tensor) -> pn.pane.Bokeh:  # (B,) each
    """The answers of a deep stack that never settles, and the equilibrium between them."""
    plot = _figure(WIDTH * 2 // 3, 300, x_axis_label="input x", y_axis_label="state z",
                   x_range=Range1d(x.min().item(), 1.5 * x.max().item()))  # fmt: skip
    plot.xgrid.visible = False
    for values in (even, odd):
        _line(plot, x, values, FORWARD)
    _line(plot, x, root, ANDERSON)
    middle = len(x) // 2
    for values, words in ((even, "100 layers"), (odd, "101 layers")):
        below = values[middle] < 0
        _text(plot, x[middle : middle + 1].tolist(), values[middle : middle + 1].tolist(), [words],
              FORWARD.ink, text_align="center", y_offset=-14 if below else 16)  # fmt: skip
    _text(plot, x[-1:].tolist(), root[-1:].tolist(), ["equilibrium"], ANDERSON.ink, x_offset=8)
    return _pane(plot)


# -- gradients ------------------------------------------------------------------------------------


def finite_differences(steps: Sequence[float], errors: Sequence[float]) -> pn.pane.Bokeh:
    """Relative difference between finite differences and the implicit gradient, by step size."""
    plot = _figure(WIDTH * 2 // 3, 320, x_axis_type="log", y_axis_type="log",
                   x_axis_label="step h of the finite difference",
                   y_axis_label="difference from the implicit gradient")  # fmt: skip
    decades(plot.yaxis)
    decades(plot.xaxis)
    plot.grid.visible = False
    _draw(plot, list(steps), list(errors), PLAIN)
    for at, words, align in ((1, "too coarse: falls as h²", "right"), (-2, "rounding", "left")):
        _text(plot, [steps[at]], [errors[at]], [words], LIGHT.muted, text_align=align,
              x_offset=-14 if align == "right" else 14)  # fmt: skip
    return _pane(plot)


def bytes_kept(evaluations: Sequence[int], kept: Mapping[str, Sequence[int]]) -> pn.pane.Bokeh:
    """What autograd keeps for the backward pass, in MB: {"unrolled": ..., "implicit": ...}."""
    plot = _figure(WIDTH * 2 // 3, 320, x_axis_label="evaluations of the cell (layers)",
                   y_axis_label="kept for the backward pass, MB",
                   x_range=Range1d(0, 1.2 * evaluations[-1]))  # fmt: skip
    plot.xgrid.visible = False
    for (name, sizes), stroke in zip(kept.items(), (THIRD, PLAIN), strict=True):
        megabytes = [size / 1e6 for size in sizes]
        _draw(plot, list(evaluations), megabytes, stroke)
        _text(plot, [evaluations[-1]], megabytes[-1:], [name], stroke.ink, x_offset=10)
    return _pane(plot)


def angles(
    products: Sequence[int],
    panels: Mapping[str, Mapping[str, Sequence[float]]],  # title: {words: degrees, one by one}
) -> pn.pane.Bokeh:
    """Angle to the exact gradient by products with J^T: Neumann, phantom, Anderson."""
    plots = []
    for title, curves in panels.items():
        plot = _figure(
            WIDTH // 2, 340, y_axis_type="log", y_range=Range1d(0.005, 150),
            x_range=Range1d(-1, 1.35 * products[-1]),
            x_axis_label="products with the transposed Jacobian",
            y_axis_label="angle to the exact gradient, degrees",
        )  # fmt: skip
        plot.xgrid.visible = False
        _whole(plot.yaxis, [10.0**k for k in range(-2, 3)])
        strokes = zip(curves, (FORWARD, THIRD, ANDERSON), ANGLE_WORDS, strict=True)
        for words, stroke, (least, options) in strokes:
            _line(plot, products, curves[words], stroke)
            at = max(k for k, value in enumerate(curves[words]) if value > least)
            _text(plot, [products[at]], [curves[words][at]], [words], stroke.ink, **options)
        first = next(iter(curves.values()))[0]
        plot.scatter([0], [first], size=10, marker=FORWARD.marker, fill_color=LIGHT.paper,
                     line_color=FORWARD.color, line_width=2.4)  # fmt: skip
        _text(plot, [0], [first], ["Jacobian-free"], FORWARD.ink, x_offset=10, y_offset=-12)
        plots.append(_titled(plot, title))
    return _pane(row(*plots))


# -- training -------------------------------------------------------------------------------------


def training(
    losses: Sequence[float], accuracy: Sequence[float], spent: Mapping[str, Sequence[float]]
) -> pn.pane.Bokeh:
    """Loss and evaluations per digit of every batch, accuracies at the ends of epochs."""
    batches = np.arange(1, len(losses) + 1)
    plots = []
    for title, curves in {
        "loss of each batch; test accuracy after each epoch": {"": losses},
        "evaluations per digit, on average": spent,
    }.items():
        plot = _figure(
            WIDTH // 2, 320, x_axis_label="batch", x_range=Range1d(0, 1.05 * len(losses))
        )
        plot.y_range.start = 0
        plot.grid.visible = False
        for (words, values), stroke in zip(curves.items(), (ANDERSON, THIRD), strict=False):
            _line(plot, batches, values, stroke, line_width=2)
            place = len(batches) * 3 // 5
            top = max(values[place - 8 : place + 12])
            _text(plot, [place], [top], [words], stroke.ink, y_offset=-12, text_align="center")
        plots.append(_titled(plot, title))
    for epoch, fraction in enumerate(accuracy, start=1):
        at = epoch * len(losses) / len(accuracy)
        plots[0].add_layout(Span(dimension="height", location=at, line_color=LIGHT.rule))
        _text(plots[0], [at], [0.8 * max(losses)], [f"{fraction:.1%}"], LIGHT.text, x_offset=-6,
              text_align="right")  # fmt: skip
    return _pane(row(*plots))


def stiffening(
    radius: Sequence[float],  # by epoch, from 0
    evaluations: Mapping[str, Sequence[float]],  # {"forward iteration": ..., "Anderson": ...}
) -> pn.pane.Bokeh:
    """Spectral radius and evaluations to one tolerance, before training and after each epoch."""
    epochs = list(range(len(radius)))
    wide = Range1d(-0.3, epochs[-1] + 1.5)
    left = _figure(WIDTH // 2, 300, x_axis_label="epochs of training", x_range=wide,
                   y_axis_label="spectral radius of J", y_range=Range1d(0.7, 1.02))  # fmt: skip
    right = _figure(WIDTH // 2, 300, x_axis_label="epochs of training", x_range=wide,
                    y_axis_label="evaluations, median digit",
                    y_range=Range1d(0, 1.15 * max(map(max, evaluations.values()))))  # fmt: skip
    for plot in (left, right):
        plot.xgrid.visible = False
        _whole(plot.xaxis, epochs)
    _level(left, 1.0, "1: the layer no longer contracts", epochs[-1] + 1.4, text_align="right",
           y_offset=10)  # fmt: skip
    left.line(epochs, radius, line_color=LIGHT.text, line_width=2)
    left.scatter(epochs, radius, size=8, fill_color=LIGHT.paper, line_color=LIGHT.text,
                 line_width=2)  # fmt: skip
    for (words, counts), stroke in zip(evaluations.items(), (FORWARD, ANDERSON), strict=True):
        _draw(right, epochs, list(counts), stroke)
        _text(right, [epochs[-1]], [counts[-1]], [words], stroke.ink, x_offset=10)
    return _pane(row(left, right))


def gains(
    tolerances: Sequence[float], ratios: Mapping[str, Sequence[float]], even: float
) -> pn.pane.Bokeh:
    """Evaluations of forward iteration over Anderson's, and what a mixing step costs."""
    plot = _figure(WIDTH * 2 // 3, 340, x_axis_type="log", x_range=Range1d(0.2, 7e-7),
                   x_axis_label="tolerance (tighter to the right)",
                   y_axis_label="forward evaluations / Anderson evaluations")  # fmt: skip
    decades(plot.xaxis)
    plot.xgrid.visible = False
    plot.y_range.start = 0.6
    _level(plot, even, "below, mixing costs more than it saves", 8e-7, text_align="right",
           y_offset=10)  # fmt: skip
    for (words, line), color in zip(ratios.items(), (PALE[20], ANDERSON.color), strict=True):
        plot.line(tolerances, line, line_color=color, line_width=2.4)
        plot.scatter(tolerances, line, size=8, fill_color=LIGHT.paper, line_color=color,
                     line_width=2)  # fmt: skip
        ink = ANDERSON.ink if color == ANDERSON.color else FORWARD.ink
        _text(plot, [tolerances[-1]], [line[-1]], [words], ink, x_offset=8)
    return _pane(plot)


# -- beliefs --------------------------------------------------------------------------------------


def beliefs(
    images: Tensor,  # (R, 8, 8)
    evaluations: Sequence[int],  # K of them
    predicted: Tensor,  # (K, R)
    confidence: Tensor,  # (K, R) of the prediction
) -> pn.pane.Bokeh:
    """Some digits, and what the network takes them for as its state forms."""
    rows, columns = len(images), len(evaluations)
    plot = _figure(WIDTH * 5 // 6, 60 + 56 * rows, x_range=Range1d(-1.6, columns - 0.4),
                   y_range=Range1d(rows - 0.4, -0.6),
                   x_axis_label="evaluations of the cell")  # fmt: skip
    plot.grid.visible = plot.yaxis.visible = False
    plot.xaxis.ticker = FixedTicker(ticks=list(range(columns)))
    plot.xaxis.major_label_overrides = {k: str(count) for k, count in enumerate(evaluations)}
    plot.xaxis.axis_line_color = plot.xaxis.major_tick_line_color = None
    ink = interp_palette(("#ffffff", LIGHT.text), 64)
    shade = interp_palette((LIGHT.paper, "#89bedc"), 64)
    for line in range(rows):
        plot.image([images[line].numpy()], -1.4, line - 0.42, 0.84, 0.84, palette=ink)
        final = int(predicted[-1, line])
        for k in range(columns):
            belief, sure = int(predicted[k, line]), float(confidence[k, line])
            plot.rect([k], [line], 0.92, 0.86, fill_color=shade[int(63 * sure)],
                      line_color=None)  # fmt: skip
            _text(plot, [k], [line], [str(belief)], LIGHT.text if belief == final else LIGHT.bad,
                  text_align="center", text_font_size="20px",
                  text_font_style="normal" if belief == final else "bold")  # fmt: skip
    return _pane(plot)


def settling(
    accuracy: Mapping[str, Sequence[float]],  # by method, after evaluation 1, 2, ...
    residual: Mapping[str, Sequence[float]],
) -> pn.pane.Bokeh:
    """Test accuracy and median residual by evaluations, side by side."""
    left = _figure(WIDTH // 2, 300, x_axis_label="evaluations of the cell",
                   y_axis_label="right predictions", y_range=Range1d(0, 1.04))  # fmt: skip
    right = _figure(WIDTH // 2, 300, x_axis_label="evaluations of the cell", y_axis_type="log",
                    y_axis_label="relative residual, median digit")  # fmt: skip
    decades(right.yaxis)
    for plot, curves in ((left, accuracy), (right, residual)):
        plot.xgrid.visible = False
        for values, stroke in zip(curves.values(), (FORWARD, ANDERSON), strict=True):
            _line(plot, np.arange(1, len(values) + 1), values, stroke)
    slow, fast = residual.values()
    _text(left, [8], [0.85], ["both methods"], LIGHT.text)
    _text(right, [len(slow) * 2 // 3], [slow[len(slow) * 2 // 3]], ["forward iteration"],
          FORWARD.ink, y_offset=-16)  # fmt: skip
    _text(right, [len(fast) * 2 // 3], [fast[len(fast) * 2 // 3]], ["Anderson"], ANDERSON.ink,
          x_offset=-8, y_offset=10, text_align="right")  # fmt: skip
    return _pane(row(left, right))


# -- remedies -------------------------------------------------------------------------------------


def softened(
    x: Tensor,  # (B,)
    target: Tensor,  # (B,)
    fits: Mapping[str, Tensor],  # {"without penalty": (B,), "with penalty": ...}
    radii: Mapping[str, Tensor],  # (B,) each
) -> pn.pane.Bokeh:
    """Two fits of the same target, and the spectral radius of each at every input."""
    left = _figure(WIDTH // 2, 300, x_axis_label="input x", y_axis_label="output")
    right = _figure(WIDTH // 2, 300, x_axis_label="input x", y_axis_label="spectral radius of J",
                    y_range=Range1d(0, 1.45))  # fmt: skip
    left.line(x.numpy(), target.numpy(), line_color=LIGHT.muted, line_width=1)
    _text(left, x[-6:-5].tolist(), target[-6:-5].tolist(), ["target"], LIGHT.muted, y_offset=14)
    for plot, curves in ((left, fits), (right, radii)):
        plot.xgrid.visible = False
        for values, stroke in zip(curves.values(), (THIRD, PLAIN), strict=True):
            _line(plot, x, values, stroke)
    for (words, values), stroke, above in zip(
        radii.items(), (THIRD, PLAIN), (True, False), strict=True
    ):
        at = int(values.argmax() if above else values.argmin())
        _text(right, [x[at].item()], [values[at].item()], [words], stroke.ink,
              y_offset=-14 if above else 16, text_align="center")  # fmt: skip
    _level(right, 1.0, "", x[0].item())
    return _pane(row(_titled(left, "the fits"), _titled(right, "how strongly the loop feeds back")))
