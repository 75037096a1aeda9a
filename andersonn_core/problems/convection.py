"""Convection and diffusion by Jacobi's iteration: Poisson's equation in a wind, not symmetric."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from andersonn_core.problems.base import Problem, ProblemSpec
from andersonn_core.problems.common import refuse_oversize
from andersonn_core.problems.poisson import LARGEST_SPECTRUM, grid, show_field
from andersonn_core.specs import knob

MOST_WORK = 2**28  # N^4 up to which the answer is computed: about a tenth of a second


@dataclass(frozen=True, eq=False)
class ConvectionMap:
    """One Jacobi step: the four neighbors, those upstream with more weight, plus h^2 rhs / 4."""

    source: Tensor  # (B, N, N) h^2 rhs / 4
    skew: float  # a = c h / 2

    def __call__(self, z: Tensor) -> Tensor:  # (B, N, N) -> (B, N, N)
        """Evaluate f.

        Products are rounded before they are added: add_ with a factor rounds once or twice,
        depending on where in memory an element lies.
        """
        total = self.source.clone()
        upstream, downstream = z * ((1 + self.skew) / 4), z * ((1 - self.skew) / 4)
        total[:, 1:].add_(upstream[:, :-1])
        total[:, :-1].add_(downstream[:, 1:])
        total[:, :, 1:].add_(upstream[:, :, :-1])
        total[:, :, :-1].add_(downstream[:, :, 1:])
        return total

    def select(self, indices: Tensor) -> ConvectionMap:  # (A,)
        """The map of some samples."""
        return replace(self, source=self.source[indices])


def solve_convection(source: Tensor, skew: float) -> Tensor:  # (B, N, N) -> (B, N, N)
    """The fixed point by block elimination, one row of the grid after the other; float64.

    T z_i - (1 + a) z_(i-1) - (1 - a) z_(i+1) = 4 source_i,  T = tridiag(-(1 + a), 4, -(1 - a))
    """
    size = source.shape[-1]
    ones = torch.ones(max(size - 1, 0), dtype=source.dtype)
    block = 4 * torch.eye(size, dtype=source.dtype)
    block -= torch.diag((1 + skew) * ones, -1) + torch.diag((1 - skew) * ones, 1)
    inverse, row = torch.zeros_like(block), torch.zeros_like(source[:, 0].T)
    inverses, rows = [], []
    for right in 4 * source.permute(1, 2, 0):  # (N, B)
        inverse = torch.linalg.inv(block - (1 + skew) * (1 - skew) * inverse)
        row = inverse @ (right + (1 + skew) * row)
        inverses.append(inverse)
        rows.append(row)
    for i in reversed(range(size - 1)):
        rows[i] += (1 - skew) * inverses[i] @ rows[i + 1]
    return torch.stack(rows).permute(2, 0, 1)


class ConvectionDiffusion(ProblemSpec):
    """Heat in a wind: -Laplace u + c (u_x + u_y) = cos(b x) in the square, u = 0 on its edge.

    f(z)_ij = ((1 - a) (z_(i+1)j + z_i(j+1)) + (1 + a) (z_(i-1)j + z_i(j-1)) + h^2 rhs) / 4,
    a = c h / 2;  error factor per step in the long run: |1 - a^2|^1/2 cos(pi h). Some way beyond
    a = 1 errors grow by powers of ten first; on a fine grid rounding then keeps them large.
    """

    name: ClassVar[str] = "convection"
    label: ClassVar[str] = "Convection and diffusion"
    summary: ClassVar[str] = (
        "The warmth of a plate in a diagonal wind: Poisson's equation plus a flow that carries "
        "everything along. The stronger the flow, the less symmetric the map; where it far "
        "outweighs diffusion between two grid points, forward iteration diverges."
    )
    unused: ClassVar[dict[str, str]] = {
        "seed": "Heat and wind are given by formulas: nothing here is random.",
    }

    size: int = knob(
        64, "Grid points inside the square along each side.",
        minimum=1, maximum=1024, typical=(8, 128), symbol="N",
    )  # fmt: skip
    convection: float = knob(
        40.0, "Strength of the wind; 0 is Poisson's equation.",
        minimum=0.0, maximum=1000.0, typical=(0.0, 100.0), symbol="c",
    )  # fmt: skip

    @property
    def num_elements(self) -> int:
        """The length n = size^2."""
        return self.size**2

    def build(self) -> Problem:
        """The map from z0 = 0; its answer where block elimination finds it cheaply."""
        refuse_oversize(self)
        skew = self.convection / (2 * (self.size + 1))
        source = self._source().to(self.torch_dtype)
        cheap = self.size**4 <= MOST_WORK
        z_star = solve_convection(source.double(), skew) if cheap else None
        f = ConvectionMap(source.to(self.torch_device), skew)
        return Problem(
            name=self.name, f=f, z0=torch.zeros_like(f.source),
            z_star=None if z_star is None else z_star.to(f.source),
            contraction=math.sqrt(abs(1 - skew**2)) * math.cos(math.pi / (self.size + 1)),
            spectrum=self._spectrum(skew), picture=show_field,
        )  # fmt: skip

    def _source(self) -> Tensor:  # (B, N, N) float64
        """Heat h^2 cos(b x) / 4: the same everywhere for sample 0."""
        waves = torch.arange(self.batch_size, dtype=torch.float64)[:, None] * grid(self.size)
        across = torch.cos(waves) / (4 * (self.size + 1) ** 2)  # (B, N)
        return across[:, None, :].repeat(1, self.size, 1)

    def _spectrum(self, skew: float) -> Tensor | None:  # (N^2,) complex128
        if self.size > LARGEST_SPECTRUM:
            return None
        side = torch.cos(math.pi * grid(self.size))
        strength = torch.tensor(1 - skew**2 + 0j, dtype=torch.complex128).sqrt()
        return (strength * (side[:, None] + side[None, :]) / 2).flatten()
