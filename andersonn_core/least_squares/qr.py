"""The same problem by orthogonal factorization."""

from __future__ import annotations

import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Flags
from andersonn_core.layout import beside_double
from andersonn_core.least_squares.weights import Weights


def qr_weights(
    dg: Tensor,  # (B, m, n)
    g: Tensor,  # (B, n)
    valid: Flags,  # (B, m), columns that hold a difference
    stored: Counts,  # (m,) larger is newer
    regularization: float,
) -> Weights:
    """Solve the same problem by QR of [dG^T D; sqrt(lambda) I], without squaring its condition.

    Columns enter from the newest to the oldest; one whose pivot vanishes against its own norm is
    dropped, so that dependent columns lose the oldest.
    """
    norms = torch.linalg.vector_norm(dg, dim=2)
    used = torch.from_numpy(valid).to(dg.device) & (norms > 0) & torch.isfinite(norms)
    # Newest first, unused last.
    stamp = torch.from_numpy(stored).to(dg.device).expand_as(norms)
    order = torch.where(used, stamp, -1).argsort(dim=1, descending=True)
    scale = torch.where(used, norms, 1.0)
    columns = torch.where(used[:, :, None], dg / scale[:, :, None], 0.0)
    columns = columns.gather(1, order[:, :, None].expand_as(columns)).mT  # (B, n, m)
    q, r, kept = _reduced_qr(columns, used.gather(1, order), regularization)
    target = torch.cat([g, g.new_zeros(g.shape[0], dg.shape[1])], dim=1)
    # In this orientation a sample's sums do not depend on how many samples there are.
    right = torch.bmm(target[:, None, :], q)[:, 0, :]
    inner = torch.linalg.vecdot(dg, g[:, None, :]) / scale
    r, right, inner, scale = (beside_double(each).double() for each in (r, right, inner, scale))
    order, kept = beside_double(order), beside_double(kept)
    right = torch.where(kept, right, 0.0)
    y_sorted = torch.linalg.solve_triangular(r, right[:, :, None], upper=True)[:, :, 0]
    y = torch.zeros_like(y_sorted).scatter(1, order, torch.where(kept, y_sorted, 0.0))
    taken = torch.zeros_like(kept).scatter(1, order, kept)
    inner = torch.where(taken, inner, 0.0)
    dropped = (torch.from_numpy(valid).to(taken.device) & ~taken).any(1).cpu().numpy()
    return Weights(
        gamma=(y / scale).cpu().numpy(),
        removed=(y * (inner + regularization * y)).sum(1).cpu().numpy(),
        used=taken.cpu().numpy(),
        pivots=r.diagonal(dim1=1, dim2=2).abs().cpu().numpy(),
        dropped=dropped if dropped.any() else None,
    )


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
            return q, r, kept
        kept = kept & ~small
