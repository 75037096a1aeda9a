"""What a phase diagram can show of its cells: values, words, and the scale of their colors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from andersonn_core.words import ratio_text, seconds_text
from lab.phase import Cell

BALANCES = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)  # the ends of a scale around 1
UNITS = (("G", 2**30), ("M", 2**20), ("k", 2**10))


@dataclass(frozen=True)
class Scale:
    """The ends of a logarithmic color scale, and its ticks with their words."""

    low: float
    high: float
    ticks: Mapping[float, str]
    balanced: bool = False  # centered at 1


def _steps(low: float, high: float) -> list[float]:
    """The 1-2-5 steps around an interval; few of them where it is wide."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    digits = (1, 2, 5) if last - first <= 2 else (1,)
    steps = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
    start = max(sum(step <= low for step in steps) - 1, 0)
    end = sum(step < high for step in steps)
    return steps[start : end + 1]


def _doublings(low: float, high: float) -> list[float]:
    """The powers of four around an interval, of sixteen where it is wide."""
    first, last = math.floor(math.log2(low) / 2), math.ceil(math.log2(high) / 2)
    step = 1 if last - first <= 5 else 2
    return [4.0**power for power in range(first, last + step, step)]


@dataclass(frozen=True)
class Quantity:
    """One view of the cells; `value` is NaN where there is nothing to be colored."""

    label: str  # on its button
    title: str  # of the card
    value: Callable[[Cell], float]
    text: Callable[[Cell], str]  # inside the cell: short
    tick: Callable[[float], str]  # beside the color bar
    note: str
    balanced: bool = False
    grid: Callable[[float, float], list[float]] = field(default=_steps)  # ticks around an interval

    def scale(self, cells: Iterable[Cell]) -> Scale:
        """A scale that holds these cells, and changes seldom while more arrive."""
        values = [value for value in map(self.value, cells) if 0 < value < math.inf]
        if self.balanced:
            return _balance(values)
        low, high = min(values, default=1.0), max(values, default=10.0)
        grid = self.grid(low / 1.0001, high * 1.0001)
        return Scale(grid[0], grid[-1], {tick: self.tick(tick) for tick in grid})


def _balance(values: Sequence[float]) -> Scale:
    most = max((max(value, 1 / value) for value in values), default=1.0)
    end = next((each for each in BALANCES if each >= most), BALANCES[-1])
    middle = math.sqrt(end)
    ticks = {1 / end, 1 / middle, 1.0, middle, end}
    return Scale(1 / end, end, {tick: _times(tick) for tick in sorted(ticks)}, balanced=True)


def _times(tick: float) -> str:
    return f"{tick:.0f}x" if tick >= 10 else f"{tick:.2g}x"


def short_bytes(size: float) -> str:
    """Bytes in a cell: 1966080 -> "1.9M"."""
    for letter, unit in UNITS:
        if size >= unit:
            value = size / unit
            return f"{value:.2g}{letter}" if value < 99.5 else f"{value:.0f}{letter}"
    return f"{size:.0f}"


def speedup_text(cell: Cell) -> str:
    """S in a cell: "2.3", "0.46", "3.2+" for a lower bound; empty where there is none."""
    if not cell.converged:
        return ""
    if math.isinf(cell.speedup):
        return "\N{INFINITY}"
    digits = 2 if cell.speedup < 0.995 else 1 if cell.speedup < 9.95 else 0
    return f"{cell.speedup:.{digits}f}{'+' if cell.bound else ''}"


def speedup_words(cell: Cell) -> str:
    """S in a sentence."""
    if not cell.converged:
        return "not converged"
    if math.isinf(cell.speedup):
        return "only Anderson converges"
    return f"{'at least ' if cell.bound else ''}{ratio_text(cell.speedup)}"


def evaluations_words(cell: Cell) -> str:
    """Evaluations of both methods."""
    mine, theirs = (_count(each) or "none" for each in (cell.evaluations, cell.forward_evaluations))
    return f"{mine}, forward iteration {theirs}"


def crossover_words(cell: Cell) -> str:
    """When Anderson is ahead for good."""
    if not cell.converged or math.isnan(cell.crossover):
        return "not resolved" if cell.converged else "never"
    if cell.crossover == 0:
        return "ahead from the start"
    return "never" if math.isinf(cell.crossover) else f"after {seconds_text(cell.crossover)}"


def _crossover_text(cell: Cell) -> str:
    """In milliseconds."""
    if not cell.converged:
        return ""
    if math.isnan(cell.crossover):
        return "tie"
    if math.isinf(cell.crossover):
        return "never"
    return f"{float(f'{1e3 * cell.crossover:.2g}'):g}" if cell.crossover else "start"


def _count(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else ""


QUANTITIES = {
    "speedup": Quantity(
        "speed-up", "Speed-up S: forward iteration's time over Anderson's, until the tolerance",
        lambda cell: cell.speedup if cell.converged else math.nan, speedup_text,
        lambda tick: f"{tick:g}x",
        "Blue: mixing pays. Gray: forward iteration is faster. Single runs, but where ringed.",
        balanced=True,
    ),
    "crossover": Quantity(
        "crossover", "Crossover: the time after which Anderson stays ahead",
        lambda cell: cell.crossover if cell.converged else math.nan, _crossover_text,
        seconds_text,
        "In ms. start: ahead from the start. never: forward iteration ends ahead. tie: neither.",
    ),
    "evaluations": Quantity(
        "evaluations", "Evaluations of the map that Anderson needs",
        lambda cell: cell.evaluations, lambda cell: _count(cell.evaluations),
        lambda tick: f"{tick:g}", "In the median of the batch.",
    ),
    "memory": Quantity(
        "memory", "Memory that Anderson works in: two columns a past step, for the whole batch",
        lambda cell: cell.memory or math.nan, lambda cell: short_bytes(cell.memory),
        short_bytes, "k, M, G: KiB, MiB, GiB. Dashed: where it outgrows a cache.",
        grid=_doublings,
    ),
}  # fmt: skip
