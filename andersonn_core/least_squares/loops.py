"""The work on each sample's own small matrix, a sample after the other: none sees another's.

Arrays are those of `ScaledGram`; those at the end are results.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from andersonn_core.arrays import Counts, Flags, Floats
from andersonn_core.compiling import compiled

MATRICES, ROWS, FLAGS, EACH = "f8[:, :, ::1]", "f8[:, ::1]", "b1[::1]", "f8[::1]"
PROBLEM = f"{MATRICES}, {MATRICES}, {ROWS}, {ROWS}"  # matrix, T, D and pivots


@compiled(f"{PROBLEM}, i8, {ROWS}, {FLAGS}, f8, f8, {FLAGS}, {FLAGS}")
def store(
    matrix: Floats,  # (B, m, m)
    inverse: Floats,  # (B, m, m)
    scale: Floats,  # (B, m)
    pivots: Floats,  # (B, m)
    slot: int,
    row: Floats,  # (B, m)
    samples: Flags,  # (B,)
    ridge: float,
    least: float,
    lost: Flags,  # (B,)
    failed: Flags,  # (B,)
) -> None:
    """Take the inner products of the column in `slot`, for `samples`.

    Lost is one that is zero or not finite. Failed: T is to be made anew, since the column
    overwrote another or because its squared pivot is below `least`.
    """
    ahead = np.empty(scale.shape[1])
    for b in range(len(scale)):
        square = row[b, slot]
        good = square > 0 and square < np.inf  # both False for NaN
        taken = samples[b] and good
        lost[b] = samples[b] and not good
        failed[b] = scale[b, slot] > 0
        unit = 1 / sqrt(square) if taken else 0.0
        scale[b, slot] = 0.0
        for j in range(scale.shape[1]):
            value = row[b, j] * scale[b, j] * unit if taken else 0.0  # 0 times NaN is NaN
            matrix[b, slot, j] = matrix[b, j, slot] = value
        # Not 1: it rounds as the others do.
        matrix[b, slot, slot] = square * unit * unit + ridge if taken else 1.0
        scale[b, slot] = unit
        if taken and not failed[b]:
            failed[b] = not _border(matrix, inverse, pivots, b, slot, least, ahead)


@compiled()
def _border(
    matrix: Floats, inverse: Floats, pivots: Floats, b: int, slot: int, least: float, ahead: Floats
) -> bool:
    """Take one more column into T; whether its squared pivot is at least so large.

    A = [[A', a], [a^T, d]]: with l = T' a and p^2 = d - l^T l the new row of T is
    [-l^T T', 1] / p.
    """
    size = len(ahead)
    square = matrix[b, slot, slot]
    for i in range(size):
        total = 0.0
        for j in range(size):  # T' is zero where j is the slot
            total += inverse[b, i, j] * matrix[b, slot, j]
        ahead[i] = total
        square -= total * total
    if not square >= least:  # so that NaN fails
        return False
    pivot = sqrt(square)
    for j in range(size):
        total = 0.0
        for i in range(size):
            total += ahead[i] * inverse[b, i, j]
        inverse[b, slot, j] = -total / pivot
    inverse[b, slot, slot] = 1 / pivot
    pivots[b, slot] = pivot
    return True


@compiled(f"{PROBLEM}, b1[:, ::1], {FLAGS}, i8[::1], f8, {FLAGS}")
def factor(
    matrix: Floats,  # (B, m, m)
    inverse: Floats,  # (B, m, m)
    scale: Floats,  # (B, m)
    pivots: Floats,  # (B, m)
    used: Flags,  # (B, m)
    samples: Flags,  # (B,)
    stored: Counts,  # (m,)
    least: float,
    lost: Flags,  # (B,)
) -> None:
    """T anew for some samples, by Cholesky, with no other columns than `used`.

    The oldest columns are dropped until all squared pivots are at least so large; lost: somebody
    dropped one.
    """
    size = scale.shape[1]
    for b in range(len(scale)):
        lost[b] = False
        if not samples[b]:
            continue
        for j in range(size):
            if scale[b, j] > 0 and not used[b, j]:
                _drop(matrix, scale, b, j)
        while not _cholesky(matrix, inverse, pivots, b, least):
            oldest = -1
            for j in range(size):
                if scale[b, j] > 0 and (oldest < 0 or stored[j] < stored[oldest]):
                    oldest = j
            if oldest < 0:
                break
            _drop(matrix, scale, b, oldest)
            lost[b] = True
        for i in range(size):  # L^-1 in its place: what is overwritten is read no more
            for j in range(i):
                total = 0.0
                for k in range(j, i):
                    total += inverse[b, i, k] * inverse[b, k, j]
                inverse[b, i, j] = -total / pivots[b, i]
            inverse[b, i, i] = 1 / pivots[b, i] if scale[b, i] > 0 else 0.0


@compiled()
def _drop(matrix: Floats, scale: Floats, b: int, slot: int) -> None:
    """Make a unit row of one column."""
    for j in range(scale.shape[1]):
        matrix[b, slot, j] = matrix[b, j, slot] = 0.0
    matrix[b, slot, slot] = 1.0
    scale[b, slot] = 0.0


@compiled()
def _cholesky(matrix: Floats, lower: Floats, pivots: Floats, b: int, least: float) -> bool:
    """L with L L^T = A; whether all its squared pivots are at least so large."""
    for i in range(pivots.shape[1]):
        for j in range(i + 1):
            left = matrix[b, i, j]
            for k in range(j):
                left -= lower[b, i, k] * lower[b, j, k]
            if j < i:
                lower[b, i, j], lower[b, j, i] = left / pivots[b, j], 0.0
            elif left >= least:  # False for NaN; a column that is not used has 1
                lower[b, i, i] = pivots[b, i] = sqrt(left)
            else:
                return False
    return True


@compiled(f"{MATRICES}, {ROWS}, {ROWS}, f8, {ROWS}, {EACH}")
def solve(
    inverse: Floats,  # (B, m, m)
    scale: Floats,  # (B, m)
    rhs: Floats,  # (B, m)
    ridge: float,
    gamma: Floats,  # (B, m)
    removed: Floats,  # (B,)
) -> None:
    """Gamma = D y with y = T^T (T D rhs), and what that takes off ||g||^2."""
    size = scale.shape[1]
    ahead, target = np.empty(size), np.empty(size)
    for b in range(len(scale)):
        removed[b] = 0.0
        for j in range(size):  # of a column that is not used the product may have overflowed
            target[j] = rhs[b, j] * scale[b, j] if scale[b, j] > 0 else 0.0
        for i in range(size):
            total = 0.0
            for j in range(size):
                total += inverse[b, i, j] * target[j]
            ahead[i] = total
            removed[b] += total * total
        for j in range(size):
            total = 0.0
            for i in range(size):
                total += ahead[i] * inverse[b, i, j]
            gamma[b, j] = total * scale[b, j]
            removed[b] += ridge * total * total
