"""Poisson's equation on the unit square by Jacobi's iteration: stiff, and every number is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from andersonn_core.problems.base import Problem, ProblemSpec
from andersonn_core.problems.common import refuse_oversize
from andersonn_core.specs import knob

LARGEST_SPECTRUM = 64  # sides up to which all N^2 eigenvalues are listed


@dataclass(frozen=True, eq=False)
class PoissonMap:
    """One Jacobi step of the five-point stencil: the mean of four neighbors plus h^2 rhs / 4."""

    source: Tensor  # (B, N, N) h^2 rhs / 4

    def __call__(self, z: Tensor) -> Tensor:  # (B, N, N) -> (B, N, N)
        """Evaluate f."""
        return add_neighbor_mean(self.source.clone(), z)

    def select(self, indices: Tensor) -> PoissonMap:  # (A,)
        """The map of some samples."""
        return replace(self, source=self.source[indices])


def add_neighbor_mean(total: Tensor, z: Tensor) -> Tensor:  # (B, N, N), same -> (B, N, N)
    """Add the mean of the four neighbors to `total` in place; outside the square z is 0."""
    total[:, 1:].add_(z[:, :-1], alpha=0.25)
    total[:, :-1].add_(z[:, 1:], alpha=0.25)
    total[:, :, 1:].add_(z[:, :, :-1], alpha=0.25)
    total[:, :, :-1].add_(z[:, :, 1:], alpha=0.25)
    return total


def grid(size: int) -> Tensor:  # (N,) float64
    """The interior points h, 2h, ..., 1 - h with h = 1 / (size + 1)."""
    return torch.arange(1, size + 1, dtype=torch.float64) / (size + 1)


def laplacian_eigenvalues(size: int) -> Tensor:  # (N, N) float64
    """Eigenvalues of the five-point stencil of -Laplace.

    (4 - 2 cos(i pi h) - 2 cos(j pi h)) / h^2,  h = 1 / (size + 1)
    """
    side = 2 - 2 * torch.cos(math.pi * grid(size))
    return (side[:, None] + side[None, :]) * (size + 1) ** 2


def solve_poisson(rhs: Tensor, shift: Tensor | float = 0.0) -> Tensor:  # (B, N, N) -> (B, N, N)
    """Solve (-Laplace_h - shift) u = rhs exactly, by two sine transforms; float64."""
    size = rhs.shape[-1]
    waves = _sine_transform(_sine_transform(rhs).mT) / (laplacian_eigenvalues(size) - shift)
    return _sine_transform(_sine_transform(waves).mT) / (2 * (size + 1)) ** 2


def _sine_transform(u: Tensor) -> Tensor:  # (..., N) -> (..., N)
    """S_k = 2 sum_j u_j sin(pi j k / (N + 1)), from the Fourier transform of the odd extension."""
    zero = u.new_zeros(*u.shape[:-1], 1)
    odd = torch.cat((zero, u, zero, -u.flip(-1)), dim=-1)
    waves: Tensor = torch.fft.rfft(odd).imag[..., 1:-1]
    return -waves


def show_field(z: Tensor) -> Tensor:  # (B, N, N) -> (B, N, N)
    """The state is its own picture: rows are y, columns are x."""
    return z


class Poisson(ProblemSpec):
    """A membrane under a load: -Laplace u = sin((3 + b) x) exp(y) in the square, u = 0 on its edge.

    f(z) = (sum of the four neighbors + h^2 rhs) / 4;  error factor per step: cos(pi h)
    """

    name: ClassVar[str] = "poisson"
    label: ClassVar[str] = "Poisson's equation"
    summary: ClassVar[str] = (
        "The shape of a loaded membrane: each point becomes the mean of its four neighbors plus "
        "the load. News travels one point per step, so forward iteration needs thousands of steps "
        "on a fine grid; Anderson needs about a hundred."
    )
    unused: ClassVar[dict[str, str]] = {
        "seed": "The load is a given formula: nothing here is random.",
    }

    size: int = knob(
        64, "Grid points inside the square along each side.",
        minimum=1, maximum=1024, typical=(8, 128), symbol="N",
    )  # fmt: skip

    @property
    def num_elements(self) -> int:
        """The length n = size^2."""
        return self.size**2

    def build(self) -> Problem:
        """The map from z0 = 0, with the exact solution of the discrete equations."""
        refuse_oversize(self)
        size = self.size
        points = grid(size)
        waves = 3 + torch.arange(self.batch_size, dtype=torch.float64)  # (B,)
        across = torch.sin(waves[:, None] * points)  # (B, N)
        rhs = torch.exp(points)[None, :, None] * across[:, None, :]  # (B, N, N)
        source = (rhs / (4 * (size + 1) ** 2)).to(self.torch_dtype)
        z_star = solve_poisson(source.double() * (4 * (size + 1) ** 2))
        f = PoissonMap(source.to(self.torch_device))
        return Problem(
            name=self.name, f=f, z0=torch.zeros_like(f.source), z_star=z_star.to(f.source),
            contraction=math.cos(math.pi / (size + 1)), spectrum=self._spectrum(),
            picture=show_field,
        )  # fmt: skip

    def _spectrum(self) -> Tensor | None:  # (N^2,) complex128
        if self.size > LARGEST_SPECTRUM:
            return None
        return (1 - laplacian_eigenvalues(self.size) / (4 * (self.size + 1) ** 2)).flatten() + 0j
