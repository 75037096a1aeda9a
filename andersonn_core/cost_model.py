"""What mixing costs and what it saves: the speed-up before it was measured.

    S = (N_forward / N_anderson) / (1 + mixing seconds / map seconds)

N: evaluations until the tolerance, forecast from the residuals so far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from andersonn_core.arrays import Floats

CALLS = 2.5e-4  # seconds of one small step: a guess for the first trial (`make bench-steps`)
BANDWIDTH = 8e9  # bytes per second of one core on long vectors: a guess, too


def mixing_seconds(batch: int, n: int, window: int, itemsize: int) -> float:
    """About what one step takes between two evaluations, before any was measured.

    A full window's step reads its 2 m columns once and half of them again, and a dozen vectors.
    """
    return CALLS + (3 * window + 12) * batch * n * itemsize / BANDWIDTH


def speedup(n_forward: float, n_anderson: float, map_seconds: float, mixing: float) -> float:
    """S, from both methods' evaluations and the seconds of one map and one mixing step."""
    return (n_forward / n_anderson) / (1 + mixing / map_seconds)


@dataclass(frozen=True)
class Forecast:
    """When the relative residual will meet a tolerance, in evaluations, with a 95 % interval."""

    evaluations: float
    low: float
    high: float  # infinite where the residuals may not fall at all


def forecast(relative_residual: Floats, rtol: float, cycle: int = 1) -> Forecast:  # (K,)
    """Evaluations in all, from a random walk with drift through the logarithms so far.

    Their increments over `cycle` evaluations (one restart to the next) have mean -mu and deviation
    s; N cycles more cover the remaining distance d where |d - N mu| <= t s sqrt(N + N^2 / K), which
    is a quadratic inequality in N (K increments seen, t of Student's distribution).
    """
    levels = np.log(relative_residual[::-cycle][::-1])
    distance = float(levels[-1] - math.log(rtol)) if rtol > 0 else math.inf
    seen = len(relative_residual)
    if distance <= 0:
        return Forecast(seen, seen, seen)
    steps = -np.diff(levels)
    if len(steps) < 2 or not math.isfinite(distance):
        return Forecast(math.inf, seen, math.inf)
    mean, spread = float(steps.mean()), float(steps.std(ddof=1))
    low, high = _crossings(distance, mean, _student(len(steps) - 1) * spread, len(steps))
    middle = distance / mean if mean > 0 else math.inf
    return Forecast(seen + cycle * middle, seen + cycle * low, seen + cycle * high)


def _crossings(distance: float, mean: float, width: float, seen: int) -> tuple[float, float]:
    """The roots N > 0 of (d - N mu)^2 = w^2 (N + N^2 / K), infinite where there is none."""
    a = mean**2 - width**2 / seen
    b = distance * mean + width**2 / 2
    root = math.sqrt(max(b**2 - a * distance**2, 0.0))
    low = distance**2 / (b + root) if b + root > 0 else math.inf
    return low, distance**2 / (b - root) if a > 0 and mean > 0 and b > root else math.inf


def _student(freedom: int) -> float:
    """The 97.5 % point of Student's t, by Cornish and Fisher's expansion about the normal one's."""
    z = 1.959964
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
