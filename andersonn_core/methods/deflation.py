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
from andersonn_core.methods.windowed import Gram, Window


def slow_directions(
    window: Window, gram: Gram, places: Counts, kept: int
) -> tuple[Floats, Flags]:  # (A,) -> (A, k, m), (A,)
    """The k combinations y with the largest ||dZ^T y|| / ||dG^T y||, sample by sample.

    With dG dG^T = A and its inverse factor T (T A T^T = I) they are y = T^T q for the largest
    eigenvectors q of T (dZ dZ^T) T^T: their dG^T y are orthonormal. The second array says whose
    problem had more than k columns and a finite solution.
    """
    problem = gram.differences(places)
    _, lengths = iterate_products(window, problem, places)
    factor = problem.inverse * problem.scale[:, None, :]  # of the unscaled columns
    matrix = factor @ lengths @ factor.transpose(0, 2, 1)
    fine: Flags = np.isfinite(matrix).all((1, 2)) & (problem.used.sum(1) > kept)
    matrix[~fine] = 0.0
    _, vectors = np.linalg.eigh((matrix + matrix.transpose(0, 2, 1)) / 2)
    return vectors[:, :, : -kept - 1 : -1].transpose(0, 2, 1) @ factor, fine


def iterate_products(
    window: Window, problem: ScaledGram, places: Counts
) -> tuple[Floats, Floats]:  # (A,) -> (A, m, m) each
    """DG dZ^T and dZ dZ^T of the columns in use, with dZ = dU - mixing dG; zero for others."""
    gu, uu = window.cross(torch.from_numpy(places).to(window.columns.device))
    gg, beta = problem.inner(), window.mixing
    used = problem.used[:, :, None] & problem.used[:, None, :]
    both = gu + gu.transpose(0, 2, 1)
    return (
        np.where(used, gu - beta * gg, 0.0),
        np.where(used, uu - beta * both + beta**2 * gg, 0.0),
    )


def newest_directions(
    window: Window, gram: Gram, places: Counts, pairs: int
) -> tuple[Floats, Flags]:  # (A,) -> (A, p, m), (A,)
    """What the newest columns have that no older one has: the last rows of Gram-Schmidt by age.

    Their dG^T y are orthonormal, the newest last. The second array says whose columns, taken in
    this order, are independent beyond rounding.
    """
    problem = gram.differences(places)
    order = np.argsort(window.stored)
    matrix = problem.matrix[:, order[:, None], order[None, :]]
    factor, info = torch.linalg.cholesky_ex(torch.from_numpy(matrix))
    eye = torch.eye(len(order), dtype=factor.dtype)
    rows = torch.linalg.solve_triangular(factor, eye, upper=False).numpy()[:, -pairs:]
    weights = np.zeros((len(places), pairs, len(order)))
    weights[:, :, order] = rows  # in the order of age
    weights *= problem.scale[:, None, :]
    return weights, (info.numpy() == 0) & np.isfinite(weights).all((1, 2))
