"""The small matrices of `ResidualGram`, a sample after the other."""

from __future__ import annotations

from math import sqrt

import numpy as np

from andersonn_core.arrays import Flags, Floats
from andersonn_core.compiling import compiled
from andersonn_core.least_squares.loops import FLAGS, MATRICES, ROWS


@compiled(f"{MATRICES}, b1[:, ::1], i8, {ROWS}, {FLAGS}, {FLAGS}")
def store(
    products: Floats,  # (B, m + 1, m + 1)
    used: Flags,  # (B, m + 1)
    slot: int,
    row: Floats,  # (B, m + 1)
    samples: Flags,  # (B,)
    lost: Flags,  # (B,)
) -> None:
    """Take the inner products of the residual in `slot`, for `samples`; lost: it is not finite."""
    for b in range(len(products)):
        good = row[b, slot] < np.inf  # False for NaN
        for j in range(products.shape[1]):
            products[b, slot, j] = products[b, j, slot] = row[b, j] if good else 0.0
        used[b, slot] = samples[b] and good
        lost[b] = samples[b] and not good


@compiled(f"{MATRICES}, b1[:, ::1], {ROWS}, i8, f8, {MATRICES}, {ROWS}, {ROWS}")
def differences(
    products: Floats,  # (B, m + 1, m + 1)
    used: Flags,  # (B, m + 1)
    line: Floats,  # (B, m + 1) the products of the residual in `slot`
    slot: int,
    ridge: float,
    matrix: Floats,  # (B, m + 1, m + 1)
    scale: Floats,  # (B, m + 1)
    rhs: Floats,  # (B, m + 1)
) -> None:
    """The scaled problem of the differences from the residual in `slot`, as `ScaledGram` has it."""
    size = scale.shape[1]
    for b in range(len(products)):
        for j in range(size):
            taken = used[b, j] and used[b, slot] and j != slot
            square = products[b, j, j] - line[b, j] - line[b, j] + line[b, slot]
            scale[b, j] = 1 / sqrt(square) if taken and square > 0 else 0.0
            rhs[b, j] = line[b, slot] - line[b, j] if used[b, slot] else 0.0  # it may be NaN
        for i in range(size):
            for j in range(size):
                both = scale[b, i] > 0 and scale[b, j] > 0
                value = products[b, i, j] - line[b, i] - line[b, j] + line[b, slot]
                matrix[b, i, j] = value * scale[b, i] * scale[b, j] if both else 0.0
            matrix[b, i, i] = 1.0 + ridge if scale[b, i] > 0 else 1.0
