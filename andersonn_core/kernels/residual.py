"""The residual g = f(z) - z and its norm, in one pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Floats
from andersonn_core.kernels.rows import Rows, host
from andersonn_core.layout import beside_double


def measure(
    rows: Rows, z: Tensor, f_z: Tensor, g: Tensor
) -> tuple[Floats, Floats]:  # (B, n) each -> (B,), (B,)
    """Write f(z) - z into g; return ||g|| and max(||f(z)||, tiny), float64 on the host."""
    return checked(rows, rows.residual(z, f_z, g), f_z, g)


def checked(
    rows: Rows, norms: Floats, f_z: Tensor, g: Tensor
) -> tuple[Floats, Floats]:  # (2, B), (B, n) each -> (B,), (B,)
    """The norms that one pass found, again where they under- or overflowed."""
    if rescued(rows, norms, f_z, g):
        np.maximum(norms[1], torch.finfo(g.dtype).tiny, out=norms[1])
    return norms[0], norms[1]


def rescued(rows: Rows, norms: Floats, f_z: Tensor, g: Tensor) -> bool:  # (2, B), (B, n) each
    """Make norms again, in place, where they under- or overflowed; whether any seemed to."""
    low, high = rows.limits
    if np.count_nonzero((norms > low) & (norms < high)) == norms.size:  # NaN fails
        return False
    _rescue(rows, norms[0], g)
    _rescue(rows, norms[1], f_z)
    return True


def _rescue(rows: Rows, norms: Floats, values: Tensor) -> None:  # (B,), (B, n)
    """In place: norms again, scaled by the largest entry, where squares under- or overflow.

    In float32 a residual below 1e-22 would read 0, a convergence that nobody has reached.
    """
    odd = rows.doubtful(norms)
    if not odd.any():
        return
    taken = beside_double(values[torch.from_numpy(odd).to(values.device)]).double()
    own = host(taken.abs().amax(1)) if taken.shape[1] else np.zeros(len(taken))
    peak = np.maximum(rows.largest(own), np.finfo(np.float64).tiny)
    scaled = torch.linalg.vector_norm(taken / taken.new_tensor(peak)[:, None], dim=1)
    norms[odd] = peak * np.sqrt(rows.total(host(scaled) ** 2))
