"""A ring of differences of iterates and residuals, with the Gram matrix kept up to date.

This is the torch reference: one new Gram row a step, in the orientation of the batched product that
runs at memory speed on CPUs ((B, 1, n) x (B, n, m); the other orientation was measured 4 to 11
times slower).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class DifferenceWindow:
    """Up to m differences dz, dg of each sample, stored in a ring."""

    dz: Tensor  # (B, m, n)
    dg: Tensor  # (B, m, n)
    gram: Tensor  # (B, m, m) float64, entries accumulated in the dtype of dg
    valid: Tensor  # (B, m) bool
    stamp: Tensor  # (B, m) int64, when the column was stored
    count: Tensor  # (B,) int64, columns stored since the last restart

    @classmethod
    def like(cls, z: Tensor, size: int) -> DifferenceWindow:  # (B, n)
        """An empty window of `size` differences for states of this shape."""
        batch, n = z.shape
        return cls(
            dz=z.new_zeros(batch, size, n),
            dg=z.new_zeros(batch, size, n),
            gram=z.new_zeros(batch, size, size, dtype=torch.float64),
            valid=z.new_zeros(batch, size, dtype=torch.bool),
            stamp=z.new_zeros(batch, size, dtype=torch.int64),
            count=z.new_zeros(batch, dtype=torch.int64),
        )

    @property
    def size(self) -> int:
        """m, the number of columns."""
        return self.dz.shape[1]

    def clear(self, samples: Tensor) -> None:  # (B,) bool
        """Forget the history of some samples."""
        self.valid &= ~samples[:, None]
        self.count.masked_fill_(samples, 0)

    def append(self, dz: Tensor, dg: Tensor, samples: Tensor | None, now: int) -> None:
        """Store one difference (B, n) for `samples` (B,), None for all, over the oldest if full."""
        stored = self.dg
        if samples is None:
            rows = torch.arange(len(dz), device=dz.device)
        else:
            rows = samples.nonzero()[:, 0]
            dz, dg = dz[rows], dg[rows]
        slot = self.count[rows] % self.size
        self.dz[rows, slot] = dz
        self.dg[rows, slot] = dg
        if samples is not None:
            stored = self.dg[rows]
        row = torch.bmm(dg[:, None, :], stored.mT)[:, 0, :].double()  # (A, m)
        self.gram[rows, slot, :] = row
        self.gram[rows, :, slot] = row
        self.valid[rows, slot] = True
        self.stamp[rows, slot] = now
        self.count[rows] += 1

    def project(self, g: Tensor) -> Tensor:  # (B, n) -> (B, m) float64
        """The inner products dG g of every stored difference of residuals with g."""
        return torch.bmm(g[:, None, :], self.dg.mT)[:, 0, :].double()

    def subtract(self, target: Tensor, gamma: Tensor, mixing: float) -> Tensor:  # (B, n), (B, m)
        """In place: target - (dZ + mixing dG)^T gamma."""
        # The correction is summed up before it meets the target: adding it there in pieces would
        # round in the size of z each time (Poisson 128x128, float32: never 1e-6, against 236).
        weights = gamma.to(target.dtype)[:, None, :]
        correction = torch.bmm(weights, self.dz).baddbmm_(weights, self.dg, alpha=mixing)
        return target.sub_(correction[:, 0, :])

    def select(self, indices: Tensor) -> DifferenceWindow:  # (A,)
        """The window of some samples."""
        tensors = (self.dz, self.dg, self.gram, self.valid, self.stamp, self.count)
        return DifferenceWindow(*(tensor[indices] for tensor in tensors))
