"""The weights gamma of the residual least-squares problem min || g - dG^T gamma ||, per sample.

Both back ends scale the columns to unit norm first, so that the ridge is relative and the weights
do not change when the map is scaled (z -> s z). Only the small m x m problem is solved in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Weights:
    """A solved least-squares problem."""

    gamma: Tensor  # (B, m) float64, zero in columns that were not used
    used: Tensor  # (B, m) bool, the columns that took part
    condition: Tensor  # (B,) lower bound of the scaled Gram matrix's condition number
    dropped: Tensor  # (B,) int64, columns dropped as numerically dependent
    any_dropped: bool


def default_regularization(dtype: torch.dtype) -> float:
    """Ten rounding errors of the type in which the Gram matrix was accumulated.

    A ridge below the rounding of the Gram matrix does nothing: six float32 columns that differ by
    1e-4 gave an indefinite matrix with 1e-8 in every one of 50 draws, and never with 1e-6.
    """
    return 10 * torch.finfo(dtype).eps


def gram_weights(
    gram: Tensor,  # (B, m, m) float64, dG dG^T
    rhs: Tensor,  # (B, m) float64, dG g
    valid: Tensor,  # (B, m) bool, columns that hold a difference
    stamp: Tensor,  # (B, m) int64, larger is newer
    regularization: float,
    precision: torch.dtype,
) -> Weights:
    """Solve (D gram D + lambda I) y = D rhs, gamma = D y, with D = diag(gram)^(-1/2), by Cholesky.

    While a sample's factorization fails, its oldest column is dropped. `precision` is the type that
    the entries of `gram` were accumulated in: pivots below its rounding count as failures.
    """
    diagonal = gram.diagonal(dim1=1, dim2=2)
    used = valid & (diagonal > 0) & (diagonal < torch.inf)  # both False for NaN
    scale = torch.where(used, diagonal, torch.inf).rsqrt()  # (B, m), 0 for unused columns
    floor = torch.finfo(precision).eps
    factor, failed = _factor(gram, scale, used, regularization, floor)
    while bool(failed.any()):
        oldest = torch.where(used, stamp, torch.iinfo(torch.int64).max).argmin(1, keepdim=True)
        used = used.scatter(1, oldest, used.gather(1, oldest) & ~failed[:, None])
        scale = scale * used
        factor, failed = _factor(gram, scale, used, regularization, floor)
    # A column with a bad scale holds NaN or infinity perhaps: 0 * NaN must not reach the others.
    target = torch.where(used, rhs * scale, 0.0)[:, :, None]
    gamma = torch.cholesky_solve(target, factor)[:, :, 0] * scale
    dropped = (valid & ~used).sum(1)
    return Weights(gamma, used, _condition(factor), dropped, bool(dropped.any()))


def _factor(
    gram: Tensor, scale: Tensor, used: Tensor, ridge: float, floor: float
) -> tuple[Tensor, Tensor]:  # (B, m, m), (B, m), (B, m) -> (B, m, m), (B,) bool
    """Cholesky factor of the scaled, ridged Gram matrix with unit rows for unused columns."""
    both = used[:, :, None] & used[:, None, :]
    matrix = torch.where(both, gram * scale[:, :, None] * scale[:, None, :], 0.0)
    # torch.where of two Python numbers would round the ridge to float32.
    matrix.diagonal(dim1=1, dim2=2).add_(torch.full_like(scale, ridge).where(used, 1.0))
    factor, info = torch.linalg.cholesky_ex(matrix)
    # Unused columns have pivot 1, so that a sample without columns never fails.
    smallest = factor.diagonal(dim1=1, dim2=2).amin(1)
    return factor, (info > 0) | ~(smallest >= floor**0.5)  # so that NaN fails, too


def _condition(factor: Tensor) -> Tensor:  # (B, m, m) -> (B,)
    """(largest pivot / smallest pivot)^2, a lower bound; pivots are at most about 1."""
    pivots = factor.diagonal(dim1=1, dim2=2)
    return (pivots.amax(1) / pivots.amin(1)).square()


def qr_weights(
    dg: Tensor,  # (B, m, n)
    g: Tensor,  # (B, n)
    valid: Tensor,  # (B, m) bool
    stamp: Tensor,  # (B, m) int64, larger is newer
    regularization: float,
) -> Weights:
    """Solve the same problem by QR of [dG^T D; sqrt(lambda) I], without squaring its condition.

    Columns enter from the newest to the oldest; one whose pivot vanishes against its own norm is
    dropped, so that dependent columns lose the oldest.
    """
    norms = torch.linalg.vector_norm(dg, dim=2)
    used = valid & (norms > 0) & torch.isfinite(norms)
    order = torch.where(used, stamp, -1).argsort(
        dim=1, descending=True
    )  # newest first, unused last
    columns = torch.where(used[:, :, None], dg / torch.where(used, norms, 1.0)[:, :, None], 0.0)
    columns = columns.gather(1, order[:, :, None].expand_as(columns)).mT  # (B, n, m)
    sorted_used = used.gather(1, order)
    q, r, kept = _reduced_qr(columns, sorted_used, regularization)
    target = torch.cat([g, g.new_zeros(g.shape[0], dg.shape[1])], dim=1)
    # In this orientation a sample's sums do not depend on how many samples there are.
    right = torch.where(kept, torch.bmm(target[:, None, :], q)[:, 0, :].double(), 0.0)
    y = torch.linalg.solve_triangular(r, right[:, :, None], upper=True)[:, :, 0]
    gamma = torch.zeros_like(y).scatter(1, order, torch.where(kept, y, 0.0))
    gamma = gamma / torch.where(used, norms, 1.0).double()
    kept_unsorted = torch.zeros_like(kept).scatter(1, order, kept)
    dropped = (valid & ~kept_unsorted).sum(1)
    return Weights(gamma, kept_unsorted, _condition(r.abs()), dropped, bool(dropped.any()))


def _reduced_qr(columns: Tensor, used: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Thin QR of the columns over sqrt(ridge) I; dropped columns become unit rows of R."""
    batch, _, m = columns.shape
    floor = torch.finfo(columns.dtype).eps * max(columns.shape[1], m)
    kept = used
    while True:
        identity = torch.eye(m, dtype=columns.dtype, device=columns.device).expand(batch, m, m)
        # An unused column becomes a unit column of its own row: it stays orthogonal to all others.
        root = columns.new_full((batch, m), ridge**0.5)
        tail = identity * root.where(kept, 1.0)[:, None, :]
        stacked = torch.cat([columns * kept[:, None, :], tail], dim=1)
        q, r = torch.linalg.qr(stacked)
        small = (r.diagonal(dim1=1, dim2=2).abs() < floor) & kept
        if not bool(small.any()):
            return q, r.double(), kept
        kept = kept & ~small
