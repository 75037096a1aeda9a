"""What a method is: it sees (z, f(z)) and proposes the next z; it never calls the map."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from andersonn_core.results import Event
from andersonn_core.specs import Spec
from andersonn_core.timing import PartTimer

Floats = NDArray[np.float64]


@dataclass
class StepDiagnostics:
    """What one step saw, per sample, kept raw; this class knows a plain step.

    The history's columns are made from many stacked steps at once, after the solve: a dozen small
    operations in each step would cost as much as a small map. Every field is a tensor (B, ...).
    """

    event: Tensor  # (B,) int8 flags of Event

    def mark(self, samples: Tensor, event: Event) -> None:  # (B,) bool
        """Add a flag to the event of some samples."""
        self.event |= samples * int(event)

    @property
    def depth(self) -> Tensor:  # (..., B)
        """How many differences the step used."""
        return torch.zeros_like(self.event, dtype=torch.float64)

    def columns(self) -> dict[str, Tensor]:  # (..., B) each
        """The columns of `History`, from one step or from a stack of steps."""
        ones = torch.ones_like(self.depth)
        return {
            "event": self.event,
            "depth": self.depth,
            "gain": ones,
            "weight_norm": 0 * ones,
            "condition": ones,
        }

    @classmethod
    def stack(cls, steps: Sequence[Self]) -> Self:
        """Many steps as one, with a new first dimension."""
        names = [item.name for item in fields(cls)]
        return cls(*(torch.stack([getattr(step, name) for step in steps]) for name in names))

    def select(self, indices: Tensor) -> Self:  # (A,)
        """The record of some samples."""
        return type(self)(*(getattr(self, item.name)[indices] for item in fields(self)))

    def spread(self, indices: Tensor, batch: int) -> Self:  # (A,)
        """The record of a batch of which only the samples `indices` made this step."""

        def wide(values: Tensor) -> Tensor:
            return values.new_zeros(batch, *values.shape[1:]).index_copy(0, indices, values)

        return type(self)(*(wide(getattr(self, item.name)) for item in fields(self)))


@dataclass
class MethodState:
    """A method's workspace; every tensor or array in it has the batch as its first dimension.

    The driver knows the norms ||g|| and ||f(z)|| (B,) of the point that it hands to `step` and
    leaves them in `norms`; a method that is stepped by hand works them out itself.
    """

    diagnostics: StepDiagnostics
    timer: PartTimer = field(default_factory=PartTimer, kw_only=True)
    norms: tuple[Floats, Floats] | None = field(default=None, kw_only=True)

    def select(self, indices: Tensor) -> Self:  # (A,)
        """The workspace of some samples."""
        chosen = {item.name: _select(getattr(self, item.name), indices) for item in fields(self)}
        return replace(self, **chosen | {"norms": None})

    def amplification(self) -> Tensor | None:  # (B,)
        """The largest ||dz|| / ||dg|| seen: a lower bound of ||(I - J)^-1||; None if not known."""
        return None


def _select(value: Any, indices: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[indices]
    return value.select(indices) if hasattr(value, "select") else value


def no_event(z: Tensor) -> Tensor:  # (B, n) -> (B,) int8
    """The event of a step at which nothing happened."""
    return torch.zeros(z.shape[0], dtype=torch.int8, device=z.device)


class MethodSpec(Spec):
    """The knobs of a method, which is the method: `init` makes its workspace, `step` proposes.

    `step` may keep no reference to `f_z`; it returns a new tensor or a buffer that the next step
    leaves alone.
    """

    @abstractmethod
    def init(self, z: Tensor) -> MethodState:  # (B, n)
        """A workspace for states of this shape, dtype and device."""

    @abstractmethod
    def step(self, state: Any, z: Tensor, f_z: Tensor) -> Tensor:  # (B, n), (B, n) -> (B, n)
        """The next point to evaluate, given the map's value at z."""

    def memory_vectors(self, n: int) -> int:
        """How many vectors of the state's size the workspace holds."""
        return 1
