"""Chandrasekhar's H-equation: light that is scattered in the atmosphere of a star.

Chandrasekhar, Radiative Transfer, Dover 1960; Kelley, Iterative Methods for Linear and Nonlinear
Equations, SIAM 1995.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from andersonn_core.problems.base import Problem, ProblemSpec
from andersonn_core.problems.common import (
    GOLDEN,
    multiply_rows,
    pad_matrix,
    refuse_oversize,
)
from andersonn_core.specs import knob

MOST_WORK = 2**27  # B n^3 up to which answer and rate are computed: some hundredths of a second
ROUNDS = 60  # each halves the error
SPREAD = 0.1  # samples b > 0 have an albedo at most so much (relatively) below the given one


@dataclass(frozen=True, eq=False)
class ChandrasekharMap:
    """f(z) = 1 / (1 - c K z),  K_ij = mu_i / (2 n (mu_i + mu_j)), element by element."""

    kernel_t: Tensor  # (m, m), transposed and padded
    albedo: Tensor  # (B, 1)

    def __call__(self, z: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate f."""
        scattered = multiply_rows(z, self.kernel_t).mul_(self.albedo)
        return (1 - scattered).reciprocal_()

    def select(self, indices: Tensor) -> ChandrasekharMap:  # (A,)
        """The map of some samples."""
        return replace(self, albedo=self.albedo[indices])


def solve_chandrasekhar(kernel: Tensor, albedo: Tensor) -> Tensor:  # (n, n), (B, 1) -> (B, n)
    """The physical solution in float64, by an equation that stays regular at albedo 1.

    1 / z = (1 - c)^1/2 + c K^T z holds at the fixed point, since K_ij + K_ji = 1 / 2n. The slopes
    of z -> 1 / ((1 - c)^1/2 + c K^T z) lie in [-1, 0] there: the mean with z halves the error.
    """
    z = torch.ones(len(albedo), len(kernel), dtype=kernel.dtype)
    for _ in range(ROUNDS):
        z = (z + 1 / ((1 - albedo).sqrt() + albedo * (z @ kernel))) / 2
    return z


def error_factor(kernel: Tensor, albedo: Tensor, z: Tensor) -> float:  # (n, n), (B, 1), (B, n)
    """The largest eigenvalue of f's Jacobian c diag(z^2) K at the fixed point, of all samples.

    K is diag(mu) times a symmetric matrix, so D^-1 J D is symmetric with D = z mu^1/2.
    """
    half = z * (torch.arange(z.shape[1], dtype=z.dtype) + 0.5).sqrt()
    similar = albedo[:, :, None] * z[:, :, None] ** 2 * kernel * half[:, None, :] / half[:, :, None]
    return float(torch.linalg.eigvalsh(similar)[:, -1].max())


class Chandrasekhar(ProblemSpec):
    """How bright an atmosphere looks from each angle, when it scatters a share c of its light.

    H(mu_i) = 1 / (1 - (c / 2n) sum_j mu_i H(mu_j) / (mu_i + mu_j)),  mu_i = (i - 1/2) / n
    """

    name: ClassVar[str] = "chandrasekhar"
    label: ClassVar[str] = "Chandrasekhar's H-equation"
    summary: ClassVar[str] = (
        "How bright a star's atmosphere looks from each angle. The more of its light is scattered "
        "instead of absorbed, the slower forward iteration; at albedo 1 its error shrinks only "
        "like one over the number of steps."
    )
    unused: ClassVar[dict[str, str]] = {
        "seed": "The equation is given by its albedo: nothing here is random.",
    }

    size: int = knob(
        200, "Angles at which the brightness is computed.",
        minimum=1, maximum=2048, typical=(10, 500), symbol="n",
    )  # fmt: skip
    albedo: float = knob(
        0.99,
        "Share of the light that is scattered; at 1 the Jacobian has the eigenvalue 1. Samples "
        "after the first have up to 10 % less.",
        minimum=0.0, maximum=1.0, typical=(0.5, 1.0), symbol="c",
    )  # fmt: skip

    @property
    def num_elements(self) -> int:
        """The length n = size."""
        return self.size

    def build(self) -> Problem:
        """The map from z0 = 1; its answer and rate where they are cheap."""
        refuse_oversize(self, constants=4 * self.size**2)
        angles = (torch.arange(self.size, dtype=torch.float64) + 0.5) / self.size
        kernel = angles[:, None] / (2 * self.size * (angles[:, None] + angles[None, :]))
        turns = (torch.arange(self.batch_size, dtype=torch.float64) * GOLDEN).frac()
        albedo = (self.albedo * (1 - SPREAD * turns))[:, None].to(self.torch_dtype)
        z_star, contraction = None, None
        if self.batch_size * self.size**3 <= MOST_WORK:
            z_star = solve_chandrasekhar(kernel, albedo.double())
            contraction = error_factor(kernel, albedo.double(), z_star)
        f = ChandrasekharMap(
            pad_matrix(kernel.T.to(self.torch_dtype)).to(self.torch_device),
            albedo.to(self.torch_device),
        )
        return Problem(
            name=self.name, f=f, z0=f.albedo.new_ones(self.batch_size, self.size),
            z_star=None if z_star is None else z_star.to(f.albedo), contraction=contraction,
        )  # fmt: skip
