"""The linear map f(z) = J z + c with a spectrum of your choice: everything about it is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from andersonn_core.problems.base import Problem, ProblemSpec
from andersonn_core.problems.common import (
    GOLDEN,
    multiply_rows,
    normal,
    pad_matrix,
    refuse_oversize,
)
from andersonn_core.specs import knob

NEAREST, FARTHEST = 1e-3, 0.05  # how far eigenvalues stay from 1, where no fixed point exists


@dataclass(frozen=True, eq=False)
class AffineMap:
    """f(z) = J z + c, the same J for all samples, another c for each."""

    jacobian_t: Tensor  # (m, m), transposed and padded
    offset: Tensor  # (B, n)

    def __call__(self, z: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate f."""
        return multiply_rows(z, self.jacobian_t) + self.offset

    def select(self, indices: Tensor) -> AffineMap:  # (A,)
        """The map of some samples."""
        return replace(self, offset=self.offset[indices])


class Affine(ProblemSpec):
    """A linear map with chosen eigenvalues in a seeded orthogonal basis.

    f(z) = Q (D + eta N) Q^T z + c,  D: the eigenvalues (2x2 blocks for pairs), N strictly upper.
    """

    name: ClassVar[str] = "affine"
    label: ClassVar[str] = "Linear map"
    summary: ClassVar[str] = (
        "The simplest map there is: a matrix times z plus a constant. You choose the matrix's "
        "eigenvalues; watch how each arrangement changes who wins."
    )

    size: int = knob(
        50, "Length of the vector z.",
        minimum=1, maximum=2048, typical=(2, 200), symbol="n",
    )  # fmt: skip
    spectrum: Literal["real", "alternating", "disc", "circle"] = knob(
        "real",
        "Where the eigenvalues lie: real from 0 to the radius, real of both signs, all over a "
        "disc, or on a circle.",
    )
    spectral_radius: float = knob(
        0.95, "Largest distance of an eigenvalue from 0; above 1 forward iteration diverges.",
        minimum=0.0, maximum=3.0, typical=(0.5, 1.5), symbol="rho",
    )  # fmt: skip
    nonnormality: float = knob(
        0.0, "How far the eigenvectors are from perpendicular; errors can grow before they shrink.",
        minimum=0.0, maximum=10.0, typical=(0.0, 2.0), symbol="eta",
    )  # fmt: skip

    @property
    def num_elements(self) -> int:
        """The length n = size."""
        return self.size

    def build(self) -> Problem:
        """The map from z0 = 0, with its exact answer, rate and eigenvalues."""
        refuse_oversize(self, constants=8 * self.size**2)
        eigenvalues = self.eigenvalues()
        offset = normal(self.seed + 1, self.batch_size, self.size).to(self.torch_dtype)
        jacobian = self._jacobian(eigenvalues).to(self.torch_dtype)
        identity = torch.eye(self.size, dtype=torch.float64)
        z_star = torch.linalg.solve(identity - jacobian.double(), offset.double().T).T
        f = AffineMap(pad_matrix(jacobian.T).to(self.torch_device), offset.to(self.torch_device))
        return Problem(
            name=self.name, f=f, z0=torch.zeros_like(f.offset), z_star=z_star.to(f.offset),
            contraction=float(eigenvalues.abs().max()), spectrum=eigenvalues,
        )  # fmt: skip

    def eigenvalues(self) -> Tensor:  # (n,) complex128
        """The eigenvalues, conjugate pairs side by side; those too near 1 are moved below it."""
        rho, n = self.spectral_radius, self.size
        if self.spectrum == "real":
            values = rho * torch.arange(1, n + 1, dtype=torch.float64) / n + 0j
        elif self.spectrum == "alternating":
            values = torch.linspace(-rho, rho, n, dtype=torch.float64) + 0j
        else:
            values = self._pairs()
        margin = min(max(abs(1 - rho), NEAREST), FARTHEST)
        return torch.where((1 - values).abs() < margin * (1 - 1e-9), 1 - margin + 0j, values)

    def _pairs(self) -> Tensor:  # (n,) complex128
        """Conjugate pairs; with n odd, one more eigenvalue at -rho."""
        num = self.size // 2
        index = torch.arange(num, dtype=torch.float64)
        if self.spectrum == "disc":
            radius = self.spectral_radius * ((index + 1) / max(num, 1)).sqrt()
            angle = math.pi * ((index + 0.5) * GOLDEN).frac()
        else:
            radius = torch.full_like(index, self.spectral_radius)
            angle = math.pi * (index + 0.5) / max(num, 1)
        upper = torch.polar(radius, angle)
        pairs = torch.stack((upper, upper.conj()), dim=1).reshape(-1)
        alone = torch.full((self.size % 2,), -self.spectral_radius, dtype=pairs.dtype)
        return torch.cat((pairs, alone))

    def _jacobian(self, eigenvalues: Tensor) -> Tensor:  # (n,) -> (n, n) float64
        n = self.size
        blocks = torch.diag(eigenvalues.real)
        first = torch.arange(0, n - 1, 2)
        blocks[first, first + 1] = -eigenvalues.imag[first]
        blocks[first + 1, first] = eigenvalues.imag[first]
        upper = normal(self.seed + 2, n, n).triu(2) / math.sqrt(n)  # above the blocks
        basis, _ = torch.linalg.qr(normal(self.seed, n, n))
        jacobian: Tensor = basis @ (blocks + self.nonnormality * upper) @ basis.T
        return jacobian
