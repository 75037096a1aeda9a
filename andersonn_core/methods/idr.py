"""Induced dimension reduction: weights from a fixed small space instead of least squares.

The window slides, and gamma solves s equations for s differences,

    P (g - dG^T gamma) = 0,

with a fixed P (s, n). Theorem (Sonneveld and van Gijzen, SIAM J. Sci. Comput. 31, 2008, with mixing
in the place of omega): on an affine map whose Jacobian is a contraction the residuals are forced,
s + 1 at a time, into nested spaces

    G_0 = R^n,   G_{j+1} = (I - mixing (I - J)) (G_j intersected with the null space of P)

of s dimensions fewer each (but for exceptional P), until only zero is left: at most n + n / s
evaluations, near the count of the full memory whatever the symmetry. On nonlinear maps these spaces
do not nest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Events, Flags, Floats
from andersonn_core.least_squares import Weights
from andersonn_core.methods.base import MethodSpec, mixing_knob
from andersonn_core.methods.keeper import Keeper
from andersonn_core.methods.keepers import Slide, drop_lost
from andersonn_core.methods.settings import Settings
from andersonn_core.methods.windowed import WindowState
from andersonn_core.sharding import Shards
from andersonn_core.specs import knob


@dataclass
class Shadow:
    """The products of the window's columns with P: row i sums every s-th element, signed."""

    signs: Tensor  # (n,) +-1
    columns: Floats  # (B, m, s) P dg_j
    shards: Shards | None = None  # n is that of this rank's elements then

    @classmethod
    def like(cls, z: Tensor, size: int, shards: Shards | None = None) -> Shadow:  # (B, n)
        """As many rows as the window has columns; the signs are the same in every solve."""
        generator = torch.Generator().manual_seed(0)
        first = 0 if shards is None else shards.first
        end = first + z.shape[1]
        drawn = torch.randint(0, 2, (end,), generator=generator, dtype=torch.int8)
        return cls(drawn[first:].to(z) * 2 - 1, np.zeros((len(z), size, size)), shards)

    def products(self, values: Tensor) -> Floats:  # (B, n) -> (B, s)
        """P applied to each row."""
        s = self.columns.shape[1]
        before = 0 if self.shards is None else self.shards.first % s
        after = -(before + values.shape[1]) % s
        signed = torch.nn.functional.pad(values * self.signs, (before, after))
        sums: Floats = signed.reshape(len(values), -1, s).sum(1).cpu().double().numpy()
        return sums if self.shards is None else self.shards.total(sums)

    def fill(self, columns: Tensor) -> None:  # (m, B, n)
        """Take all columns of a window."""
        for slot, column in enumerate(columns):
            self.columns[:, slot] = self.products(column)

    def solve(self, g: Tensor) -> tuple[Floats, Flags]:  # (B, n) -> (B, m), (B,)
        """The weights, and whose system had a solution."""
        size = np.sqrt(np.vecdot(self.columns, self.columns))  # (B, m)
        matrix = (self.columns / np.where(size > 0, size, 1.0)[:, :, None]).transpose(0, 2, 1)
        target = self.products(g)[:, :, None]
        solved, info = torch.linalg.solve_ex(*map(torch.from_numpy, (matrix.copy(), target)))
        gamma = solved.numpy()[:, :, 0] / np.where(size > 0, size, 1.0)
        return gamma, (info.numpy() == 0) & np.isfinite(gamma).all(1)

    def select(self, places: Counts) -> Shadow:  # (A,)
        """The products of some samples."""
        return Shadow(self.signs, self.columns[places], self.shards)


class Induced(Slide):
    """All differences, with weights from the shadow space once there are s of them."""

    def __init__(self, shadow: Shadow) -> None:
        self.shadow = shadow

    def make_room(self, state: WindowState, event: Events) -> None:
        """Begin anew where the history leads astray."""
        drop_lost(state, event)

    def settle(self, state: WindowState, row: Floats, rhs: Floats) -> tuple[Floats, Floats]:
        """Take the newest difference's products with P."""
        slot = state.window.slot
        self.shadow.columns[:, slot] = self.shadow.products(state.window.columns[slot])
        return row, rhs

    def choose(self, state: WindowState, weights: Weights) -> None:
        """Put the shadow's weights in the place of those of least squares."""
        self.replace(state, weights, np.ones(len(weights.gamma), np.bool_))

    def replace(self, state: WindowState, weights: Weights, samples: Flags) -> None:  # (B,)
        """For some samples, where the window is full and there is a solution."""
        samples = samples & weights.used.all(1)
        if not np.count_nonzero(samples):
            return
        gamma, fine = self.shadow.solve(state.g)
        chosen = samples & fine
        weights.gamma = np.where(chosen[:, None], gamma, weights.gamma)
        weights.removed = np.where(chosen, np.nan, weights.removed)  # nothing is minimized

    def select(self, indices: Tensor) -> Keeper:  # (A,)
        """The keeper of some samples."""
        return Induced(self.shadow.select(indices.cpu().numpy()))


class IDR(MethodSpec):
    """IDR(s) as a fixed-point method: near full memory's counts on affine maps of any symmetry."""

    name: ClassVar[str] = "idr"
    label: ClassVar[str] = "IDR(s)"

    shadow: int = knob(
        8, "Differences that are kept, and dimension of the shadow space.",
        minimum=1, maximum=50, typical=(1, 16), symbol="s",
    )  # fmt: skip
    mixing: float = mixing_knob()

    def memory_vectors(self, n: int) -> int:
        """Two rings, two residuals, two iterates, the signs and three temporaries."""
        return 2 * min(self.shadow, n) + 8

    def init(self, z: Tensor) -> WindowState:  # (B, n)
        """An empty window and the signs of P."""
        size = min(self.shadow, z.shape[1])
        settings = Settings(window=size, mixing=self.mixing)
        return WindowState.of(z, settings, Induced(Shadow.like(z, size)))

    def step(self, state: WindowState, z: Tensor, f_z: Tensor) -> Tensor:
        """Return z + mixing g - (dZ + mixing dG)^T gamma (B, n)."""
        return state.advance(z, f_z)
