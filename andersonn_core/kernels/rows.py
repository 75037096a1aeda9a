"""Row-wise arithmetic on (b, n) states: NumPy for short rows on the CPU, torch for all others.

On short rows the cost is the calls, not the numbers: NumPy's takes about a third of torch's. On
long ones torch follows the user's number of threads, and samples are handled one at a time, so that
what a step reads twice is still in the cache and each sample costs only the columns that it uses.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Array = Any  # NDArray or Tensor, whichever the rows work on

LONG = 8192  # elements of a sample from which a call's cost no longer matters
TOGETHER = 2**18  # elements that are handled at once: a few such arrays fit the cache


class Rows(Protocol):
    """What the kernels need; arrays come from `view`, small results go to the host."""

    parts: list[slice]  # the samples that are handled together
    limits: tuple[float, float]  # norms outside of these under- or overflow when squared
    trims_inner: bool  # an inner product does not depend on how many columns there are beside it
    trims_combine: bool  # one sample at a time: columns that it does not use can be left out

    def view(self, values: Tensor) -> Array:
        """The same memory as these rows' arrays."""
        ...

    def subtract(self, a: Array, b: Array, out: Array) -> None:
        """Out = a - b."""
        ...

    def add_scaled(self, out: Array, values: Array, weight: float) -> None:
        """Out += weight values."""
        ...

    def norms(self, values: Array, out: Floats) -> None:  # (b, n), (b,)
        """||values||_2 of each row."""
        ...

    def inner(self, columns: Array, values: Array, out: Floats) -> None:  # (b, k, n), (b, n)
        """The inner products (b, k) of each column with its row of values."""
        ...

    def combine(self, weights: Floats, columns: Array, out: Array) -> None:  # (b, k), (b, k, n)
        """Out = sum_j weights_j columns_j, (b, n)."""
        ...

    def select(self, indices: Tensor) -> Rows:  # (A,)
        """The arithmetic for some samples."""
        ...


class ShortRows:
    """NumPy on the CPU tensors' memory; as many samples at once as fit the cache."""

    trims_inner = True
    trims_combine = False

    def __init__(self, batch: int, n: int, limits: tuple[float, float]) -> None:
        step = max(1, TOGETHER // max(n, 1))
        self.parts = [slice(first, first + step) for first in range(0, batch, step)]
        self.n, self.limits = n, limits

    def view(self, values: Tensor) -> Array:
        """NumPy's array of a CPU tensor."""
        return values.numpy()

    def subtract(self, a: Array, b: Array, out: Array) -> None:
        """Out = a - b."""
        np.subtract(a, b, out=out)

    def add_scaled(self, out: Array, values: Array, weight: float) -> None:
        """Out += weight values."""
        np.add(out, values if weight == 1.0 else weight * values, out=out)

    def norms(self, values: Array, out: Floats) -> None:  # (b, n), (b,)
        """By BLAS's inner product, row by row."""
        np.sqrt(np.vecdot(values, values), out=out, dtype=np.float64)

    def inner(self, columns: Array, values: Array, out: Floats) -> None:  # (b, k, n), (b, n)
        """One inner product a column: none depends on how many there are."""
        out[...] = np.vecdot(columns, values[:, None, :])

    def combine(self, weights: Floats, columns: Array, out: Array) -> None:  # (b, k), (b, k, n)
        """One product of a vector with a matrix a sample."""
        np.vecmat(weights.astype(columns.dtype), columns, out=out)

    def select(self, indices: Tensor) -> ShortRows:  # (A,)
        """The arithmetic for some samples."""
        return ShortRows(len(indices), self.n, self.limits)


class LongRows:
    """torch, one sample at a time on the CPU, all at once elsewhere."""

    def __init__(self, batch: int, singly: bool, limits: tuple[float, float]) -> None:
        singles = [slice(sample, sample + 1) for sample in range(batch)]
        self.parts = singles if singly else [slice(None)]
        self.trims_inner = self.trims_combine = self.singly = singly
        self.limits = limits

    def view(self, values: Tensor) -> Array:
        """The tensor itself."""
        return values

    def subtract(self, a: Array, b: Array, out: Array) -> None:
        """Out = a - b."""
        torch.sub(a, b, out=out)

    def add_scaled(self, out: Array, values: Array, weight: float) -> None:
        """Out += weight values."""
        out.add_(values, alpha=weight)

    def norms(self, values: Array, out: Floats) -> None:  # (b, n), (b,)
        """By torch, whose sums are more exact than an inner product's."""
        out[...] = _host(torch.linalg.vector_norm(values, dim=1))

    def inner(self, columns: Array, values: Array, out: Floats) -> None:  # (b, k, n), (b, n)
        """(k, n) times (n,), or in the orientation of the batched product that is at memory speed.

        The other one was measured 4 to 11 times slower.
        """
        if len(values) == 1:
            out[...] = _host(torch.mv(columns[0], values[0]))
        else:
            out[...] = _host(torch.bmm(values[:, None, :], columns.mT)[:, 0, :])

    def combine(self, weights: Floats, columns: Array, out: Array) -> None:  # (b, k), (b, k, n)
        """Out = sum_j weights_j columns_j."""
        factors = torch.from_numpy(weights).to(columns)
        if len(out) == 1:
            torch.mv(columns[0].T, factors[0], out=out[0])
        else:
            torch.bmm(factors[:, None, :], columns, out=out[:, None, :])

    def select(self, indices: Tensor) -> LongRows:  # (A,)
        """The arithmetic for some samples."""
        return LongRows(len(indices), self.singly, self.limits)


def rows_for(values: Tensor) -> Rows:  # (B, n)
    """The arithmetic that is fastest for states of this shape and device."""
    batch, n = values.shape
    info = torch.finfo(values.dtype)
    limits = 1e3 * info.tiny**0.5, 1e-3 * info.max**0.5
    if values.device.type != "cpu":
        return LongRows(batch, False, limits)
    return ShortRows(batch, n, limits) if n < LONG else LongRows(batch, True, limits)


def _host(values: Tensor) -> Floats:
    array: Floats = values.double().cpu().numpy()
    return array
