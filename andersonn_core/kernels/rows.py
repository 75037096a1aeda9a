"""What the history's hot loops are asked to do on (B, n) states, and who does it.

Compiled loops on the CPU; torch on other devices, where there is no numba, and where a user gives
torch several threads, on rows so long that these are worth their start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Flags, Floats
from andersonn_core.compiling import has_numba

if TYPE_CHECKING:
    from andersonn_core.sharding import Shards

Sums = Callable[[], Floats]
Array = Any  # NDArray or Tensor, whichever the rows work on

LONG = 8192  # elements of a sample from which on torch's threads are worth their start


class Rows(Protocol):
    """Fused passes over the state; small results go to the host.

    Rings (m, B, n) come from `view`; of a ring each sample uses its newest `counts` columns.
    """

    limits: tuple[float, float]  # norms outside of these under- or overflow when squared

    def view(self, values: Tensor) -> Array:
        """The same memory as these rows' arrays."""
        ...

    def residual(self, z: Tensor, f_z: Tensor, g: Tensor) -> Floats:  # (B, n) each -> (2, B)
        """G = f(z) - z; ||g|| and ||f(z)||."""
        ...

    def enter(
        self,
        rings: tuple[Array, Array],  # p, g (m, B, n)
        slot: int,
        mixing: float,
        points: tuple[Tensor, Tensor],  # z, f(z) (B, n)
    ) -> tuple[Floats, Floats]:  # (2, B), (B, m)
        """As `residual`, into the slot of g, and p = z + mixing g; then `products` of all g."""
        ...

    def append(
        self,
        rings: tuple[Array, Array],  # du, dg (m, B, n)
        slot: int,
        counts: Counts,  # (B,)
        mixing: float,
        points: tuple[Tensor, Tensor, Tensor, Tensor],  # z, last z, g, last g (B, n)
        f_z: Tensor | None = None,  # (B, n)
    ) -> tuple[Floats, Floats, Floats, Floats]:  # (B, m), (B, m), (B,), (2, B)
        """Dg = g - last g and du = z - last z + mixing dg into their slot; before, g = f(z) - z.

        Returns the `products`, ||z - last z|| where the slot is 0, and, given f(z), the norms as
        `residual` does.
        """
        ...

    def products(
        self, columns: Array, slot: int, counts: Counts, g: Tensor | None = None
    ) -> tuple[Floats, Floats]:  # (m, B, n), (B,), (B, n) -> (B, m), (B, m)
        """The inner products of the columns with the one in `slot`, and with g: itself if None."""
        ...

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
        """Out = sum_j weights_j columns_j; from a start, out = start + mixing g - that sum."""
        ...

    def squares(self, values: Tensor) -> Floats:  # (B, n) -> (B,)
        """||values||_2^2 of each row."""
        ...

    def inner(self, left: Tensor, right: Tensor) -> Floats:  # (B, n), (B, n) -> (B,)
        """The inner product of each row with its other."""
        ...

    def doubtful(self, norms: Floats) -> Flags:  # (B,) -> (B,)
        """Which norms have to be made again, scaled by the largest entry."""
        ...

    def total(self, sums: Floats) -> Floats:
        """Sums over all elements, from those over the elements that are here."""
        ...

    def later(self, own: Sums) -> Sums:
        """The same of what may be asked for: sums that are sent go with the next that are."""
        ...

    def largest(self, values: Floats) -> Floats:
        """The largest of all elements, from the largest of those that are here."""
        ...


class Whole:
    """Rows that hold all elements of a sample."""

    def __init__(self, limits: tuple[float, float]) -> None:
        self.limits = limits

    def doubtful(self, norms: Floats) -> Flags:  # (B,) -> (B,)
        """All beyond the limits."""
        low, high = self.limits
        flags: Flags = ~((norms > low) & (norms < high))
        return flags

    def total(self, sums: Floats) -> Floats:
        """The same."""
        return sums

    def later(self, own: Sums) -> Sums:
        """The same: made when asked for."""
        return own

    def largest(self, values: Floats) -> Floats:
        """The same."""
        return values


def rows_for(values: Tensor, shards: Shards | None = None) -> Rows:  # (B, n)
    """Who is fastest on states of this shape and device; what it needs is compiled by now.

    With shards the states are this rank's part of larger ones.
    """
    if shards is not None:
        from andersonn_core.kernels.sharded_rows import ShardedRows

        return ShardedRows(rows_for(values), shards)
    info = torch.finfo(values.dtype)
    limits = 1e3 * info.tiny**0.5, 1e-3 * info.max**0.5
    if is_compiled(values.device, values.shape[1]):
        # Where it is imported, numba is: 0.3 s that a program without a solve does not wait.
        from andersonn_core.kernels.compiled_rows import CompiledRows

        return CompiledRows(limits, values.dtype)
    from andersonn_core.kernels.torch_rows import TorchRows

    return TorchRows(limits)


def is_compiled(device: torch.device, n: int) -> bool:
    """Whether states of n elements there have compiled loops: one thread's, they stand alone."""
    short = n < LONG or torch.get_num_threads() == 1
    return device.type == "cpu" and short and has_numba()


def host(values: Tensor) -> Floats:
    """Float64 on the host."""
    array: Floats = values.cpu().double().numpy()
    return array
