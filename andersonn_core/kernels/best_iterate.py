"""The best iterate of each sample, copied only when a worse one is about to overwrite it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass
class BestIterate:
    """Per sample, the value seen with the smallest score; scores live on the host.

    While a sample improves, its best value is the newest one, which the caller holds anyway; a copy
    is made only when the next value is worse. A monotone solve therefore never copies.
    """

    score: Floats  # (B,) smallest so far, inf before the first
    newest: Flags  # (B,) the best is the newest value
    saved: Tensor  # (B, n)

    @classmethod
    def like(cls, values: Tensor) -> BestIterate:  # (B, n)
        """A record that starts from these values, not yet scored."""
        batch = values.shape[0]
        return cls(np.full(batch, np.inf), np.zeros(batch, np.bool_), values.clone())

    def update(self, score: Floats, running: Flags) -> Flags:  # (B,), (B,) -> (B,)
        """Take the newest values' scores; return whose previous value must be saved now."""
        improved = running & (score < self.score)  # False for NaN
        evicted = self.newest & running & ~improved
        self.score = np.where(improved, score, self.score)
        self.newest = np.where(running, improved, self.newest)
        return evicted

    def save(self, samples: Tensor, values: Tensor) -> None:  # (A,) int64, (A, n)
        """Copy the best values of `samples` before they are overwritten."""
        self.saved[samples] = values

    def settle(self, samples: Flags) -> None:  # (B,)
        """Declare the current value of `samples` the answer, whatever its score."""
        self.newest = self.newest | samples

    def values(self, current: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """The best value of each sample; `current` is the newest one."""
        newest = torch.from_numpy(self.newest).to(current.device)
        return torch.where(newest[:, None], current, self.saved)

    def select(self, indices: Tensor) -> BestIterate:  # (A,)
        """The record of some samples."""
        places = indices.cpu().numpy()
        return BestIterate(self.score[places], self.newest[places], self.saved[indices])
