"""Lines over a training: one figure for loss, accuracy, evaluations, residuals and gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from bokeh.core.properties import value
from bokeh.models import BasicTickFormatter, CustomJSTickFormatter, FixedTicker, Range1d
from numpy.typing import NDArray

from lab.figures.base import DURATION, bare_figure, columns, decades, paint
from lab.theme import FONT, Palette

Floats = NDArray[np.float64]
Kind = Literal["loss", "error", "count", "residual", "degrees"]

TITLES = {
    "passes": "epochs",
    "seconds": "seconds of computing (each method's own CPU time)",
    "evals": "evaluations of the cell, forward and backward",
    "evaluation": "evaluations of the cell",
}
LOSSES = (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
BEST = 0.995  # an accuracy above it is drawn there
ACCURACIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, BEST)
SHORT = {"picard": "forward", "anderson": "Anderson"}
FIRST: dict[Kind, tuple[float, float]] = {  # the y axis, bottom and top, of an empty figure
    "loss": (0.05, 5.0), "error": (1.0, (1 - BEST) / 1.5), "count": (0.0, 60.0),
    "residual": (1e-4, 3.0), "degrees": (0.0, 30.0),
}  # fmt: skip
LOG = ("loss", "error", "residual")
HEADROOM = 1.25  # of an axis that grows: it is not moved at every point
EDGE = 1.02  # of the axis: room for half a marker
TEXT = ("x", "y", "text", "color", "align", "right", "down", "size", "style")


@dataclass(frozen=True)
class Drawn:
    """One method's line, and dots on it."""

    x: Sequence[float] | Floats
    y: Sequence[float] | Floats
    dots: tuple[Sequence[float], Sequence[float]] = ((), ())


@dataclass(frozen=True)
class Extras:
    """What stands beside the lines."""

    rule: tuple[float, str] | None = None  # a level and its words
    marks: Sequence[tuple[float, str]] = field(default_factory=tuple)  # where knobs changed


class TrainPlot:
    """Lines by method; every change is a change of data."""

    def __init__(self, kind: Kind, y_title: str, colors: Palette, height: int = 250) -> None:
        self.kind, self.colors = kind, colors
        self.x, self.y = Range1d(0.0, 1.0), Range1d(*FIRST[kind])
        self.lines = columns("x", "y", "color", "dash", "width")
        self.dots = columns("x", "y", "color", "marker", "fill")
        self.rules, self.marks, self.texts = columns("y"), columns("x"), columns(*TEXT)
        self.lines.name, self.texts.name = f"lines of {kind}", f"words of {kind}"
        self.figure = bare_figure(
            x_range=self.x, y_range=self.y, height=height, y_axis_label=y_title,
            y_axis_type="log" if kind in LOG else "linear", min_border_top=10,
        )  # fmt: skip
        self._axis()
        self._glyphs()
        self._axis_name, self._last = "", None
        self.paint(colors)

    # -- building ---------------------------------------------------------------------------------

    def _axis(self) -> None:
        plot = self.figure
        plot.center.remove(plot.xgrid[0])
        if self.kind == "error":
            plot.yaxis.ticker = FixedTicker(ticks=[1 - each for each in ACCURACIES])
            plot.yaxis.formatter = CustomJSTickFormatter(
                args={"least": 1 - BEST},
                code="""
                    const text = Math.round(1000 * (1 - tick)) / 10 + " %"
                    return tick > 1.01 * least ? text : "\u2265 " + text
                """,
            )
        elif self.kind == "loss":
            plot.yaxis.ticker = FixedTicker(ticks=list(LOSSES))
            plot.yaxis.formatter = CustomJSTickFormatter(code="return String(tick)")
        elif self.kind == "residual":
            decades(plot.yaxis)

    def _glyphs(self) -> None:
        plot = self.figure
        self.rule = plot.hspan(y="y", source=self.rules, line_width=1, line_dash=[1, 3]).glyph
        self.mark = plot.vspan(x="x", source=self.marks, line_width=1, line_dash=[4, 3]).glyph
        plot.multi_line(
            "x", "y", source=self.lines, line_color="color", line_dash="dash", line_width="width"
        )
        plot.scatter(
            "x", "y", source=self.dots, marker="marker", size=8, line_width=2, line_color="color",
            fill_color="fill",
        )  # fmt: skip
        plot.text(
            "x", "y", "text", source=self.texts, text_color="color", text_align="align",
            x_offset="right", y_offset="down", text_baseline="middle", text_font=value(FONT),
            text_font_size={"field": "size"}, text_font_style={"field": "style"},
            level="annotation",
        )  # fmt: skip

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.colors = colors
        paint(self.figure, colors)
        self.rule.line_color = colors.muted
        self.mark.line_color = colors.warn
        if self._last is not None:
            self.show(*self._last)

    # -- showing ----------------------------------------------------------------------------------

    def show(
        self, axis: str, drawn: Mapping[str, Drawn], extras: Extras, end: float, invitation: str
    ) -> None:
        """Draw the lines over an axis that ends at `end`, or an invitation where there is none."""
        self._last = axis, drawn, extras, end, invitation
        self._name(axis)
        if self.x.end != end * EDGE:
            self.x.end = end * EDGE
        drawn = {name: self._clean(each) for name, each in drawn.items() if len(each.x)}
        self._fit(drawn, extras.rule)
        strokes = [self.colors.strokes[name] for name in drawn]
        self.lines.data = {
            "x": [each.x for each in drawn.values()], "y": [each.y for each in drawn.values()],
            "color": [stroke.color for stroke in strokes],
            "dash": [stroke.dash for stroke in strokes],
            "width": [stroke.width for stroke in strokes],
        }  # fmt: skip
        self._draw_dots(drawn)
        self.rules.data = {"y": [] if extras.rule is None else [extras.rule[0]]}
        self.marks.data = {"x": [x for x, _ in extras.marks]}
        rows = [*self._ends(drawn), *self._words(extras)]
        if not drawn:
            rows.append(self._centered(invitation))
        self.texts.data = {name: [row[k] for row in rows] for k, name in enumerate(TEXT)}

    def _name(self, axis: str) -> None:
        if axis == self._axis_name:
            return
        self._axis_name = axis
        self.figure.xaxis.axis_label = TITLES[axis]
        self.figure.xaxis.formatter = (
            CustomJSTickFormatter(code=DURATION)
            if axis == "seconds"
            else BasicTickFormatter(use_scientific=False)
        )

    def _clean(self, each: Drawn) -> Drawn:
        """Values that a logarithmic axis can show."""
        y, dots = np.asarray(each.y, dtype=float), np.asarray(each.dots[1], dtype=float)
        if self.kind == "error":
            y, dots = (1 - np.minimum(part, BEST) for part in (y, dots))
        elif self.kind in LOG:
            y, dots = np.maximum(y, 1e-12), np.maximum(dots, 1e-12)
        return Drawn(np.asarray(each.x, dtype=float), y, (each.dots[0], dots))

    def _fit(self, drawn: Mapping[str, Drawn], rule: tuple[float, str] | None) -> None:
        """Move the y axis only where the lines have left it, or fill little of it."""
        if self.kind == "error":
            return
        values = np.concatenate([[], *(each.y for each in drawn.values())])
        values = values[np.isfinite(values)]
        if not len(values):
            return
        if self.kind in LOG:
            levels = [*values, *([rule[0]] if rule else [])]
            low = min(levels)
            start = 10 ** (math.floor(2 * math.log10(low)) / 2)
            start = start / 1.8 if low / start < 1.3 else start
            top = 10 ** (math.ceil(2 * math.log10(max(levels) * 1.2)) / 2)
            if self.kind == "residual" and rule:
                start, top = min(start, rule[0] / 4), max(top, 100 * rule[0])
            if start < self.y.start or start > self.y.start * 12:
                self.y.start = start
            if top > self.y.end or top < self.y.end / 12:
                self.y.end = top
        else:
            most = float(values.max())
            if most > self.y.end * 0.94 or most < self.y.end / 3:
                self.y.end = nice(most * HEADROOM)

    def _draw_dots(self, drawn: Mapping[str, Drawn]) -> None:
        rows: dict[str, list[Any]] = {name: [] for name in self.dots.data}
        for name, each in drawn.items():
            stroke, count = self.colors.strokes[name], len(each.dots[0])
            rows["x"] += list(each.dots[0])
            rows["y"] += list(each.dots[1])
            rows["color"] += [stroke.color] * count
            rows["marker"] += [stroke.marker] * count
            rows["fill"] += [self.colors.paper] * count
        self.dots.data = rows

    def _ends(self, drawn: Mapping[str, Drawn]) -> list[tuple[Any, ...]]:
        """Each method's name at its line's end: the upper line's above it, the lower's below."""
        last = {}
        for name, each in drawn.items():
            known = np.nonzero(np.isfinite(each.y))[0]
            if len(known):
                last[name] = (float(each.x[known[-1]]), float(each.y[known[-1]]))
        upward = -1 if self.y.end < self.y.start else 1
        order = sorted(last, key=lambda name: -upward * last[name][1])
        rows = []
        for place, name in enumerate(order):
            x, y = last[name]
            beside = x < 0.8 * float(self.x.end)
            align, right = ("left", 7.0) if beside else ("right", 0.0)
            apart = 8.0 if beside else 14.0
            down = 0.0 if len(order) == 1 and beside else -apart if place == 0 else apart
            ink = self.colors.strokes[name].ink
            rows.append((x, y, SHORT[name], ink, align, right, down, "12.5px", "bold"))
        return rows

    def _words(self, extras: Extras) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        if extras.rule is not None:
            level, words = extras.rule
            muted = self.colors.muted
            rows.append((0.0, level, words, muted, "left", 4.0, 9.0, "11.5px", "normal"))
        shown = extras.marks[-4:]
        for place, (x, words) in enumerate(shown):
            part = x / self.x.end if self.x.end else 0.0
            align, right = ("left", 5.0) if part < 0.7 else ("right", -5.0)
            down = 9.0 + 14.0 * (place % 3)
            rows.append(
                (x, self.y.end, words, self.colors.warn, align, right, down, "11px", "normal")
            )
        return rows

    def _centered(self, words: str) -> tuple[Any, ...]:
        low, high = float(self.y.start), float(self.y.end)
        y = math.sqrt(low * high) if self.kind in LOG else (low + high) / 2
        return (
            float(self.x.end) / 2, y, words, self.colors.muted, "center", 0.0, 0.0, "14px",
            "normal",
        )  # fmt: skip


def nice(number: float, steps: Sequence[float] = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)) -> float:
    """The next larger one of these numbers times a power of ten; 1 for what is not positive."""
    if not number > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(number))
    return power * next(step for step in steps if step * power >= number * (1 - 1e-9))
