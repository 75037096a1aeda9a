"""What the four views show together: trials, selection, and how a quantity is colored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import holoviews as hv
import numpy as np
from numpy.typing import NDArray

from lab.figures.base import ramp
from lab.quantities import Scale
from lab.sweeps.quantities import Quantity
from lab.sweeps.statuses import MARKS, STATUSES
from lab.sweeps.trials import Floats, Indices, Mask, Trials
from lab.theme import Palette

COLORS = 61  # of a scale; odd, so that the middle one is its own

Brush = Callable[[str, "hv.dim | None", str], None]  # view, expression, words


@dataclass(frozen=True)
class Tint:
    """The colors of a quantity on a scale in a theme."""

    quantity: Quantity
    scale: Scale
    colors: Palette

    @cached_property
    def palette(self) -> list[str]:
        """From the color of the smallest value to that of the largest."""
        if self.quantity.balanced:
            return ramp(self.colors.balance, COLORS)
        stops = self.colors.heat
        return ramp(stops[::-1] if self.quantity.rising else stops, COLORS)

    @property
    def logarithmic(self) -> bool:
        """Whether equal factors are equal steps of color."""
        return bool(self.quantity.column)

    def part(self, values: Floats) -> Floats:
        """Where on the scale each value is: 0, the low end, to 1; 0 for NaN."""
        low, high = self.scale.low, self.scale.high
        if self.logarithmic:
            with np.errstate(divide="ignore", invalid="ignore"):
                part = np.log(values / low) / np.log(high / low)
        else:
            part = (values - low) / (high - low)
        return np.clip(np.nan_to_num(part, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)

    def index(self, values: Floats) -> NDArray[np.int64]:
        """The place in the palette of each value."""
        return np.round(self.part(values) * (COLORS - 1)).astype(np.int64)

    def fills(self, values: Floats) -> NDArray[np.str_]:
        """The color of each value."""
        return np.array(self.palette)[self.index(values)]


@dataclass(frozen=True)
class Shown:
    """One state of all views."""

    trials: Trials
    mask: Mask | None  # None: every trial is selected
    tint: Tint

    @property
    def quantity(self) -> Quantity:
        """What is colored by."""
        return self.tint.quantity

    @property
    def colors(self) -> Palette:
        """The theme."""
        return self.tint.colors


def trial_colors(shown: Shown, chosen: Indices) -> NDArray[Any]:  # (k,) -> (k,)
    """The colors of some trials' lines: by the quantity, by status where they did not converge."""
    trials, tint = shown.trials, shown.tint
    by_status = np.array([MARKS[name].color(shown.colors) for name in STATUSES])
    colors = by_status[trials.statuses[chosen]]
    if not tint.quantity.column:
        return colors
    fills = tint.fills(trials.values(tint.quantity.column)[chosen])
    return np.where(trials.converged[chosen], fills, colors)
