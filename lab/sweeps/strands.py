"""Lines through columns as weighted segments, and a picture of them in one byte a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lab.sweeps import raster
from lab.sweeps.brush import Box
from lab.sweeps.columns import Column
from lab.sweeps.shown import Shown
from lab.sweeps.statuses import STATUSES
from lab.sweeps.trials import Floats, Indices, Trials

TOP = 0.86  # of the height; above lies what did not converge
BAND, BAND_STEP = 0.93, 0.015
BINS = 100  # of a measured column, in a picture
SHADES, WEIGHTS = 25, 7  # colors and opacities of a picture: with the statuses' they fit into bytes


@dataclass(frozen=True)
class Strand:
    """One column of the trials: a small code for each, and the height of each code."""

    codes: NDArray[np.int32]
    heights: Floats


@dataclass(frozen=True)
class Gap:
    """What lies between two neighboring columns: a code for each trial's piece of a line."""

    one: Strand
    other: Strand

    @cached_property
    def codes(self) -> Indices:
        """One code for both ends, wide enough that NumPy counts without a copy."""
        return self.one.codes.astype(np.int64) * len(self.other.heights) + self.other.codes


def strand(column: Column, trials: Trials) -> Strand:
    """Where trials pass a column; what did not converge passes a measured one above its top."""
    places = column.places(trials)
    low, high = ends(column)
    if not column.measured:
        count = round(high - low) + 1
        return Strand(places.astype(np.int32), scaled(np.arange(count) + low, low, high))
    part = np.nan_to_num((places - low) / (high - low))
    codes = np.clip(np.round(part * (BINS - 1)), 0, BINS - 1).astype(np.int32)
    lost = ~trials.converged
    codes[lost] = BINS + trials.statuses[lost]
    above = BAND + BAND_STEP * (np.arange(len(STATUSES)) - 1)
    return Strand(codes, np.concatenate([np.linspace(0, TOP, BINS), above]))


def ends(column: Column) -> tuple[float, float]:
    """The lowest and the highest place that trials have."""
    low, high = column.span
    return (low, high) if column.measured else (low + 0.5, high - 0.5)


def scaled(places: Floats, low: float, high: float) -> Floats:
    """Heights of places; in the middle where there is only one."""
    return np.full(len(places), TOP / 2) if high == low else TOP * (places - low) / (high - low)


def segments(
    gaps: Sequence[Gap], chosen: Indices | None, values: NDArray[np.float32] | None
) -> raster.Segments:
    """The pieces of the lines of some trials (all, without `chosen`): weight and mean value."""
    pieces: list[tuple[Floats, ...]] = []
    for k, gap in enumerate(gaps):
        one, other = gap.one.heights, gap.other.heights
        codes = gap.codes if chosen is None else gap.codes[chosen]
        size = len(one) * len(other)
        weight = np.bincount(codes, minlength=size)
        used = np.flatnonzero(weight)
        mean = np.zeros(len(used))
        if values is not None:
            mean = np.bincount(codes, weights=values, minlength=size)[used] / weight[used]
        x, at = np.full(len(used), float(k)), (used // len(other), used % len(other))
        pieces.append((x, one[at[0]], other[at[1]], weight[used].astype(float), mean))
    x0, y0, y1, weights, means = (np.concatenate(each) for each in zip(*pieces, strict=True))
    return raster.Segments(x0, y0, x0 + 1, y1, weights, means)


def picture(
    shown: Shown, gaps: Sequence[Gap], shades: NDArray[np.float32] | None, box: Box
) -> NDArray[np.uint8]:
    """The selected trials' lines: shade and opacity in one byte, 0 where there is none.

    `shades`: of the converged trials, in `Trials.reached`'s order. Where lines that did not
    converge are the more, the pixel has the color of their last status.
    """
    trials, mask = shown.trials, shown.mask
    reached = trials.reached
    if mask is not None:
        chosen = mask[reached]
        reached, shades = reached[chosen], None if shades is None else shades[chosen]
    lost = [
        (segments(gaps, every if mask is None else every[mask[every]], None), status)
        for status, every in trials.lost.items()
    ]
    drawn = raster.lines(segments(gaps, reached, shades), lost, box)
    shade = np.full(drawn.weight.shape, SHADES - 1.0) if shades is None else drawn.mean
    others = drawn.lost > drawn.weight
    shade = np.where(others, SHADES + drawn.status - 1, np.round(shade))
    heaviest = np.maximum(drawn.weight, drawn.lost)
    with np.errstate(invalid="ignore"):
        index = 1 + np.nan_to_num(shade) * WEIGHTS + opacity(heaviest)
    return np.where(heaviest > 0, index, 0).astype(np.uint8)


def opacity(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """0 to WEIGHTS - 1 by the logarithm of how many lines there are."""
    most = float(weight.max()) if weight.size else 0.0
    if most <= 1:
        return np.full(weight.shape, (WEIGHTS - 1) // 2, np.float32)
    part = np.log(np.maximum(weight, 1)) / np.log(most)
    return np.asarray(np.round(part * (WEIGHTS - 1)), np.float32)
