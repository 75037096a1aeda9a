"""The passes over CPU states as compiled loops."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Floats
from andersonn_core.compiling import prepare
from andersonn_core.kernels import loops
from andersonn_core.kernels.rows import Array, Whole


class CompiledRows(Whole):
    """NumPy's views of the tensors' memory, handed to the loops; a copy of what has gaps."""

    def __init__(self, limits: tuple[float, float], dtype: torch.dtype) -> None:
        super().__init__(limits)
        prepare(loops.__name__, str(dtype).removeprefix("torch."))

    def view(self, values: Tensor) -> Array:
        """NumPy's array of a CPU tensor."""
        return values.contiguous().numpy()

    def residual(self, z: Tensor, f_z: Tensor, g: Tensor) -> Floats:  # (B, n) each -> (2, B)
        """One pass."""
        norms = np.empty((2, z.shape[0]))
        loops.residual(self.view(z), self.view(f_z), g.numpy(), norms)
        return norms

    def enter(
        self,
        rings: tuple[Array, Array],  # (m, B, n)
        slot: int,
        mixing: float,
        points: tuple[Tensor, Tensor],  # (B, n)
    ) -> tuple[Floats, Floats]:  # (2, B), (B, m)
        """One pass over the points and the residuals."""
        size, batch, _ = rings[0].shape
        norms, gram = np.empty((2, batch)), np.empty((batch, size))
        z, f_z = map(self.view, points)
        loops.enter(*rings, slot, mixing, z, f_z, norms, gram)
        return norms, gram

    def append(
        self,
        rings: tuple[Array, Array],  # (m, B, n)
        slot: int,
        counts: Counts,  # (B,)
        mixing: float,
        points: tuple[Tensor, Tensor, Tensor, Tensor],  # (B, n)
        f_z: Tensor | None = None,  # (B, n)
    ) -> tuple[Floats, Floats, Floats, Floats]:  # (B, m), (B, m), (B,), (2, B)
        """One pass over the points and the columns."""
        z, last_z, g, last_g = map(self.view, points)
        begin, value = loops.DIFFERENCES, g
        if f_z is not None:
            begin, value = loops.RESIDUAL, self.view(f_z)
        results = norms, lengths, gram, rhs = _results(len(counts), len(rings[0]))
        loops.append(*rings, slot, mixing, counts, z, last_z, g, last_g, value, begin, *results)
        return gram, rhs, lengths, norms

    def products(
        self, columns: Array, slot: int, counts: Counts, g: Tensor | None = None
    ) -> tuple[Floats, Floats]:  # (m, B, n), (B,), (B, n) -> (B, m), (B, m)
        """One pass over the columns."""
        now = columns[slot] if g is None else self.view(g)
        results = _, _, gram, rhs = _results(len(counts), len(columns))
        rings, points = (columns, columns), (now, now, now, now, now)
        loops.append(*rings, slot, 0.0, counts, *points, loops.PRODUCTS, *results)
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
        """One pass; out may be the start."""
        target = out.numpy()
        begin = target if start is None else self.view(start)
        damped, weight = (begin, 0.0) if g is None else (self.view(g), mixing)
        alone = start is None
        loops.mix(columns, slot, counts, weights, alone, begin, damped, weight, target)

    def squares(self, values: Tensor) -> Floats:  # (B, n) -> (B,)
        """By BLAS's inner product, row by row."""
        return self.inner(values, values)

    def inner(self, left: Tensor, right: Tensor) -> Floats:  # (B, n), (B, n) -> (B,)
        """By BLAS, too: it is rarely asked for."""
        products: Floats = np.vecdot(left.numpy(), right.numpy())
        return products


def _results(batch: int, size: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Where `loops.append` writes: norms (2, B), lengths (B,), both products (B, m)."""
    return np.empty((2, batch)), np.empty(batch), *np.empty((2, batch, size))
