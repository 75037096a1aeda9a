"""Gradients through an equilibrium: exact ones and cheaper ones, one spec each.

Each takes what the forward solve found and returns the same values with a graph.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from andersonn_core.deq.adjoint import Adjoint, AdjointMap, attach, graft
from andersonn_core.deq.sameness import check_residual
from andersonn_core.deq.secants import transposed_step
from andersonn_core.deq.tape import TapedMap
from andersonn_core.deq.unrolling import check_unrollable, replay, warn_if_elsewhere
from andersonn_core.methods import Anderson, MethodSpec
from andersonn_core.results import SolveResult
from andersonn_core.specs import KnobError, Spec, knob


@dataclass(frozen=True)
class Found:
    """What the forward solve found, in rows (B, n)."""

    taped: TapedMap  # f; may hold the tape at z already
    z: Tensor  # (B, n) the answer
    start: Tensor  # (B, n) z0, with its graph
    method: MethodSpec
    result: SolveResult
    state: Any  # the method's workspace after the solve, where the gradient reads it
    solve_adjoint: Callable[[AdjointMap, Tensor], Tensor]

    @property
    def half(self) -> bool:
        """Whether the cell computes in half precision."""
        return self.taped.f.half

    def attach(self, adjoint: Adjoint) -> Tensor:  # (B, n)
        """The answer with the gradient that `adjoint` finds."""
        return attach(self.taped, self.z, adjoint, self.check)

    def check(self, f_z: Tensor) -> None:  # (B, n)
        """Raise RuntimeError if f has another value at the answer than in the solve."""
        check_residual(self.z, f_z, self.result.relative_residual, self.half)

    def f(self, z: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """One evaluation of the cell."""
        return self.taped.f(z, self.taped.known)


class GradientSpec(Spec):
    """How dL/dz* becomes gradients of the parameters and of the input."""

    summary: ClassVar[str] = ""  # one sentence for the README and the page
    reads_state: ClassVar[bool] = False  # of the forward solve, which otherwise is freed
    solves_adjoint: ClassVar[bool] = False  # by a tape at the answer

    def check(self, method: MethodSpec) -> None:
        """Raise KnobError if this gradient cannot go with the forward method."""

    def forward_method(self, method: MethodSpec) -> MethodSpec:
        """The forward method as this gradient needs it."""
        return method

    @abstractmethod
    def attach(self, found: Found) -> Tensor:  # (B, n)
        """The answer's values with a graph."""


class Implicit(GradientSpec):
    """By the implicit function theorem; exact as far as both solves converge."""

    name: ClassVar[str] = "implicit"
    label: ClassVar[str] = "Implicit"
    summary: ClassVar[str] = "The implicit function theorem; exact as far as both solves converge."
    solves_adjoint: ClassVar[bool] = True

    def attach(self, found: Found) -> Tensor:  # (B, n)
        """Attach the adjoint solve."""
        return found.attach(Adjoint(found.solve_adjoint))


class Shine(GradientSpec):
    """Implicit, the adjoint solve starting where the forward solve's secant pairs say.

    u_0 = mixing v - dG (dG^T dG)^-1 dU^T v, which solves the adjoint equation for the inverse
    Jacobian that Anderson has built up (Ramzi et al., "SHINE", ICLR 2022). A full restart leaves
    few pairs to start from: restart="never" keeps them.
    """

    name: ClassVar[str] = "shine"
    label: ClassVar[str] = "SHINE"
    summary: ClassVar[str] = (
        "Implicit; the backward solve starts where Anderson's last differences say."
    )
    reads_state: ClassVar[bool] = True
    solves_adjoint: ClassVar[bool] = True

    def check(self, method: MethodSpec) -> None:
        """Only Anderson keeps pairs of differences."""
        if not isinstance(method, Anderson) or method.least_squares == "residuals":
            raise KnobError(
                f"gradient = 'shine' starts from pairs of differences, which {method!r} does not "
                "keep: give method=Anderson(restart='never')."
            )

    def attach(self, found: Found) -> Tensor:  # (B, n)
        """Attach the adjoint solve with its start."""
        return found.attach(Adjoint(found.solve_adjoint, transposed_step(found.state)))


class Neumann(GradientSpec):
    """The first terms of u = v + J^T v + (J^T)^2 v + ..., the adjoint by forward iteration.

    Cheap where J contracts strongly (Lorraine, Vicol, Duvenaud, AISTATS 2020).
    """

    name: ClassVar[str] = "neumann"
    label: ClassVar[str] = "Neumann series"
    summary: ClassVar[str] = (
        "The first terms of the adjoint's series: a fixed number of backward steps."
    )
    solves_adjoint: ClassVar[bool] = True

    terms: int = knob(5, "Products with the transposed Jacobian.", minimum=0, maximum=10_000,
                      typical=(0, 20), symbol="k")  # fmt: skip

    def attach(self, found: Found) -> Tensor:  # (B, n)
        """Attach a fixed number of adjoint steps."""

        def series(step: AdjointMap, u: Tensor) -> Tensor:  # (B, n)
            for _ in range(self.terms):
                u = step(u)
            return u

        return found.attach(Adjoint(series, exact=False))


class JacobianFree(GradientSpec):
    """u = v: the gradient of one evaluation at the equilibrium.

    A descent direction where J contracts strongly enough (Fung et al., "JFB", AAAI 2022).
    """

    name: ClassVar[str] = "jacobian_free"
    label: ClassVar[str] = "Jacobian-free"
    summary: ClassVar[str] = "The gradient of one evaluation at the equilibrium; no backward solve."

    def attach(self, found: Found) -> Tensor:  # (B, n)
        """Attach one evaluation."""
        value = found.f(found.z)
        found.check(value)
        return graft(found.z, value)


class Phantom(GradientSpec):
    """The gradient of k damped steps z <- (1 - tau) z + tau f(z) from the equilibrium.

    Geng et al., "On Training Implicit Models", NeurIPS 2021.
    """

    name: ClassVar[str] = "phantom"
    label: ClassVar[str] = "Phantom"
    summary: ClassVar[str] = "The gradient of a few damped steps from the equilibrium."

    steps: int = knob(5, "Damped steps that are taped.", minimum=1, maximum=1000, typical=(1, 10),
                      symbol="k")  # fmt: skip
    tau: float = knob(0.5, "Weight on f(z) in each of them.", minimum=0.0, maximum=1.0,
                      exclusive_minimum=True, typical=(0.1, 1.0), symbol="tau")  # fmt: skip

    def attach(self, found: Found) -> Tensor:  # (B, n)
        """Attach the damped steps."""
        z = found.z
        for step in range(self.steps):
            value = found.f(z)
            if step == 0:
                found.check(value)
            z = torch.lerp(z, value, self.tau)
        return graft(found.z, z)


class Unrolled(GradientSpec):
    """The derivative of the iteration itself, all of it on the tape: memory grows with it.

    Exact for what was computed, converged or not. The steps are made again with a tape, least
    squares included; see `unrolling`.
    """

    name: ClassVar[str] = "unrolled"
    label: ClassVar[str] = "Unrolled"
    summary: ClassVar[str] = (
        "The derivative of Picard's or Anderson's steps; memory grows with them."
    )

    def check(self, method: MethodSpec) -> None:
        """Only steps that can be made again on a tape."""
        check_unrollable(method)

    def forward_method(self, method: MethodSpec) -> MethodSpec:
        """Without the fallback, which goes back to earlier points."""
        return method.replace(fallback=False) if isinstance(method, Anderson) else method

    def attach(self, found: Found) -> Tensor:  # (B, n)
        """Attach the whole iteration."""
        taped = replay(found.f, found.start, found.method, found.result, found.half)
        warn_if_elsewhere(taped, found.z, found.half)
        return graft(found.z, taped, exact=True)


GRADIENTS: dict[str, type[GradientSpec]] = {
    gradient.name: gradient
    for gradient in (Implicit, JacobianFree, Phantom, Unrolled, Neumann, Shine)
}
