"""The exercises of notebook 03: their checks, and solutions. Try before you read on!"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.functional import jvp

from andersonn_core import solve
from andersonn_core.cells import DenseCell

Map = Callable[[Tensor, Tensor], Tensor]
Tangent = Callable[[Map, Tensor, Tensor, Tensor], Tensor]
Penalty = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]

GAINS = {"a layer that contracts": 1.0, "a stiff layer": 1.5, "a layer that expands": 2.6}
INPUTS, WIDTH, BATCH = 3, 12, 5


def solution_tangent(f: Map, z: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """t = J t + (df/dx) w, solved by Anderson: (B, n) for z (B, n), x and w (B, k)."""
    _, pushed = jvp(lambda x: f(z, x), x, w)

    def step(t: Tensor) -> Tensor:  # (B, n) -> (B, n)
        product: Tensor = jvp(lambda z: f(z, x), z, t)[1]
        return product + pushed

    moved: Tensor = solve(step, torch.zeros_like(z), rtol=1e-10, max_iter=200).z
    return moved


def solution_penalty(f: Callable[[Tensor], Tensor], z: Tensor, e: Tensor) -> Tensor:
    """||J^T e||^2 / n of each sample, (B,), for z and e (B, n); with a graph of its own."""
    z = z.detach().requires_grad_()
    (product,) = torch.autograd.grad(f(z), z, e, create_graph=True)
    return product.square().sum(dim=1) / z.shape[1]


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and in words what is wrong with it."""

    passed: bool
    words: str

    def __str__(self) -> str:
        return self.words


# -- how the answer moves -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Case:
    """A layer at its equilibrium, and a direction of the input."""

    cell: DenseCell
    z: Tensor  # (B, n)
    x: Tensor  # (B, k)
    w: Tensor  # (B, k)

    @classmethod
    def of(cls, gain: float) -> _Case:
        generator = torch.Generator().manual_seed(3)
        cell = DenseCell(INPUTS, WIDTH).double()
        with torch.no_grad():
            for weight in cell.parameters():
                bound = WIDTH**-0.5
                weight.copy_(bound * (2 * torch.rand(weight.shape, generator=generator) - 1))
            cell.state.weight.mul_(gain)
        x, w = torch.randn(2, BATCH, INPUTS, generator=generator).double()
        zeros = torch.zeros(BATCH, WIDTH, dtype=torch.float64)
        with torch.no_grad():
            z = solve(lambda z: cell(z, x), zeros, rtol=1e-13, max_iter=500).z
        return cls(cell, z, x, w)

    def jacobians(self) -> tuple[Tensor, Tensor]:  # (B, n, n), (B, n)
        """J, and (df/dx) w."""
        of_z = torch.func.vmap(torch.func.jacrev(self.cell))(self.z, self.x)
        of_x = torch.func.vmap(torch.func.jacrev(self.cell, argnums=1))(self.z, self.x)
        return of_z.detach(), (of_x @ self.w[:, :, None])[:, :, 0].detach()


def check_tangent(tangent: Tangent) -> Verdict:
    """Compare the tangent of (f, z, x, w) with dense linear algebra on three layers."""
    for name, gain in GAINS.items():
        case = _Case.of(gain)
        given = (each.clone() for each in (case.z, case.x, case.w))
        words = _wrong_tangent(tangent(case.cell, *given), case)
        if words:
            return Verdict(False, f"Not yet. On {name}: {words}")
    return Verdict(True, "Right: so does the equilibrium move, on all three layers.")


def _wrong_tangent(t: Tensor, case: _Case) -> str:
    """One sentence, empty if t is the tangent."""
    if not isinstance(t, Tensor) or t.shape != case.z.shape:
        shape = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
        return f"a state of shape {tuple(case.z.shape)} is wanted, this is {shape}."
    J, pushed = case.jacobians()
    eye = torch.eye(WIDTH, dtype=J.dtype)
    exact = torch.linalg.solve(eye - J, pushed)
    if _close(t, exact, 1e-5):
        return ""
    mistakes = {
        "this is (df/dx) w alone: the state's move moves the state again.": pushed,
        "this is the solution with J transposed: that is the backward pass; "
        "here you go forward.": torch.linalg.solve((eye - J).mT, pushed),
        "the sign of J is wrong: t = J t + (df/dx) w.": torch.linalg.solve(eye + J, pushed),
        "one step of t = J t + (df/dx) w is made; go on until t is at rest.": (
            pushed + (J @ pushed[:, :, None])[:, :, 0]
        ),
    }
    for words, mistake in mistakes.items():
        if _close(t, mistake, 1e-5):
            return words
    off = _off(t, exact)
    if not off < 100 and torch.linalg.eigvals(J).abs().max() > 1:
        return "this runs away: forward iteration can't solve it here. Which method can?"
    return f"this differs from the tangent by {off:.2g} of its length."


def _close(one: Tensor, other: Tensor, rtol: float) -> bool:
    return _off(one, other) <= rtol


def _off(one: Tensor, other: Tensor) -> float:
    """How far one is from the other, as a part of it."""
    return float((one - other).detach().norm() / other.detach().norm())


# -- a softer loop --------------------------------------------------------------------------------


def check_penalty(penalty: Penalty) -> Verdict:
    """Compare the penalty of (f, z, e) and its gradient with the dense Jacobian's."""
    case = _Case.of(1.0)
    e = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(4)).double()
    weight = case.cell.state.weight
    found = penalty(lambda z: case.cell(z, case.x), case.z.clone(), e.clone())
    J = torch.func.vmap(torch.func.jacrev(case.cell))(case.z, case.x)
    exact = (e[:, None, :] @ J)[:, 0].square().sum(dim=1) / WIDTH  # (B,), with a graph
    words = _wrong_value(found, exact, J.detach(), e) or _wrong_gradient(found, exact, weight)
    if words:
        return Verdict(False, f"Not yet. {words}")
    return Verdict(True, "Right: the penalty, and a gradient that reaches the weights.")


def _wrong_value(found: Tensor, exact: Tensor, J: Tensor, e: Tensor) -> str:
    """One sentence, empty if the numbers are right."""
    if not isinstance(found, Tensor) or found.shape != exact.shape:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        return f"{BATCH} numbers are wanted, one for each sample; this is {shape}."
    if _close(found, exact, 1e-8):
        return ""
    mistakes = {
        "The sum of squares is right; divide it by n.": WIDTH * exact.detach(),
        "This is ||J e||^2 / n: as good a penalty, but J^T e was asked for.": (
            (J @ e[:, :, None])[:, :, 0].square().sum(dim=1) / WIDTH
        ),
        "This is e^T J^T e / n, an estimate of the trace of J: square J^T e.": (
            (e[:, None, :] @ J)[:, 0].mul(e).sum(dim=1) / WIDTH
        ),
    }
    for words, mistake in mistakes.items():
        if _close(found, mistake, 1e-8):
            return words
    return f"The values are off by {_off(found, exact):.2g}."


def _wrong_gradient(found: Tensor, exact: Tensor, weight: Tensor) -> str:
    """One sentence, empty if training with this penalty would change the weights rightly."""
    gradient = None
    if found.requires_grad:
        (gradient,) = torch.autograd.grad(found.sum(), weight, allow_unused=True)
    if gradient is None:
        return (
            "The values are right, but no gradient reaches the weights, so that training would "
            "not notice the penalty: which option of torch.autograd.grad keeps a graph?"
        )
    (wanted,) = torch.autograd.grad(exact.sum(), weight)
    return "" if _close(gradient, wanted, 1e-8) else "The values are right, their gradient is not."
