"""Two ways to do the same things, compared pair by pair: which one is better, and is it chance?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from andersonn_core.student import geometric_mean


@dataclass(frozen=True)
class PairedTest:
    """Positive numbers in pairs, smaller is better: evaluations, seconds.

    The sign test asks how often as many or more of the pairs that differ would fall to one side if
    both sides were equally likely (two-sided, exact). It assumes nothing about how the numbers are
    distributed. The interval holds the geometric mean of the ratios with 95 %, if their logarithms
    are about normally distributed.
    """

    wins: int  # pairs in which the challenger's number is smaller
    losses: int
    ties: int
    p_value: float
    ratio: float  # geometric mean of challenger / reference
    low: float
    high: float

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        pairs = self.wins + self.losses + self.ties
        spread = f"{self.ratio:.3f}x (95 %: {self.low:.3f} to {self.high:.3f})"
        counts = f"fewer in {self.wins}, more in {self.losses}, the same in {self.ties}"
        verdict = "could be chance" if self.p_value > 0.05 else "is no chance"
        return f"{spread} over {pairs} pairs, {counts}: {verdict} (p = {self.p_value:.2g})."


def paired_test(reference: ArrayLike, challenger: ArrayLike) -> PairedTest:  # (R,), (R,)
    """Compare pairs of positive numbers; raises ValueError if they are not so or not in pairs."""
    first, second = np.asarray(reference, float), np.asarray(challenger, float)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(
            f"reference and challenger have shapes {first.shape} and {second.shape}: give the same "
            "number of values, at least one, in the same order."
        )
    if not ((first > 0) & (second > 0) & np.isfinite(first * second)).all():
        raise ValueError("reference and challenger must be positive and finite.")
    logs = np.log(second / first)
    wins, losses = int((logs < 0).sum()), int((logs > 0).sum())
    ratio, interval = geometric_mean(second / first)
    ties = logs.size - wins - losses
    return PairedTest(wins, losses, ties, _sign_test(wins, losses), ratio, *interval)


def _sign_test(wins: int, losses: int) -> float:
    """Two-sided: twice the smaller tail of a fair coin."""
    tosses, fewer = wins + losses, min(wins, losses)
    tail: int = sum(math.comb(tosses, k) for k in range(fewer + 1))
    return min(1.0, tail / 2 ** (tosses - 1)) if tosses else 1.0
