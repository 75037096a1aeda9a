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

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from andersonn_core.kernels import BestIterate

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]

PATIENCE = 15  # evaluations without PROGRESS before the first fallback
PLAIN_STEPS = 30  # least plain steps of the first fallback; both double each time
PLAIN_LIMIT = 10  # at most so many times more, if they make no PROGRESS
BLOW_UP = 10.0  # at this growth of ||g|| plain steps are no rescue: back to the best, never again
NEVER = 2**40  # a patience that no solve exhausts
ROUNDING = 100  # relative residuals below so many rounding errors grow and fall by chance
PROGRESS = 0.9  # the best residual must shrink to this fraction to count as progress
GROWTHS = 0.2  # a sample circles if its residual grew in this fraction of those evaluations,
GROWTH = 1.001  # each time by this factor or more: less is rounding


@dataclass
class FallbackState:
    """Counters on the host: who makes progress, who is on plain steps, where the best is."""

    best: BestIterate  # its values are plain steps z + mixing g from the best iterate
    rounding: float  # the rounding error of the state's type
    reference: Floats  # (B,) the relative residual that progress is measured against
    last: Floats  # (B,) the relative residual before
    best_norm: Floats  # (B,) ||g|| of the best iterate
    since: Counts  # (B,) evaluations without progress
    growths: Counts  # (B,) growths of the residual among them
    patience: Counts  # (B,)
    plain_steps: Counts  # (B,) least number of plain steps of the next fallback
    plain_done: Counts  # (B,) plain steps of the fallback under way
    plain: Flags  # (B,) the current step is a plain one
    fired: Flags  # (B,) a fallback begins with the current step
    home: Flags  # (B,) the current step starts from the best iterate

    @classmethod
    def like(cls, z: Tensor) -> FallbackState:  # (B, n)
        """Fresh counters for states of this shape."""
        batch = z.shape[0]

        def numbers() -> Floats:
            return np.full(batch, np.inf)

        def counts(value: int = 0) -> Counts:
            return np.full(batch, value, np.int64)

        def flags() -> Flags:
            return np.zeros(batch, np.bool_)

        return cls(
            BestIterate.like(z), torch.finfo(z.dtype).eps,
            reference=numbers(), last=numbers(), best_norm=numbers(),
            since=counts(), growths=counts(), patience=counts(PATIENCE),
            plain_steps=counts(PLAIN_STEPS), plain_done=counts(),
            plain=flags(), fired=flags(), home=flags(),
        )  # fmt: skip

    def watch(
        self,
        norm: Floats,  # (B,) ||g||
        scale: Floats,  # (B,) ||f(z)||
        previous_z: Tensor,  # (B, n)
        previous_g: Tensor,  # (B, n)
        mixing: float,
    ) -> None:
        """Count one evaluation; decide who takes plain steps now."""
        with np.errstate(all="ignore"):
            relative = norm / scale
        self._keep_best(norm, relative, previous_z, previous_g, mixing)
        progress = relative < PROGRESS * self.reference
        self.home = np.zeros_like(self.home)
        if self.plain.any():
            self._end_plain_steps(norm, relative, progress)
        self.reference = np.where(progress, relative, self.reference)
        quiet = progress | self.plain
        grew = relative > np.maximum(GROWTH * self.last, ROUNDING * self.rounding)
        self.since = np.where(quiet, 0, self.since + 1)
        self.growths = np.where(quiet, 0, self.growths + grew)
        self.last = relative
        circling = (self.since >= self.patience) & (self.growths >= GROWTHS * self.since)
        self.fired = circling & ~self.best.newest
        if self.fired.any():
            self._begin_plain_steps()

    def _keep_best(
        self, norm: Floats, relative: Floats, previous_z: Tensor, previous_g: Tensor, mixing: float
    ) -> None:
        evicted = self.best.update(relative, np.ones_like(self.fired))
        if evicted.any():
            places = torch.from_numpy(np.flatnonzero(evicted)).to(previous_z.device)
            self.best.save(places, previous_z[places].add(previous_g[places], alpha=mixing))
        self.best_norm = np.where(self.best.newest, norm, self.best_norm)

    def _begin_plain_steps(self) -> None:
        """Samples that circle take plain steps; next time they are twice as patient and as long."""
        self.home = self.home | self.fired
        self.plain = self.plain | self.fired
        doubling = np.where(self.fired, 2, 1)
        self.plain_steps, self.patience = self.plain_steps * doubling, self.patience * doubling
        for counter in (self.plain_done, self.since, self.growths):
            counter[self.fired] = 0

    def _end_plain_steps(self, norm: Floats, relative: Floats, progress: Flags) -> None:
        """Plain steps end with progress, after many of them, or when they blow up."""
        self.plain_done = self.plain_done + self.plain
        steps = self.plain_steps // 2  # they were doubled when the fallback began
        enough = (self.plain_done >= steps) & (progress | (relative < self.reference))
        self.home = self.plain & (norm > BLOW_UP * self.best_norm)
        self.patience = np.where(self.home, NEVER, self.patience)
        ended = enough | self.home | (self.plain_done >= PLAIN_LIMIT * steps)
        self.plain = self.plain & ~ended

    def select(self, indices: Tensor) -> FallbackState:  # (A,)
        """The counters of some samples."""
        places = indices.cpu().numpy()
        taken = {
            item.name: getattr(self, item.name)[places]
            for item in fields(self)
            if isinstance(getattr(self, item.name), np.ndarray)
        }
        return replace(self, best=self.best.select(indices), **taken)
