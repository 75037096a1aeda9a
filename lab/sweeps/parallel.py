"""Parallel coordinates: a line per trial through its knobs, its evaluations and its seconds.

Trials that share two neighboring places share that piece of their lines, so a million of them are
some thousand weighted segments; datashader draws these where the lines are many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import holoviews as hv
import numpy as np
from bokeh.core.properties import value
from bokeh.events import Tap
from bokeh.models import HoverTool, LinearColorMapper, Range1d
from numpy.typing import NDArray

from lab.figures.base import bare_figure, columns, tooltip
from lab.figures.word_ticks import WordTicks
from lab.sweeps import raster
from lab.sweeps.brush import Box, Brushable, fit
from lab.sweeps.columns import DID_NOT, Column
from lab.sweeps.shown import COLORS, Brush, Shown, trial_colors
from lab.sweeps.statuses import MARKS, STATUSES
from lab.sweeps.strands import (
    BAND,
    BAND_STEP,
    SHADES,
    TOP,
    WEIGHTS,
    Gap,
    Strand,
    ends,
    opacity,
    picture,
    scaled,
    segments,
    strand,
)
from lab.sweeps.trials import Trials
from lab.theme import FONT, Palette

NAME = "parallel coordinates"
HEIGHT = 284
MOST_LINES = 4_000  # as lines of their own; a browser takes about 0.1 s to draw them
SIDE = 0.45  # room beside the outer axes
NEAR = 0.3  # of the distance of two axes, within which a drag means this one
LINES = ("x", "y", "color", "told")
NODES = ("x", "y", "level", "count")


class Parallel:
    """One figure; every change is a change of data."""

    def __init__(self, brush: Brush) -> None:
        self._brush = brush
        self.columns: Sequence[Column] = ()
        self.ranges: dict[str, tuple[float, float]] = {}  # column -> heights that are selected
        self._back: Any = None  # what the pale layer was drawn from
        self.x, self.y = Range1d(-SIDE, 1 + SIDE), Range1d(-0.06, 1.03)
        self.lines, self.pale = columns(*LINES), columns("x", "y")
        self.lines.name = "lines of the sweep"
        self.picture = columns("image", "x", "y", "dw", "dh")
        self.picture.name = "picture of the lines"
        self.pale_picture = columns("image", "x", "y", "dw", "dh")
        self.posts, self.nodes = columns("x"), columns(*NODES)
        self.words, self.bars = columns("x", "y", "text"), columns("x", "low", "high")
        self.figure = self._figure()
        self.brushable = Brushable(self.figure, self._brushed)
        self.titles = WordTicks(self.figure.xaxis[0])
        self.figure.on_event(Tap, self._tapped)

    # -- building ---------------------------------------------------------------------------------

    def _figure(self) -> Any:
        plot = bare_figure(x_range=self.x, y_range=self.y, height=HEIGHT)
        plot.grid.visible = plot.yaxis.visible = False
        plot.xaxis.axis_line_color = plot.xaxis.major_tick_line_color = None
        self.band = plot.hspan(y=[TOP + 0.035], line_width=1, line_dash=[2, 3]).glyph
        self.mappers = [LinearColorMapper(palette=["#000000"], low=0, high=255) for _ in range(2)]
        self.pale_image, _ = (
            plot.image("image", "x", "y", "dw", "dh", source=source, color_mapper=mapper)
            for source, mapper in zip((self.pale_picture, self.picture), self.mappers, strict=True)
        )
        self.pale_line = plot.multi_line("x", "y", source=self.pale, line_alpha=0.13).glyph
        drawn = plot.multi_line(
            "x", "y", source=self.lines, line_color="color", line_alpha=0.6, line_width=1.2
        )
        self.post = plot.vspan(x="x", source=self.posts, line_width=1.2).glyph
        self.bar = plot.segment(
            "x", "low", "x", "high", source=self.bars, line_width=9, line_alpha=0.45,
            line_cap="round",
        ).glyph  # fmt: skip
        dots = plot.scatter("x", "y", source=self.nodes, size=6, line_width=1.2)
        self.node = dots.glyph
        self.word = plot.text(
            "x", "y", "text", source=self.words, text_align="right", text_baseline="middle",
            x_offset=-6, text_font_size="11px", text_font=value(FONT), padding=1,
            background_fill_alpha=0.8, border_radius=2,
        ).glyph  # fmt: skip
        self.hovers = (
            HoverTool(renderers=[dots]),
            HoverTool(renderers=[drawn], line_policy="interp", limit=3),
        )
        plot.add_tools(*self.hovers)
        return plot

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme; `draw` follows."""
        self.brushable.paint(colors)
        self.figure.xaxis.axis_line_color = self.figure.xaxis.major_tick_line_color = None
        self.figure.xaxis.major_label_text_color = colors.text
        self.post.line_color, self.band.line_color = colors.muted, colors.rule
        self.pale_line.line_color = colors.muted
        self.node.fill_color, self.node.line_color = colors.paper, colors.text
        self.bar.line_color, self.word.text_color = colors.text, colors.muted
        self.word.background_fill_color = colors.paper
        self.hovers[0].tooltips = tooltip({"level": "@level", "selected": "@count"}, colors)
        self.hovers[1].tooltips = tooltip({"trial": "@told"}, colors)
        self._back = None

    # -- showing ----------------------------------------------------------------------------------

    def draw(self, shown: Shown, through: Sequence[Column]) -> None:
        """Draw the trials through these columns."""
        self.columns = through
        strands = self._all_strands(shown.trials)
        self._lay_out(shown)
        if shown.trials.count <= MOST_LINES:
            self._draw_lines(shown, strands)
        elif raster.prepare():
            self._draw_picture(shown, strands)

    def _all_strands(self, trials: Trials) -> list[Strand]:
        for column in self.columns:
            column.look(trials)
        spans = tuple((column.name, column.span) for column in self.columns)
        return trials.shared(
            ("strands", spans), lambda: [strand(column, trials) for column in self.columns]
        )

    def _lay_out(self, shown: Shown) -> None:
        """Axes, their ticks and levels."""
        count = len(self.columns)
        self.titles.show({float(k): each.label for k, each in enumerate(self.columns)}, "")
        fit(self.x, -SIDE, count - 1 + 0.12)
        if list(self.posts.data["x"]) != list(range(count)):
            self.posts.data = {"x": list(range(count))}
        words: list[tuple[float, float, str]] = []
        nodes: list[tuple[float, float, str, str]] = []
        for k, column in enumerate(self.columns):
            low, high = ends(column)
            places = column.ticks()
            heights = scaled(np.array(list(places)), low, high)
            words += [(k, y, word) for y, word in zip(heights, places.values(), strict=True)]
            if column.measured:
                above = not self.columns[k - 1].measured if k else True
                words += [(k, BAND + 0.02, "did not converge")] if above else []
            else:
                nodes += self._nodes(k, column, shown)
        if list(self.words.data["text"]) != [word for *_, word in words]:
            self.words.data = _table(("x", "y", "text"), words)
        self.nodes.data = _table(NODES, nodes)

    @staticmethod
    def _nodes(k: int, column: Column, shown: Shown) -> list[tuple[float, float, str, str]]:
        """The levels of an axis, and how many selected trials have each."""
        axis, mask = shown.trials.every_axis[column.name], shown.mask
        count = len(axis.levels)
        total, mine = axis.counts, axis.counts
        if mask is not None:
            mine = np.bincount(axis.codes[mask], minlength=count)
        heights = scaled(np.arange(count, dtype=float), 0.0, count - 1.0)
        return [
            (k, y, f"{axis.label} {text}", f"{a:,} of {b:,} trials")
            for y, text, a, b in zip(heights, axis.texts, mine, total, strict=True)
        ]

    def _draw_lines(self, shown: Shown, strands: Sequence[Strand]) -> None:
        heights = np.column_stack([each.heights[each.codes] for each in strands])
        mask, trials = shown.mask, shown.trials
        chosen = np.concatenate([*trials.lost.values(), trials.reached])  # these on top of those
        chosen = chosen if mask is None else chosen[mask[chosen]]
        xs = list(range(len(strands)))
        self.lines.data = {
            "x": [xs] * len(chosen), "y": heights[chosen].tolist(),
            "color": trial_colors(shown, chosen).tolist(),
            "told": [trials.setting(index) for index in chosen],
        }  # fmt: skip
        rest = [] if mask is None else heights[~mask].tolist()
        self.pale_line.line_alpha = min(0.13, 12 / max(len(rest), 1))  # many of them add up
        self.pale.data = {"x": [xs] * len(rest), "y": rest}
        self._clear(self.picture, self.pale_picture)

    def _draw_picture(self, shown: Shown, strands: Sequence[Strand]) -> None:
        box = (-SIDE, len(strands) - 1 + 0.12, -0.06, 1.03)
        spans = tuple((column.name, column.span) for column in self.columns)
        gaps = shown.trials.shared(("gaps", spans), lambda: [*map(Gap, strands, strands[1:])])
        if self._back is not strands and shown.mask is not None:
            self._back = strands
            pale = shown.trials.shared(("pale lines", spans), lambda: _pale(gaps, box))
            self.pale_picture.data = _image(pale, box)
        self.pale_image.visible = self._back is strands and shown.mask is not None
        self._clear(self.lines, self.pale)
        self._palettes(shown)
        scale = shown.tint.scale
        drawn = (
            shown.trials.shared(
                ("lines", spans, shown.quantity.column, scale.low, scale.high),
                lambda: picture(shown, gaps, _shades(shown), box),
            )
            if shown.mask is None
            else picture(shown, gaps, _shades(shown), box)
        )
        self.picture.data = _image(drawn, box)

    def _palettes(self, shown: Shown) -> None:
        colors, tint = shown.colors, shown.tint
        opacities = [0.18 + 0.82 * k / (WEIGHTS - 1) for k in range(WEIGHTS)]
        shades = [tint.palette[round(k)] for k in np.linspace(0, COLORS - 1, SHADES)]
        shades += [MARKS[name].color(colors) for name in STATUSES[1:]]
        pale = [_veil(colors.muted, 0.06 + 0.3 * opacity) for opacity in opacities]
        strong = [_veil(shade, opacity) for shade in shades for opacity in opacities]
        for mapper, kinds in zip(self.mappers, (pale, strong), strict=True):
            palette = ["#00000000", *kinds]
            if mapper.palette != palette:
                mapper.update(palette=palette, low=0, high=len(palette) - 1)

    @staticmethod
    def _clear(*sources: Any) -> None:
        for source in sources:
            if any(len(each) for each in source.data.values()):
                source.data = {name: [] for name in source.data}

    # -- answering --------------------------------------------------------------------------------

    def _brushed(self, box: Box) -> None:
        """An interval on each axis that the box reaches, or on the nearest one."""
        left, right, bottom, top = box
        inside = [k for k in range(len(self.columns)) if left <= k <= right]
        near = round((left + right) / 2)
        if not inside and 0 <= near < len(self.columns):
            inside = [near] if abs((left + right) / 2 - near) < NEAR else []
        for k in inside:
            self.ranges[self.columns[k].name] = (bottom, top)
        if inside:
            self._tell()

    def _tapped(self, event: Tap) -> None:
        """A click on an axis takes its interval back."""
        near = round(event.x) if event.x is not None else -1
        if 0 <= near < len(self.columns) and self.columns[near].name in self.ranges:
            del self.ranges[self.columns[near].name]
            self._tell()

    def forget(self) -> None:
        """Nothing is brushed here any longer."""
        self.ranges = {}
        self._outline()

    def _tell(self) -> None:
        self._outline()
        expression, words = None, []
        for column in self.columns:
            if column.name in self.ranges:
                found = self._interval(column, *self.ranges[column.name])
                if found is not None:
                    expression = found[0] if expression is None else expression & found[0]
                    words.append(found[1])
        self._brush(NAME, expression, ", ".join(words))

    @staticmethod
    def _interval(column: Column, bottom: float, top: float) -> tuple[hv.dim, str] | None:
        """What lies on a column between two heights."""
        low, high = ends(column)
        if not column.measured and high == low:
            places = (low - 1.0, high + 1.0) if bottom <= TOP / 2 <= top else (1.0, 0.0)
        else:
            places = tuple(low + (high - low) * height / TOP for height in (bottom, top))  # type: ignore[assignment]
        found = None
        if bottom <= TOP:
            found = column.within(places[0], min(places[1], high) if column.measured else places[1])
        if not column.measured or top < BAND - BAND_STEP:
            return found
        if found is None:
            return DID_NOT, "did not converge"
        return found[0] | DID_NOT, f"{found[1]} or not converged"

    def _outline(self) -> None:
        rows = [
            (k, max(self.ranges[column.name][0], -0.03), min(self.ranges[column.name][1], 1.0))
            for k, column in enumerate(self.columns)
            if column.name in self.ranges
        ]
        self.bars.data = _table(("x", "low", "high"), rows)


def _shades(shown: Shown) -> NDArray[np.float32] | None:
    """The shade of each converged trial, by the quantity; None if it is not one of trials."""
    trials, column, scale = shown.trials, shown.quantity.column, shown.tint.scale
    if not column:
        return None

    def made() -> NDArray[np.float32]:
        index = shown.tint.index(trials.values(column)[trials.reached])
        return np.round(index * ((SHADES - 1) / (COLORS - 1))).astype(np.float32)

    return trials.shared(("shades", column, scale.low, scale.high), made)


def _pale(gaps: Sequence[Gap], box: Box) -> NDArray[Any]:
    """All trials' lines, by how many lie where."""
    weight = raster.lines(segments(gaps, None, None), (), box).weight
    return np.where(weight > 0, opacity(weight) + 1, 0)


def _veil(color: str, opacity: float) -> str:
    return f"{color}{round(255 * min(opacity, 1.0)):02x}"


def _image(pixels: NDArray[Any], box: Box) -> dict[str, list[Any]]:
    left, right, bottom, top = box
    return {
        "image": [pixels.astype(np.uint8)], "x": [left], "y": [bottom], "dw": [right - left],
        "dh": [top - bottom],
    }  # fmt: skip


def _table(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return {name: [row[k] for row in rows] for k, name in enumerate(names)}
