"""The residual g = f(z) - z and its norm, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Floats
from andersonn_core.kernels.rows import Rows


def measure(
    rows: Rows, z: Tensor, f_z: Tensor, g: Tensor
) -> tuple[Floats, Floats]:  # (B, n) each -> (B,), (B,)
    """Write f(z) - z into g; return ||g|| and max(||f(z)||, tiny), float64 on the host."""
    return checked(rows, rows.residual(z, f_z, g), f_z, g)


def checked(
    rows: Rows, norms: Floats, f_z: Tensor, g: Tensor
) -> tuple[Floats, Floats]:  # (2, B), (B, n) each -> (B,), (B,)
    """The norms that one pass found, again where they under- or overflowed."""
    low, high = rows.limits
    if np.count_nonzero((norms > low) & (norms < high)) < norms.size:  # NaN fails, too
        _rescue(norms[0], g, low, high)
        _rescue(norms[1], f_z, low, high)
        np.maximum(norms[1], torch.finfo(g.dtype).tiny, out=norms[1])
    return norms[0], norms[1]


def _rescue(norms: Floats, values: Tensor, low: float, high: float) -> None:  # (B,), (B, n)
    """In place: norms again, scaled by the largest entry, where squares under- or overflow.

    In float32 a residual below 1e-22 would read 0, a convergence that nobody has reached.
    """
    odd: Any = ~((norms > low) & (norms < high))
    if odd.any() and values.shape[1]:
        taken = values[torch.from_numpy(odd).to(values.device)].double()
        peak = taken.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        norms[odd] = (peak[:, 0] * torch.linalg.vector_norm(taken / peak, dim=1)).cpu().numpy()
