"""The best iterate of each sample, copied only when a worse one is about to overwrite it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class BestIterate:
    """Per sample, the value seen with the smallest score.

    While a sample improves, its best value is the newest one, which the caller holds anyway; a copy
    is made only when the next value is worse. A monotone solve therefore never copies.
    """

    score: Tensor  # (B,) smallest so far, inf before the first
    newest: Tensor  # (B,) bool: the best is the newest value
    saved: Tensor  # (B, n)

    @classmethod
    def like(cls, values: Tensor) -> BestIterate:  # (B, n)
        """A record that starts from these values, not yet scored."""
        batch = values.shape[0]
        score = torch.full((batch,), torch.inf, dtype=torch.float64, device=values.device)
        return cls(score, torch.zeros_like(score, dtype=torch.bool), values.clone())

    def update(self, score: Tensor, running: Tensor) -> Tensor:  # (B,), (B,) bool -> (B,) bool
        """Take the newest value's score; return the samples whose previous value must be saved."""
        improved = running & (score < self.score)  # False for NaN
        evicted = self.newest & running & ~improved
        self.score = torch.where(improved, score.double(), self.score)
        self.newest = torch.where(running, improved, self.newest)
        return evicted

    def save(self, samples: Tensor, values: Tensor) -> None:  # (B,) bool, (A, n)
        """Copy the best values of `samples` before they are overwritten."""
        self.saved[samples] = values

    def settle(self, samples: Tensor) -> None:  # (B,) bool
        """Declare the current value of `samples` the answer, whatever its score."""
        self.newest = self.newest | samples

    def values(self, current: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """The best value of each sample; `current` is the newest one."""
        return torch.where(self.newest[:, None], current, self.saved)

    def select(self, indices: Tensor) -> BestIterate:  # (A,)
        """The record of some samples."""
        return BestIterate(self.score[indices], self.newest[indices], self.saved[indices])
