"""What a view of a sweep can color by: a column, its words, and a scale that seldom changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from andersonn_core.words import percent_text, ratio_text, residual_text, seconds_text
from lab.quantities import Scale
from lab.sweeps.trials import Floats, Trials

MOST_STEPS = 5  # between the ends of a scale
BALANCES = (2.0, 5.0, 10.0, 100.0, 1000.0)  # the ends of a scale around 1


@dataclass(frozen=True)
class Quantity:
    """A measured column; `unit` follows the number in a sentence."""

    column: str
    label: str
    unit: str
    text: Callable[[float], str]  # short
    balanced: bool = False  # around 1
    rising: bool = False  # large is good

    def words(self, value: float) -> str:
        """A value in a sentence: "14 evaluations", "20 ms"."""
        return f"{self.text(value)} {self.unit}".rstrip()


def count_text(value: float) -> str:
    """A number of evaluations: 13.5 -> "13.5", 1234 -> "1234"."""
    return f"{value:.0f}" if value >= 99.5 or value == round(value) else f"{value:.3g}"


FRACTION = "converged"
QUANTITIES = {
    "num_evals": Quantity("num_evals", "evaluations", "evaluations", count_text),
    "seconds": Quantity("seconds", "seconds", "", seconds_text),
    "speedup": Quantity("speedup", "speed-up", "", ratio_text, balanced=True, rising=True),
    "crossover_seconds": Quantity("crossover_seconds", "crossover, seconds", "", seconds_text),
    "crossover_evaluations": Quantity(
        "crossover_evaluations", "crossover, evaluations", "evaluations", count_text
    ),
    FRACTION: Quantity("", "fraction converged", "converged", percent_text, rising=True),
}
RESIDUAL = Quantity("relative_residual", "relative residual", "", residual_text)


def available(trials: Trials) -> dict[str, Quantity]:
    """The quantities that these trials have; evaluations, seconds and the fraction always."""
    always = ("num_evals", "seconds", FRACTION)
    return {
        name: each for name, each in QUANTITIES.items() if name in always or trials.has(each.column)
    }


class Keeper:
    """A color scale that grows with its values and never shrinks while one sweep is shown."""

    def __init__(self, quantity: Quantity) -> None:
        self.quantity = quantity
        self.low, self.high = math.inf, 0.0

    def hold(self, values: Floats) -> Scale:
        """A scale that holds these values and all that came before."""
        if self.quantity.column == "":
            return Scale(0.0, 1.0, {part: percent_text(part) for part in (0, 0.25, 0.5, 0.75, 1)})
        positive = values[np.isfinite(values) & (values > 0)]
        if positive.size:
            self.low = min(self.low, float(positive.min()))
            self.high = max(self.high, float(positive.max()))
        low, high = (self.low, self.high) if self.high else (1.0, 10.0)
        if self.quantity.balanced:
            return _balance(low, high)
        steps = nice_steps(low, high)
        return Scale(steps[0], steps[-1], {step: self.quantity.text(step) for step in steps})


def _balance(low: float, high: float) -> Scale:
    most = max(high, 1 / low)
    end = next((each for each in BALANCES if each >= most), BALANCES[-1])
    ticks = {1 / end, end**-0.5, 1.0, end**0.5, end}
    return Scale(1 / end, end, {tick: ratio_text(tick) for tick in sorted(ticks)}, balanced=True)


def nice_steps(low: float, high: float) -> list[float]:
    """The 1-2-5 steps from below `low` to above `high`; between far ends only decades."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    steps = [float(f"{d}e{power}") for power in range(first, last + 1) for d in (1, 2, 5)]
    start = max(sum(step <= low * 1.0001 for step in steps) - 1, 0)
    end = max(sum(step < high / 1.0001 for step in steps), start + 1)
    inner = steps[start + 1 : end]
    if len(inner) > MOST_STEPS:
        inner = [step for step in inner if f"{step:e}".startswith("1.0")]
        inner = [step for step in inner if step >= 1.9 * steps[start] and step <= steps[end] / 1.9]
    return [steps[start], *inner, steps[end]]
