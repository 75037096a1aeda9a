"""Best-so-far residuals as staircases, and where two of them cross for good.

A level is known when its evaluation has ended and holds until the next; a method or a sample that
stopped holds its last level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from andersonn_core.arrays import Flags, Floats
from andersonn_core.results import SolveResult

SAME = 1e-3  # levels of the first, common evaluations differ by rounding only


@dataclass(frozen=True)
class Staircase:
    """The best level after each evaluation."""

    seconds: Floats  # (K,) when it was known
    levels: Floats  # (K,) never rising

    def time_to(self, levels: Floats) -> Floats:
        """T(level): when each level was reached; infinite if never."""
        row = np.searchsorted(-self.levels, -levels, side="left")
        return np.append(self.seconds, math.inf)[row]

    def largest_lead_over(self, other: Staircase, ceiling: float) -> float:
        """The largest T_other - T_self over levels below `ceiling` that both reach; at least 0."""
        levels = self.levels[self.levels < ceiling]
        lead = other.time_to(levels) - self.time_to(levels)
        return float(lead[np.isfinite(lead)].max(initial=0.0))


@dataclass(frozen=True)
class Crossing:
    """Where the challenger's staircases stay below the other's, for each of C columns."""

    kinds: NDArray[np.str_]  # (C,) "at", "from the start", "none" or "not resolved"
    positions: Floats  # (C,) NaN unless "at"
    residuals: Floats  # (C,) the level that the other holds there
    ceiling: Floats  # (C,) the level of the last evaluation that both have in common
    led: Flags  # (C,) the challenger was ahead at some time


def levels_of(result: SolveResult, target: float, fraction: float) -> tuple[Floats, Floats]:
    """Seconds (K,), and levels (K, 1 + B): what `fraction` of the samples reached, then each.

    Levels are best-so-far, infinite until the first finite residual, and cut off at the target.
    """
    residual = result.history.relative_residual.cpu().double().numpy()
    best = np.minimum.accumulate(np.where(np.isfinite(residual), residual, math.inf), axis=0)
    best = np.maximum(best, target)
    rank = math.ceil(fraction * best.shape[1]) - 1
    reached = np.partition(best, rank, axis=1)[:, rank]
    return result.history.seconds.cpu().double().numpy(), np.column_stack([reached, best])


def loosest_converged(result: SolveResult) -> float:
    """The largest relative residual that met the tolerance; 0 if none did."""
    final = result.relative_residual[result.converged]
    return float(final.max()) if len(final) else 0.0


def cross(x: Floats, levels: Floats, x_new: Floats, new: Floats) -> Crossing:
    """From when on, for each column, the staircase `new` (K', C) stays below `levels` (K, C).

    Both are cut off at the level of their common first evaluations, which so count for neither.
    """
    ceiling = _common_level(levels, new)
    grid = np.unique(np.concatenate([x, x_new]))
    old_held = np.minimum(_held(x, levels, grid), ceiling)  # (T, C)
    new_held = np.minimum(_held(x_new, new, grid), ceiling)
    behind, ahead = old_held < new_held, new_held < old_held
    time = np.arange(len(grid))[:, None]
    last_behind = np.where(behind, time, -1).max(axis=0)
    lasting = ahead & (time > last_behind)
    row = lasting.argmax(axis=0)
    crossed, trailed = lasting.any(axis=0), last_behind >= 0
    conditions, names = [crossed & trailed, crossed, trailed], ["at", "from the start", "none"]
    kinds = np.select(conditions, names, "not resolved")
    at = kinds == "at"
    return Crossing(
        kinds=kinds,
        positions=np.where(at, grid[row], math.nan),
        residuals=np.where(at, old_held[row, np.arange(len(row))], math.nan),
        ceiling=ceiling,
        led=np.asarray(ahead.any(axis=0)),
    )


def _common_level(levels: Floats, new: Floats) -> Floats:  # (K, C), (K', C) -> (C,)
    """The level after the first evaluations in which both agree; infinite if there is none."""
    rows = min(len(levels), len(new))
    same = np.isclose(levels[:rows], new[:rows], rtol=SAME, atol=0.0)
    count = np.logical_and.accumulate(same, axis=0).sum(axis=0)
    start = np.full((1, levels.shape[1]), math.inf)
    lower = np.concatenate([start, np.minimum(levels[:rows], new[:rows])])
    return np.asarray(lower[count, np.arange(levels.shape[1])])


def _held(x: Floats, levels: Floats, grid: Floats) -> Floats:  # (K,), (K, C), (T,) -> (T, C)
    """The staircase at each abscissa; infinite before its first step."""
    start = np.full((1, levels.shape[1]), math.inf)
    return np.concatenate([start, levels])[np.searchsorted(x, grid, side="right")]
