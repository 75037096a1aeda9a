"""What a fixed-point problem is: a map, a start, and whatever is known of the answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from andersonn_core.specs import KnobError, Spec, knob

FixedPointMap = Callable[[Tensor], Tensor]
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


@runtime_checkable
class SelectableMap(Protocol):
    """A batched map that can be restricted to some of its samples, which compaction needs."""

    def __call__(self, z: Tensor, /) -> Tensor:  # (B, ...) -> (B, ...)
        """Evaluate the map on the whole batch."""
        ...

    def select(self, indices: Tensor) -> FixedPointMap:  # (A,) int64
        """The same map for the samples `indices` alone."""
        ...


@dataclass(frozen=True)
class Problem:
    """A fixed-point map with its start and what is known of its answer.

    `contraction` is the spectral radius of the Jacobian at the fixed point: the factor by which one
    forward iteration shrinks the error in the long run (above 1: forward iteration cannot
    converge).
    """

    name: str
    f: FixedPointMap
    z0: Tensor  # (B, ...)
    z_star: Tensor | None = None  # (B, ...)
    contraction: float | None = None
    spectrum: Tensor | None = None  # (n,) complex: eigenvalues of the Jacobian, where f is linear
    picture: Callable[[Tensor], Tensor] | None = (
        None  # (B, ...) -> (B, height, width), what z shows
    )
    predict: Callable[[Tensor], Tensor] | None = None  # (B, ...) -> (B, classes) probabilities
    inputs: Tensor | None = None  # (B, height, width): what the map reads, if that can be seen
    labels: Tensor | None = None  # (B,) int64: the true class of each sample

    @property
    def batch_size(self) -> int:
        """B, the number of independent samples."""
        return self.z0.shape[0]


class ProblemSpec(Spec):
    """The knobs of a family of fixed-point maps; `build` makes the map.

    `unused` names the knobs of the page that this family cannot use, each with the reason in words.
    """

    unused: ClassVar[dict[str, str]] = {}
    summary: ClassVar[str] = ""  # one sentence: what the map computes, and what to look for
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float64", "bfloat16")

    batch_size: int = knob(
        1, "Independent samples that are solved side by side.",
        minimum=1, maximum=4096, typical=(1, 64), symbol="B",
    )  # fmt: skip
    dtype: Literal["float32", "float64", "bfloat16"] = knob(
        "float32", "Floating-point type of the state."
    )
    device: str = knob("cpu", "Where the map runs: cpu, cuda, cuda:1, mps.", identity=False)
    seed: int = knob(
        0, "Seed of everything random in the problem.", minimum=0, maximum=2**31 - 1, identity=False
    )

    @abstractmethod
    def build(self) -> Problem:
        """The map, its start and its known answers, on `device` in `dtype`."""

    def data_hashes(self) -> dict[str, str]:
        """SHA-256 of the data that the problem reads, by name, for run cards."""
        return {}

    @property
    @abstractmethod
    def num_elements(self) -> int:
        """n, the number of elements in one sample's state."""

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch type that `dtype` names."""
        return DTYPES[self.dtype]

    @property
    def torch_device(self) -> torch.device:
        """The torch device that `device` names; raises KnobError if this machine lacks it."""
        return available_device(self.device)


def available_device(name: str) -> torch.device:
    """The torch device called `name`; raises KnobError with this machine's devices otherwise."""
    present = ["cpu"]
    present += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    present += ["mps"] if torch.backends.mps.is_available() else []
    if name in present or (name == "cuda" and "cuda:0" in present):
        return torch.device(name)
    raise KnobError(
        f"device = {name!r} is not available: this machine has {', '.join(present)}. "
        "Choose one of them."
    )
