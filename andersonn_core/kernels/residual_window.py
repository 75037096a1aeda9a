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
from andersonn_core.kernels.residual import checked
from andersonn_core.kernels.rows import Rows, host
from andersonn_core.kernels.window import Previous, combine, of_samples, without_gram


@dataclass
class ResidualWindow:
    """The newest m + 1 residuals of each sample."""

    rows: Rows
    mixing: float
    p: Tensor  # (m + 1, B, n)
    g: Tensor  # (m + 1, B, n)
    stored: Counts  # (m + 1,) the evaluation at which each slot was filled, -1 before
    slot: int = -1  # filled last
    row: Floats | None = None  # (B, m + 1) products of the residual that `append` takes next
    nothing: ClassVar[int] = -1  # differences in an empty ring: the first residual makes none

    def __post_init__(self) -> None:
        self._p, self._g = self.rows.view(self.p), self.rows.view(self.g)
        self._all = np.full(self.p.shape[1], self.size)

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

    def measure(
        self, z: Tensor, f_z: Tensor, own: Tensor, previous: Previous | None = None
    ) -> tuple[Tensor, tuple[Floats, Floats]]:  # (B, n) each -> (B, n), (B,), (B,)
        """The newest residual, ||g|| and the scale of f(z).

        It goes where `append` will find it: into the slot that is filled next, and so does the
        plain step. Its products come with it: read again for them, it would cost a pass.
        """
        slot = (self.slot + 1) % self.size
        g, rings = self.g[slot], (self._p, self._g)
        norms, self.row = self.rows.enter(rings, slot, self.mixing, (z, f_z))
        return g, checked(self.rows, norms, f_z, g)

    def append(
        self, z: Tensor, g: Tensor, last_z: Tensor, last_g: Tensor, now: int
    ) -> tuple[Floats, Floats, None]:  # (B, n) each -> (B, m + 1), (B, m + 1)
        """Take the newest residual, which lies in its slot; returns its `products`."""
        self.slot = (self.slot + 1) % self.size
        self.stored[self.slot] = now
        row, self.row = self.products(g)[0] if self.row is None else self.row, None
        return row, row, None

    def replace(
        self, places: Tensor, z: Tensor, g: Tensor, last_z: Tensor, last_g: Tensor
    ) -> None:  # (A,), (B, n) each
        """Store a newer residual of some samples over their newest, in the same slot."""
        self.g[self.slot, places] = g[places]
        self.p[self.slot, places] = z[places].add(g[places], alpha=self.mixing)

    def products(self, g: Tensor) -> tuple[Floats, Floats]:  # (B, n) -> (B, m + 1), (B, m + 1)
        """The inner products of all residuals with the newest one, twice: it is g."""
        return self.rows.products(self._g, self.slot, self._all)

    def keep_newest(self, samples: Flags | slice, count: int = 0) -> None:  # (B,)
        """All slots are read always: nothing to do."""

    def predict(self, g: Tensor, alpha: Floats) -> Tensor:  # (B, n), (B, m + 1) -> (B, n)
        """sum_j alpha_j g_j: on an affine map the residual at sum_j alpha_j z_j."""
        mean = torch.empty_like(g)
        self.rows.mix(self._g, self.slot, self._all, alpha, mean)
        return mean

    def moves(self, places: Tensor) -> Floats:  # (A,) -> (A, (m + 1) (m + 2) / 2)
        """As a window of differences has them, of the differences from the newest."""
        p, g = (of_samples(ring, places) for ring in (self.p, self.g))
        gp, pp = (_of_differences(host(torch.bmm(a, p.mT)), self.slot) for a in (g, p))
        return without_gram(gp, pp, self.mixing)

    def fold(
        self, weights: Floats, places: Tensor
    ) -> tuple[Counts, Floats]:  # (A, k, m + 1), (A,) -> (k,), (A, k, m + 1)
        """Combine the residuals of some samples in place, as `combine` does."""
        self.row = None  # of residuals that are no longer there
        return combine((self.p, self.g), self.slot, weights, places)

    def erase(self, samples: Flags) -> None:  # (B,)
        """What is not finite in these samples' newest residuals becomes zero: it would spread."""
        places = torch.from_numpy(np.flatnonzero(samples)).to(self.p.device)
        for ring in (self.p, self.g):
            ring[self.slot, places] = ring[self.slot, places].nan_to_num(0.0, 0.0, 0.0)

    def step(
        self, z: Tensor, f_z: Tensor, g: Tensor, alpha: Floats, out: Tensor
    ) -> None:  # (B, n) each, (B, m + 1)
        """Out = sum_j alpha_j p_j."""
        self.rows.mix(self._p, self.slot, self._all, alpha, out)

    def select(self, indices: Tensor) -> ResidualWindow:  # (A,)
        """The window of some samples."""
        p, g = self.p[:, indices], self.g[:, indices]
        row = None if self.row is None else self.row[indices.cpu().numpy()]
        return ResidualWindow(self.rows, self.mixing, p, g, self.stored.copy(), self.slot, row)


def _of_differences(inner: Floats, slot: int) -> Floats:  # (A, m + 1, m + 1)
    """From inner products <a_i, b_j> to those of a_slot - a_i and b_slot - b_j."""
    row, column, corner = inner[:, slot, None, :], inner[:, :, slot, None], inner[:, slot, slot]
    differences: Floats = corner[:, None, None] - row - column + inner
    return differences
