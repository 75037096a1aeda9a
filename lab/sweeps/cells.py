"""Trials gathered in the cells of a heat map: counts and quantiles of the selected ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lab.sweeps.statuses import CONVERGED, STATUSES
from lab.sweeps.trials import Axis, Floats, Indices, Mask, Trials

PARTS = (0.1, 0.5, 0.9)  # the quantiles that are told

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Cells:
    """What the cells (x levels, y levels) hold; quantiles are of the converged chosen trials."""

    total: Counts
    chosen: Counts
    statuses: Counts  # (status, x, y), of the chosen
    low: Floats
    median: Floats
    high: Floats

    @property
    def converged(self) -> Counts:
        """How many of the chosen trials converged."""
        return np.asarray(self.statuses[CONVERGED])

    @property
    def fraction(self) -> Floats:
        """The part of the chosen trials that converged; NaN where none is chosen."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.converged / self.chosen)


class Cellwise:
    """The trials by cell of two axes (one, if `y` is None), for one measured column or none."""

    def __init__(self, trials: Trials, x: Axis, y: Axis | None, column: str) -> None:
        self.trials = trials
        self.shape = len(x.levels), 1 if y is None else len(y.levels)
        codes = x.codes.astype(np.int64) * self.shape[1]
        self.cell = codes if y is None else codes + y.codes
        self.values = trials.values(column) if column else None
        self._grouped = self._sorted(column)
        self._total = self._count(self.cell)

    @property
    def _size(self) -> int:
        return self.shape[0] * self.shape[1]

    def _sorted(self, column: str) -> Indices:
        """The converged trials with a value, by cell and, within it, by value."""
        if not column:
            return np.zeros(0, np.int64)
        order = self.trials.order(column)
        kind = np.uint16 if self._size < 65536 else np.int64  # NumPy sorts the short ones by radix
        return np.asarray(order[np.argsort(self.cell[order].astype(kind), kind="stable")])

    def _count(self, cell: Indices) -> Counts:
        return np.bincount(cell, minlength=self._size).reshape(self.shape)

    @cached_property
    def every(self) -> Cells:
        """What the cells hold if every trial is selected."""
        return self._gather(None)

    def gather(self, mask: Mask | None) -> Cells:
        """Count the selected trials (all, without a mask) and take their quantiles."""
        return self.every if mask is None else self._gather(mask)

    def _gather(self, mask: Mask | None) -> Cells:
        statuses = np.zeros((len(STATUSES), *self.shape), np.int64)
        chosen = self._total if mask is None else self._count(self.cell[mask])
        for status, every in self.trials.lost.items():
            statuses[status] = self._count(self.cell[every if mask is None else every[mask[every]]])
        statuses[CONVERGED] = chosen - statuses.sum(0)
        low, median, high = self._quantiles(mask)
        return Cells(self._total, chosen, statuses, low, median, high)

    def _quantiles(self, mask: Mask | None) -> Floats:  # -> (3, x, y)
        grouped = self._grouped if mask is None else self._grouped[mask[self._grouped]]
        counts = np.bincount(self.cell[grouped], minlength=self._size)
        starts = np.cumsum(counts) - counts
        found = np.full((len(PARTS), self._size), np.nan)
        full = counts > 0
        if self.values is not None:
            for number, part in enumerate(PARTS):
                place = part * (counts[full] - 1)  # NumPy's and pandas' "linear"
                below = np.floor(place).astype(np.int64)
                above = np.minimum(below + 1, counts[full] - 1)
                first, second = (
                    self.values[grouped[starts[full] + each]] for each in (below, above)
                )
                found[number, full] = first + (place - below) * (second - first)
        return found.reshape(len(PARTS), *self.shape)

    def typical(self, place: tuple[int, int], mask: Mask | None) -> int | None:
        """The trial in the middle of a cell: of the converged ones, if there are any."""
        cell = place[0] * self.shape[1] + place[1]
        inside = self.cell == cell if mask is None else (self.cell == cell) & mask
        mine = np.flatnonzero(inside)
        reached = mine[self.trials.converged[mine]]
        mine = reached if reached.size else mine
        if not mine.size:
            return None
        if self.values is None:
            return int(mine[0])
        return int(mine[np.argsort(self.values[mine], kind="stable")[(mine.size - 1) // 2]])
