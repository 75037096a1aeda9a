"""The order in which a training sees its images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from andersonn_core.training.spec import TrainSpec

LEAST_RATE = 1e-6  # of the cosine schedule


class Batches:
    """Shuffled passes over N images by a generator of their own, one batch after the other.

    Where it stands are three things: the generator before this pass, the pass, the images seen in
    it. A batch may have another size than the one before.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.generator = torch.Generator().manual_seed(seed)
        self.epoch = 0  # passes done
        self._shuffle()

    def next(self, size: int) -> Tensor:  # (B,) row numbers, B <= size
        """The batch that comes next; `advance` says that it is done."""
        return self.order[self.seen : self.seen + size]

    def advance(self, size: int) -> bool:
        """Count a batch as done; whether that was the end of the pass."""
        self.seen += size
        if self.seen < self.count:
            return False
        self.epoch += 1
        self._shuffle()
        return True

    @property
    def passes(self) -> float:
        """Passes done, with the part of this one."""
        return self.epoch + self.seen / self.count

    def _shuffle(self) -> None:
        self.before = self.generator.get_state()  # (5056,) uint8
        self.order = torch.randperm(self.count, generator=self.generator)  # (N,)
        self.seen = 0

    def restore(self, before: Tensor, epoch: int, seen: int) -> None:  # (5056,) uint8
        """Stand where another one stood."""
        self.generator.set_state(before)
        self._shuffle()
        self.epoch, self.seen = epoch, seen


def split(count: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:  # (N,), (V,)
    """Rows to train on and rows to validate on, by a generator of their own."""
    held_out = round(count * fraction)
    if not held_out:
        return torch.arange(count), torch.arange(0)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[held_out:].sort().values, order[:held_out].sort().values


def learning_rate(spec: TrainSpec, progress: float) -> float:
    """The step size after a part (0 to 1) of the training."""
    if spec.schedule == "constant":
        return spec.learning_rate
    least = min(LEAST_RATE, spec.learning_rate)
    falling = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    return least + (spec.learning_rate - least) * falling
