"""The stubborn sample: when acceleration circles without progress, go on with plain steps for a while.

On trained, nonsmooth cells a few samples circle for ever under Anderson although forward iteration
converges; smaller mixing, more ridge and alternating do not cure it. Plain steps from the best iterate do.

No progress alone is no sign of circling: on Poisson and Bratu a wait of 39 evaluations for ten percent was
seen, but there the residual falls at every step. On circling samples it grew 3 to 8 times in 15 evaluations.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from andersonn_core.kernels import BestIterate

PATIENCE = 15  # evaluations without PROGRESS before the first fallback
PLAIN_STEPS = 30  # plain steps of the first fallback; both double each time
PROGRESS = 0.9  # the best residual must shrink to this fraction to count as progress
GROWTHS = 0.2  # a sample circles if its residual grew in this fraction of the evaluations without progress,
GROWTH = 1.001  # each time by this factor or more: less is rounding


@dataclass
class FallbackState:
    """Counters of one batch: who makes progress, who is on plain steps, where the best iterate is."""

    best: BestIterate  # its values are plain steps z + mixing g from the best iterate
    reference: Tensor  # (B,) float64, the residual that progress is measured against
    last: Tensor  # (B,) float64, the residual before
    since: Tensor  # (B,) int64, evaluations without progress
    growths: Tensor  # (B,) int64, growths of the residual among them
    patience: Tensor  # (B,) int64
    plain_length: Tensor  # (B,) int64
    plain_left: Tensor  # (B,) int64
    fired: Tensor  # (B,) bool, in the current step
    any_fired: bool = False
    any_plain: bool = False  # whether `plain` holds anywhere: read once a step, asked several times

    @classmethod
    def like(cls, z: Tensor) -> FallbackState:  # (B, n)
        """Fresh counters for states of this shape."""

        def full(value: int) -> Tensor:
            return torch.full((z.shape[0],), value, dtype=torch.int64, device=z.device)

        best = BestIterate.like(z)
        score = best.score
        return cls(
            best, score.clone(), score.clone(), full(0), full(0),
            full(PATIENCE), full(PLAIN_STEPS), full(0), full(0).bool(),
        )  # fmt: skip

    @property
    def plain(self) -> Tensor:  # (B,) bool
        """Samples whose current step is a plain one."""
        return self.plain_left > 0

    def watch(
        self, relative: Tensor, previous_z: Tensor, previous_g: Tensor, mixing: float
    ) -> None:
        """Count one evaluation with relative residuals (B,); decide who falls back now."""
        evicted = self.best.update(relative, torch.ones_like(self.fired))
        if bool(evicted.any()):
            self.best.save(evicted, previous_z[evicted].add(previous_g[evicted], alpha=mixing))
        progress = relative < PROGRESS * self.reference
        self.reference = torch.where(progress, relative.double(), self.reference)
        if self.any_plain:
            self.plain_left = (self.plain_left - 1).clamp(min=0)
            progress = progress | self.plain
        self.since = torch.where(progress, 0, self.since + 1)
        self.growths = torch.where(progress, 0, self.growths + (relative > GROWTH * self.last))
        self.last = relative.double()
        circling = (self.since >= self.patience) & (self.growths >= GROWTHS * self.since)
        self.fired = circling & ~self.best.newest
        self.any_fired = bool(self.fired.any())
        if self.any_fired:
            self._fire()
        self.any_plain = bool(self.plain.any()) if self.any_plain or self.any_fired else False

    def _fire(self) -> None:
        """Start plain steps for the samples that circle; next time twice as patient and as long."""
        self.plain_left = torch.where(self.fired, self.plain_length, self.plain_left)
        doubling = 1 + self.fired.long()
        self.plain_length, self.patience = self.plain_length * doubling, self.patience * doubling
        self.since = torch.where(self.fired, 0, self.since)
        self.growths = torch.where(self.fired, 0, self.growths)

    def select(self, indices: Tensor) -> FallbackState:  # (A,)
        """The counters of some samples."""
        taken = {
            item.name: getattr(self, item.name)[indices]
            for item in fields(self)
            if isinstance(getattr(self, item.name), Tensor)
        }
        return replace(self, best=self.best.select(indices), **taken)
