"""The stubborn sample: when acceleration circles, go on with plain steps for a while.

On trained, nonsmooth cells a few samples circle for ever under Anderson although forward iteration
converges; smaller mixing, more ridge and alternating do not cure it. Plain steps from the best
iterate do. Two observations on the trained digits cells shape the rule:

- No progress alone is no sign of circling: on Poisson and Bratu a wait of 39 evaluations for ten
  percent was seen, but there the residual falls at every step. On circling samples it grew 3 to 8
  times in 15 evaluations.
- Forward iteration passes such a place slowly, and its residual grows before it falls (6e-4, up to
  3e-3 after 150 evaluations, below 5e-4 after 280). Going back to Anderson, or to the best iterate,
  on that hill undoes the passage: plain steps go on until they have come below where they began.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
from torch import Tensor

from andersonn_core.arrays import Counts, Flags, Floats
from andersonn_core.kernels import Kept, Progress

PATIENCE = 15  # evaluations without PROGRESS before the first fallback
PLAIN_STEPS = 30  # least plain steps of the first fallback; both double each time
PLAIN_LIMIT = 10  # at most so many times more, if they make no progress
BLOW_UP = 10.0  # at this growth of ||g|| plain steps are no rescue: back to the best, never again
NEVER = 2**40  # a patience that no solve exhausts
ROUNDING = 100  # relative residuals below so many rounding errors grow and fall by chance
PROGRESS = 0.9  # the best residual must shrink to this fraction to count as progress
GROWTHS = 0.2  # a sample circles if its residual grew in this fraction of those evaluations,
GROWTH = 1.001  # each time by this factor or more: less is rounding


@dataclass
class FallbackState:
    """Counters on the host: who is on plain steps, since when, and for how long yet."""

    rounding: float  # the rounding error of the state's type
    patience: Counts  # (B,)
    since: Counts  # (B,) the evaluation from which on progress is expected
    plain_steps: Counts  # (B,) least number of plain steps of the next fallback
    goal: Floats  # (B,) plain steps have helped once the relative residual is below
    norm: Floats  # (B,) ||g|| of the best iterate when the fallback began
    plain: Flags  # (B,) the current step is a plain one
    fired: Flags  # (B,) a fallback begins with the current step
    home: Flags  # (B,) the current step starts from the best iterate
    active: bool = False  # somebody is on plain steps, or returns from them
    best: Kept = field(default_factory=Kept)  # plain steps z + mixing g from the best iterate

    @classmethod
    def of(cls, batch: int, rounding: float) -> FallbackState:
        """Fresh counters."""
        nobody = np.zeros(batch, np.bool_)
        return cls(
            rounding,
            patience=np.full(batch, PATIENCE), since=np.zeros(batch, np.int64),
            plain_steps=np.full(batch, PLAIN_STEPS),
            goal=np.zeros(batch), norm=np.zeros(batch),
            plain=nobody, fired=nobody, home=nobody,
        )  # fmt: skip

    def watch(self, progress: Progress, norm: Floats) -> None:  # (B,) ||g||
        """Decide who takes plain steps now."""
        now = len(progress.best) - 1
        if self.active:
            self.fired = np.zeros_like(self.fired)
            self._end_plain_steps(progress, norm, now)
        stuck = progress.stuck(PROGRESS, PATIENCE)
        if stuck is not None:
            fired = self._circling(progress, stuck & ~self.plain, now)
            if fired.any():
                self._begin_plain_steps(fired, progress, norm, now)

    def _circling(self, progress: Progress, stuck: Flags, now: int) -> Flags:  # (B,) -> (B,)
        """Who made no progress within its patience, while its residual grew again and again."""
        circling = np.zeros_like(stuck)
        for patience in np.unique(self.patience[stuck]):
            here = stuck & (self.patience == patience) & (now - self.since >= patience)
            long_stuck = progress.stuck(PROGRESS, int(patience))
            if long_stuck is None:
                continue
            places = np.flatnonzero(here & long_stuck & ~progress.newest)
            seen = np.array([row[places] for row in progress.scores[-1 - int(patience) :]])
            grew = seen[1:] > np.maximum(GROWTH * seen[:-1], ROUNDING * self.rounding)
            circling[places] = grew.sum(0) >= GROWTHS * patience
        return circling

    def _begin_plain_steps(
        self, fired: Flags, progress: Progress, norm: Floats, now: int
    ) -> None:  # (B,), (B,)
        """Samples that circle take plain steps; next time they are twice as patient and as long."""
        self.active, self.fired = True, fired
        self.home, self.plain = self.home | fired, self.plain | fired
        doubling = np.where(fired, 2, 1)
        self.plain_steps, self.patience = self.plain_steps * doubling, self.patience * doubling
        best = progress.best[-1]
        self.since = np.where(fired, now, self.since)
        self.goal = np.where(fired, best, self.goal)
        # About the norm at the best iterate: ||f(z)|| hardly changes while a sample circles.
        self.norm = np.where(fired, norm * best / progress.scores[-1], self.norm)

    def _end_plain_steps(self, progress: Progress, norm: Floats, now: int) -> None:  # (B,)
        """Plain steps end when they have helped, after many of them, or when they blow up."""
        done = now - self.since
        steps = self.plain_steps // 2  # they were doubled when the fallback began
        enough = (done >= steps) & (progress.scores[-1] < self.goal)
        self.home = self.plain & (norm > BLOW_UP * self.norm)
        self.patience = np.where(self.home, NEVER, self.patience)
        ended = self.plain & (enough | self.home | (done >= PLAIN_LIMIT * steps))
        self.since = np.where(ended, now, self.since)
        self.plain = self.plain & ~ended
        self.active = bool(self.plain.any() or self.home.any())

    def select(self, indices: Tensor) -> FallbackState:  # (A,)
        """The counters of some samples."""
        places = indices.cpu().numpy()
        taken = {
            item.name: getattr(self, item.name)[places]
            for item in fields(self)
            if isinstance(getattr(self, item.name), np.ndarray)
        }
        return replace(self, best=self.best.select(indices), **taken)
