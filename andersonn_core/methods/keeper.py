"""What the shared step asks of whoever keeps the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from andersonn_core.arrays import Counts, Events, Flags, Floats
from andersonn_core.kernels import DifferenceWindow
from andersonn_core.least_squares import Weights
from andersonn_core.methods.probe import Probe

if TYPE_CHECKING:
    from andersonn_core.methods.windowed import WindowState


class Keeper(Protocol):
    """Decides what is kept of the history; one object a solve, told of every step."""

    def older(self, window: DifferenceWindow, spent: Flags) -> Counts | None:  # (B,) -> (B,)
        """Which differences count beside the next one: the newest so many of a sample, at most.

        Known before the next residual is, so that one pass over the window serves both. None: it
        may not overwrite the oldest one yet. `spent` windows were used in full.
        """
        ...

    def foresee(self, state: WindowState) -> None:
        """Before a residual is measured: ask for the sums that `make_room` may need then."""
        ...

    def make_room(self, state: WindowState, event: Events) -> None:
        """Before the newest difference is stored."""
        ...

    def settle(self, state: WindowState, row: Floats, rhs: Floats) -> tuple[Floats, Floats]:
        """After it lies in the ring: its inner products with all columns, and those of g (B, m).

        The keeper may change the newest column and the products with it.
        """
        ...

    def choose(self, state: WindowState, weights: Weights) -> None:
        """May put other weights in place of those of least squares."""
        ...

    def wants_probe(self, state: WindowState) -> Flags | None:  # (B,)
        """Which samples should evaluate f once where the residual can be foretold.

        None at most evaluations; the others must be the same ones whatever the samples do.
        """
        ...

    def judge(self, state: WindowState, probe: Probe, error: Floats) -> None:
        """Learn from a probe whose residual was off by `error` (B,) from the foretold one."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What was decided and why, in sentences."""
        ...

    def select(self, indices: Tensor) -> Keeper:  # (A,)
        """The keeper of some samples."""
        ...
