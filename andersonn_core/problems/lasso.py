"""The lasso by ISTA: a sparse vector from fewer measurements than it has numbers.

Beck and Teboulle, SIAM J. Imaging Sciences 2 (2009).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from andersonn_core.problems.base import Problem, ProblemSpec
from andersonn_core.problems.common import (
    multiply_rows,
    normal,
    pad_matrix,
    refuse_oversize,
    uniform,
)
from andersonn_core.specs import knob

SPARSITY = 15  # one in so many numbers of the true vector is not zero
NOISE = 0.01  # standard deviation of a measurement's error
MOST_WORK = 2**21  # B n^2 up to which the answer is computed: at most about half a second
ROUNDS, STEPS, SETTLED = 20, 100, 1e-14  # of the search for the answer's signs


@dataclass(frozen=True, eq=False)
class LassoMap:
    """f(z) = soft(S z + p, t) with S = I - A^T A / L, p = A^T b / L and t = lambda / L.

    soft(u, t) moves u by t toward 0, and to 0 where |u| <= t.
    """

    step: Tensor  # (m, m) S, symmetric and padded
    pull: Tensor  # (B, n)
    threshold: Tensor  # (B, 1)

    def __call__(self, z: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate f."""
        return shrink(multiply_rows(z, self.step) + self.pull, self.threshold)

    def select(self, indices: Tensor) -> LassoMap:  # (A,)
        """The map of some samples."""
        return replace(self, pull=self.pull[indices], threshold=self.threshold[indices])

    def to(self, kind: torch.device | torch.dtype) -> LassoMap:
        """The same map on another device or in another type."""
        return LassoMap(self.step.to(kind), self.pull.to(kind), self.threshold.to(kind))


def shrink(u: Tensor, threshold: Tensor) -> Tensor:  # (B, n), (B, 1) -> (B, n)
    """soft(u, threshold)."""
    return u - u.clamp(-threshold, threshold)


def solve_lasso(f: LassoMap) -> Tensor | None:  # (B, n) float64
    """The fixed point by FISTA, restarted until its signs are right; None if they never are."""
    z = torch.zeros_like(f.pull)
    for _ in range(ROUNDS):
        ahead = z
        for step in range(STEPS):
            previous, z = z, f(ahead)
            ahead = z + step / (step + 3) * (z - previous)
        exact = solve_pieces(f, z.sign())
        if float((f(exact) - exact).abs().max()) <= SETTLED * float(z.abs().max()):
            return exact
    return None


def solve_pieces(f: LassoMap, signs: Tensor) -> Tensor:  # (B, n) -> (B, n)
    """The fixed points of the linear pieces of f on which its values have these signs."""
    exact = torch.zeros_like(signs)
    for sample, (places, slope) in enumerate(pieces(f, signs)):
        right = f.pull[sample, places] - f.threshold[sample] * signs[sample, places]
        stays = torch.eye(len(places), dtype=slope.dtype) - slope
        exact[sample, places] = torch.linalg.solve_ex(stays, right)[0]
    return exact


def pieces(f: LassoMap, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:  # (B, n)
    """Per sample where its values are not 0, (S,), and the Jacobian there, (S, S); else it is 0."""
    for row in values:
        places = row.nonzero()[:, 0]
        yield places, f.step[places][:, places]


def error_factor(f: LassoMap, z_star: Tensor) -> float:  # (B, n)
    """The largest eigenvalue of f's Jacobian at the fixed point, of all samples."""
    slopes = [slope for places, slope in pieces(f, z_star) if len(places)]
    return max((float(torch.linalg.eigvalsh(slope)[-1]) for slope in slopes), default=0.0)


class Lasso(ProblemSpec):
    """The sparsest explanation of some measurements b = A x + noise.

    minimize |A z - b|^2 / 2 + lambda |z|_1;  f(z) = soft(z - A^T (A z - b) / L, lambda / L) with
    A_ij ~ N(0, 1) / sqrt(rows), L = |A|_2^2, lambda = penalty max|A^T b|
    """

    name: ClassVar[str] = "lasso"
    label: ClassVar[str] = "Lasso by ISTA"
    summary: ClassVar[str] = (
        "A vector of mostly zeros from fewer measurements than it has numbers: a gradient step, "
        "then everything small is set to zero. The map is piecewise linear; watch Anderson race "
        "once it has found out which numbers are zero."
    )

    size: int = knob(
        300, "Numbers to be found; one in 15 is not zero.",
        minimum=1, maximum=1024, typical=(30, 500), symbol="n",
    )  # fmt: skip
    rows: int = knob(
        100, "Measurements.",
        minimum=1, maximum=1024, typical=(10, 300),
    )  # fmt: skip
    penalty: float = knob(
        0.1, "Price of numbers that are not zero, as a fraction of the price at which all are.",
        minimum=0.0, exclusive_minimum=True, maximum=1.0, typical=(0.01, 0.5), log=True,
    )  # fmt: skip

    @property
    def num_elements(self) -> int:
        """The length n = size."""
        return self.size

    def build(self) -> Problem:
        """The map from z0 = 0; its answer and rate where FISTA finds them cheaply."""
        refuse_oversize(self, constants=4 * self.size * (self.size + self.rows))
        f = self._map().to(self.torch_dtype)
        z_star, contraction = None, None
        if self.batch_size * self.size**2 <= MOST_WORK:
            exact = f.to(torch.float64)
            z_star = solve_lasso(exact)
            contraction = None if z_star is None else error_factor(exact, z_star)
        f = f.to(self.torch_device)
        return Problem(
            name=self.name, f=f, z0=torch.zeros_like(f.pull),
            z_star=None if z_star is None else z_star.to(f.pull), contraction=contraction,
        )  # fmt: skip

    def _map(self) -> LassoMap:  # float64
        matrix = normal(self.seed, self.rows, self.size) / math.sqrt(self.rows)
        steepness = float(torch.linalg.matrix_norm(matrix, 2)) ** 2  # L
        pull = (self._measurements(matrix) @ matrix) / steepness
        step = torch.eye(self.size, dtype=matrix.dtype) - matrix.T @ matrix / steepness
        threshold = self.penalty * pull.abs().amax(dim=1, keepdim=True)
        return LassoMap(pad_matrix(step), pull, threshold)

    def _measurements(self, matrix: Tensor) -> Tensor:  # (rows, n) -> (B, rows)
        """B = A x + noise: x is normal at the places that draw the lowest numbers, else 0."""
        lots = uniform(self.seed + 1, self.batch_size, self.size).argsort(dim=1).argsort(dim=1)
        truth = normal(self.seed + 2, self.batch_size, self.size)
        truth[lots >= max(1, self.size // SPARSITY)] = 0.0
        return truth @ matrix.T + NOISE * normal(self.seed + 3, self.batch_size, self.rows)
