"""Which of the stored columns a least-squares problem should use: the newest first.

All three rules look at A = D dG dG^T D, the Gram matrix scaled to unit diagonal, and leave the
problem as it is: what is left out now may be used again by a later step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from andersonn_core.arrays import Counts, Flags, Floats

# From the scaled matrix (B, m, m) and the columns in use (B, m) to those that are taken (B, m).
Filter = Callable[[Floats, Flags], Flags]


def newest(used: Flags, stored: Counts, count: Counts) -> Flags:  # (B, m), (m,), (B,)
    """The newest `count` of the columns in use."""
    rank = _newest_first(used, stored).argsort(1)
    taken: Flags = used & (rank < count[:, None])
    return taken


def well_conditioned(matrix: Floats, used: Flags, stored: Counts, limit: float) -> Flags:
    """As many of the newest columns as there can be with a condition number of at most `limit`.

    Condition numbers of leading blocks grow with the block (Cauchy's interlacing), so the oldest
    columns go one by one.
    """
    order = _newest_first(used, stored)
    ordered, count = _ordered(matrix, order), used.sum(1)
    places = np.flatnonzero(count > 1)
    while len(places):
        # Ones outside of the block hide nothing: with a unit diagonal they lie between the
        # smallest and the largest eigenvalue.
        inside = np.arange(used.shape[1]) < count[places, None]
        both = inside[:, :, None] & inside[:, None, :]
        values = np.linalg.eigvalsh(np.where(both, ordered[places], np.eye(used.shape[1])))
        places = places[~(values[:, -1] <= limit * values[:, 0]) & (count[places] > 1)]
        count[places] -= 1
    return newest(used, stored, count)


def not_aligned(matrix: Floats, used: Flags, stored: Counts, sine: float) -> Flags:
    """The columns that make an angle of at least arcsin(`sine`) with the span of newer ones.

    By Cholesky's elimination from the newest column to the oldest, in which a column that is left
    out eliminates nothing: its pivot is the square of that sine (angle filtering: Pollock and
    Rebholz, SIAM J. Sci. Comput. 45, 2023).
    """
    order = _newest_first(used, stored)
    left, taken = _ordered(matrix, order), np.take_along_axis(used, order, 1)
    least = sine**2 * left.diagonal(axis1=1, axis2=2)
    for column in range(used.shape[1]):
        pivot = left[:, column, column]
        taken[:, column] &= pivot >= least[:, column]
        weight = np.where(taken[:, column], 1 / np.where(pivot > 0, pivot, 1.0), 0.0)
        line = left[:, column].copy()
        left -= weight[:, None, None] * line[:, :, None] * line[:, None, :]
    places = order.argsort(1)
    return np.take_along_axis(taken, places, 1)


def _newest_first(used: Flags, stored: Counts) -> Counts:  # (B, m), (m,) -> (B, m)
    """The slots from the newest column to the oldest, and those that are not in use."""
    return np.where(used, -stored, 1).argsort(1, kind="stable")


def _ordered(matrix: Floats, order: Counts) -> Floats:  # (B, m, m), (B, m)
    rows = np.take_along_axis(matrix, order[:, :, None], 1)
    return np.take_along_axis(rows, order[:, None, :], 2)
