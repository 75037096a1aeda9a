"""Both log plots of the Convergence page side by side: what stands on them, and where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bokeh.models import Range1d

from andersonn_core.words import residual_text, seconds_text
from lab.figures.curve_plot import (
    METHODS,
    TITLES,
    Columns,
    Curve,
    CurvePlot,
    Label,
    Line,
    Marker,
)
from lab.figures.recorded import Recorded
from lab.theme import LABELS, Palette
from lab.traces import Trace, marked

__all__ = ["AXES", "METHODS", "CurvePair"]

AXES = ("evaluation", "seconds")
ROOM = 1.28  # of the longest curve: space for the label at its end
HIGHEST = 2  # decades above 1: a relative residual has poles where f(z) passes 0
LABEL_SHARE = 0.07  # of the decades with curves: as high as a line of words
FAR = 1e9  # beyond all axes
FRAME = 240.0  # pixels from the lowest to the highest residual, about
BELOW, APART = 7.0, 16.0  # labels at line ends: pixels
LETTER, WIDE_LETTER = 0.017, 0.022  # of a label: parts of a usual plot's width, a narrow one's

Point = tuple[float, float, str]  # x, residual, words


class End(NamedTuple):
    """Where a median line ends, with its words there."""

    role: str
    text: str
    x: float
    y: float


class CurvePair:
    """The curves as they stand; `draw` brings the figures up to date."""

    def __init__(self, colors: Palette, tolerance: float) -> None:
        self.y = Range1d(1e-7, 20.0)
        ends = {"evaluation": 60.0, "seconds": 0.2}
        self.plots = {axis: CurvePlot(axis, self.y, ends[axis], colors) for axis in AXES}
        self.figures = {axis: plot.figure for axis, plot in self.plots.items()}
        self.x = {axis: plot.x for axis, plot in self.plots.items()}
        self.colors = colors
        self.curves: dict[str, Curve] = {}
        self.finished: set[str] = set()
        self.lasting: set[str] = set()  # whose band, markers and words are shown, too
        self.ends: dict[str, int] = {}  # the evaluation in which each median line ends
        self.crossing: Mapping[str, Point | None] = {}
        self.cursor: dict[str, float | None] = {}
        self.pins: Mapping[str, tuple[Sequence[Line], Sequence[Label]]] = {}
        self.recorded: Sequence[Recorded] = ()
        self.set_tolerance(tolerance)

    # -- what stands ------------------------------------------------------------------------------

    def set_tolerance(self, tolerance: float) -> None:
        """Move the tolerance line, and the decades with it: nothing else moves them early."""
        self.tolerance = tolerance
        self._fit_decades()

    @property
    def _floor(self) -> float:
        return self.tolerance if self.tolerance > 0 else 1e-15

    def start(self, name: str, complete: bool = False) -> None:
        """A new run of this method; the curve before stays as a pale one if it was complete."""
        self.curves.setdefault(name, Curve()).restart(keep=complete)
        self.finished.discard(name)
        self.lasting.discard(name)

    def show_all(self) -> None:
        """The runs go on for a while: show all there is of them."""
        self.lasting = set(self.curves)

    def extend(self, name: str, columns: Columns) -> None:
        """Add points to a curve."""
        self.curves[name].extend(columns)

    def put(self, name: str, columns: Columns) -> None:
        """A whole curve at once."""
        self.curves.setdefault(name, Curve()).restart(columns)
        self.finish(name)

    def finish(self, name: str) -> None:
        """The new curve stands: its pale predecessor goes."""
        self.curves[name].finish()
        self.finished.add(name)
        self.lasting.add(name)

    def clear(self, name: str) -> None:
        """Take a method off the figures."""
        self.curves.pop(name, None)
        self.finished.discard(name)
        self.lasting.discard(name)

    def label_ends(self, traces: Mapping[str, Trace]) -> None:
        """Each method's name and count belong at the end of its median line."""
        self.ends = {
            name: trace.median_evaluations
            for name, trace in traces.items()
            if trace.median_evaluations
        }

    def mark_crossing(self, points: Mapping[str, Point | None]) -> None:
        """The crossover as a dot on each axis, with a short label above all curves."""
        self.crossing = points

    def set_pins(self, pins: Mapping[str, tuple[Sequence[Line], Sequence[Label]]]) -> None:
        """Pinned runs as thin lines with their numbers, for each axis."""
        self.pins = pins

    def set_recorded(self, recorded: Sequence[Recorded]) -> None:
        """Recorded lines beside the live ones, down to the tolerance of these."""
        self.recorded = recorded

    def crop(self, room: float) -> None:
        """Let both x axes end soon after the median lines."""
        for axis, x in self.x.items():
            x.end = room * max(
                self.curves[name].columns[axis][count - 1] for name, count in self.ends.items()
            )

    def set_clock(self, clock: str, recorded: str = "") -> None:
        """Say by which clock the seconds were taken, and which one recorded lines are by."""
        titles = {True: f"time: {clock}; green: {recorded}", False: TITLES["seconds"]}
        self.figures["seconds"].xaxis.axis_label = titles[bool(recorded)].format(clock=clock)

    def show_cursor(self, evaluation: float | None, seconds: float | None) -> None:
        """The line that scrubbing moves; None takes it away."""
        self.cursor = {"evaluation": evaluation, "seconds": seconds}
        self.draw()

    # -- ranges -----------------------------------------------------------------------------------

    @property
    def expected(self) -> float:
        """About how many evaluations the x axis shows."""
        return float(self.x["evaluation"].end) / ROOM

    def fit(self, traces: Mapping[str, Trace], grow_only: bool = False) -> None:
        """Fit both x axes to the curves; only called when runs have ended."""
        for axis, x in self.x.items():
            now = float(x.end)
            lasts = [each.points(axis, self._floor)[0][-1] for each in self.recorded]
            end = max([*lasts, *(self._last(name, axis) for name in traces)], default=0.0)
            if end > 0 and (end * ROOM > now * 1.02 or (end * ROOM < 0.7 * now and not grow_only)):
                x.end = end * ROOM
        self._fit_decades(max((trace.largest for trace in traces.values()), default=1.0))

    def _last(self, name: str, axis: str) -> float:
        values = self.curves[name].columns[axis] if name in self.curves else []
        return float(values[-1]) if values else 0.0

    def _fit_decades(self, largest: float = 1.0) -> None:
        """Whole decades for the curves; above and below them as many pixels as the labels need."""
        low = math.log10(self._floor)
        high = min(math.ceil(math.log10(largest) - 1e-9), HIGHEST)
        line = LABEL_SHARE * (high - low)
        lines = len(self.curves) + len(self.recorded)
        self.y.start = 10.0 ** (low - line * (1 + max(2, lines)))
        self.y.end = 10.0 ** (high + 2 * line)

    # -- drawing ----------------------------------------------------------------------------------

    def paint(self, colors: Palette) -> None:
        """Give both figures the colors of a theme."""
        self.colors = colors
        for plot in self.plots.values():
            plot.paint(colors)
        self.draw()

    def draw(self) -> None:
        """Bring the figures up to date with what stands."""
        self.draw_medians()
        shown = {name: curve for name, curve in self._shown().items() if name in self.lasting}
        for axis, plot in self.plots.items():
            lines, numbers = self.pins.get(axis, ((), ()))
            plot.draw_rest(
                shown,
                [*lines, *self._recorded_lines(axis), *self._straight_lines(axis)],
                self._markers(axis, shown),
                [*numbers, *self._end_labels(axis), *self._other_labels(axis)],
            )

    def draw_medians(self, axes: Sequence[str] = AXES) -> None:
        """Bring only what the eye follows up to date: the thick lines."""
        for axis in axes:
            self.plots[axis].draw_medians(self._shown())

    def _shown(self) -> dict[str, Curve]:
        return {name: self.curves[name] for name in METHODS if name in self.curves}

    def _markers(self, axis: str, shown: Mapping[str, Curve]) -> list[Marker]:
        markers = []
        for name, curve in shown.items():
            x, y = curve.columns[axis], curve.columns["median"]
            expected = len(x) if name in self.finished else self.expected
            at = marked(self.ends.get(name, 0), expected)
            markers += [Marker(x[k - 1], y[k - 1], name) for k in at]
        for each in self.recorded:
            markers += each.markers(axis, self._floor)
        point = self.crossing.get(axis)
        return [*markers, Marker(*point[:2], "text", 11.0, 2.0)] if point else markers

    def _recorded_lines(self, axis: str) -> list[Line]:
        return [
            each.line(axis, self._floor, self.colors.of(each.role).width) for each in self.recorded
        ]

    def _straight_lines(self, axis: str) -> list[Line]:
        """The tolerance, the scrubber's place and the plumb line from the crossover."""
        lines, place, point = [], self.cursor.get(axis), self.crossing.get(axis)
        if self.tolerance > 0:
            lines.append(Line([0.0, FAR], [self.tolerance] * 2, "muted", 1.0, 1.0))
        if place is not None:
            lines.append(Line([place] * 2, [1e-300, FAR], "muted", 1.5, 1.0, "solid"))
        if point is not None:
            lines.append(Line([point[0]] * 2, [point[1], FAR], "text", 1.0, 1.0))
        return lines

    def _end_labels(self, axis: str) -> list[Label]:
        """Each line's name and count at its end, apart from one another."""
        width, ends = float(self.x[axis].end), self._ends(axis)
        decade = FRAME / math.log10(float(self.y.end) / float(self.y.start))  # pixels
        heights = [decade * math.log10(max(end.y, 1e-300)) for end in ends]
        sides = [_aligned(end.x / width, end.text) for end in ends]
        spans = [
            _span(end.x / width, end.text, side) for end, side in zip(ends, sides, strict=True)
        ]
        shifts = stacked(spans, heights)
        return [
            Label(
                end.x,
                max(end.y, self._floor),
                end.text,
                end.role,
                align=side,
                down=down,
                size="13px",
                style="bold",
            )  # fmt: skip
            for end, side, down in zip(ends, sides, shifts, strict=True)
        ]

    def _ends(self, axis: str) -> list[End]:
        """Of live lines and of recorded ones."""
        ends = []
        for name, count in self.ends.items():
            if name in self.lasting:
                columns = self.curves[name].columns
                short = {"picard": "forward"}.get(name, LABELS[name])
                x, y = columns[axis][:count], columns["median"][:count]
                ends.append(_end(name, short, axis, x, y))
        for each in self.recorded:
            ends.append(_end(each.role, each.name, axis, *each.points(axis, self._floor)))
        return ends

    def _other_labels(self, axis: str) -> list[Label]:
        """The tolerance at its line's right end, the crossover's words above all curves."""
        labels = []
        if self.tolerance > 0:
            words = f"tolerance {residual_text(self.tolerance)}"
            labels.append(
                Label(
                    float(self.x[axis].end),
                    self._floor,
                    words,
                    "muted",
                    align="right",
                    baseline="bottom",
                    right=-4,
                    down=-3,
                )  # fmt: skip
            )
        point = self.crossing.get(axis)
        if point:
            labels.append(Label(point[0], float(self.y.end) * 0.9, point[2], "text", right=6))
        return labels


def _end(role: str, name: str, axis: str, x: Sequence[float], y: Sequence[float]) -> End:
    """The end of a line down to there, with its count, or with its time."""
    told = seconds_text(x[-1]) if axis == "seconds" else str(len(x))
    return End(role, f"{name} {told}", x[-1], y[-1])


def stacked(
    spans: Sequence[tuple[float, float]], heights: Sequence[float], below: float = BELOW
) -> list[float]:
    """Pixels below its line's end at which each label is written, so that none covers another.

    `spans`: from where to where each label reaches, as parts of the width; `heights`: of the ends,
    in pixels. From the highest down, each gives way to those placed.
    """
    shifts = [below] * len(spans)
    placed: list[int] = []
    for index in sorted(range(len(spans)), key=lambda index: -heights[index]):
        left, right = spans[index]
        for other in placed:
            gap = heights[other] - shifts[other] - heights[index] + shifts[index]
            beside = spans[other][1] <= left or spans[other][0] >= right
            if not beside and abs(gap) < APART:
                shifts[index] += APART - gap
        placed.append(index)
    return shifts


def _aligned(place: float, text: str) -> str:
    """Labels are centered below the end of their line, except where they would leave the plot."""
    half = LETTER * len(text) / 2
    return "left" if place < half else "right" if place > 1 - half else "center"


def _span(place: float, text: str, align: str) -> tuple[float, float]:
    """From where to where a label reaches, in a narrow plot."""
    size = WIDE_LETTER * len(text)
    left = {"left": place, "center": place - size / 2, "right": place - size}[align]
    return left, left + size
