"""What a method is: it sees (z, f(z)) and proposes the next z; it never calls the map."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from andersonn_core.arrays import Counts, Events, Flags, Floats
from andersonn_core.kernels import Progress, Rows, measure
from andersonn_core.sharding import Shards
from andersonn_core.specs import KnobError, Spec, knob
from andersonn_core.timing import PartTimer

# of a count: seconds of the map and of the step after it, in the last evaluations
Times = Callable[[int], Sequence[tuple[float, float]]]


@dataclass
class StepDiagnostics:
    """What one step saw, per sample, kept raw on the host; this class knows a plain step.

    The history's columns are made from many stacked steps at once, after the solve: a dozen small
    operations in each step would cost as much as a small map. Every field is an array (B, ...).
    """

    event: Events  # (B,) flags of Event
    mixing: Floats  # (B,) the weight on f(z)

    @property
    def depth(self) -> Floats:  # (..., B)
        """How many differences the step used."""
        return np.zeros(self.event.shape)

    def columns(self) -> dict[str, NDArray[Any]]:  # (..., B) each
        """The columns of `History`, from one step or from a stack of steps."""
        ones = np.ones(self.event.shape)
        return {
            "event": self.event,
            "depth": self.depth,
            "gain": ones,
            "weight_norm": 0 * ones,
            "condition": ones,
            "mixing": self.mixing,
        }

    @classmethod
    def stack(cls, steps: Sequence[Self]) -> Self:
        """Many steps as one, with a new first dimension."""
        names = [item.name for item in fields(cls)]
        return cls(*(np.array([getattr(step, name) for step in steps]) for name in names))

    def spread(self, places: Counts, batch: int) -> Self:  # (A,)
        """The record of a batch of which only the samples in `places` made this step."""

        def wide(values: NDArray[Any]) -> NDArray[Any]:
            whole = np.zeros((batch, *values.shape[1:]), values.dtype)
            whole[places] = values
            return whole

        return type(self)(*(wide(getattr(self, item.name)) for item in fields(self)))

    def select(self, indices: Tensor) -> Self:  # (A,)
        """The record of some samples."""
        places = indices.cpu().numpy()
        return type(self)(*(getattr(self, item.name)[places] for item in fields(self)))


@dataclass
class MethodState:
    """A method's workspace; every tensor or array in it has the batch as its first dimension.

    The driver calls `measure` before it judges; a method that is stepped by hand does it itself.
    """

    diagnostics: StepDiagnostics
    g: Tensor  # (B, n) residual of the newest point
    rows: Rows
    progress: Progress
    timer: PartTimer = field(default_factory=PartTimer, kw_only=True)
    rtol: float = field(default=0.0, kw_only=True)  # the solve's, for methods that look ahead
    # Whether somebody reads the history after the solve: what the last step used has to stay then.
    lasting: bool = field(default=False, kw_only=True)
    norms: tuple[Floats, Floats] | None = field(default=None, kw_only=True)  # (B,), (B,)
    targets: tuple[Tensor, Tensor] | None = field(default=None, kw_only=True)

    def measure(
        self, z: Tensor, f_z: Tensor, running: Flags | None = None
    ) -> tuple[Floats, Floats]:  # (B, n), (B, n), (B,) -> (B,), (B,)
        """Store g = f(z) - z; return ||g|| and the scale max(||f(z)||, tiny)."""
        self.norms = norm, scale = self.residual(z, f_z)
        self.progress.add(norm / scale, running)
        return self.norms

    def residual(self, z: Tensor, f_z: Tensor) -> tuple[Floats, Floats]:  # (B, n) -> (B,), (B,)
        """The same without a record of it."""
        return measure(self.rows, z, f_z, self.g)

    def target(self, z: Tensor) -> Tensor:  # (B, n)
        """One of two buffers in turn: the next point may overwrite the last but one, not z."""
        if self.targets is None:
            self.targets = torch.empty_like(self.g), torch.empty_like(self.g)
        self.targets = self.targets[::-1]
        return self.targets[0]

    def select(self, indices: Tensor) -> Self:  # (A,)
        """The workspace of some samples."""
        chosen = {item.name: _select(getattr(self, item.name), indices) for item in fields(self)}
        return replace(self, **chosen | {"norms": None, "targets": None})

    def looks(self) -> bool:
        """Whether `MethodSpec.observe` wants to know now what evaluations took."""
        return False

    def notes(self) -> tuple[str, ...]:
        """What the method decided and why, in sentences."""
        return ()

    def amplification(self) -> Floats | None:  # (B,)
        """The largest ||dz|| / ||dg|| seen: a lower bound of ||(I - J)^-1||; None if not known."""
        return None


def _select(value: Any, indices: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[indices]
    if isinstance(value, np.ndarray):
        return value[indices.cpu().numpy()]
    return value.select(indices) if hasattr(value, "select") else value


def no_event(z: Tensor) -> Events:  # (B, n) -> (B,)
    """The event of a step at which nothing happened."""
    return np.zeros(z.shape[0], np.int16)


def mixing_knob(doc: str = "Weight on f(z); 1 is undamped.", or_word: bool = False) -> Any:
    """The knob beta, which every method has."""
    return knob(
        1.0, doc, minimum=0.0, maximum=2.0, exclusive_minimum=True, typical=(0.1, 1.5),
        symbol="beta", or_word=or_word,
    )  # fmt: skip


class MethodSpec(Spec):
    """The knobs of a method, which is the method: `init` makes its workspace, `step` proposes.

    `step` may keep no reference to `f_z`; it returns a new tensor or a buffer that the next step
    leaves alone (`MethodState.target`).
    """

    @abstractmethod
    def init(self, z: Tensor) -> MethodState:  # (B, n)
        """A workspace for states of this shape, dtype and device."""

    def shard_problem(self) -> str | None:
        """Why this method can't solve for a sharded state, and what to do; None: it can."""
        return f"{self.label} does not know sharded states: use Anderson() or Picard()."

    def init_shard(self, z: Tensor, shards: Shards | None) -> MethodState:  # (B, n)
        """A workspace for a rank's part of the state; KnobError where there is none."""
        raise KnobError(str(self.shard_problem()))

    @abstractmethod
    def step(self, state: Any, z: Tensor, f_z: Tensor) -> Tensor:  # (B, n), (B, n) -> (B, n)
        """The next point to evaluate, given the map's value at z."""

    def observe(self, state: Any, times: Times) -> None:
        """Learn what evaluations took; called by the driver where the state looks."""

    @property
    def largest_window(self) -> int:
        """The most past steps that a step may use."""
        return getattr(self, "window", 0)

    def memory_vectors(self, n: int) -> int:
        """How many vectors of the state's size the workspace holds."""
        return 1
