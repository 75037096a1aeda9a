"""Bratu's equation: Poisson's membrane with a load that grows with the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from andersonn_core.problems.base import Problem, ProblemSpec
from andersonn_core.problems.common import GOLDEN, refuse_oversize
from andersonn_core.problems.poisson import (
    add_neighbor_mean,
    laplacian_eigenvalues,
    show_field,
    solve_poisson,
)
from andersonn_core.specs import knob

MOST_WORK = 2**15  # B N^2 up to which the answer is computed: at most some tenths of a second
MOST_STEPS = 300
SETTLED = 1e-13
SPREAD = 0.1  # samples b > 0 have a lambda at most so much (relatively) below the given one


@dataclass(frozen=True, eq=False)
class BratuMap:
    """One Jacobi step: (sum of the four neighbors + h^2 lambda exp(z)) / 4."""

    factor: Tensor  # (B, 1, 1) h^2 lambda / 4

    def __call__(self, z: Tensor) -> Tensor:  # (B, N, N) -> (B, N, N)
        """Evaluate f."""
        return add_neighbor_mean(z.exp().mul_(self.factor), z)

    def select(self, indices: Tensor) -> BratuMap:  # (A,)
        """The map of some samples."""
        return replace(self, factor=self.factor[indices])


def solve_bratu(strengths: Tensor, size: int) -> Tensor | None:  # (B, 1, 1) -> (B, N, N)
    """The lower solution in float64, by direct solves with a shift that mimics the source's growth.

    (-Laplace_h - s) u_new = lambda exp(u) - s u;  None where this does not settle: beyond the
    largest lambda (6.808 on a fine grid) there is no solution.
    """
    u = torch.zeros(strengths.shape[0], size, size, dtype=torch.float64)
    for _ in range(MOST_STEPS):
        source = strengths * u.exp()
        shift = _shift(source)
        previous, u = u, solve_poisson(source - shift * u, shift)
        change = float((u - previous).abs().max())
        if change <= SETTLED:
            return u
        if not math.isfinite(change):
            break
    return None


def error_factor(z_star: Tensor, strengths: Tensor) -> float:  # (B, N, N), (B, 1, 1)
    """1 - h^2 mu / 4, mu the smallest eigenvalue of K = -Laplace_h - lambda exp(z*) of any sample.

    Preconditioned inverse iteration: v <- v - (-Laplace_h - s)^-1 (K v - mu v), mu = v.Kv / v.v
    """
    source = strengths * z_star.exp()
    shift, scale = _shift(source), 4 * (z_star.shape[-1] + 1) ** 2
    v, mu = z_star, torch.zeros_like(strengths)
    for _ in range(MOST_STEPS):
        stiff = scale * (v - add_neighbor_mean(torch.zeros_like(v), v)) - source * v
        previous, mu = mu, (v * stiff).sum((1, 2), True) / v.square().sum((1, 2), True)
        if torch.allclose(mu, previous, rtol=1e-9, atol=0.0):
            break
        v = v - solve_poisson(stiff - mu * v, shift)
    return 1 - float(mu.min()) / scale


def _shift(source: Tensor) -> Tensor:  # (B, N, N) -> (B, 1, 1)
    """The middle of the source, kept below the stencil's smallest eigenvalue."""
    middle = (source.amin((1, 2), True) + source.amax((1, 2), True)) / 2
    return middle.clamp(max=0.8 * float(laplacian_eigenvalues(source.shape[-1])[0, 0]))


class Bratu(ProblemSpec):
    """A solid that heats itself: -Laplace u = lambda exp(u) in the square, u = 0 on its edge.

    f(z) = (sum of the four neighbors + h^2 lambda exp(z)) / 4
    """

    name: ClassVar[str] = "bratu"
    label: ClassVar[str] = "Bratu's equation"
    summary: ClassVar[str] = (
        "The temperature of a solid whose own reaction heats it: the hotter, the faster. Near the "
        "largest strength that still has a steady state every method slows down; watch how much."
    )
    unused: ClassVar[dict[str, str]] = {
        "seed": "The equation is given by its strength: nothing here is random.",
    }

    size: int = knob(
        64, "Grid points inside the square along each side.",
        minimum=2, maximum=1024, typical=(8, 128), symbol="N",
    )  # fmt: skip
    lambda_: float = knob(
        6.0,
        "Strength of the reaction; above about 6.808 (less on a coarse grid) it explodes. Samples "
        "after the first have up to 10 % less.",
        minimum=0.0, exclusive_minimum=True, maximum=6.8, typical=(1.0, 6.8), symbol="lambda",
    )  # fmt: skip

    @property
    def num_elements(self) -> int:
        """The length n = size^2."""
        return self.size**2

    def build(self) -> Problem:
        """The map from z0 = 0; its answer and rate where a direct solver finds them cheaply."""
        refuse_oversize(self)
        scale = 4 * (self.size + 1) ** 2
        turns = (torch.arange(self.batch_size, dtype=torch.float64) * GOLDEN).frac()
        strengths = self.lambda_ * (1 - SPREAD * turns)[:, None, None]  # (B, 1, 1)
        factor = (strengths / scale).to(self.torch_dtype)
        strengths = factor.double() * scale  # what the map uses after rounding
        cheap = self.batch_size * self.num_elements <= MOST_WORK
        z_star = solve_bratu(strengths, self.size) if cheap else None
        factor = factor.to(self.torch_device)
        return Problem(
            name=self.name, f=BratuMap(factor),
            z0=factor.new_zeros(self.batch_size, self.size, self.size),
            z_star=None if z_star is None else z_star.to(factor),
            contraction=None if z_star is None else error_factor(z_star, strengths),
            picture=show_field,
        )  # fmt: skip
