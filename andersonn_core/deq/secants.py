"""The inverse Jacobian that Anderson has built up in a solve, transposed."""

from __future__ import annotations

import torch
from torch import Tensor

from andersonn_core.deq.adjoint import Rows
from andersonn_core.kernels import DifferenceWindow
from andersonn_core.methods.windowed import WindowState


def transposed_step(state: WindowState) -> Rows:
    """The transpose of g -> mixing g - dU (dG^T dG)^-1 dG^T g, which stands for (I - J)^-1.

    v -> mixing v - dG (dG^T dG)^-1 dU^T v with the differences that count at the end of the solve;
    mixing v for a sample without any, v where a solve of fewer samples was stopped.
    """
    window, gram, mixing = state.window, state.gram, state.settings.mixing
    assert isinstance(window, DifferenceWindow)
    du, dg = (ring.transpose(0, 1) for ring in (window.du, window.dg))  # (B, m, n)

    def apply(v: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """The transposed step from v."""
        if len(v) != len(du):  # compacted, and stopped before the whole batch was taken up again
            return v
        rhs = torch.einsum("bmn,bn->bm", du.to(v), v)
        gamma = gram.solve(rhs.cpu().double().numpy()).gamma  # (B, m)
        return mixing * v - torch.einsum("bmn,bm->bn", dg.to(v), torch.from_numpy(gamma).to(v))

    return apply
