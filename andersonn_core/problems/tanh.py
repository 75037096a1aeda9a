"""A random recurrent layer, f(z) = tanh(W z + x): the plainest deep equilibrium cell."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from andersonn_core.problems.base import Problem, ProblemSpec
from andersonn_core.problems.common import multiply_rows, normal, pad_matrix, refuse_oversize
from andersonn_core.specs import knob

MOST_WORK = 2**21  # B n^2 up to which the answer is computed: some milliseconds
MOST_STEPS = 400
SETTLED = 1e-14


@dataclass(frozen=True, eq=False)
class TanhMap:
    """f(z) = tanh(W z + x), the same W for all samples, another x for each."""

    weight_t: Tensor  # (m, m), transposed and padded
    x: Tensor  # (B, n)

    def __call__(self, z: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate f."""
        return (multiply_rows(z, self.weight_t) + self.x).tanh_()

    def select(self, indices: Tensor) -> TanhMap:  # (A,)
        """The map of some samples."""
        return replace(self, x=self.x[indices])


def solve_tanh(weight_t: Tensor, x: Tensor) -> Tensor | None:  # (n, n), (B, n) -> (B, n)
    """The answer by forward iteration in float64; None if that does not settle."""
    z = torch.zeros_like(x)
    for _ in range(MOST_STEPS):
        previous, z = z, torch.tanh(z @ weight_t + x)
        if float((z - previous).abs().max()) <= SETTLED:
            return z
    return None


class Tanh(ProblemSpec):
    """A random layer that feeds back into itself.

    f(z) = tanh(W z + x),  W_ij ~ gain N(0, 1) / sqrt(n),  x_i ~ N(0, 1)
    """

    name: ClassVar[str] = "tanh"
    label: ClassVar[str] = "Random tanh layer"
    summary: ClassVar[str] = (
        "A layer of a neural network with random weights, fed its own output until nothing "
        "changes. With a small gain it settles quickly and forward iteration is hard to beat; "
        "raise the gain and it may never settle by itself."
    )

    batch_size: int = knob(
        16, "Independent samples that are solved side by side.",
        minimum=1, maximum=4096, typical=(1, 64), symbol="B",
    )  # fmt: skip
    size: int = knob(
        128, "Neurons in the layer.",
        minimum=1, maximum=4096, typical=(8, 512), symbol="n",
    )  # fmt: skip
    gain: float = knob(
        1.1, "Strength of the random weights; from about 1.4 on forward iteration often fails.",
        minimum=0.0, maximum=10.0, typical=(0.5, 1.7), symbol="g",
    )  # fmt: skip

    @property
    def num_elements(self) -> int:
        """The length n = size."""
        return self.size

    def build(self) -> Problem:
        """The map from z0 = 0; its answer where forward iteration finds it cheaply."""
        refuse_oversize(self, constants=4 * self.size**2)
        weight_t = normal(self.seed, self.size, self.size) * (self.gain / math.sqrt(self.size))
        x = normal(self.seed + 1, self.batch_size, self.size)
        weight_t, x = weight_t.to(self.torch_dtype), x.to(self.torch_dtype)
        cheap = self.batch_size * self.size**2 <= MOST_WORK
        z_star = solve_tanh(weight_t.double(), x.double()) if cheap else None
        f = TanhMap(pad_matrix(weight_t).to(self.torch_device), x.to(self.torch_device))
        return Problem(
            name=self.name, f=f, z0=torch.zeros_like(f.x),
            z_star=None if z_star is None else z_star.to(f.x),
        )  # fmt: skip
