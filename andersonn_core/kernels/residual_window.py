"""A ring of residuals and plain steps themselves, for weights that sum to one.

With p_j = z_j + mixing g_j the step is sum_j alpha_j p_j, sum_j alpha_j = 1: the same as with
differences in exact arithmetic, with less memory traffic, since nothing is subtracted. The price is
cancellation: inner products of residuals lose the digits in which the residuals agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Flags, Floats
from andersonn_core.kernels.rows import Rows


@dataclass
class ResidualWindow:
    """The newest m + 1 residuals of each sample."""

    rows: Rows
    mixing: float
    p: Tensor  # (m + 1, B, n)
    g: Tensor  # (m + 1, B, n)
    stored: Counts  # (m + 1,) the evaluation at which each slot was filled, -1 before
    slot: int = -1  # filled last
    nothing: ClassVar[int] = -1  # differences in an empty ring: the first residual makes none

    def __post_init__(self) -> None:
        self._p, self._g = self.rows.view(self.p), self.rows.view(self.g)

    @classmethod
    def like(cls, z: Tensor, size: int, mixing: float, rows: Rows) -> ResidualWindow:  # (B, n)
        """An empty window of `size` differences for states of this shape."""
        # Zeros, since the columns that do not count are multiplied by 0.
        ring = z.new_zeros(2, size + 1, *z.shape)
        return cls(rows, mixing, ring[0], ring[1], np.full(size + 1, -1))

    @property
    def size(self) -> int:
        """The number of slots, m + 1."""
        return self.stored.size

    @property
    def columns(self) -> Tensor:  # (m + 1, B, n)
        """What the least-squares problem combines."""
        return self.g

    def residuals(self, z: Tensor) -> tuple[Tensor, Tensor]:  # (B, n) each
        """The ring's own slots: the newest residual and the one before need no other memory."""
        return self.g[0], self.g[-1]

    def next_residual(self, own: Tensor) -> Tensor:  # (B, n)
        """Where the newest residual goes before it is appended: into the ring."""
        return self.g[(self.slot + 1) % self.size]

    def append(
        self, z: Tensor, f_z: Tensor, g: Tensor, last_z: Tensor, last_g: Tensor, now: int
    ) -> tuple[Floats, Floats, Floats | None]:  # (B, n) each -> (B, m + 1), (B, m + 1), None
        """Take the newest residual, which lies in its slot; its inner products with all, twice."""
        self.slot = slot = (self.slot + 1) % self.size
        self.stored[slot] = now
        rows = self.rows
        if self.mixing == 1.0:
            self.p[slot].copy_(f_z)
        else:
            self.p[slot].copy_(z)
            rows.add_scaled(self._p[slot], self._g[slot], self.mixing)
        row = rows.inner(self._g, self._g[slot])
        return row, row, None

    def clear(self, samples: Flags | slice) -> None:  # (B,)
        """All slots are read always: nothing to do."""

    def erase(self, samples: Flags) -> None:  # (B,)
        """Make the newest residuals of these samples zero: not finite, they would spread."""
        places = torch.from_numpy(np.flatnonzero(samples)).to(self.p.device)
        self.p[self.slot, places] = 0.0
        self.g[self.slot, places] = 0.0

    def step(
        self, z: Tensor, f_z: Tensor, g: Tensor, alpha: Floats, out: Tensor
    ) -> None:  # (B, n) each, (B, m + 1)
        """Out = sum_j alpha_j p_j."""
        self.rows.combine(alpha, self._p, self.rows.view(out))

    def select(self, indices: Tensor) -> ResidualWindow:  # (A,)
        """The window of some samples."""
        p, g = self.p[:, indices], self.g[:, indices]
        return ResidualWindow(self.rows, self.mixing, p, g, self.stored.copy(), self.slot)
