"""How far each sample has come, and the best iterate, copied only when a worse one follows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Flags, Floats


@dataclass
class Progress:
    """Every evaluation's score per sample (a relative residual), and the best so far, on the host.

    While a sample improves, its best value is the newest one, which the caller holds anyway: a
    monotone solve never copies.
    """

    newest: Flags  # (B,) the best is the newest value
    evicted: Flags  # (B,) the best was the value before the newest: now is the time to copy it
    running: Flags | None = None  # (B,) whose newest values count; None: everyone's
    scores: list[Floats] = field(default_factory=list)  # (B,) each
    best: list[Floats] = field(default_factory=list)  # (B,) each, the smallest so far

    @classmethod
    def of(cls, batch: int) -> Progress:
        """Nothing seen yet: best is the start, whatever its score."""
        return cls(np.zeros(batch, np.bool_), np.zeros(batch, np.bool_))

    def add(self, score: Floats, running: Flags | None = None) -> None:  # (B,), (B,)
        """Take the newest values' scores; samples that do not run keep what they have."""
        before = self.best[-1] if self.best else np.full(len(score), np.inf)
        improved = score < before  # False for NaN
        self.scores.append(score)
        self.running = running
        if running is None:
            self.best.append(np.fmin(score, before))
            self.evicted, self.newest = self.newest > improved, improved
        else:
            improved &= running
            self.best.append(np.where(improved, score, before))
            self.evicted = (self.newest & running) > improved
            self.newest = np.where(running, improved, self.newest)

    def settle(self, samples: Flags) -> None:  # (B,)
        """Declare the current value of `samples` the answer, whatever its score."""
        self.newest = self.newest | samples

    def stuck(self, fraction: float, patience: int) -> Flags | None:  # (B,)
        """Whose best is still above this fraction of what it was `patience` evaluations ago.

        None: nobody's, or there were not so many evaluations.
        """
        if len(self.best) <= patience:
            return None
        flags: Flags = self.best[-1] > fraction * self.best[-1 - patience]
        if self.running is not None:
            flags &= self.running
        return flags if np.count_nonzero(flags) else None

    def select(self, indices: Tensor) -> Progress:  # (A,)
        """The record of some samples."""
        places = indices.cpu().numpy()
        lists = ([row[places] for row in rows] for rows in (self.scores, self.best))
        return Progress(self.newest[places], self.evicted[places], None, *lists)


@dataclass
class Kept:
    """Values that would be overwritten otherwise; no memory before the first."""

    values: Tensor | None = None  # (B, n)

    def save(
        self, samples: Flags, values: Tensor, more: Tensor | None = None, weight: float = 0.0
    ) -> None:  # (B,), (B, n), (B, n)
        """Copy `values`, or values + weight more, of `samples`."""
        if self.values is None:
            self.values = torch.zeros_like(values)
        if np.count_nonzero(samples) == len(samples):  # one long sample, say: no copy in between
            if more is None:
                self.values.copy_(values)
            else:
                torch.add(values, more, alpha=weight, out=self.values)
            return
        places = _places(samples, values)
        taken = values[places]
        self.values[places] = taken if more is None else taken.add_(more[places], alpha=weight)

    def fill(self, target: Tensor, samples: Flags) -> None:  # (B, n), (B,)
        """In place: the saved values of `samples` instead of the target's."""
        if self.values is not None:
            places = _places(samples, target)
            target[places] = self.values[places]

    def select(self, indices: Tensor) -> Kept:  # (A,)
        """The values of some samples."""
        return Kept(None if self.values is None else self.values[indices])


def _places(samples: Flags, values: Tensor) -> Tensor:
    return torch.from_numpy(np.flatnonzero(samples)).to(values.device)
