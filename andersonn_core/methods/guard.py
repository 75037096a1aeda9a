"""Steps that are taken back: a safeguard by heuristics, not by a theorem.

An extrapolated step is refused when the residual grew too much after it, or when its weights are
too large to be trusted. The sample then takes the plain step that it would have taken, and begins
its history anew. Each refusal costs an evaluation at most; with every step refused what remains is
forward iteration at half its speed. (The idea of SCS's safeguard and weight cap.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from andersonn_core.arrays import Counts, Events, Flags
from andersonn_core.least_squares import Weights
from andersonn_core.results import Event

if TYPE_CHECKING:
    from andersonn_core.methods.windowed import WindowState

GREW = (
    "{steps} of {samples} of {batch} samples were taken back because the residual grew more than "
    "{limit:g} times (max_growth): past differences mislead here; lower the window or the mixing, "
    'or use restart="auto".'
)
HEAVY = (
    "{steps} of {samples} of {batch} samples were replaced by plain ones because their weights "
    "exceeded {limit:g} in sum (max_weights): the differences are nearly dependent; raise the "
    "regularization, set max_condition, or lower the window."
)


@dataclass(frozen=True)
class Refusal:
    """Steps that are taken back."""

    samples: Flags  # (B,)
    places: Tensor  # (A,) of them
    step: Tensor  # (A, n) what they evaluate next


@dataclass
class Guard:
    """Refuses steps, counts them by cause, and says what to do about it."""

    max_growth: float | None
    max_weights: float | None
    bold: Flags  # (B,) the newest point came of an extrapolation
    doubted: Flags  # (B,) the point before the newest was refused
    places: Counts  # (B,) of these samples in the whole batch
    grew: Counts  # of the whole batch: refusals by cause
    heavy: Counts

    @classmethod
    def of(cls, batch: int, max_growth: float | None, max_weights: float | None) -> Guard | None:
        """Nothing refused yet; None if nothing is to be."""
        if max_growth is None and max_weights is None:
            return None
        nobody, none = np.zeros(batch, np.bool_), np.zeros(batch, np.int64)
        places = np.arange(batch)
        return cls(max_growth, max_weights, nobody, nobody, places, none, none.copy())

    def refused(self, state: WindowState, event: Events) -> Refusal | None:
        """Whose residual grew too much, and their plain steps from the point before."""
        assert state.norms is not None
        if self.max_growth is None:
            return None
        fine = state.norms[0] <= self.max_growth * state.last_norm  # False for NaN
        samples = np.where(fine, False, self.bold)
        if not np.count_nonzero(samples):
            return None
        self._count(self.grew, samples)
        event[samples] |= np.int16(Event.REJECT)
        places = state.places(samples)
        step = state.last_z[places].add_(state.last_g[places], alpha=state.settings.mixing)
        return Refusal(samples, places, step)

    def forget(self, state: WindowState, refusal: Refusal | None) -> None:
        """Drop the histories with refused points; the difference from one is none to keep, too."""
        now = np.zeros_like(self.doubted) if refusal is None else refusal.samples
        gone = now | self.doubted if state.window.nothing == 0 else now
        if np.count_nonzero(gone):
            state.forget(gone)
        self.doubted = now

    def weigh(self, state: WindowState, weights: Weights, event: Events) -> None:
        """Plain steps in the place of those with too large weights."""
        if self.max_weights is None:
            return
        size = np.abs(weights.gamma * weights.used).sum(1)
        wild = ~(size <= self.max_weights)
        if np.count_nonzero(wild):
            self._count(self.heavy, wild)
            event[wild] |= np.int16(Event.HEAVY)
            state.go_plain(weights, wild)
            state.restart(wild)

    def remember(self, weights: Weights | None, refusal: Refusal | None, z_next: Tensor) -> None:
        """Put back those who were refused (in place); who else extrapolates now."""
        bold = np.zeros_like(self.bold)
        if weights is not None:
            np.logical_or.reduce(weights.used, axis=1, out=bold)
        if refusal is not None:
            z_next[refusal.places] = refusal.step
            bold[refusal.samples] = False
        self.bold = bold

    def _count(self, counts: Counts, samples: Flags) -> None:  # (B,)
        counts[self.places[samples]] += 1

    def notes(self) -> tuple[str, ...]:
        """How many steps were refused, by cause, and the remedy."""
        return tuple(
            text.format(
                steps=_steps(int(counts.sum())), samples=np.count_nonzero(counts),
                batch=len(counts), limit=limit,
            )
            for text, counts, limit in (
                (GREW, self.grew, self.max_growth),
                (HEAVY, self.heavy, self.max_weights),
            )
            if counts.any()
        )  # fmt: skip

    def select(self, indices: Tensor) -> Guard:  # (A,)
        """The guard of some samples."""
        among = indices.cpu().numpy()
        limits = self.max_growth, self.max_weights
        return Guard(
            *limits, self.bold[among], self.doubted[among], self.places[among], self.grew,
            self.heavy,
        )  # fmt: skip


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
