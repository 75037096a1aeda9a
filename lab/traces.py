"""Rows as they arrive -> columns of a live curve: median, 10-90 % band and worst sample."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from andersonn_core.results import SolveResult

Floats = NDArray[np.float64]
COLUMNS = ("evaluation", "seconds", "median", "low", "high", "worst", "mark")
QUANTILES = {"median": 0.5, "low": 0.1, "high": 0.9, "worst": 1.0}
SHOWN_FLOOR = 1e-17  # a residual of exactly zero has no place on a logarithmic axis
MARK_EVERY = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    12,
    15,
    20,
    25,
    30,
    40,
    50,
    60,
    80,
    100,
    150,
    200,
    300,
    500,
    1000,
    2000,
    5000,
)
MARKS = 9  # at most so many markers on a line
MARK = 7.0  # pixels


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

    def __init__(self, tolerance: float, expected: float = 50.0) -> None:
        self.tolerance = tolerance
        self.stride = stride(expected)  # of the markers
        self.levels: Floats | None = None  # (B,) the last finite residual of each sample
        self.ended = dict.fromkeys(QUANTILES, False)
        self.evaluations = 0
        self.median_evaluations = 0  # where the median line ends
        self.largest = 1.0

    def extend(self, rows: Rows) -> dict[str, list[float]]:
        """The new points of the curve, ready to stream."""
        columns = empty_columns()
        for number, seconds, residual in zip(
            rows.evaluation, rows.seconds, rows.relative_residual, strict=True
        ):
            if number > self.evaluations:  # rows may be sent again with the result
                for name, value in self._point(int(number), float(seconds), residual).items():
                    columns[name].append(value)
        return columns

    def _point(self, number: int, seconds: float, residual: Floats) -> dict[str, float]:  # (B,)
        self.levels = self._held(residual)
        point: dict[str, Any] = {"evaluation": number, "seconds": seconds}
        for name, fraction in QUANTILES.items():
            point[name] = self._level(name, fraction)
        self.evaluations = number
        if math.isfinite(point["median"]):
            self.median_evaluations = number
        self.largest = max(self.largest, point["worst"] if math.isfinite(point["worst"]) else 1.0)
        point["mark"] = MARK if number == 1 or number % self.stride == 0 else 0.0
        return point

    def _held(self, residual: Floats) -> Floats:  # (B,) -> (B,)
        finite = np.isfinite(residual)
        if self.levels is None:
            return np.where(finite, np.maximum(residual, SHOWN_FLOOR), np.nan)
        return np.where(finite, np.maximum(residual, SHOWN_FLOOR), self.levels)

    def _level(self, name: str, fraction: float) -> float:
        """The level that this fraction of the samples reached; NaN once it met the tolerance."""
        if self.ended[name] or self.levels is None or not len(self.levels):
            return math.nan
        known = np.sort(np.where(np.isnan(self.levels), math.inf, self.levels))
        level = float(known[max(math.ceil(fraction * len(known)) - 1, 0)])
        if level <= self.tolerance and name not in ("low", "high"):
            self.ended[name] = True
        if name == "high" and level <= self.tolerance:
            self.ended["low"] = self.ended["high"] = True
        return level if math.isfinite(level) else math.nan


def stride(evaluations: float) -> int:
    """How many evaluations lie between two markers of a line."""
    return next((step for step in MARK_EVERY if evaluations <= step * MARKS), MARK_EVERY[-1])


def marks(evaluations: int) -> list[float]:
    """The markers of a finished line."""
    step = stride(evaluations)
    return [MARK if k == 1 or k % step == 0 else 0.0 for k in range(1, evaluations + 1)]


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
