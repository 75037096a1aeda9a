"""The shared tables: methods to run, maps with known answers, maps that misbehave on purpose.

Every builder returns a `Case`: a map, a start and, where it is known, the answer. The state is
(B, n) unless the builder says otherwise; sample 0 is the one that misbehaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from andersonn_core import IDR, Anderson, Broyden, Picard, ShortRecurrence, SolveResult, solve
from andersonn_core.methods import MethodSpec
from andersonn_core.problems import (
    PROBLEMS,
    Affine,
    Bratu,
    Chandrasekhar,
    ConvectionDiffusion,
    DigitsDEQ,
    Lasso,
    Newton,
    PageRank,
    Poisson,
    ProblemSpec,
    Rotation,
    Sinkhorn,
    Tanh,
    ValueIteration,
)

FixedPointMap = Callable[[Tensor], Tensor]

# one small spec of every family: a test that runs over all of them takes milliseconds each
SMALL: dict[str, ProblemSpec] = {
    "digits_deq": DigitsDEQ(batch_size=3),
    "poisson": Poisson(size=12, batch_size=3),
    "bratu": Bratu(size=12, batch_size=3),
    "convection": ConvectionDiffusion(size=12, batch_size=3),
    "tanh": Tanh(size=24, batch_size=3),
    "affine": Affine(size=20, batch_size=3),
    "chandrasekhar": Chandrasekhar(size=24, batch_size=3),
    "lasso": Lasso(size=30, rows=12, batch_size=3),
    "value_iteration": ValueIteration(size=24, batch_size=3),
    "pagerank": PageRank(size=40, batch_size=3),
    "rotation": Rotation(size=2, batch_size=3),
    "sinkhorn": Sinkhorn(size=20, epsilon=0.02, batch_size=3),
    "newton": Newton(size=8, batch_size=3),
}
assert list(SMALL) == list(PROBLEMS)

METHODS_TO_RUN = [
    Picard(),
    Anderson(),
    Anderson(least_squares="qr", restart="never"),
    Anderson(least_squares="residuals"),
    Anderson(window=6, restart="deflated"),
    Anderson(window=6, restart="deflated", least_squares="residuals"),
    Anderson(window=10, restart="auto"),
    Anderson(window=6, restart="auto", least_squares="residuals"),
    ShortRecurrence(),
    IDR(shadow=4),
    Broyden(),
]
every_method = pytest.mark.parametrize(
    "method", METHODS_TO_RUN, ids=[f"{method.name}{k}" for k, method in enumerate(METHODS_TO_RUN)]
)

# columns of a history that hold one float per evaluation and sample
HISTORY_ROWS = (
    "relative_residual", "residual", "gain", "weight_norm", "condition", "depth", "mixing",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A map, its start and its answer, if there is one."""

    f: FixedPointMap
    z0: Tensor  # (B, n)
    z_star: Tensor | None = None  # (B, n)


class Counter:
    """A map that counts its calls."""

    def __init__(self, f: FixedPointMap = torch.cos) -> None:
        self.f, self.calls = f, 0

    def __call__(self, z: Tensor) -> Tensor:
        self.calls += 1
        return self.f(z)


class Witness:
    """A map that remembers every point at which it was evaluated."""

    def __init__(self, f: FixedPointMap) -> None:
        self.f = f
        self.points: list[Tensor] = []
        self.values: list[Tensor] = []

    def __call__(self, z: Tensor) -> Tensor:
        value = self.f(z)
        self.points.append(z.clone())
        self.values.append(value.clone())
        return value


class Scripted:
    """A map that counts its evaluations, from 1, and does something else at some of them."""

    def __init__(self, f: FixedPointMap, act: Callable[[int, Tensor], Tensor]) -> None:
        """`act(k, f(z))` replaces the value of evaluation k."""
        self.f, self.act, self.num_evals = f, act, 0

    def __call__(self, z: Tensor) -> Tensor:
        self.num_evals += 1
        return self.act(self.num_evals, self.f(z))


class MapError(Exception):
    """What a map of this table raises of its own."""


def iterates(
    f: FixedPointMap, z0: Tensor, method: MethodSpec, **knobs: Any
) -> tuple[Tensor, SolveResult]:
    """Every point at which the map was evaluated, (K, B, ...), and the result."""
    points: list[Tensor] = []
    result = solve(f, z0, method, on_step=lambda step: points.append(step.z().clone()), **knobs)
    return torch.stack(points), result


def recomputed(f: FixedPointMap, z: Tensor) -> Tensor:  # (B, ...) -> (B,)
    """Relative residual of each sample of a batched state, without any code of the package."""
    value = f(z).flatten(1).double()
    return (value - z.flatten(1).double()).norm(dim=1) / value.norm(dim=1)


def same(ours: Tensor, theirs: Tensor) -> None:
    """Assert: equal bit for bit, NaN included."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


# maps with known answers


def contraction(batch: int = 4, n: int = 10, dtype: torch.dtype = torch.float64) -> Case:
    """An affine map of spectral radius 0.9: everything converges."""
    name = str(dtype).removeprefix("torch.")
    problem = Affine(size=n, spectral_radius=0.9, batch_size=batch, dtype=name).build()
    return Case(problem.f, problem.z0, problem.z_star)


def expansion(n: int = 10, batch: int = 1, dtype: torch.dtype = torch.float64) -> Case:
    """An affine map of spectral radius 1.5: forward iteration diverges, window >= n solves it."""
    name = str(dtype).removeprefix("torch.")
    problem = Affine(
        size=n, spectrum="disc", spectral_radius=1.5, batch_size=batch, dtype=name
    ).build()
    return Case(problem.f, problem.z0, problem.z_star)


def tanh_layer(n: int = 30, batch: int = 1) -> Case:
    """A tanh layer of gain 1 in float64: nonlinear, and everything converges."""
    problem = Tanh(size=n, batch_size=batch, gain=1.0, dtype="float64").build()
    return Case(problem.f, problem.z0, problem.z_star)


def secant(dtype: torch.dtype = torch.float64) -> Case:
    """cos in one dimension: Anderson with window 1 is the secant method (0.739...)."""
    answer = torch.full((1, 1), 0.7390851332151607, dtype=dtype)
    return Case(torch.cos, torch.ones(1, 1, dtype=dtype), answer)


def constant(batch: int = 2, n: int = 3) -> Case:
    """f(z) = c: the second evaluation is exact, and so is every difference column afterwards."""
    c = torch.arange(1.0, batch * n + 1).reshape(batch, n)
    return Case(lambda z: c + 0 * z, torch.zeros(batch, n), c)


def scaled(case: Case, factor: float) -> Case:
    """The same map in other units: s f(z / s)."""
    answer = None if case.z_star is None else factor * case.z_star
    return Case(lambda z: factor * case.f(z / factor), factor * case.z0, answer)


# exact stops and degenerate histories


def stationary(batch: int = 2, n: int = 3) -> Case:
    """f(z) = z: every point is a fixed point, the first evaluation already converges."""
    z0 = torch.arange(1.0, batch * n + 1).reshape(batch, n)
    return Case(lambda z: z.clone(), z0, z0)


def parallel_columns(n: int = 6, dtype: torch.dtype = torch.float64) -> Case:
    """f(z) = z / 2 + c: all differences lie on one line, one column solves it exactly."""
    c = torch.arange(1.0, n + 1, dtype=dtype)[None]
    return Case(lambda z: 0.5 * z + c, torch.zeros(1, n, dtype=dtype), 2 * c)


def zero_columns(step: float = 1.0, target: float = 20.0) -> Case:
    """f(z) = min(z + 1, 20): residuals do not change for a while, so their differences are zero."""
    return Case(
        lambda z: (z + step).clamp(max=target), torch.zeros(1, 1), torch.full((1, 1), target)
    )


def no_fixed_point() -> Case:
    """f(z) = z + 1: the residual is 1 everywhere."""
    return Case(lambda z: z + 1, torch.zeros(1, 2))


def circling(batch: int = 4) -> Case:
    """Sample 0 runs round a limit cycle for ever under forward iteration, the others converge.

    In the plane, sample 0 turns by 1 radian about (3, 3) at a distance r -> sqrt(r): the circle
    r = 1 attracts, its center, the only fixed point, repels. The others: f(z) = z / 2 + (1, 1).
    """
    cosine, sine = math.cos(1.0), math.sin(1.0)
    turn = torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float64)

    def f(z: Tensor) -> Tensor:
        arm = z[:1] - 3
        circled = 3 + (arm @ turn) / arm.norm(dim=1, keepdim=True).sqrt()
        return torch.cat((circled, 0.5 * z[1:] + 1))

    z0 = torch.ones(batch, 2, dtype=torch.float64)
    return Case(f, z0, 2 * z0 + torch.tensor([1.0] + [0.0] * (batch - 1)).double()[:, None])


# maps that leave the numbers


def nan_at(evaluation: int, batch: int = 4, sample: int = 0) -> Case:
    """`contraction`, but one sample turns NaN at one evaluation."""
    return _spoiled(evaluation, batch, sample, math.nan)


def inf_at(evaluation: int, batch: int = 4, sample: int = 0) -> Case:
    """`contraction`, but one sample turns infinite at one evaluation."""
    return _spoiled(evaluation, batch, sample, math.inf)


def _spoiled(evaluation: int, batch: int, sample: int, value: float) -> Case:
    case = contraction(batch)

    def act(k: int, f_z: Tensor) -> Tensor:
        if k == evaluation:
            f_z = f_z.clone()
            f_z[sample] = value
        return f_z

    return Case(Scripted(case.f, act), case.z0, case.z_star)


def overflowing(dtype: torch.dtype = torch.float32) -> Case:
    """f(z) = z^2: forward iteration overflows from (2, 3) and reaches 0 exactly from (0.1, 0.2)."""
    return Case(lambda z: z.square(), torch.tensor([[2.0, 3.0], [0.1, 0.2]], dtype=dtype))


def exploding(factor: float = 1e3) -> Case:
    """f(z) = factor z + 1: grows beyond a million times its start long before it overflows."""
    answer = torch.full((1, 2), 1 / (1 - factor), dtype=torch.float64)
    return Case(lambda z: factor * z + 1, torch.zeros(1, 2, dtype=torch.float64), answer)


# maps that break the contract


def raising_at(evaluation: int) -> Case:
    """`contraction`, but evaluation k raises MapError."""

    def act(k: int, f_z: Tensor) -> Tensor:
        if k == evaluation:
            raise MapError(f"evaluation {k} failed")
        return f_z

    case = contraction()
    return Case(Scripted(case.f, act), case.z0, case.z_star)


def changing_shape() -> Case:
    """The value has one element more than the state."""
    return Case(lambda z: torch.cat((z, z[:, :1]), dim=1), torch.ones(2, 3))


def changing_batch() -> Case:
    """The value has one sample less than the state."""
    return Case(lambda z: z[1:], torch.ones(2, 3))


def changing_dtype() -> Case:
    """The value has another floating-point type than the state."""
    return Case(lambda z: z.double(), torch.ones(2, 3))


def changing_device() -> Case:
    """The value lies on another device than the state."""
    return Case(lambda z: z.to("meta"), torch.ones(2, 3))


def changing_type() -> Case:
    """The value is no tensor."""
    return Case(lambda z: z.tolist(), torch.ones(2, 3))  # type: ignore[arg-type,return-value]


# the maps of notebooks/08_failure_museum


def creeping(unit: float, n: int = 20) -> Case:
    """f(z) = z + rate (unit - z), rates from 1 to 0.001: one problem, whatever the unit."""
    rate = torch.logspace(0, -3, n, dtype=torch.float64)
    answer = torch.full((1, n), unit, dtype=torch.float64)
    return Case(lambda z: z + rate * (unit - z), 0 * answer, answer)


def answered(device: str = "cpu") -> Case:
    """f(z) = factor z + 1: the second point of sample 0 is exact, sample 1 goes on."""
    factors = torch.tensor([[0.0, 0.0], [0.9, 0.5]], dtype=torch.float64, device=device)
    return Case(lambda z: factors * z + 1, 0 * factors, 1 / (1 - factors))


def roots() -> Case:
    """f(z) = sqrt(a - z) from 0: the second value of sample 0, a = 0.2, is NaN."""
    a = torch.tensor([[0.2], [2.0], [3.0], [6.0]], dtype=torch.float64)
    return Case(lambda z: (a - z).sqrt(), 0 * a, (a + 0.25).sqrt() - 0.5)


def growing() -> Case:
    """f(z) = 1.5 z + 1 in float32: at evaluation 106 ||f(z)|| overflows, ||f(z) - z|| does not."""
    start = torch.zeros(1, 4)
    return Case(lambda z: 1.5 * z + 1, start, start - 2)


def waves() -> Case:
    """f(z) = 1 + 2 sin 2z: Anderson with window 1 comes close in 10 evaluations, then goes away."""
    return Case(lambda z: 1 + 2 * torch.sin(2 * z), torch.tensor([[0.5, 1.0]]).double())


CONVERGING: dict[str, Callable[[], Case]] = {
    "contraction": contraction,
    "secant": secant,
    "constant": constant,
    "stationary": stationary,
    "parallel_columns": parallel_columns,
    "zero_columns": zero_columns,
}
LEAVING: dict[str, Callable[[], Case]] = {
    "nan_at_1": lambda: nan_at(1),
    "nan_at_4": lambda: nan_at(4),
    "inf_at_4": lambda: inf_at(4),
    "overflowing": overflowing,
    "exploding": exploding,
}
BREAKING: dict[str, Callable[[], Case]] = {
    "shape": changing_shape,
    "batch": changing_batch,
    "dtype": changing_dtype,
    "device": changing_device,
    "type": changing_type,
}
