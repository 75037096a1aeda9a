"""Means with their 95 % intervals, by Student's distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from andersonn_core.arrays import Floats

Interval = tuple[float, float]
# The 97.5 % points for 1 to 10 degrees of freedom; after that an expansion is good to 0.1 %.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def t_975(freedom: int) -> float:
    """The 97.5 % point of Student's distribution."""
    if freedom <= len(T_975):
        return T_975[freedom - 1]
    return 1.960 + 2.372 / freedom + 2.82 / freedom**2


def geometric_mean(values: Sequence[float] | Floats) -> tuple[float, Interval]:  # (R,)
    """exp(mean) of the logarithms and exp(mean +- t s / sqrt(R)); NaN ends for a single value."""
    logs = np.log(np.maximum(values, np.finfo(float).tiny))  # a coarse clock may say 0
    middle, num = float(logs.mean()), len(logs)
    if num < 2:
        return math.exp(middle), (math.nan, math.nan)
    half = t_975(num - 1) * float(logs.std(ddof=1)) / math.sqrt(num)
    return math.exp(middle), (math.exp(middle - half), math.exp(middle + half))


def mean_interval(values: Sequence[float] | Floats) -> tuple[float, Interval]:  # (R,)
    """The mean and mean +- t s / sqrt(R); NaN ends for a single value."""
    array = np.asarray(values, dtype=np.float64)
    middle = float(array.mean())
    if len(array) < 2:
        return middle, (math.nan, math.nan)
    half = t_975(len(array) - 1) * float(array.std(ddof=1)) / math.sqrt(len(array))
    return middle, (middle - half, middle + half)
