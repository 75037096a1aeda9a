"""restart="auto": which history to keep, chosen by what a probe says of the map.

A probe is one evaluation at z - dZ^T gamma, where an affine map's residual is known beforehand to
be g - dG^T gamma. How far off it is tells what the differences are worth:

- not beyond rounding: the map is affine, all differences hold for ever. If dG dZ^T is symmetric the
  newest two orthogonal pairs do the work of all; if not, IDR's shadow space does nearly that.
- as large as the residual itself: old differences mislead; a full window is dropped.
- between: slow directions are worth keeping, until a growing residual shows that they are stale.

Probes come when the window is full for the first time and whenever there are ten times as many
evaluations: they cost one each. Samples whose residual falls fast are left alone: their window
slides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from andersonn_core.arrays import Counts, Events, Flags, Floats
from andersonn_core.kernels import DifferenceWindow, Sums
from andersonn_core.least_squares import Weights
from andersonn_core.methods.deflation import newest_directions, scaled
from andersonn_core.methods.idr import Induced, Shadow
from andersonn_core.methods.keepers import Slide, Slow, drop_lost, stale
from andersonn_core.methods.probe import Probe
from andersonn_core.methods.short_recurrence import Orthogonal
from andersonn_core.methods.windowed import WindowState
from andersonn_core.results import Event
from andersonn_core.sharding import Shards

AGAIN = 10  # the next probe comes after so many times the evaluations
ROUNDING = 10.0  # an affine map's residual is foretold up to so many rounding errors of f(z)
INFORMED = 10.0  # a foretold residual below so many times that limit proves nothing
# Where rounding hides curvature below this fraction of the foretold residual, slow directions do
# better than what relies on an affine map: in float32, on Poisson 128x128, two orthogonal pairs
# take more than twice their evaluations (tests/test_keepers.py counts them).
RESOLVED = 1e-6
MISLED, TRUSTED = 0.4, 0.1  # errors over foretold residuals: drop above, keep again below
# While the residual falls by ten in so many evaluations, no direction is slow, and the solve soon
# over: the window slides, and no evaluation is spent on a probe.
FAST = 4
# Another space needs about a window of evaluations before it falls faster: a solve that will take
# no more than so many windows goes on as it is.
SOON = 2


class Mode(IntEnum):
    """What is kept of a sample's history."""

    FILLING = 0  # not known yet: as SLOW
    SLOW = 1
    NEWEST = 2
    ORTHOGONAL = 3
    INDUCED = 4


_WHAT = {
    Mode.SLOW: "a full window keeps its slow directions",
    Mode.NEWEST: "old differences mislead: a full window is dropped",
    Mode.ORTHOGONAL: "the map is affine and symmetric: two orthogonal pairs do the work of all",
    Mode.INDUCED: "the map is affine and not symmetric: weights from a fixed space (IDR)",
}


@dataclass
class Choosing(Slide):
    """Slow directions, the newest difference, orthogonal pairs or a shadow space, per sample."""

    slow: Slow
    orthogonal: Orthogonal
    induced: Induced
    mode: NDArray[np.int8]  # (B,) of Mode
    next_probe: int  # the evaluation from which a probe is due
    decided: list[str] = field(default_factory=list)
    cross: Sums | None = None  # (B, m, m) dG dU^T at a probe

    @classmethod
    def of(
        cls, z: Tensor, size: int, kept: int, shards: Shards | None = None
    ) -> Choosing:  # (B, n)
        """Nothing known yet."""
        induced = Induced(Shadow.like(z, size, shards))
        return cls(Slow(kept), Orthogonal(2), induced, np.zeros(len(z), np.int8), size)

    def older(self, window: DifferenceWindow, spent: Flags) -> Counts | None:  # (B,) -> (B,)
        """All, where none may have to be folded."""
        return self.slow.older(window, spent & (self.mode <= Mode.SLOW))

    def foresee(self, state: WindowState) -> None:
        """What a fold takes, of those that were not fast; at a probe what tells symmetry."""
        self.cross = None
        if state.probe is None:
            slow = state.spent & (self.mode <= Mode.SLOW)
            self.slow.ask(state, slow & ~self._fast(state) if np.count_nonzero(slow) else slow)
        elif isinstance(state.window, DifferenceWindow):
            everyone = state.places(np.ones_like(state.spent))
            self.cross = state.rows.later(partial(state.window.cross, everyone))

    def make_room(self, state: WindowState, event: Events) -> None:
        """As each sample's mode says."""
        # Orthogonal pairs never let a contraction's residual grow: if it does, it is not affine.
        grown = stale(state) & (self.mode <= Mode.ORTHOGONAL) & (self.mode != Mode.NEWEST)
        gone = (grown & self._affine) | drop_lost(state, event, self._affine)
        self._note(state, gone, "the residual grew as no affine map's does: slow directions again")
        self.mode[gone] = Mode.SLOW
        spent = state.spent & ~self._fast(state)
        self.slow.fold(state, spent & (self.mode <= Mode.SLOW) & ~grown, event)
        emptied = grown | (spent & (self.mode == Mode.NEWEST))
        if np.count_nonzero(emptied):
            event[emptied] |= np.int16(Event.RESTART)
            state.restart(emptied)
        short = self.mode == Mode.ORTHOGONAL
        if np.count_nonzero(short):
            self.orthogonal.trim(state, short)

    def settle(self, state: WindowState, row: Floats, rhs: Floats) -> tuple[Floats, Floats]:
        """Project, or take the products with the shadow space."""
        short = self.mode == Mode.ORTHOGONAL
        if np.count_nonzero(short):
            row, rhs = self.orthogonal.project(state, row, short)
        if np.count_nonzero(self.mode == Mode.INDUCED):
            self.induced.settle(state, row, rhs)
        return row, rhs

    def choose(self, state: WindowState, weights: Weights) -> None:
        """The shadow's weights where it is in charge; affine maps don't circle."""
        state.fallback.since[self._affine] = len(state.progress.best) - 1
        self.induced.replace(state, weights, self.mode == Mode.INDUCED)

    def wants_probe(self, state: WindowState) -> Flags | None:  # (B,)
        """All samples but the fast ones, at evaluations that are the same for every sample.

        In the spaces that an affine map is trusted to build, a probe disturbs less than a step out
        of turn.
        """
        if state.evaluation < self.next_probe:
            return None
        self.next_probe = AGAIN * (state.evaluation + 1)
        return ~self._fast(state) | self._affine

    def judge(self, state: WindowState, probe: Probe, error: Floats) -> None:
        """Give every sample its mode."""
        assert state.norms is not None
        foretold = np.sqrt(state.rows.squares(probe.foretold))
        limit = ROUNDING * state.fallback.rounding * state.norms[1] * probe.weight
        enough = state.gram.used.sum(1) >= min(4, state.window.size)
        informed = probe.samples & enough & (foretold > INFORMED * limit) & np.isfinite(error)
        bar = np.where(self.mode == Mode.NEWEST, TRUSTED, MISLED) * foretold
        mode = np.where(error > bar, np.int8(Mode.NEWEST), np.int8(Mode.SLOW))
        affine = error <= limit
        mode[affine & self._affine] = self.mode[affine & self._affine]
        begun = affine & ~self._affine & (limit < RESOLVED * foretold) & ~self._soon(state)
        if self.cross is not None and np.count_nonzero(begun):
            symmetric = self._symmetric(state, self.cross())
            mode[begun & symmetric], mode[begun & ~symmetric] = Mode.ORTHOGONAL, Mode.INDUCED
        mode = np.where(informed, mode, self.mode).astype(np.int8)
        for new in np.unique(mode[mode != self.mode]):
            who = (mode == new) & (self.mode != new)
            off = float(np.median((error / foretold)[who]))
            self._note(state, who, f"{_WHAT[new]} (foretold residual off by {off:.1g} of itself)")
        self._change(state, mode)

    @property
    def _affine(self) -> Flags:  # (B,)
        affine: Flags = self.mode >= Mode.ORTHOGONAL
        return affine

    def _fast(self, state: WindowState) -> Flags:  # (B,)
        scores = state.progress.scores
        seen = min(state.window.size, len(scores) - 1)
        fast: Flags = scores[-1] < 10.0 ** (-seen / FAST) * scores[-1 - seen]
        return fast

    def _soon(self, state: WindowState) -> Flags:  # (B,)
        """Who will be there, at the rate of all evaluations so far, before another space pays."""
        scores, seen = state.progress.scores, len(state.progress.scores) - 1
        with np.errstate(all="ignore"):  # rtol may be 0
            left = np.log(scores[-1] / state.rtol)
            fallen = np.log(scores[0] / scores[-1]) / seen
        soon: Flags = left < SOON * state.window.size * fallen
        return soon

    def _symmetric(self, state: WindowState, gu: Floats) -> Flags:  # (B, m, m) dG dU^T -> (B,)
        """Whether dG dZ^T is symmetric to rounding, in columns of unit residual norm."""
        problem = state.gram.differences(np.arange(len(self.mode)))
        with np.errstate(all="ignore"):
            cross = scaled(problem, gu - state.window.mixing * problem.inner())
            odd = np.linalg.norm(cross - cross.transpose(0, 2, 1), axis=(1, 2))
            close: Flags = odd <= 10 * state.fallback.rounding**0.5 * np.linalg.norm(
                cross, axis=(1, 2)
            )
        return close

    def _change(self, state: WindowState, mode: NDArray[np.int8]) -> None:  # (B,)
        """Make the histories of those that change fit their new modes."""
        left = (self.mode == Mode.ORTHOGONAL) & (mode != Mode.ORTHOGONAL)
        begun = (mode == Mode.ORTHOGONAL) & (self.mode != Mode.ORTHOGONAL)
        self.mode = mode
        if left.any():
            state.restart(left)
        if begun.any():
            places = np.flatnonzero(begun)
            problem, pairs = state.gram.differences(places), self.orthogonal.pairs
            weights, fine = newest_directions(problem, state.window.stored, pairs)
            if fine.any():
                state.fold(weights[fine], places[fine])
            if not fine.all():
                begun[places[fine]] = False
                state.restart(begun)
        if (mode == Mode.INDUCED).any():
            self.induced.shadow.fill(state.window.columns)

    def _note(self, state: WindowState, who: Flags, what: str) -> None:  # (B,)
        num = np.count_nonzero(who)
        if num:
            of = f"{num} of {len(who)} samples"
            self.decided.append(f"evaluation {state.evaluation + 1}, {of}: {what}")

    def notes(self) -> tuple[str, ...]:
        """Each decision as a sentence."""
        return tuple(self.decided)

    def select(self, indices: Tensor) -> Choosing:  # (A,)
        """The choices of some samples."""
        places = indices.cpu().numpy()
        induced = Induced(self.induced.shadow.select(places))
        return Choosing(
            self.slow, self.orthogonal, induced, self.mode[places], self.next_probe, self.decided
        )
