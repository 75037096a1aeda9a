"""Passes over the state in as few words as possible, a sample after the other, block by block.

A block of g, of a sum and of a new column stays in the cache while the other columns pass by, two,
three or four at a time, whichever was fastest for a loop: a pass reads and writes each word of
memory once. (One at a time took a quarter longer.)
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


@compiled()
def gap(here: Line, there: Line, out: Line) -> tuple[float, float]:
    """Out = there - here; ||out||^2 and ||there||^2."""
    left, right = here.dtype.type(0), here.dtype.type(0)
    for i in range(len(here)):
        value, difference = there[i], there[i] - here[i]
        out[i] = difference
        left += difference * difference
        right += value * value
    return left, right


@compiled(f"{POINTS}, {POINTS}, {POINTS}, {ROWS}")
def residual(
    z: Array,  # (B, n)
    f_z: Array,  # (B, n)
    g: Array,  # (B, n)
    norms: Floats,  # (2, B)
) -> None:
    """G = f(z) - z; ||g|| and ||f(z)||."""
    batch, n = z.shape
    for b in range(batch):
        norms[0, b] = norms[1, b] = 0.0
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            left, right = gap(z[b, start:stop], f_z[b, start:stop], g[b, start:stop])
            norms[0, b] += left
            norms[1, b] += right
        norms[0, b] = sqrt(norms[0, b])
        norms[1, b] = sqrt(norms[1, b])


@compiled()
def inner(first: Line, second: Line, third: Line, new: Line) -> tuple[float, float, float]:
    """The inner products of three columns with one."""
    nothing = new.dtype.type(0)
    a, b, c = nothing, nothing, nothing
    for i in range(len(new)):
        a += first[i] * new[i]
        b += second[i] * new[i]
        c += third[i] * new[i]
    return a, b, c


@compiled(f"{RING}, {RING}, i8, f8, {POINTS}, {POINTS}, {ROWS}, {ROWS}")
def enter(
    p: Array,  # (m, B, n)
    g: Array,  # (m, B, n)
    slot: int,
    mixing: float,
    z: Array,  # (B, n)
    f_z: Array,  # (B, n)
    norms: Floats,  # (2, B)
    gram: Floats,  # (B, m)
) -> None:
    """As `residual`, into a slot, with p = z + mixing g; and the products of that g with all."""
    size, batch, n = g.shape
    rest = z.dtype.type(1.0 - mixing)
    for b in range(batch):
        norms[0, b] = norms[1, b] = 0.0
        gram[b] = 0.0
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            there, new, step = f_z[b, start:stop], g[slot, b, start:stop], p[slot, b, start:stop]
            left, right = gap(z[b, start:stop], there, new)
            norms[0, b] += left
            norms[1, b] += right
            for i in range(len(new)):
                step[i] = there[i] - rest * new[i]  # without rounding where the mixing is 1
            for j in range(0, size, 3):
                last = size - 1  # read again where there are fewer than three
                first, second = g[j, b, start:stop], g[min(j + 1, last), b, start:stop]
                sums = inner(first, second, g[min(j + 2, last), b, start:stop], new)
                for k in range(min(3, size - j)):
                    gram[b, j + k] += sums[k]
        norms[0, b] = sqrt(norms[0, b])
        norms[1, b] = sqrt(norms[1, b])


@compiled()
def differences(
    z: Line, last_z: Line, g: Line, last_g: Line, mixing: float, dg: Line, du: Line
) -> float:
    """Of g into dg, with those of z into du; ||dz||^2."""
    square: float = du.dtype.type(0)
    for i in range(len(dg)):
        moved, difference = z[i] - last_z[i], g[i] - last_g[i]
        dg[i] = difference
        du[i] = moved + mixing * difference
        square += moved * moved
    return square


PRODUCTS, DIFFERENCES, RESIDUAL = 0, 1, 2  # what a pass of `append` begins with


@compiled(
    f"{RING}, {RING}, i8, f8, {COUNTS}, {POINTS}, {POINTS}, {POINTS}, {POINTS}, {POINTS}, i8, "
    f"{ROWS}, {EACH}, {ROWS}, {ROWS}"
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
    f_z: Array,  # (B, n)
    begin: int,
    norms: Floats,  # (2, B)
    lengths: Floats,  # (B,)
    gram: Floats,  # (B, m)
    rhs: Floats,  # (B, m)
) -> None:
    """Inner products, of columns that are there or made here; of a residual made here, too.

    From RESIDUAL on g = f(z) - z, ||g|| and ||f(z)||; from DIFFERENCES on dg = g - last g and
    du = z - last z + mixing dg into their slot, and ||dz||. Always the inner products of the column
    in that slot, and of g, with each sample's newest `counts` columns; others are not read, and
    zero in the results.
    """
    size, batch, n = dg.shape
    for b in range(batch):
        lengths[b] = norms[0, b] = norms[1, b] = 0.0
        for j in range(size):
            gram[b, j] = rhs[b, j] = 0.0
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            new, now = dg[slot, b, start:stop], g[b, start:stop]
            if begin == RESIDUAL:
                left, right = gap(z[b, start:stop], f_z[b, start:stop], now)
                norms[0, b] += left
                norms[1, b] += right
            if begin != PRODUCTS:
                here, there = z[b, start:stop], last_z[b, start:stop]
                change, before = du[slot, b, start:stop], last_g[b, start:stop]
                weight = du.dtype.type(mixing)
                lengths[b] += differences(here, there, now, before, weight, new, change)
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
        norms[0, b] = sqrt(norms[0, b])
        norms[1, b] = sqrt(norms[1, b])


@compiled()
def add(first: Line, second: Line, third: Line, fourth: Line, weights: Line, total: Line) -> None:
    """Total += the weighted sum of four columns."""
    a, b, c, d = weights[0], weights[1], weights[2], weights[3]
    for i in range(len(total)):
        total[i] += (a * first[i] + b * second[i]) + (c * third[i] + d * fourth[i])


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
    shares, places = np.zeros(4, out.dtype), np.zeros(4, np.int64)
    for b in range(batch):
        for first in range(0, n, BLOCK):
            last = min(first + BLOCK, n)
            target = out[b, first:last]
            total = target if alone else sums[: last - first]
            total[:] = 0
            for k in range(0, counts[b], 4):
                for i in range(4):  # the last one again, with no weight, where there are fewer
                    places[i] = (slot - min(k + i, counts[b] - 1)) % size
                    shares[i] = weights[b, places[i]] if k + i < counts[b] else 0.0
                add(
                    columns[places[0], b, first:last],
                    columns[places[1], b, first:last],
                    columns[places[2], b, first:last],
                    columns[places[3], b, first:last],
                    shares,
                    total,
                )
            if not alone:
                here, now = start[b, first:last], g[b, first:last]
                for i in range(len(total)):
                    target[i] = here[i] + (damping * now[i] - total[i])
