"""One phase diagram: cells in color with their numbers, the convergence boundary, you are here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.core.properties import value
from bokeh.events import Tap
from bokeh.models import (
    ColorBar,
    CustomJSTickFormatter,
    FixedTicker,
    HoverTool,
    LogColorMapper,
    Range1d,
)

from andersonn_core.words import bytes_text, ratio_text
from lab.figures.base import bare_figure, columns, ink_on, paint, ramp, tooltip
from lab.phase import Axis, Cell, Plan, Setting, setting_text
from lab.quantities import (
    Quantity,
    Scale,
    crossover_words,
    evaluations_words,
    speedup_words,
)
from lab.theme import FONT, Palette

ROWS = {"mixing": "mixing \N{GREEK SMALL LETTER BETA}", "batch": "batch size B (samples)"}
COLUMNS = "window m (past steps)"
COLORS = 255  # of a scale; odd, so that the middle one is its own
REACH = 3  # rows or columns over which a cell lends its color to those that are to come
NEAR_ALPHA = 0.35  # of a cell that is not computed yet and shows its nearest neighbor's color
TOLD = {
    "setting": "@setting", "speed-up": "@speedup", "evaluations": "@evaluations",
    "crossover": "@crossover", "history": "@history", "mixing costs": "@penalty", "run": "@how",
}  # fmt: skip
ENDS = ("x0", "y0", "x1", "y1")
FILL = ("x", "y", "color", "alpha", "line", "text", "ink")
TOLD_COLUMNS = tuple(shown.removeprefix("@") for shown in TOLD.values())
TICKS = "for (const [at, word] of words) if (Math.abs(tick / at - 1) < 1e-6) return word; return ''"

Grid = Mapping[tuple[int, int], Cell]  # by column and row


class PhaseMap:
    """Window x mixing or window x batch size; every change is a change of data."""

    def __init__(self, axis: Axis, colors: Palette, pick: Callable[[Setting], None]) -> None:
        self.axis, self._pick = axis, pick
        self._plan: Plan | None = None
        self._last: tuple[Any, ...] | None = None
        self._scaled: tuple[Any, ...] = ()
        self._knee_words: list[tuple[float, float, str]] = []
        self.x, self.y = Range1d(-0.5, 0.5), Range1d(-0.5, 0.5)
        self.cells = columns(*FILL, *TOLD_COLUMNS)
        self.crosses = columns("x", "y")
        self.edges, self.knees = columns(*ENDS), columns(*ENDS)
        self.words, self.rings = columns("x", "y", "text", "align"), columns("x", "y", "dash")
        self.mapper = LogColorMapper(palette=["#000000"], low=0.5, high=2.0)
        self.figure = self._figure()
        self.figure.on_event(Tap, self._tapped)
        self._color_bar()
        self.paint(colors)

    # -- building ---------------------------------------------------------------------------------

    def _figure(self) -> Any:
        plot = bare_figure(
            x_range=self.x, y_range=self.y, height=330, x_axis_label=COLUMNS,
            y_axis_label=ROWS[self.axis],
        )  # fmt: skip
        plot.grid.visible = False
        for axis in plot.axis:
            axis.axis_line_color = axis.major_tick_line_color = None
        squares = plot.rect(
            "x", "y", 1, 1, source=self.cells, fill_color="color", fill_alpha="alpha",
            line_color="line", line_width=1.5,
        )  # fmt: skip
        style: dict[str, Any] = dict(text_font=value(FONT), text_align="center")
        plot.text(
            "x", "y", "text", source=self.cells, text_color="ink", text_baseline="middle",
            text_font_size="11px", **style,
        )  # fmt: skip
        self.cross = plot.scatter(
            "x", "y", source=self.crosses, marker="x", size=7, line_width=1.2, line_alpha=0.6
        ).glyph
        edge = dict(zip(ENDS, ENDS, strict=True))
        self.halos = [  # so that a line is seen on every color
            plot.segment(**edge, source=source, line_width=width).glyph
            for source, width in ((self.edges, 5), (self.knees, 4))
        ]
        self.edge = plot.segment(**edge, source=self.edges, line_width=2.2).glyph
        self.knee = plot.segment(**edge, source=self.knees, line_width=1.6, line_dash=[5, 3]).glyph
        self.ring = plot.rect(
            "x", "y", 1.04, 1.04, source=self.rings, fill_alpha=0, line_width=2.6,
            line_dash="dash", border_radius=3,
        ).glyph  # fmt: skip
        self.word = plot.text(
            "x", "y", "text", source=self.words, text_font_size="11px", padding=1,
            border_radius=3, background_fill_alpha=0.88, text_baseline="middle",
            **style | {"text_align": "align"},
        ).glyph  # fmt: skip
        self.hover = HoverTool(renderers=[squares])
        plot.add_tools(self.hover)
        return plot

    def _color_bar(self) -> None:
        self.formatter = CustomJSTickFormatter(args={"words": []}, code=TICKS)
        self.ticker = FixedTicker(ticks=[])
        self.bar = ColorBar(
            color_mapper=self.mapper, width=9, height="auto", padding=2, label_standoff=5,
            major_label_text_font=FONT, major_label_text_font_size="11px", bar_line_color=None,
            ticker=self.ticker, formatter=self.formatter, major_tick_line_color=None, title=None,
        )  # fmt: skip
        self.figure.add_layout(self.bar, "right")

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.colors = colors
        paint(self.figure, colors)
        for axis in self.figure.axis:
            axis.axis_line_color = axis.major_tick_line_color = None
        self.hover.tooltips = tooltip(TOLD, colors)
        self.bar.background_fill_color = colors.paper
        self.bar.major_label_text_color = colors.muted
        self.cross.line_color = colors.muted
        self.edge.line_color = self.ring.line_color = self.word.text_color = colors.text
        self.knee.line_color = colors.text
        for halo in self.halos:
            halo.line_color = colors.paper
        self.word.background_fill_color = colors.paper
        if self._last is not None:
            self.show(*self._last)

    # -- showing ----------------------------------------------------------------------------------

    def show(
        self, plan: Plan, cells: Mapping[Setting, Cell], quantity: Quantity, scale: Scale,
        best: Cell | None, knees: Mapping[str, float],
    ) -> None:  # fmt: skip
        """Draw what is known of a plan."""
        self._last = plan, cells, quantity, scale, best, knees
        self._plan = plan
        names, rows = plan.windows, plan.rows(self.axis)
        grid = {
            (i, j): cells[setting]
            for i, window in enumerate(names)
            for j, row in enumerate(rows)
            if (setting := plan.setting(self.axis, window, row)) in cells
        }
        self._lay_out(names, rows)
        self._scale(scale)
        self._fill(plan, grid, quantity)
        self._edges(plan, grid, knees)
        self._places(plan, best)

    def _lay_out(self, columns: Sequence[float], rows: Sequence[float]) -> None:
        for axis, span, names in (
            (self.figure.xaxis[0], self.x, columns), (self.figure.yaxis[0], self.y, rows),
        ):  # fmt: skip
            labels = {index: f"{name:g}" for index, name in enumerate(names)}
            if axis.major_label_overrides != labels:
                axis.ticker = FixedTicker(ticks=list(labels))
                axis.major_label_overrides = labels
                span.start, span.end = -0.55, len(names) - 0.45

    def _scale(self, scale: Scale) -> None:
        stops = self.colors.balance if scale.balanced else self.colors.heat
        if self._scaled == (stops, scale):
            return
        self._scaled = stops, scale
        self.palette = np.array(ramp(stops, COLORS))
        self.mapper.update(palette=list(self.palette), low=scale.low, high=scale.high)
        self.formatter.args = {"words": [list(item) for item in scale.ticks.items()]}
        self.ticker.ticks = list(scale.ticks)

    def _fill(self, plan: Plan, grid: Grid, quantity: Quantity) -> None:
        """Colors and numbers; a cell that is to come shows its nearest neighbor's color, pale."""
        shape = len(plan.windows), len(plan.rows(self.axis))
        values = np.full(shape, math.nan)
        for place, cell in grid.items():
            values[place] = quantity.value(cell)
        fills = self._spread_out(self._fills(values), grid)
        rows: dict[str, list[Any]] = {name: [] for name in (*FILL, *TOLD_COLUMNS)}
        for i, j in np.ndindex(shape):
            cell = grid.get((i, j))
            fill = fills[i, j]
            shown = "" if cell is None else "n/a" if cell.error else quantity.text(cell)
            ink = ink_on(fill) if fill != self.colors.paper else self.colors.muted
            row = (i, j, fill, 1.0 if cell else NEAR_ALPHA, self.colors.paper, shown, ink)
            setting = plan.setting(self.axis, plan.windows[i], plan.rows(self.axis)[j])
            for name, each in zip(rows, (*row, *_told(setting, cell)), strict=True):
                rows[name].append(each)
        self.cells.data = rows
        lost = [place for place, cell in grid.items() if cell.how and not cell.converged]
        self.crosses.data = {"x": [i for i, _ in lost], "y": [j for _, j in lost]}

    def _fills(self, values: Any) -> Any:
        """The color of each value; paper where there is none."""
        low, high = math.log(self.mapper.low), math.log(self.mapper.high)
        with np.errstate(divide="ignore", invalid="ignore"):
            part = (np.log(values) - low) / (high - low)
        index = np.clip(np.nan_to_num(part, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
        colors = self.palette[np.round(index * (COLORS - 1)).astype(int)]
        return np.where(np.isnan(values), self.colors.paper, colors)

    def _spread_out(self, fills: Any, grid: Grid) -> Any:
        """Where no cell is computed the color of the nearest one, if one is near."""
        if not grid:
            return np.full(fills.shape, self.colors.canvas)
        known = np.array(list(grid))
        places = np.moveaxis(np.indices(fills.shape), 0, -1)[:, :, None, :]
        apart = np.abs(places - known)
        near = known[(apart**2).sum(-1).argmin(-1)]
        reached = apart.max(-1).min(-1) <= REACH
        return np.where(reached, fills[near[..., 0], near[..., 1]], self.colors.canvas)

    def _edges(self, plan: Plan, grid: Grid, knees: Mapping[str, float]) -> None:
        """Where convergence ends, between known cells; where a history outgrows a cache."""
        converged = {place: cell.converged for place, cell in grid.items() if cell.how}
        self.edges.data = _border({} if knees else converged)
        lines: dict[str, list[float]] = {name: [] for name in ENDS}
        self._knee_words = []
        rows = plan.rows(self.axis)
        for name, limit in knees.items():
            beyond = {
                (i, j): plan.bytes_at(plan.setting(self.axis, window, row)) > limit
                for i, window in enumerate(plan.windows)
                for j, row in enumerate(rows)
            }
            border = _border(beyond)
            for key, values in border.items():
                lines[key] += values
            if border["x0"]:
                ends = max(zip(*border.values(), strict=True), key=lambda ends: ends[3])
                place = ends[2:] if ends[3] < len(rows) - 0.5 else ends[:2]
                self._knee_words.append((*place, f"{name} {bytes_text(limit)}"))
        self.knees.data = lines

    def _places(self, plan: Plan, best: Cell | None) -> None:
        """The ring around the present setting, and a thinner one around the best."""
        here = self._place(plan, plan.here)
        marks = [(here, "solid", "you are here")]
        if best is not None and best.setting != plan.here and plan.on_map(self.axis, best.setting):
            marks.append((self._place(plan, best.setting), "4 3", "best"))
        high = self.y.end - 1.2
        last = len(plan.windows) - 1.6
        words = [(x, y - 0.5 if y > high else y + 0.5, word) for (x, y), _, word in marks]
        words = [(x, y, word, _align(x, last)) for x, y, word in [*words, *self._knee_words]]
        names = ("x", "y", "text", "align")
        self.words.data = {name: [word[k] for word in words] for k, name in enumerate(names)}
        self.rings.data = {
            "x": [x for (x, _), _, _ in marks], "y": [y for (_, y), _, _ in marks],
            "dash": [dash for _, dash, _ in marks],
        }  # fmt: skip

    def _place(self, plan: Plan, setting: Setting) -> tuple[float, float]:
        """Where a setting is; between two rows or columns if it is none of them."""
        row = setting.mixing if self.axis == "mixing" else setting.batch_size
        return _between(plan.windows, setting.window), _between(plan.rows(self.axis), row)

    def _tapped(self, event: Tap) -> None:
        """A click chooses the cell below it."""
        if self._plan is None or event.x is None or event.y is None:
            return
        i, j = round(event.x), round(event.y)
        columns, rows = self._plan.windows, self._plan.rows(self.axis)
        if 0 <= i < len(columns) and 0 <= j < len(rows):
            self._pick(self._plan.setting(self.axis, columns[i], rows[j]))


def _between(axis: Sequence[float], value: float) -> float:
    return float(np.interp(value, axis, range(len(axis))))


def _align(x: float, last: float) -> str:
    """Words at the edges grow inwards."""
    return "left" if x < 0.6 else "right" if x > last else "center"


def _border(inside: Mapping[tuple[int, int], bool]) -> dict[str, list[float]]:
    """The segments between neighbors of which one is inside and one is not."""
    lines: dict[str, list[float]] = {name: [] for name in ENDS}
    for (i, j), mine in inside.items():
        right, above = (i + 0.5, j - 0.5, i + 0.5, j + 0.5), (i - 0.5, j + 0.5, i + 0.5, j + 0.5)
        for other, ends in (((i + 1, j), right), ((i, j + 1), above)):
            if inside.get(other, mine) != mine:
                for name, end in zip(lines, ends, strict=True):
                    lines[name].append(end)
    return lines


def _told(setting: Setting, cell: Cell | None) -> tuple[str, ...]:
    """What a hover says of a cell."""
    name = setting_text(setting)
    if cell is None or not cell.known:
        return (name, *[""] * (len(TOLD) - 2), "to come")
    if cell.error:
        return (name, *[""] * (len(TOLD) - 2), cell.error)
    return (
        name, speedup_words(cell), evaluations_words(cell), crossover_words(cell),
        bytes_text(cell.memory), f"{ratio_text(cell.penalty)} the map", cell.how,
    )  # fmt: skip
