"""Entropic optimal transport by Sinkhorn's iteration: the cheapest way to move a heap of sand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from andersonn_core.problems.base import Problem, ProblemSpec
from andersonn_core.problems.common import refuse_oversize, uniform
from andersonn_core.specs import knob

MOST_WORK = 2**22  # B n^3 up to which the answer is computed: some tens of milliseconds
WARM_UP, MOST_NEWTON, SETTLED = 100, 20, 1e-12  # fewer rounds: Newton often starts too far away
FLOOR = 0.1  # share of each heap that is spread evenly, so that no place is empty


@dataclass(frozen=True, eq=False)
class SinkhornMap:
    """One round of Sinkhorn's iteration on the log scaling of the source, with its mean removed.

    v = log b - LSE_i(u_i - C_ij / eps);  f(u) = w - mean(w),  w = log a - LSE_j(v_j - C_ij / eps)

    Any constant can be added to a scaling; removing the mean makes the fixed point unique.
    """

    log_kernel: Tensor  # (n, n) -C / eps, symmetric
    log_source: Tensor  # (B, n) log a
    log_target: Tensor  # (B, n) log b

    def __call__(self, u: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate f."""
        new = self.log_source - self._log_sums(self.target_scaling(u))
        return new.sub_(new.mean(dim=1, keepdim=True))

    def select(self, indices: Tensor) -> SinkhornMap:  # (A,)
        """The map of some samples."""
        return replace(
            self, log_source=self.log_source[indices], log_target=self.log_target[indices]
        )

    def target_scaling(self, u: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """The log scaling v of the target that gives every place there its exact share."""
        return self.log_target - self._log_sums(u)

    def plan(self, u: Tensor) -> Tensor:  # (B, n) -> (B, n, n)
        """How much goes from place i to place j: exp(u_i + v_j - C_ij / eps)."""
        v = self.target_scaling(u)
        return (u[:, :, None] + v[:, None, :] + self.log_kernel).exp()

    def _log_sums(self, u: Tensor) -> Tensor:  # (B, n) -> (B, n)
        return torch.logsumexp(u[:, None, :] + self.log_kernel, dim=2)

    def jacobian(self, u: Tensor) -> Tensor:  # (B, n) -> (B, n, n)
        """The derivative of f but for the removal of the mean: a product of two softmaxes."""
        v = self.target_scaling(u)
        back = torch.softmax(u[:, None, :] + self.log_kernel, dim=2)
        return torch.softmax(v[:, None, :] + self.log_kernel, dim=2) @ back

    def to(self, kind: torch.device | torch.dtype) -> SinkhornMap:
        """The same map on another device or in another type."""
        return SinkhornMap(
            self.log_kernel.to(kind), self.log_source.to(kind), self.log_target.to(kind)
        )


def solve_sinkhorn(f: SinkhornMap) -> Tensor | None:  # (B, n) float64
    """The fixed point by Newton's method after some rounds of f; None if that does not settle."""
    u = torch.zeros_like(f.log_source)
    for _ in range(WARM_UP):
        u = f(u)
    identity = torch.eye(u.shape[1], dtype=u.dtype)
    for _ in range(MOST_NEWTON):
        g = f(u) - u
        if float(g.abs().max()) <= SETTLED * float(u.abs().max()):
            return u
        slope = f.jacobian(u)
        slope = slope - slope.mean(dim=1, keepdim=True)
        u = u + torch.linalg.solve(identity - slope, g)
    return None


def error_factor(f: SinkhornMap, u: Tensor) -> float:  # (B, n)
    """The largest eigenvalue of f's Jacobian at the fixed point, of all samples.

    diag(a)^1/2 J diag(a)^-1/2 is symmetric; its eigenvalue 1 (constants) is removed with the mean.
    """
    half = f.log_source / 2
    symmetric = f.jacobian(u) * (half[:, :, None] - half[:, None, :]).exp()
    return float(torch.linalg.eigvalsh(symmetric)[:, -2].max())


class Sinkhorn(ProblemSpec):
    """Two heaps of sand on a line; the plan that turns one into the other at least cost.

    minimize sum P_ij |x_i - x_j|^2 + eps P_ij log P_ij  over plans P with marginals a and b
    """

    name: ClassVar[str] = "sinkhorn"
    label: ClassVar[str] = "Sinkhorn's transport"
    summary: ClassVar[str] = (
        "How to move one heap of sand into the shape of another with the least work. The picture "
        "is the plan: a bright point at row i and column j says that sand goes from i to j. A "
        "smaller epsilon gives a sharper plan and a slower forward iteration."
    )

    size: int = knob(
        64, "Places on the line where sand can lie.",
        minimum=2, maximum=1024, typical=(16, 128), symbol="n",
    )  # fmt: skip
    epsilon: float = knob(
        0.005, "Blur of the plan: the weight of entropy against the cost of moving.",
        minimum=0.001, maximum=10.0, typical=(0.002, 0.2), symbol="eps", log=True,
    )  # fmt: skip

    @property
    def num_elements(self) -> int:
        """The length n = size."""
        return self.size

    def build(self) -> Problem:
        """The map from z0 = 0; its answer and rate where Newton's method finds them cheaply."""
        refuse_oversize(self, constants=4 * self.batch_size * self.size**2)
        places = (torch.arange(self.size, dtype=torch.float64) + 0.5) / self.size
        log_kernel = -((places[:, None] - places[None, :]) ** 2) / self.epsilon
        source, target = self._heaps(places).log().to(self.torch_dtype).unbind(dim=1)
        f = SinkhornMap(log_kernel.to(self.torch_dtype), source, target)
        z_star, contraction = None, None
        if self.batch_size * self.size**3 <= MOST_WORK:
            exact = f.to(torch.float64)
            z_star = solve_sinkhorn(exact)
            contraction = None if z_star is None else error_factor(exact, z_star)
        f = f.to(self.torch_device)
        return Problem(
            name=self.name, f=f, z0=torch.zeros_like(f.log_source),
            z_star=None if z_star is None else z_star.to(f.log_source), contraction=contraction,
            picture=f.plan,
        )  # fmt: skip

    def _heaps(self, places: Tensor) -> Tensor:  # (n,) -> (B, 2, n)
        """Per sample two heaps, each of two bell shapes and an even floor, each of sum 1."""
        draws = uniform(self.seed, self.batch_size, 2, 2, 2)
        centers = 0.15 + 0.7 * draws[..., 0, None]  # (B, 2, 2, 1)
        widths = 0.04 + 0.06 * draws[..., 1, None]
        shapes = torch.exp(-(((places - centers) / widths) ** 2) / 2).sum(dim=2)
        shapes = shapes / shapes.sum(dim=2, keepdim=True)
        return (1 - FLOOR) * shapes + FLOOR / self.size
