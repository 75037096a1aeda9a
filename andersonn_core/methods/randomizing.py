"""randomize="window", "mixing" or "skip": seeded random choices instead of fixed ones.

Every draw is a function of seed, evaluation and the sample's place in the batch, so that a solve
can be repeated to the bit and a sample does not feel what its neighbours do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from andersonn_core.arrays import Counts, Flags, Floats
from andersonn_core.methods.steering import Sight

SKIPPED = 0.25  # the part of the steps that randomize="skip" makes plain
SPREAD = 0.5  # randomize="mixing" draws from mixing times 1 - SPREAD to 1 + SPREAD
MOST = 2.0  # the largest mixing


@dataclass(frozen=True)
class Draws:
    """Uniform numbers per sample and evaluation."""

    seed: int
    batch: int  # of the whole solve

    def at(self, sight: Sight) -> Floats:  # (B,)
        """In [0, 1), for the samples in sight."""
        stream = np.random.Generator(np.random.Philox(key=self.seed, counter=sight.evaluation))
        return stream.random(self.batch)[sight.samples]


@dataclass
class _Random:
    """A rule that draws; the knob says all that there is to say."""

    draws: Draws

    def notes(self) -> tuple[str, ...]:
        """None."""
        return ()

    def select(self, places: Counts) -> Self:  # (A,)
        """The same: what is drawn depends on the sample's place in the whole batch."""
        return self


@dataclass
class RandomWindow(_Random):
    """A window from 1 to m, drawn anew with every history, or at every step of a full one."""

    seen: Counts | None = None  # (B,) differences stored at the evaluation before

    def __call__(self, sight: Sight) -> Counts:  # (B,)
        """Uniformly distributed."""
        slots = sight.gamma.shape[1]
        before = sight.stored if self.seen is None else self.seen
        anew, self.seen = (sight.stored <= before) | (sight.stored >= slots), sight.stored
        return np.where(anew, 1 + (slots * self.draws.at(sight)).astype(np.int64), sight.window)

    def select(self, places: Counts) -> RandomWindow:  # (A,)
        """The rule for some samples."""
        return RandomWindow(self.draws, None if self.seen is None else self.seen[places])


@dataclass
class RandomMixing(_Random):
    """A mixing about the one that was set."""

    middle: float

    def __call__(self, sight: Sight) -> Floats:  # (B,)
        """Uniformly distributed over SPREAD of it to either side."""
        factor = 1 + SPREAD * (2 * self.draws.at(sight) - 1)
        return np.minimum(self.middle * factor, MOST)


class RandomSkip(_Random):
    """Some steps are plain."""

    def __call__(self, sight: Sight) -> Flags:  # (B,)
        """Each with the probability SKIPPED."""
        skipped: Flags = self.draws.at(sight) < SKIPPED
        return skipped
