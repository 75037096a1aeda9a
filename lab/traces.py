"""Rows as they arrive -> columns of a live curve: median, 10-90 % band and worst sample."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from andersonn_core.results import SolveResult

Floats = NDArray[np.float64]
COLUMNS = ("evaluation", "seconds", "median", "low", "high", "worst")
QUANTILES = {"median": 0.5, "low": 0.1, "high": 0.9, "worst": 1.0}
SHOWN_FLOOR = 1e-17  # a residual of exactly zero has no place on a logarithmic axis
MARK_EVERY = (
    1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80,
    100, 150, 200, 300, 500, 1000, 2000, 5000,
)  # fmt: skip
MARKS = 9  # at most so many markers on a line


class Rows(Protocol):
    """Consecutive evaluations of one solve; K rows, B samples."""

    evaluation: NDArray[np.int64]  # (K,)
    seconds: Floats  # (K,)
    relative_residual: Floats  # (K, B), NaN after a sample stopped


def empty_columns() -> dict[str, list[float]]:
    """A curve without points."""
    return {name: [] for name in COLUMNS}


class Trace:
    """One method's curve while it grows.

    A sample that stopped holds its last level; a line ends where its quantile met the tolerance, so
    that no flat tail suggests further work.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.levels: Floats | None = None  # (B,) the last finite residual of each sample
        self.ended = dict.fromkeys(QUANTILES, False)
        self.evaluations = 0
        self.median_evaluations = 0  # where the median line ends
        self.largest = 1.0

    def extend(self, rows: Rows) -> dict[str, list[float]]:
        """The new points of the curve, ready to stream."""
        new = int(np.searchsorted(rows.evaluation, self.evaluations, side="right"))
        evaluation = rows.evaluation[new:]  # rows may be sent again with the result
        if not len(evaluation):
            return empty_columns()
        lines = self._lines(self._held(rows.relative_residual[new:]))
        self.evaluations = int(evaluation[-1])
        known = np.isfinite(lines["median"])
        if known.any():
            self.median_evaluations = int(evaluation[known][-1])
        self.largest = float(np.fmax.reduce([self.largest, *lines["worst"]]))
        columns = {"evaluation": evaluation, "seconds": rows.seconds[new:], **lines}
        return {name: columns[name].tolist() for name in COLUMNS}

    def _held(self, residual: Floats) -> Floats:  # (K, B) -> (K, B)
        """Each sample's last finite residual at every row, sorted; not finite ones come last."""
        levels = np.where(np.isfinite(residual), np.maximum(residual, SHOWN_FLOOR), np.nan)
        if self.levels is not None:
            levels[0] = np.where(np.isnan(levels[0]), self.levels, levels[0])
        numbers = np.arange(len(levels))[:, None]
        last = np.maximum.accumulate(np.where(np.isnan(levels), 0, numbers), axis=0)
        levels = np.take_along_axis(levels, last, axis=0)
        self.levels = levels[-1]
        return np.sort(levels, axis=1)  # NaN last

    def _lines(self, levels: Floats) -> dict[str, Floats]:  # (K, B) sorted -> (K,) each
        """The level that each fraction of the samples reached; NaN after it met the tolerance."""
        rows, samples = levels.shape
        if not samples:
            return {name: np.full(rows, math.nan) for name in QUANTILES}
        places = {name: max(math.ceil(part * samples) - 1, 0) for name, part in QUANTILES.items()}
        lines = {name: levels[:, place].copy() for name, place in places.items()}
        met = {
            name: np.flatnonzero(lines["high" if name == "low" else name] <= self.tolerance)
            for name in lines  # the band ends as a whole
        }
        for name, line in lines.items():
            if self.ended[name] or len(met[name]):
                line[0 if self.ended[name] else met[name][0] + 1 :] = math.nan
                self.ended[name] = True
        return lines


def marked(evaluations: int, expected: float) -> list[int]:
    """The evaluations of a line that bear a marker, when so many are expected."""
    step = next((step for step in MARK_EVERY if expected <= step * MARKS), MARK_EVERY[-1])
    return sorted({1, *range(step, evaluations + 1, step)}) if evaluations else []


class ResultRows:
    """A finished result as rows."""

    def __init__(self, result: SolveResult) -> None:
        history = result.history
        self.evaluation = np.arange(1, result.num_evals + 1)
        self.seconds: Floats = history.seconds.double().cpu().numpy()
        self.relative_residual: Floats = history.relative_residual.double().cpu().numpy()


def columns_of(result: SolveResult, tolerance: float) -> tuple[Trace, dict[str, list[float]]]:
    """The whole curve of a finished result."""
    trace = Trace(tolerance)
    return trace, trace.extend(ResultRows(result))
