"""Cube roots by Newton's iteration: already quadratic, so mixing old iterates in only hurts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from andersonn_core.problems.base import Problem, ProblemSpec
from andersonn_core.problems.common import refuse_oversize, uniform
from andersonn_core.specs import knob


@dataclass(frozen=True, eq=False)
class NewtonMap:
    """f(z) = z - (z^3 - a) / (3 z^2) = (2 z + a / z^2) / 3, element by element."""

    radicand: Tensor  # (B, n)

    def __call__(self, z: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate f."""
        return torch.div(self.radicand, z.square()).add_(z, alpha=2).div_(3)

    def select(self, indices: Tensor) -> NewtonMap:  # (A,)
        """The map of some samples."""
        return replace(self, radicand=self.radicand[indices])


class Newton(ProblemSpec):
    """The cube roots of `size` numbers at once by Newton's iteration, started at the numbers.

    f(z) = z - (z^3 - a) / (3 z^2),  a from 1 to `largest`, evenly spread in log a
    """

    name: ClassVar[str] = "newton"
    label: ClassVar[str] = "Newton's cube roots"
    summary: ClassVar[str] = (
        "Newton's method doubles the correct digits at every step. Anderson looks back at old, "
        "worse points and spoils that: here plain forward iteration wins."
    )

    batch_size: int = knob(
        16, "Independent samples that are solved side by side.",
        minimum=1, maximum=4096, typical=(1, 64), symbol="B",
    )  # fmt: skip
    size: int = knob(
        32, "Numbers whose cube roots are taken, all in one vector.",
        minimum=1, maximum=2**20, typical=(1, 256), symbol="n",
    )  # fmt: skip
    largest: float = knob(
        1000.0, "The largest of the numbers; the smallest is 1.",
        minimum=1.0, maximum=1e6, typical=(2.0, 10000.0), symbol="a", log=True,
    )  # fmt: skip

    @property
    def num_elements(self) -> int:
        """The length n = size."""
        return self.size

    def build(self) -> Problem:
        """The map from z0 = a, with the exact cube roots."""
        refuse_oversize(self)
        exponents = uniform(self.seed, self.batch_size, self.size) * math.log(self.largest)
        radicand = exponents.exp().to(self.torch_dtype)
        z_star = radicand.double().pow(1 / 3)
        f = NewtonMap(radicand.to(self.torch_device))
        return Problem(
            name=self.name, f=f, z0=f.radicand.clone(), z_star=z_star.to(f.radicand),
            contraction=0.0,
        )  # fmt: skip
