"""The passes over a rank's part of the states, with sums over the parts of all ranks.

What one pass finds goes over the wire together: one all-reduce.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Flags, Floats
from andersonn_core.kernels.residual import rescued
from andersonn_core.kernels.rows import Array, Rows, Sums
from andersonn_core.sharding import Shards

DOUBLE = torch.finfo(torch.float64)


@dataclass
class Passenger:
    """Sums that go with the next message."""

    own: Floats
    total: Floats | None = None  # of all ranks: not sent yet


class ShardedRows:
    """Some device's rows, and sums over the ranks.

    Norms that under- or overflow when squared in the state's type are made again by their own
    rank, so that the limits are those of float64.
    """

    limits = 1e3 * DOUBLE.tiny**0.5, 1e-3 * DOUBLE.max**0.5

    def __init__(self, rows: Rows, shards: Shards) -> None:
        self.rows, self.shards = rows, shards
        self.waiting: list[Passenger] = []

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
        """2 m scalars a sample, without g m."""
        gram, rhs = self.rows.products(columns, slot, counts, g)
        gram, rhs = self._together(gram, rhs) if g is not None else [self.total(gram)] * 2
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
        return self._together(sums)[0]

    def later(self, own: Sums) -> Sums:
        """Made at once: the next message takes them along, or one of their own if none came."""
        passenger = Passenger(own())
        self.waiting.append(passenger)

        def arrived() -> Floats:
            if passenger.total is None:
                self._together()
            assert passenger.total is not None
            return passenger.total

        return arrived

    def largest(self, values: Floats) -> Floats:
        """The largest of the ranks' values."""
        return self.shards.largest(values)

    def _squares(self, norms: Floats, f_z: Tensor, g: Tensor) -> Floats:  # (2, B) -> (2, B)
        """Of norms that are right; one that is not zero shows in the sum, however small."""
        rescued(self.rows, norms, f_z, g)
        squares: Floats = np.where(norms > 0, np.maximum(norms**2, DOUBLE.tiny), norms)
        return squares

    def _together(self, *sums: Floats) -> list[Floats]:
        """Many totals by one communication, and of all that waits for one."""
        waiting, self.waiting = self.waiting, []
        every = [*sums, *(each.own for each in waiting)]
        joined = self.shards.total(np.concatenate([each.ravel() for each in every]))
        parts = np.split(joined, np.cumsum([each.size for each in every])[:-1])
        totals = [part.reshape(each.shape) for part, each in zip(parts, every, strict=True)]
        for each, total in zip(waiting, totals[len(sums) :], strict=True):
            each.total = total
        return totals[: len(sums)]
