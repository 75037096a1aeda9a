"""Truncated Gram-Schmidt Anderson: two orthogonal pairs do the work of all on symmetric maps.

Each new residual difference is made orthogonal to the stored ones, its iterate difference with it:

    q = dg - Q^T s,   u = dz - U^T s,   s = argmin || dg - Q^T s ||

Theorem (Tang, Xu, He, Saad, Xi, arXiv 2403.14961; Wei, Bao, Liu, ICLR 2022): on an affine map with
symmetric Jacobian J all older products <q_j, dg> vanish, so that the newest two pairs give the
iterates of the full memory. For dg_k = J (r_k - r_{k-1}), r_k what least squares leaves of g_k, and
<q_j, J r> = <J q_j, r>, where J q_j is made of q_0 to q_{j+1}, to which r is orthogonal (Lanczos'
argument). On other maps what is dropped is lost.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from andersonn_core.arrays import Counts, Events, Flags, Floats
from andersonn_core.kernels import DifferenceWindow
from andersonn_core.methods.base import MethodSpec, mixing_knob
from andersonn_core.methods.keepers import Slide, drop_lost
from andersonn_core.methods.settings import Settings
from andersonn_core.methods.windowed import WindowState
from andersonn_core.specs import knob

DEPENDENT = 10  # rounding errors in the squared length: fewer are no new direction


class Orthogonal(Slide):
    """The newest pairs, each made orthogonal to those before it."""

    def __init__(self, pairs: int) -> None:
        self.pairs = pairs

    def older(self, window: DifferenceWindow, spent: Flags) -> Counts | None:  # (B,) -> (B,)
        """The pairs that are kept."""
        return np.minimum(window.count, self.pairs)

    def make_room(self, state: WindowState, event: Events) -> None:
        """Forget all but the newest pairs; all of them where they lead astray."""
        drop_lost(state, event)
        self.trim(state, np.ones(len(event), np.bool_))

    def trim(self, state: WindowState, samples: Flags) -> None:  # (B,)
        """Forget all but the newest pairs of some samples."""
        window, gram = state.window, state.gram
        window.keep_newest(samples, self.pairs)
        newest = (window.slot - np.arange(window.size)) % window.size < self.pairs  # (m,)
        lost = samples[:, None] & ~newest & gram.used
        if np.count_nonzero(lost):
            gram.keep_only(~lost)

    def settle(self, state: WindowState, row: Floats, rhs: Floats) -> tuple[Floats, Floats]:
        """Project the newest difference."""
        return self.project(state, row, np.ones(len(row), np.bool_))

    def project(
        self, state: WindowState, row: Floats, samples: Flags
    ) -> tuple[Floats, Floats]:  # (B, m), (B,) -> (B, m), (B, m)
        """Make the newest difference of some samples orthogonal to their stored ones.

        One of which only rounding is left gets the products of an empty one: it is not used.
        """
        window = state.window
        assert isinstance(window, DifferenceWindow)
        gamma = state.gram.solve(row).gamma
        window.project(np.where(samples[:, None], gamma, 0.0))
        before = row[:, window.slot]
        row, rhs = window.products(state.g)
        nothing = row[:, window.slot] < DEPENDENT * state.gram.precision * before
        row[samples & nothing] = 0.0
        return row, rhs


class ShortRecurrence(MethodSpec):
    """Anderson acceleration with a few orthogonal pairs: full memory's counts on symmetric maps."""

    name: ClassVar[str] = "short_recurrence"
    label: ClassVar[str] = "Short recurrence"

    pairs: int = knob(
        2, "Orthogonal pairs that are kept; two are enough for affine symmetric maps.",
        minimum=1, maximum=20, typical=(1, 10), symbol="p",
    )  # fmt: skip
    mixing: float = mixing_knob()

    def memory_vectors(self, n: int) -> int:
        """The pairs and the newest difference, two residuals, two iterates, a temporary."""
        return 2 * min(self.pairs + 1, n) + 6

    def init(self, z: Tensor) -> WindowState:  # (B, n)
        """A workspace of one pair more than is kept."""
        settings = Settings(window=self.pairs + 1, mixing=self.mixing)
        return WindowState.of(z, settings, Orthogonal(self.pairs))

    def step(self, state: WindowState, z: Tensor, f_z: Tensor) -> Tensor:
        """Return z + mixing g - (U + mixing Q)^T gamma (B, n)."""
        return state.advance(z, f_z)
