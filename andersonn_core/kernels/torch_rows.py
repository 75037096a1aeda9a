"""The passes over the state by torch, on any device and on as many threads as it has."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Floats
from andersonn_core.kernels.rows import Array, Whole, host


class TorchRows(Whole):
    """Calls of torch on the tensors themselves."""

    def view(self, values: Tensor) -> Array:
        """The tensor itself."""
        return values

    def residual(self, z: Tensor, f_z: Tensor, g: Tensor) -> Floats:  # (B, n) each -> (2, B)
        """Three passes."""
        torch.sub(f_z, z, out=g)
        return host(torch.stack([torch.linalg.vector_norm(each, dim=1) for each in (g, f_z)]))

    def enter(
        self,
        rings: tuple[Array, Array],  # (m, B, n)
        slot: int,
        mixing: float,
        points: tuple[Tensor, Tensor],  # (B, n)
    ) -> tuple[Floats, Floats]:  # (2, B), (B, m)
        """The passes of `residual`, one or two for p, one over the residuals."""
        (p, g), (z, f_z) = (ring[slot] for ring in rings), points
        norms = self.residual(z, f_z, g)
        if mixing == 1.0:
            p.copy_(f_z)
        else:
            torch.add(z, g, alpha=mixing, out=p)
        every = np.full(len(g), len(rings[1]))
        return norms, self.products(rings[1], slot, every)[0]

    def append(
        self,
        rings: tuple[Array, Array],  # (m, B, n)
        slot: int,
        counts: Counts,  # (B,)
        mixing: float,
        points: tuple[Tensor, Tensor, Tensor, Tensor],  # (B, n)
        f_z: Tensor | None = None,  # (B, n)
    ) -> tuple[Floats, Floats, Floats, Floats]:  # (B, m), (B, m), (B,), (2, B)
        """Three passes over the points, one more in slot 0, then those of `products`."""
        (du, dg), (z, last_z, g, last_g) = (ring[slot] for ring in rings), points
        norms = np.empty((2, 0)) if f_z is None else self.residual(z, f_z, g)
        torch.sub(g, last_g, out=dg)
        torch.sub(z, last_z, out=du)
        lengths = np.empty(0) if slot else np.sqrt(self.squares(du))
        du.add_(dg, alpha=mixing)
        return *self.products(rings[1], slot, counts, g), lengths, norms

    def products(
        self, columns: Array, slot: int, counts: Counts, g: Tensor | None = None
    ) -> tuple[Floats, Floats]:  # (m, B, n), (B,), (B, n) -> (B, m), (B, m)
        """One pass for each of the two."""
        gram, rhs = np.zeros((2, len(counts), len(columns)))
        newest = columns[slot]
        for run, used in _runs(counts, slot):
            gram[run, used] = _inner(columns[used, run], newest[run])
            if g is not None:
                rhs[run, used] = _inner(columns[used, run], g[run])
        return gram, gram if g is None else rhs

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
        """One pass over the columns, one or two over the rest; out may be the start."""
        total = torch.empty_like(out) if out is start else out
        for run, used in _runs(counts, slot):
            _combine(weights[run, used], columns[used, run], total[run])
        if start is not None:
            torch.sub(start, total, out=out)
        if g is not None:
            out.add_(g, alpha=mixing)

    def squares(self, values: Tensor) -> Floats:  # (B, n) -> (B,)
        """By torch's norm, whose sums are more exact than an inner product's."""
        return host(torch.linalg.vector_norm(values, dim=1)) ** 2

    def inner(self, left: Tensor, right: Tensor) -> Floats:  # (B, n), (B, n) -> (B,)
        """Row by row."""
        return _inner(left[None], right)[:, 0]


def _inner(columns: Tensor, values: Tensor) -> Floats:  # (k, b, n), (b, n) -> (b, k)
    """(k, n) times (n,), or in the orientation of the batched product that is at memory speed.

    The other one was measured 4 to 11 times slower.
    """
    if values.shape[0] == 1:
        return host(torch.mv(columns[:, 0], values[0])[None])
    return host(torch.bmm(values[:, None, :], columns.permute(1, 2, 0))[:, 0, :])


def _combine(weights: Floats, columns: Tensor, out: Tensor) -> None:  # (b, k), (k, b, n)
    """One product of a vector with a matrix a sample."""
    factors = torch.from_numpy(weights).to(columns)
    if out.shape[0] == 1:
        torch.mv(columns[:, 0].T, factors[0], out=out[0])
    else:
        torch.bmm(factors[:, None, :], columns.transpose(0, 1), out=out[:, None, :])


def _runs(counts: Counts, slot: int) -> Iterator[tuple[slice, slice]]:  # (b,)
    """Neighbours with equally many columns, and where those lie.

    A sample's sums depend on its own number only. Where the columns go round the end of the ring,
    all are read: those that do not count are zero or have no weight.
    """
    ends = [0, *(np.flatnonzero(np.diff(counts)) + 1).tolist(), len(counts)]
    for begin, end in zip(ends, ends[1:], strict=False):
        first = slot + 1 - int(counts[begin])
        yield slice(begin, end), slice(first, slot + 1) if first >= 0 else slice(None)
