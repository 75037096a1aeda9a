"""Which combinations of the stored differences are slow, from m x m matrices alone.

On an affine map every combination y keeps the secant relation dG^T y = -(I - J) dZ^T y, so that

    || dG^T y || / || dZ^T y || = || (I - J) v || / || v ||,   v = dZ^T y.

While a pair (v, -(1 - lambda) v) of an eigenvector is kept, least squares removes v from every
residual: the residual polynomial has a root at lambda. Small ratios are eigenvalues next to 1, the
roots that a restart would have to find again. Deflated GMRES keeps harmonic Ritz vectors for the
same purpose (Morgan, SIAM J. Sci. Comput. 24, 2002), recycling them from one system to the next is
due to Parks et al. (SIAM J. Sci. Comput. 28, 2006); on a span that a normal J maps into itself both
are its eigenvectors.
"""

from __future__ import annotations

import numpy as np
import torch

from andersonn_core.arrays import Counts, Flags, Floats
from andersonn_core.least_squares import ScaledGram

NOISE = 0.01  # combinations whose products may be off by more, relatively, are not kept


def slow_directions(
    problem: ScaledGram, moves: Floats, mixing: float, kept: int
) -> tuple[Floats, Flags]:  # (A, m (m + 1) / 2) -> (A, k, m), (A,)
    """The k combinations y with the largest ||dZ^T y|| / ||dG^T y||, sample by sample.

    With dG dG^T = A and its inverse factor T (T A T^T = I) they are y = T^T q for the largest
    eigenvectors q of T (dZ dZ^T) T^T: their dG^T y are orthonormal. The second array says whose
    problem had more than k columns and a solution that is not made of rounding errors. `moves` are
    the window's.
    """
    matrix = problem.inverse @ squares(problem, moves, mixing) @ problem.inverse.transpose(0, 2, 1)
    fine: Flags = np.isfinite(matrix).all((1, 2)) & (problem.used.sum(1) > kept)
    matrix[~fine] = 0.0
    _, vectors = np.linalg.eigh((matrix + matrix.transpose(0, 2, 1)) / 2)
    unit = vectors[:, :, : -kept - 1 : -1].transpose(0, 2, 1) @ problem.inverse
    return unit * problem.scale[:, None, :], fine & is_certain(problem, unit)


def squares(
    problem: ScaledGram, moves: Floats, mixing: float
) -> Floats:  # (A, m (m + 1) / 2) -> (A, m, m)
    """D dZ dZ^T D of the columns in use, with dZ = dU - mixing dG; zero for others."""
    size = problem.scale.shape[1]
    rows, columns = np.tril_indices(size)
    found = np.empty((len(moves), size, size))
    found[:, rows, columns] = found[:, columns, rows] = moves
    found += mixing**2 * problem.inner()
    return scaled(problem, found)


def scaled(problem: ScaledGram, products: Floats) -> Floats:  # (A, m, m) -> (A, m, m)
    """Of columns whose dg have unit norm; zero for those that are not in use."""
    used = problem.used[:, :, None] & problem.used[:, None, :]
    with np.errstate(all="ignore"):  # a broken sample's numbers
        every: Floats = products * problem.scale[:, :, None] * problem.scale[:, None, :]
    return np.where(used, every, 0.0)


def is_certain(problem: ScaledGram, unit: Floats) -> Flags:  # (A, k, m) -> (A,)
    """Whose combinations, of unit norm, have products that rounding leaves right.

    With A = dG dG^T of unit columns, right to the precision of the state's type, their products
    Y A Y^T are right to ||y||^2 times that.
    """
    certain: Flags = (problem.precision * (unit**2).sum(2) < NOISE).all(1)  # False for NaN
    return certain


def newest_directions(
    problem: ScaledGram, stored: Counts, pairs: int
) -> tuple[Floats, Flags]:  # (m,) -> (A, p, m), (A,)
    """What the newest columns have that no older one has: the last rows of Gram-Schmidt by age.

    Their dG^T y are orthonormal, the newest last. The second array says whose columns, taken in
    this order, are independent beyond rounding.
    """
    order = np.argsort(stored)
    matrix = problem.matrix[:, order[:, None], order[None, :]]
    factor, info = torch.linalg.cholesky_ex(torch.from_numpy(matrix))
    eye = torch.eye(len(order), dtype=factor.dtype)
    rows = torch.linalg.solve_triangular(factor, eye, upper=False).numpy()[:, -pairs:]
    unit = np.zeros_like(rows)
    unit[:, :, order] = rows  # in the order of age
    return unit * problem.scale[:, None, :], (info.numpy() == 0) & is_certain(problem, unit)
