"""Passes over the state in as few words as possible, a sample after the other, block by block.

A block of g, of a sum and of a new column stays in the cache while the other columns pass by, two
at a time: a pass reads and writes each word of memory once. (One at a time took a quarter longer.)
Sums run in the state's type within a block and in float64 over the blocks: a sample's are the same
whatever its batch, and on long rows more exact than in one run.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from andersonn_core.arrays import Counts, Floats
from andersonn_core.compiling import STATE, compiled

Array = Any  # of the state's type, contiguous
Line = Any  # a block of a sample

BLOCK = 8192  # elements
POINTS, RING = f"{STATE}[:, ::1]", f"{STATE}[:, :, ::1]"
ROWS, EACH, COUNTS = "f8[:, ::1]", "f8[::1]", "i8[::1]"


@compiled(f"{POINTS}, {POINTS}, {POINTS}, {POINTS}, f8, b1, {ROWS}")
def residual(
    z: Array,  # (B, n)
    f_z: Array,  # (B, n)
    g: Array,  # (B, n)
    p: Array,  # (B, n)
    mixing: float,
    plain: bool,
    norms: Floats,  # (2, B)
) -> None:
    """G = f(z) - z; where asked for, the plain step p = z + mixing g; ||g|| and ||f(z)||."""
    batch, n = z.shape
    rest = z.dtype.type(1.0 - mixing)
    for b in range(batch):
        norms[0, b] = norms[1, b] = 0.0
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            here, there, gap = z[b, start:stop], f_z[b, start:stop], g[b, start:stop]
            step, left, right = p[b, start:stop], z.dtype.type(0), z.dtype.type(0)
            for i in range(len(here)):
                value, difference = there[i], there[i] - here[i]
                gap[i] = difference
                if plain:
                    step[i] = value - rest * difference  # without rounding where the mixing is 1
                left += difference * difference
                right += value * value
            norms[0, b] += left
            norms[1, b] += right
        norms[0, b] = sqrt(norms[0, b])
        norms[1, b] = sqrt(norms[1, b])


@compiled(
    f"{RING}, {RING}, i8, f8, {COUNTS}, {POINTS}, {POINTS}, {POINTS}, {POINTS}, b1, "
    f"{EACH}, {ROWS}, {ROWS}"
)
def append(
    du: Array,  # (m, B, n)
    dg: Array,  # (m, B, n)
    slot: int,
    mixing: float,
    counts: Counts,  # (B,)
    z: Array,  # (B, n)
    last_z: Array,  # (B, n)
    g: Array,  # (B, n)
    last_g: Array,  # (B, n)
    fresh: bool,
    lengths: Floats,  # (B,)
    gram: Floats,  # (B, m)
    rhs: Floats,  # (B, m)
) -> None:
    """Where fresh, dg = g - last g and du = z - last z + mixing dg into their slot, and ||dz||.

    Always the inner products of the column in that slot, and of g, with each sample's newest
    `counts` columns; others are not read, and zero in the results.
    """
    size, batch, n = dg.shape
    for b in range(batch):
        lengths[b] = 0.0
        for j in range(size):
            gram[b, j] = rhs[b, j] = 0.0
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            new, now = dg[slot, b, start:stop], g[b, start:stop]
            if fresh:
                change, before = du[slot, b, start:stop], last_g[b, start:stop]
                here, there = z[b, start:stop], last_z[b, start:stop]
                weight, square = du.dtype.type(mixing), du.dtype.type(0)
                for i in range(len(new)):
                    moved, difference = here[i] - there[i], now[i] - before[i]
                    new[i] = difference
                    change[i] = moved + weight * difference
                    square += moved * moved
                lengths[b] += square
            for k in range(0, counts[b], 2):
                j = (slot - k) % size
                other = (j - 1) % size if k + 1 < counts[b] else j
                first, second = dg[j, b, start:stop], dg[other, b, start:stop]
                first_new, first_now = dg.dtype.type(0), dg.dtype.type(0)
                second_new, second_now = dg.dtype.type(0), dg.dtype.type(0)
                for i in range(len(new)):
                    first_new += first[i] * new[i]
                    first_now += first[i] * now[i]
                    second_new += second[i] * new[i]
                    second_now += second[i] * now[i]
                gram[b, j] += first_new
                rhs[b, j] += first_now
                if other != j:
                    gram[b, other] += second_new
                    rhs[b, other] += second_now
        lengths[b] = sqrt(lengths[b])


@compiled(f"{RING}, i8, {COUNTS}, {ROWS}, b1, {POINTS}, {POINTS}, f8, {POINTS}")
def mix(
    columns: Array,  # (m, B, n)
    slot: int,
    counts: Counts,  # (B,)
    weights: Floats,  # (B, m)
    alone: bool,
    start: Array,  # (B, n)
    g: Array,  # (B, n)
    mixing: float,
    out: Array,  # (B, n)
) -> None:
    """The sum of weights_j columns_j over the newest `counts`; with it alone out is the sum.

    Otherwise out = start + mixing g - sum. The correction is complete before it meets the start:
    adding it there in pieces would round in the size of z each time (Poisson 128x128, float32:
    never 1e-6, against 236).
    """
    size, batch, n = columns.shape
    sums, damping = np.empty(BLOCK, out.dtype), out.dtype.type(mixing)
    for b in range(batch):
        for first in range(0, n, BLOCK):
            last = min(first + BLOCK, n)
            total, target = sums[: last - first], out[b, first:last]
            for i in range(len(total)):
                total[i] = 0
            for k in range(0, counts[b], 2):
                j = (slot - k) % size
                column, weight = columns[j, b, first:last], out.dtype.type(weights[b, j])
                if k + 1 < counts[b]:
                    other = (j - 1) % size
                    more, share = columns[other, b, first:last], out.dtype.type(weights[b, other])
                    for i in range(len(total)):
                        total[i] += weight * column[i] + share * more[i]
                else:
                    for i in range(len(total)):
                        total[i] += weight * column[i]
            here, now = start[b, first:last], g[b, first:last]
            for i in range(len(total)):
                if alone:
                    target[i] = total[i]
                else:
                    target[i] = here[i] + (damping * now[i] - total[i])
