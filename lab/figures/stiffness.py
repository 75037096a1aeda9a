"""S over the spectral radius: one point per epoch and network, with the way it has come."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bokeh.core.properties import value
from bokeh.models import CustomJSTickFormatter, FixedTicker, HoverTool, Range1d

from andersonn_core.words import ratio_text
from lab.figures.base import bare_figure, columns, paint, tooltip
from lab.theme import FONT, Palette

if TYPE_CHECKING:
    from lab.training.probe import Point

START = 0.25  # epochs
SPAN = (0.7, 1.06)  # of spectral radii
FACTORS = (0.5, 8.0)  # of S
TICKS = (0.1, 0.2, 0.5, 1, 2, 3, 5, 8, 10, 20, 50)
TOLD = {"epochs": "@passes", "spectral radius": "@radius", "S": "@speedup", "crossover": "@kind"}
TEXT = ("x", "y", "text", "color", "align", "right", "down", "size", "style")


class Stiffness:
    """The phase diagram of a network that learns; every change is a change of data."""

    def __init__(self, colors: Palette, height: int = 300) -> None:
        self.colors, self._points = colors, {}
        self.x, self.y = Range1d(*SPAN), Range1d(*FACTORS)
        self.regions = columns("left", "right", "bottom", "top", "color", "alpha")
        self.trails = columns("x", "y", "color", "dash")
        self.dots = columns("x", "y", "color", "fill", "marker", "size", *_told())
        self.texts, self.unity, self.edge = columns(*TEXT), columns("y"), columns("x")
        self.figure = self._figure(height)
        self.invitation = ""
        self.paint(colors)

    def _figure(self, height: int) -> Any:
        plot = bare_figure(
            x_range=self.x, y_range=self.y, y_axis_type="log", height=height,
            x_axis_label="spectral radius of the cell at its equilibrium",
            y_axis_label="S on one batch, same weights",
        )  # fmt: skip
        plot.yaxis.ticker = FixedTicker(ticks=list(TICKS))
        plot.yaxis.formatter = CustomJSTickFormatter(code="return tick + 'x'")
        plot.grid.visible = False
        plot.quad(
            "left", "right", "bottom", "top", source=self.regions, fill_color="color",
            fill_alpha="alpha", line_color=None, level="underlay",
        )  # fmt: skip
        self.level = plot.hspan(y="y", source=self.unity, line_width=1.4).glyph
        self.border = plot.vspan(x="x", source=self.edge, line_width=1.2, line_dash=[4, 3]).glyph
        plot.multi_line(
            "x", "y", source=self.trails, line_color="color", line_dash="dash", line_width=1.6
        )
        dots = plot.scatter(
            "x", "y", source=self.dots, marker="marker", size="size", line_color="color",
            fill_color="fill", line_width=2,
        )  # fmt: skip
        plot.text(
            "x", "y", "text", source=self.texts, text_color="color", text_align="align",
            x_offset="right", y_offset="down", text_baseline="middle", text_font=value(FONT),
            text_font_size={"field": "size"}, text_font_style={"field": "style"},
        )  # fmt: skip
        self.hover = HoverTool(renderers=[dots])
        plot.add_tools(self.hover)
        return plot

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.colors = colors
        paint(self.figure, colors)
        self.level.line_color = self.border.line_color = colors.muted
        self.hover.tooltips = tooltip(TOLD, colors)
        self.show(self._points, self.invitation)

    def show(self, points: Mapping[str, Sequence[Point]], invitation: str = "") -> None:
        """Draw the points that are known; `points` by the method that trained the network."""
        self._points, self.invitation = points, invitation
        every = [point for found in points.values() for point in found if _known(point)]
        self._fit(every)
        self._ground()
        trails: dict[str, list[Any]] = {name: [] for name in self.trails.data}
        dots: dict[str, list[Any]] = {name: [] for name in self.dots.data}
        texts = self._regions_words()
        for name, found in points.items():
            known = [point for point in found if _known(point)]
            if known:
                self._trail(name, known, trails, dots)
                texts.append(self._here(name, known[-1], every))
        if not every and invitation:
            middle = math.sqrt(float(self.y.start) * float(self.y.end)) * 1.25
            x = (float(self.x.start) + float(self.x.end)) / 2
            texts.append(
                (x, middle, invitation, self.colors.muted, "center", 0, 0, "13.5px", "normal")
            )
        self.trails.data, self.dots.data = trails, dots
        self.texts.data = {key: [row[k] for row in texts] for k, key in enumerate(TEXT)}

    def _fit(self, every: Sequence[Point]) -> None:
        radii = [point.radius for point in every]
        factors = [point.speedup for point in every]
        self.x.start = min([SPAN[0], *(radius - 0.03 for radius in radii)])
        self.x.end = max([SPAN[1], *(radius + 0.04 for radius in radii)])
        self.y.start = min([FACTORS[0], *(factor / 1.3 for factor in factors)])
        self.y.end = max([FACTORS[1], *(factor * 1.4 for factor in factors)])

    def _ground(self) -> None:
        low, high = float(self.y.start), float(self.y.end)
        gray, blue = self.colors.strokes["picard"].color, self.colors.strokes["anderson"].color
        self.regions.data = {
            "left": [self.x.start] * 2, "right": [self.x.end] * 2, "bottom": [low, 1.0],
            "top": [1.0, high], "color": [gray, blue], "alpha": [0.13, 0.08],
        }  # fmt: skip
        self.unity.data, self.edge.data = {"y": [1.0]}, {"x": [1.0]}

    def _regions_words(self) -> list[tuple[Any, ...]]:
        start, picard, anderson = (
            float(self.x.start), self.colors.strokes["picard"].ink,
            self.colors.strokes["anderson"].ink,
        )  # fmt: skip
        style = ("left", 8, 0, "12px", "normal")
        right = ("left", 5, 0, "11px", "normal")
        return [
            (start, float(self.y.end) / 1.16, "Anderson is faster", anderson, *style),
            (start, float(self.y.start) * 1.16, "forward iteration is faster", picard, *style),
            (1.0, float(self.y.start) * 1.16, "expands", self.colors.muted, *right),
        ]

    def _trail(
        self, name: str, known: Sequence[Point], trails: dict[str, list[Any]],
        dots: dict[str, list[Any]],
    ) -> None:  # fmt: skip
        stroke, count = self.colors.strokes[name], len(known)
        trails["x"].append([point.radius for point in known])
        trails["y"].append([point.speedup for point in known])
        trails["color"].append(stroke.color)
        trails["dash"].append(stroke.dash)
        dots["x"] += [point.radius for point in known]
        dots["y"] += [point.speedup for point in known]
        dots["color"] += [stroke.color] * count
        dots["fill"] += [self.colors.paper] * (count - 1) + [stroke.color]
        dots["marker"] += [stroke.marker] * count
        dots["size"] += [6] * (count - 1) + [12]
        dots["passes"] += [f"{point.passes:.2g}" for point in known]
        dots["radius"] += [f"{point.radius:.3f}" for point in known]
        dots["speedup"] += [ratio_text(point.speedup) for point in known]
        dots["kind"] += [point.kind for point in known]

    def _here(self, name: str, point: Point, every: Sequence[Point]) -> tuple[Any, ...]:
        """The newest point's words, above the upper network's and below the lower one's."""
        newest = [found[-1] for found in self._points.values() if found and _known(found[-1])]
        upper = point.speedup >= max(each.speedup for each in newest)
        when = "start" if point.passes < START else f"epoch {point.passes:.2g}"
        words = f"{'forward' if name == 'picard' else 'Anderson'}, {when}"
        part = (point.radius - float(self.x.start)) / (float(self.x.end) - float(self.x.start))
        align = "right" if part > 0.75 else "center"
        down = -16 if upper else 17
        ink = self.colors.strokes[name].ink
        return (point.radius, point.speedup, words, ink, align, 0, down, "12.5px", "bold")


def _told() -> list[str]:
    return [shown.removeprefix("@") for shown in TOLD.values()]


def _known(point: Point) -> bool:
    return math.isfinite(point.radius) and math.isfinite(point.speedup) and point.speedup > 0
