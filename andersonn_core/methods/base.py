"""What a method is: it sees (z, f(z)) and proposes the next z; it never calls the map."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from andersonn_core.results import Event
from andersonn_core.specs import Spec
from andersonn_core.timing import PartTimer


@dataclass
class StepDiagnostics:
    """What one step saw, per sample; see `History` for the meaning of each column."""

    gain: Tensor  # (B,)
    weight_norm: Tensor  # (B,)
    condition: Tensor  # (B,)
    depth: Tensor  # (B,)
    event: Tensor  # (B,) int8 flags of Event

    @classmethod
    def plain(cls, batch: int, device: torch.device) -> StepDiagnostics:
        """The record of a plain step: no differences, no weights."""
        ones = torch.ones(batch, dtype=torch.float64, device=device)
        zeros = torch.zeros(batch, dtype=torch.float64, device=device)
        return cls(ones, zeros, ones, zeros, torch.zeros(batch, dtype=torch.int8, device=device))

    def mark(self, samples: Tensor, event: Event) -> None:  # (B,) bool
        """Add a flag to the event of some samples."""
        self.event |= samples * int(event)

    def select(self, indices: Tensor) -> StepDiagnostics:  # (A,)
        """The record of some samples."""
        return StepDiagnostics(*(getattr(self, item.name)[indices] for item in fields(self)))


@dataclass
class MethodState:
    """A method's workspace; every tensor in it has the batch as its first dimension."""

    diagnostics: StepDiagnostics
    timer: PartTimer = field(default_factory=PartTimer, kw_only=True)

    def select(self, indices: Tensor) -> Self:  # (A,)
        """The workspace of some samples."""
        return replace(
            self, **{item.name: _select(getattr(self, item.name), indices) for item in fields(self)}
        )

    def amplification(self) -> Tensor | None:  # (B,)
        """The largest ||dz|| / ||dg|| seen: a lower bound of ||(I - J)^-1||; None if not known."""
        return None


def _select(value: Any, indices: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[indices]
    return value.select(indices) if hasattr(value, "select") else value


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
