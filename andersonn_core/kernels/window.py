"""A ring of differences of residuals and of plain steps.

With g = f(z) - z, the ring holds dg_j = g_{j+1} - g_j and du_j = dz_j + mixing dg_j, the difference
of two plain steps z + mixing g: the step z + mixing g - dU^T gamma reads it once. All samples store
into the same slot at the same evaluation; which columns count is the least-squares problem's
business.
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
class DifferenceWindow:
    """Up to m differences of each sample."""

    rows: Rows
    mixing: float
    du: Tensor  # (m, B, n)
    dg: Tensor  # (m, B, n)
    stored: Counts  # (m,) the evaluation at which each slot was filled, -1 before
    depth: Counts  # (B,) slots from this one on hold nothing that counts
    slot: int = -1  # filled last
    nothing: ClassVar[int] = 0  # differences in an empty ring

    def __post_init__(self) -> None:
        self._du, self._dg = self.rows.view(self.du), self.rows.view(self.dg)
        self._runs: list[tuple[slice, int]] = []

    @classmethod
    def like(cls, z: Tensor, size: int, mixing: float, rows: Rows) -> DifferenceWindow:  # (B, n)
        """An empty window of `size` differences for states of this shape."""
        batch, n = z.shape
        # Zeros, since the columns that do not count are multiplied by 0.
        return cls(
            rows=rows,
            mixing=mixing,
            du=z.new_zeros(size, batch, n),
            dg=z.new_zeros(size, batch, n),
            stored=np.full(size, -1),
            depth=np.zeros(batch, np.int64),
        )

    @property
    def size(self) -> int:
        """m, the number of slots."""
        return self.stored.size

    @property
    def columns(self) -> Tensor:  # (m, B, n)
        """What the least-squares problem combines."""
        return self.dg

    def residuals(self, z: Tensor) -> tuple[Tensor, Tensor]:  # (B, n) each
        """Memory for the newest residual and the one before."""
        return torch.empty_like(z), torch.empty_like(z)

    def next_residual(self, own: Tensor) -> Tensor:  # (B, n)
        """Where the newest residual goes before it is appended: into the caller's memory."""
        return own

    def clear(self, samples: Flags | slice) -> None:  # (B,)
        """Nothing that these samples have stored counts any more."""
        self.depth[samples] = 0

    def append(
        self, z: Tensor, f_z: Tensor, g: Tensor, last_z: Tensor, last_g: Tensor, now: int
    ) -> tuple[Floats, Floats, Floats | None]:  # (B, n) each -> (B, m), (B, m), (B,)
        """Store the newest differences over the oldest; dG dg, dG g and, in slot 0, ||dz||."""
        self.slot = slot = (self.slot + 1) % self.size
        self.stored[slot] = now
        np.maximum(self.depth, slot + 1, out=self.depth)
        rows, du, dg = self.rows, self._du[slot], self._dg[slot]
        new, before, g_new, g_before = map(rows.view, (z, last_z, g, last_g))
        rows.subtract(g_new, g_before, out=dg)
        rows.subtract(new, before, out=du)
        lengths = None if slot else np.sqrt(rows.squares(du))
        rows.add_scaled(du, dg, self.mixing)
        gram, rhs = np.zeros((2, self.depth.size, self.size))
        self._runs = self._equal_depths()
        for run, used in self._runs:
            columns = self._dg[:used, run]
            gram[run, :used] = rows.inner(columns, dg[run])
            rhs[run, :used] = rows.inner(columns, g_new[run])
        return gram, rhs, lengths

    def erase(self, samples: Flags) -> None:  # (B,)
        """Make the newest differences of these samples zero: not finite, they would spread."""
        places = torch.from_numpy(np.flatnonzero(samples)).to(self.du.device)
        self.du[self.slot, places] = 0.0
        self.dg[self.slot, places] = 0.0

    def step(
        self, z: Tensor, f_z: Tensor, g: Tensor, gamma: Floats, out: Tensor
    ) -> None:  # (B, n) each, (B, m)
        """Out = z + mixing g - dU^T gamma."""
        # The correction is summed up before it meets the iterate: adding it there in pieces would
        # round in the size of z each time (Poisson 128x128, float32: never 1e-6, against 236).
        rows, target = self.rows, self.rows.view(out)
        for run, used in self._runs:  # who has forgotten since then has no weights
            rows.combine(gamma[run, :used], self._du[:used, run], out=target[run])
        if self.mixing == 1.0:
            rows.subtract(rows.view(f_z), target, out=target)
        else:
            rows.subtract(rows.view(z), target, out=target)
            rows.add_scaled(target, rows.view(g), self.mixing)

    def _equal_depths(self) -> list[tuple[slice, int]]:
        """Neighbours that use equally many slots: a sample's sums depend on its own number only."""
        depth = self.depth
        used = int(depth[0])
        if np.count_nonzero(depth == used) == len(depth):
            return [(slice(None), used)]
        ends = [0, *(np.flatnonzero(np.diff(depth)) + 1), len(depth)]
        return [(slice(a, b), int(depth[a])) for a, b in zip(ends, ends[1:], strict=False)]

    def select(self, indices: Tensor) -> DifferenceWindow:  # (A,)
        """The window of some samples."""
        places: Counts = indices.cpu().numpy()
        return DifferenceWindow(
            self.rows,
            self.mixing,
            self.du[:, indices],
            self.dg[:, indices],
            self.stored.copy(),
            self.depth[places],
            self.slot,
        )
