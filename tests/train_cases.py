"""A training that takes half a second, and what tests ask of every training."""

from typing import Any

import torch

from andersonn_core.data import load_digits
from andersonn_core.training import TrainEvent, TrainSpec

IMAGES = load_digits()
TINY: dict[str, Any] = {
    "train_images": 60, "test_images": 24, "batch_size": 20, "epochs": 2, "rtol": 1e-2,
    "max_iter": 8,
}  # fmt: skip


def tiny(**knobs: Any) -> TrainSpec:
    """Six batches of twenty digits."""
    return TrainSpec(**TINY | knobs)


class Events(list[TrainEvent]):
    """Collects events; `of(kind)` are those of one class."""

    def of(self, kind: type) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]

    @property
    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self]


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )
