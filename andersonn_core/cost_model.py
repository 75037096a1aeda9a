"""What mixing costs and what it saves: the speed-up before it was measured.

    S = (N_forward / N_anderson) / (1 + mixing seconds / map seconds)

N: evaluations until the tolerance, forecast from the residuals so far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from andersonn_core.arrays import Floats
from andersonn_core.student import t_975

CALLS = 2e-4  # seconds of one small step: a guess for the first trial (`make bench-steps`)
BANDWIDTH = 8e9  # bytes per second of one core on long vectors: a guess, too


def mixing_seconds(batch: int, n: int, window: int, itemsize: int) -> float:
    """About what one step takes between two evaluations, before any was measured.

    A full window's step reads its 2 m columns once, and ten vectors.
    """
    return CALLS + (2 * window + 10) * batch * n * itemsize / BANDWIDTH


def speedup(n_forward: float, n_anderson: float, map_seconds: float, mixing: float) -> float:
    """S, from both methods' evaluations and the seconds of one map and one mixing step."""
    return (n_forward / n_anderson) / (1 + mixing / map_seconds)


@dataclass(frozen=True)
class Forecast:
    """When the relative residual will meet a tolerance, in evaluations, with a 95 % interval."""

    evaluations: float
    low: float
    high: float  # infinite where the residuals may not fall at all


def forecast(relative_residual: Floats, rtol: float) -> Forecast:  # (K,)
    """Evaluations in all, from a random walk with drift through the logarithms so far.

    The first quarter is left out: most residuals fall faster there than ever again. The other
    increments have mean -mu and deviation s; N more cover the remaining distance d where
    |d - N mu| <= t s sqrt(N + N^2 / K), which is a quadratic inequality in N (K increments used, t
    of Student's distribution).
    """
    met, seen = relative_residual <= rtol, len(relative_residual)
    if met.any():
        first = float(np.argmax(met)) + 1
        return Forecast(first, first, first)
    steps = -np.diff(np.log(relative_residual[settled(seen)]))
    if len(steps) < 2 or rtol <= 0:
        return Forecast(math.inf, seen, math.inf)
    distance = math.log(relative_residual[-1] / rtol)
    mean, spread = float(steps.mean()), float(steps.std(ddof=1))
    low, high = _crossings(distance, mean, t_975(len(steps) - 1) * spread, len(steps))
    middle = distance / mean if mean > 0 else math.inf
    return Forecast(seen + middle, seen + low, seen + high)


def settled(seen: int) -> slice:
    """The rows of a history that a forecast uses: all but the first quarter."""
    return slice((seen - 1) // 4, seen)


def _crossings(distance: float, mean: float, width: float, seen: int) -> tuple[float, float]:
    """The roots N > 0 of (d - N mu)^2 = w^2 (N + N^2 / K); 0 and infinity where there is none."""
    a = mean**2 - width**2 / seen
    b = distance * mean + width**2 / 2
    root = math.sqrt(max(b**2 - a * distance**2, 0.0))
    low = distance**2 / (b + root) if b + root > 0 else 0.0
    return low, distance**2 / (b - root) if a > 0 and mean > 0 and b > root else math.inf
