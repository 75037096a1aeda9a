"""The passes over a rank's part of the states, with sums over the parts of all ranks.

What one pass finds goes over the wire together: one all-reduce.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Flags, Floats
from andersonn_core.kernels.residual import rescued
from andersonn_core.kernels.rows import Array, Rows
from andersonn_core.sharding import Shards

DOUBLE = torch.finfo(torch.float64)


class ShardedRows:
    """Some device's rows, and sums over the ranks.

    Norms that under- or overflow when squared in the state's type are made again by their own
    rank, so that the limits are those of float64.
    """

    limits = 1e3 * DOUBLE.tiny**0.5, 1e-3 * DOUBLE.max**0.5

    def __init__(self, rows: Rows, shards: Shards) -> None:
        self.rows, self.shards = rows, shards

    def view(self, values: Tensor) -> Array:
        """The device's."""
        return self.rows.view(values)

    def residual(self, z: Tensor, f_z: Tensor, g: Tensor) -> Floats:  # (B, n) each -> (2, B)
        """Two scalars a sample."""
        norms = self.rows.residual(z, f_z, g)
        return np.sqrt(self.total(self._squares(norms, f_z, g).T)).T.copy()

    def enter(
        self,
        rings: tuple[Array, Array],  # (m, B, n)
        slot: int,
        mixing: float,
        points: tuple[Tensor, Tensor],  # (B, n)
    ) -> tuple[Floats, Floats]:  # (2, B), (B, m)
        """With columns of residuals m + 3 scalars a sample."""
        norms, gram = self.rows.enter(rings, slot, mixing, points)
        squares = self._squares(norms, points[1], torch.as_tensor(rings[1][slot]))
        squares, gram = self._together(squares.T, gram)
        return np.sqrt(squares).T.copy(), gram

    def append(
        self,
        rings: tuple[Array, Array],  # (m, B, n)
        slot: int,
        counts: Counts,  # (B,)
        mixing: float,
        points: tuple[Tensor, Tensor, Tensor, Tensor],  # (B, n)
        f_z: Tensor | None = None,  # (B, n)
    ) -> tuple[Floats, Floats, Floats, Floats]:  # (B, m), (B, m), (B,), (2, B)
        """2 m scalars a sample, with f(z) 2 m + 2; the lengths stay this rank's own."""
        gram, rhs, lengths, norms = self.rows.append(rings, slot, counts, mixing, points, f_z)
        if f_z is None:
            gram, rhs = self._together(gram, rhs)
            return gram, rhs, lengths, norms
        squares = self._squares(norms, f_z, points[2])
        gram, rhs, squares = self._together(gram, rhs, squares.T)
        return gram, rhs, lengths, np.sqrt(squares).T.copy()

    def products(
        self, columns: Array, slot: int, counts: Counts, g: Tensor | None = None
    ) -> tuple[Floats, Floats]:  # (m, B, n), (B,), (B, n) -> (B, m), (B, m)
        """2 m scalars a sample."""
        gram, rhs = self._together(*self.rows.products(columns, slot, counts, g))
        return gram, rhs

    def mix(
        self,
        columns: Array,  # (m, B, n)
        slot: int,
        counts: Counts,  # (B,)
        weights: Floats,  # (B, m)
        out: Tensor,  # (B, n)
        start: Tensor | None = None,  # (B, n)
        g: Tensor | None = None,  # (B, n)
        mixing: float = 1.0,
    ) -> None:
        """Each rank its own part."""
        self.rows.mix(columns, slot, counts, weights, out, start, g, mixing)

    def squares(self, values: Tensor) -> Floats:  # (B, n) -> (B,)
        """One scalar a sample."""
        return self.total(self.rows.squares(values))

    def inner(self, left: Tensor, right: Tensor) -> Floats:  # (B, n), (B, n) -> (B,)
        """One scalar a sample."""
        return self.total(self.rows.inner(left, right))

    def doubtful(self, norms: Floats) -> Flags:  # (B,) -> (B,)
        """All beyond the limits but zero, which is the sum of zeros, and NaN."""
        low, high = self.limits
        flags: Flags = (norms > 0) & ~((norms > low) & (norms < high))
        return flags

    def total(self, sums: Floats) -> Floats:
        """The ranks' sums added up."""
        return self.shards.total(sums)

    def largest(self, values: Floats) -> Floats:
        """The largest of the ranks' values."""
        return self.shards.largest(values)

    def _squares(self, norms: Floats, f_z: Tensor, g: Tensor) -> Floats:  # (2, B) -> (2, B)
        """Of norms that are right; one that is not zero shows in the sum, however small."""
        rescued(self.rows, norms, f_z, g)
        squares: Floats = np.where(norms > 0, np.maximum(norms**2, DOUBLE.tiny), norms)
        return squares

    def _together(self, *sums: Floats) -> list[Floats]:  # (B, ...) each
        """Many totals by one communication."""
        joined = self.total(np.concatenate(sums, axis=1))
        ends = np.cumsum([each.shape[1] for each in sums])[:-1]
        return [np.ascontiguousarray(each) for each in np.split(joined, ends, axis=1)]
