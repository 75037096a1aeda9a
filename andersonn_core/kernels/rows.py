"""Row-wise arithmetic on (b, n) states: NumPy for short rows on the CPU, torch for all others.

On short rows the cost is the calls, not the numbers, and NumPy's are cheaper than torch's. On long
ones torch follows the user's number of threads.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Floats

Array = Any  # NDArray or Tensor, whichever the rows work on

LONG = 8192  # elements of a sample from which a call's cost no longer matters


class Rows(Protocol):
    """What the kernels need; arrays come from `view`, small results go to the host."""

    limits: tuple[float, float]  # norms outside of these under- or overflow when squared

    def view(self, values: Tensor) -> Array:
        """The same memory as these rows' arrays."""
        ...

    def subtract(self, a: Array, b: Array, out: Array) -> None:
        """Out = a - b."""
        ...

    def add_scaled(self, out: Array, values: Array, weight: float) -> None:
        """Out += weight values."""
        ...

    def squares(self, values: Array) -> Floats:  # (b, n) -> (b,)
        """||values||_2^2 of each row."""
        ...

    def inner(self, columns: Array, values: Array) -> Floats:  # (k, b, n), (b, n) -> (b, k)
        """The inner products of each column with its row of values."""
        ...

    def combine(self, weights: Floats, columns: Array, out: Array) -> None:  # (b, k), (k, b, n)
        """Out = sum_j weights_j columns_j, (b, n)."""
        ...


class ShortRows:
    """NumPy on the CPU tensors' memory."""

    def __init__(self, limits: tuple[float, float]) -> None:
        self.limits = limits

    def view(self, values: Tensor) -> Array:
        """NumPy's array of a CPU tensor."""
        return values.numpy()

    def subtract(self, a: Array, b: Array, out: Array) -> None:
        """Out = a - b."""
        np.subtract(a, b, out=out)

    def add_scaled(self, out: Array, values: Array, weight: float) -> None:
        """Out += weight values."""
        np.add(out, values if weight == 1.0 else weight * values, out=out)

    def squares(self, values: Array) -> Floats:  # (b, n) -> (b,)
        """By BLAS's inner product, row by row."""
        products: Floats = np.vecdot(values, values)
        return products

    def inner(self, columns: Array, values: Array) -> Floats:  # (k, b, n), (b, n) -> (b, k)
        """One inner product a column: none depends on how many there are."""
        products: Floats = np.vecdot(columns, values).T
        return products

    def combine(self, weights: Floats, columns: Array, out: Array) -> None:  # (b, k), (k, b, n)
        """One product of a vector with a matrix a sample."""
        np.vecmat(weights.astype(columns.dtype), columns.transpose(1, 0, 2), out=out)


class LongRows:
    """torch, on any device."""

    def __init__(self, limits: tuple[float, float]) -> None:
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

    def squares(self, values: Array) -> Floats:  # (b, n) -> (b,)
        """By torch's norm, whose sums are more exact than an inner product's."""
        return host(torch.linalg.vector_norm(values, dim=1)) ** 2

    def inner(self, columns: Array, values: Array) -> Floats:  # (k, b, n), (b, n) -> (b, k)
        """(k, n) times (n,), or in the orientation of the batched product that is at memory speed.

        The other one was measured 4 to 11 times slower.
        """
        if values.shape[0] == 1:
            return host(torch.mv(columns[:, 0], values[0])[None])
        return host(torch.bmm(values[:, None, :], columns.permute(1, 2, 0))[:, 0, :])

    def combine(self, weights: Floats, columns: Array, out: Array) -> None:  # (b, k), (k, b, n)
        """One product of a vector with a matrix a sample."""
        factors = torch.from_numpy(weights).to(columns)
        if out.shape[0] == 1:
            torch.mv(columns[:, 0].T, factors[0], out=out[0])
        else:
            torch.bmm(factors[:, None, :], columns.transpose(0, 1), out=out[:, None, :])


def rows_for(values: Tensor) -> Rows:  # (B, n)
    """The arithmetic that is fastest for states of this shape and device."""
    info = torch.finfo(values.dtype)
    limits = 1e3 * info.tiny**0.5, 1e-3 * info.max**0.5
    short = values.device.type == "cpu" and values.shape[1] < LONG
    return ShortRows(limits) if short else LongRows(limits)


def host(values: Tensor) -> Floats:
    """Float64 on the host."""
    array: Floats = values.cpu().double().numpy()
    return array
