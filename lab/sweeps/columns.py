"""Where a trial lies along a coordinate, what its ticks say, and what a brushed interval selects.

Levels of an axis are evenly spaced; measures are on a decimal logarithm, and only a trial that
converged has a place there: an unfinished one's evaluations say nothing about the method.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import Protocol

import holoviews as hv
import numpy as np

from lab.sweeps.quantities import FRACTION, QUANTITIES, RESIDUAL, Quantity, nice_steps
from lab.sweeps.trials import Axis, Floats, Trials

MOST_TICKS = 12
JITTER = 0.28  # of the distance between two levels, where many trials share one
GOLDEN = 0.6180339887498949


class Of(hv.dim):  # type: ignore[misc]
    """A trial's value in a column, for selection expressions.

    HoloViews lists all methods of NumPy at each access to an attribute of a `dim`, should it be
    one of them: 30 to 80 ms for the expression of one brush.
    """

    __getattribute__ = object.__getattribute__


DID_NOT = Of("status") != "CONVERGED"


class Column(Protocol):
    """A coordinate of a view."""

    name: str
    label: str
    measured: bool  # has no place for a trial that did not converge
    span: tuple[float, float]

    def look(self, trials: Trials) -> None:
        """Widen the span to where these trials lie."""
        ...

    def places(self, trials: Trials) -> Floats:
        """Where each trial lies; NaN: nowhere."""
        ...

    def ticks(self) -> dict[float, str]:
        """Places and their words."""
        ...

    def within(self, low: float, high: float) -> tuple[hv.dim, str] | None:
        """The trials between two places, as an expression and in words; None: there are none."""
        ...

    def reaching(self, low: float, high: float) -> hv.dim | None:
        """The trials between two places however they ended; an end of the span is open."""
        ...


class Levels:
    """An axis of the sweep; its levels lie at 0, 1, 2, ..."""

    measured = False

    def __init__(self, axis: Axis, margin: float = 0.0) -> None:
        self.axis, self.name, self.label, self.margin = axis, axis.name, axis.label, margin
        self.span = (-0.5, len(axis.levels) - 0.5)

    def look(self, trials: Trials) -> None:
        """Nothing to widen: all levels have their place."""

    def places(self, trials: Trials) -> Floats:
        """The number of each trial's level."""
        return trials.every_axis[self.name].codes.astype(float)

    def ticks(self) -> dict[float, str]:
        """Its levels; some of them where they are many."""
        step = math.ceil(len(self.axis.levels) / MOST_TICKS)
        return {float(k): text for k, text in enumerate(self.axis.texts) if k % step == 0}

    def within(self, low: float, high: float) -> tuple[hv.dim, str] | None:
        """The levels in an interval, or within `margin` of it."""
        first = max(math.ceil(low - self.margin), 0)
        last = min(math.floor(high + self.margin), len(self.axis.levels) - 1)
        if first > last:
            return None
        column, levels = Of(self.name), self.axis.levels[first : last + 1]
        texts = [self.axis.texts[k] for k in (first, last)]
        words = f"{self.label} {texts[0]}" + (f" to {texts[1]}" if last > first else "")
        if self.axis.numeric:
            return (column >= levels[0]) & (column <= levels[-1]), words
        return functools.reduce(operator.or_, [column == level for level in levels]), words

    def reaching(self, low: float, high: float) -> hv.dim | None:
        """The same: a level is known however a trial ended."""
        found = self.within(low, high)
        return None if found is None else found[0]


class Scattered(Levels):
    """The same with trials spread a little around their level, so that they can be told apart."""

    def __init__(self, axis: Axis) -> None:
        super().__init__(axis, JITTER)

    def places(self, trials: Trials) -> Floats:
        """The level and a shift that is the trial's own, whatever else is shown."""
        return super().places(trials) + JITTER * (2 * ((trials.rows * GOLDEN) % 1.0) - 1)


class Measured:
    """A measured column on a decimal logarithm; its span grows and never shrinks."""

    measured = True

    def __init__(self, quantity: Quantity) -> None:
        self.quantity, self.name, self.label = quantity, quantity.column, quantity.label
        self.span = (0.0, 1.0)
        self._low, self._high = math.inf, -math.inf

    def look(self, trials: Trials) -> None:
        """Widen the span to the converged trials' values, or to all where none converged."""
        logs, order = trials.logs(self.name), trials.order(self.name)
        known = logs[order[[0, -1]]] if order.size else logs  # none converged: of all
        known = known[np.isfinite(known)]
        if known.size:
            self._low = min(self._low, float(known.min()))
            self._high = max(self._high, float(known.max()))
            steps = nice_steps(10.0**self._low, 10.0**self._high)
            self.span = (math.log10(steps[0]), math.log10(steps[-1]))

    def places(self, trials: Trials) -> Floats:
        """The decimal logarithm; NaN where it is not known."""
        return trials.logs(self.name)

    def ticks(self) -> dict[float, str]:
        """1-2-5 steps, or decades."""
        steps = nice_steps(10.0 ** self.span[0], 10.0 ** self.span[1])
        return {math.log10(step): self.quantity.text(step) for step in steps}

    def within(self, low: float, high: float) -> tuple[hv.dim, str] | None:
        """The converged trials with a value in an interval."""
        first, last, column = 10.0**low, 10.0**high, Of(self.name)
        words = f"{self.label} {self.quantity.text(first)} to {self.quantity.text(last)}"
        chosen = (column >= first) & (column <= last) & (Of("status") == "CONVERGED")
        return chosen, words

    def reaching(self, low: float, high: float) -> hv.dim | None:
        """The trials in an interval; beyond the span's low end lie those without a value."""
        column = Of(self.name)
        below, above = column < 10.0**low, column > 10.0**high
        if low <= self.span[0]:
            return None if high < self.span[0] else ~above
        return ~below & ~above & (column > 0)


def measured(trials: Trials) -> dict[str, Measured]:
    """The measures that these trials have, evaluations and seconds first."""
    quantities = [each for name, each in QUANTITIES.items() if name != FRACTION]
    known = [
        each
        for each in [*quantities, RESIDUAL]
        if each.column in ("num_evals", "seconds") or trials.has(each.column)
    ]
    return {each.column: Measured(each) for each in known}
