"""What is kept of the history when the window is full; for the theorem see deflation.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Events, Flags, Floats
from andersonn_core.kernels import DifferenceWindow, Sums
from andersonn_core.least_squares import Weights
from andersonn_core.methods.deflation import slow_directions
from andersonn_core.methods.keeper import Keeper
from andersonn_core.methods.probe import Probe
from andersonn_core.methods.windowed import WindowState
from andersonn_core.results import Event

LOST = 1e3  # a residual so many times the best: what holds on affine maps does not hold here
GROWTH = 1.1  # a residual that grows by this factor shows that the kept directions are stale


class Slide:
    """The newest m differences: the oldest is overwritten. The base of all keepers."""

    def older(self, window: DifferenceWindow, spent: Flags) -> Counts | None:  # (B,) -> (B,)
        """All."""
        return window.count

    def foresee(self, state: WindowState) -> None:
        """Nothing."""

    def make_room(self, state: WindowState, event: Events) -> None:
        """The ring does it."""

    def settle(self, state: WindowState, row: Floats, rhs: Floats) -> tuple[Floats, Floats]:
        """The newest difference stays as it is."""
        return row, rhs

    def choose(self, state: WindowState, weights: Weights) -> None:
        """Least squares it is."""

    def wants_probe(self, state: WindowState) -> Flags | None:  # (B,)
        """Never."""
        return None

    def judge(self, state: WindowState, probe: Probe, error: Floats) -> None:
        """There are no probes."""

    def notes(self) -> tuple[str, ...]:
        """Nothing was decided."""
        return ()

    def select(self, indices: Tensor) -> Keeper:  # (A,)
        """It knows nothing of single samples."""
        return self


class Newest(Slide):
    """The newest difference alone, after the full window was used once."""

    def older(self, window: DifferenceWindow, spent: Flags) -> Counts | None:  # (B,) -> (B,)
        """None of those that were used in full."""
        return np.where(spent, 0, window.count)

    def make_room(self, state: WindowState, event: Events) -> None:
        """Empty the windows that have been used in full."""
        if np.count_nonzero(state.spent):
            event[state.spent] |= np.int16(Event.RESTART)
            state.restart(state.spent)


@dataclass(frozen=True)
class Moves:
    """What the windows of some samples tell of ||dZ^T y||, on its way from all ranks."""

    places: Counts  # (A,) in order
    sums: Sums  # (A, ...)

    @classmethod
    def of(cls, state: WindowState, places: Counts) -> Moves:  # (A,)
        """It is there when it is asked for."""
        window, chosen = state.window, torch.from_numpy(places).to(state.g.device)
        return cls(places, state.rows.later(lambda: window.moves(chosen)))

    def among(self, places: Counts) -> Floats:  # (C,) -> (C, ...)
        """Those of fewer samples."""
        return self.sums()[np.searchsorted(self.places, places)]


class Slow(Slide):
    """The k slowest directions, after the full window was used once: deflated restarting.

    On an affine map dG = -(I - J) dZ, and any combination of the columns keeps that relation: those
    with the smallest ||dg|| / ||dz|| are the ones that a restart would have to find again (for
    linear systems: Morgan, SIAM J. Sci. Comput. 24, 2002). On others they go stale, which a growing
    residual shows: then all go.
    """

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.coming: Moves | None = None

    def older(self, window: DifferenceWindow, spent: Flags) -> Counts | None:  # (B,) -> (B,)
        """All, where none is to be folded."""
        return None if np.count_nonzero(spent) else window.count

    def foresee(self, state: WindowState) -> None:
        """What folding the windows that have been used in full takes."""
        self.ask(state, state.spent)

    def ask(self, state: WindowState, samples: Flags) -> None:  # (B,)
        """Have what folding takes come with the next residual, for some samples."""
        places = np.flatnonzero(samples)
        self.coming = Moves.of(state, places) if len(places) else None

    def make_room(self, state: WindowState, event: Events) -> None:
        """Fold the windows that have been used in full; empty those whose residual grew."""
        grown = stale(state)
        self.fold(state, state.spent & ~grown, event)
        if np.count_nonzero(grown):
            event[grown] |= np.int16(Event.RESTART)
            state.restart(grown)

    def fold(self, state: WindowState, samples: Flags, event: Events) -> None:  # (B,), (B,)
        """Keep the slow directions of some samples; without enough of them, nothing."""
        places = np.flatnonzero(samples)
        if not len(places):
            return
        event[places] |= np.int16(Event.RESTART)
        coming = self.coming
        if coming is None or not np.isin(places, coming.places).all():
            coming = Moves.of(state, places)
        problem = state.gram.differences(places)
        moves = coming.among(places)
        weights, fine = slow_directions(problem, moves, state.window.mixing, self.kept)
        if fine.any():
            event[places[fine]] |= np.int16(Event.DEFLATE)
            state.fold(weights[fine], places[fine])
        if not fine.all():
            failed = np.zeros_like(samples)
            failed[places[~fine]] = True
            state.restart(failed)


def stale(state: WindowState) -> Flags:  # (B,)
    """Whose residual has grown since the last step, with a history to doubt."""
    assert state.norms is not None
    grown: Flags = (state.norms[0] > GROWTH * state.last_norm) & (state.count > 0)
    return grown


def drop_lost(state: WindowState, event: Events, samples: Flags | None = None) -> Flags:  # (B,)
    """Empty the histories of those (among `samples`) that have gone astray; who they are."""
    progress = state.progress
    lost: Flags = progress.scores[-1] > LOST * progress.best[-1]
    if samples is not None:
        lost &= samples
    if np.count_nonzero(lost):
        event[lost] |= np.int16(Event.RESTART)
        state.restart(lost)
    return lost
