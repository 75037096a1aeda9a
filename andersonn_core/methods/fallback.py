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

import torch
from torch import Tensor

from andersonn_core.kernels import BestIterate

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
    """Counters: who makes progress, who is on plain steps, where the best iterate is."""

    best: BestIterate  # its values are plain steps z + mixing g from the best iterate
    reference: Tensor  # (B,) float64, the residual that progress is measured against
    last: Tensor  # (B,) float64, the residual before
    best_norm: Tensor  # (B,) ||g|| of the best iterate
    since: Tensor  # (B,) int64, evaluations without progress
    growths: Tensor  # (B,) int64, growths of the residual among them
    patience: Tensor  # (B,) int64
    plain_steps: Tensor  # (B,) int64, least number of plain steps
    plain_done: Tensor  # (B,) int64, plain steps of the fallback under way
    plain: Tensor  # (B,) bool: the current step is a plain one
    fired: Tensor  # (B,) bool: a fallback begins with the current step
    home: Tensor  # (B,) bool: the current step starts from the best iterate
    any_plain: bool = False  # whether `plain` holds anywhere: read once a step, asked several times

    @classmethod
    def like(cls, z: Tensor) -> FallbackState:  # (B, n)
        """Fresh counters for states of this shape."""

        def full(value: int) -> Tensor:
            return torch.full((z.shape[0],), value, dtype=torch.int64, device=z.device)

        best, no = BestIterate.like(z), full(0).bool()
        return cls(
            best=best,
            reference=best.score.clone(),
            last=best.score.clone(),
            best_norm=z.new_zeros(z.shape[0]),
            since=full(0),
            growths=full(0),
            patience=full(PATIENCE),
            plain_steps=full(PLAIN_STEPS),
            plain_done=full(0),
            plain=no,
            fired=no,
            home=no,
        )

    def watch(
        self,
        norm: Tensor,  # (B,) ||g||
        relative: Tensor,  # (B,) ||g|| / ||f(z)||
        previous_z: Tensor,  # (B, n)
        previous_g: Tensor,  # (B, n)
        mixing: float,
    ) -> None:
        """Count one evaluation; decide who takes plain steps now."""
        evicted = self.best.update(relative, torch.ones_like(self.fired))
        if bool(evicted.any()):
            self.best.save(evicted, previous_z[evicted].add(previous_g[evicted], alpha=mixing))
        self.best_norm = torch.where(self.best.newest, norm, self.best_norm)
        progress = relative < PROGRESS * self.reference
        self.home = torch.zeros_like(self.home)
        if self.any_plain:
            self._end_plain_steps(norm, relative, progress)
        self.reference = torch.where(progress, relative.double(), self.reference)
        quiet = progress | self.plain
        self.since = torch.where(quiet, 0, self.since + 1)
        floor = ROUNDING * torch.finfo(relative.dtype).eps
        grew = relative > (GROWTH * self.last).clamp(min=floor)
        self.growths = torch.where(quiet, 0, self.growths + grew)
        self.last = relative.double()
        circling = (self.since >= self.patience) & (self.growths >= GROWTHS * self.since)
        self.fired = circling & ~self.best.newest
        if bool(self.fired.any()):
            self._begin_plain_steps()

    def _begin_plain_steps(self) -> None:
        """Samples that circle take plain steps; next time they are twice as patient and as long."""
        self.home = self.home | self.fired
        self.plain = self.plain | self.fired
        self.any_plain = True
        doubling = 1 + self.fired.long()
        self.plain_steps, self.patience = self.plain_steps * doubling, self.patience * doubling
        for counter in (self.plain_done, self.since, self.growths):
            counter.masked_fill_(self.fired, 0)

    def _end_plain_steps(self, norm: Tensor, relative: Tensor, progress: Tensor) -> None:
        """Plain steps end with progress, after many of them, or when they blow up."""
        self.plain_done = self.plain_done + self.plain
        steps = self.plain_steps // 2  # they were doubled when the fallback began
        enough = (self.plain_done >= steps) & (progress | (relative < self.reference))
        self.home = self.plain & (norm > BLOW_UP * self.best_norm)
        self.patience.masked_fill_(self.home, NEVER)
        ended = enough | self.home | (self.plain_done >= PLAIN_LIMIT * steps)
        self.plain = self.plain & ~ended
        self.any_plain = bool(self.plain.any())

    def select(self, indices: Tensor) -> FallbackState:  # (A,)
        """The counters of some samples."""
        taken = {
            item.name: getattr(self, item.name)[indices]
            for item in fields(self)
            if isinstance(getattr(self, item.name), Tensor)
        }
        return replace(self, best=self.best.select(indices), **taken)
