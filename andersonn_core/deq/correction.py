"""Losses on the iterates of a solve, so that the path to the equilibrium learns as well.

L = L(z*) + sum_k w_k L(f(z_k)), each term of the sum with the gradient of that one evaluation (Bai,
Geng, Savani and Kolter, "Deep Equilibrium Optical Flow Estimation", CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from andersonn_core.driver import Step
from andersonn_core.methods import MethodSpec
from andersonn_core.results import SolveResult
from andersonn_core.solve import solve
from andersonn_core.specs import KnobError, Spec, knob

Weights = Literal["constant", "linear", "exponential"]


class CorrectionKnobs(Spec):
    """How the losses on successive states are weighted; the last weight is 1."""

    title: ClassVar[str] = "correction_loss"

    weights: Weights = knob(
        "exponential", "How weights grow towards the end: not at all, as k / N, as gamma^(N - k)."
    )
    gamma: float = knob(
        0.8, "The ratio of two successive exponential weights.",
        minimum=0.0, exclusive_minimum=True, maximum=1.0, typical=(0.5, 1.0),
    )  # fmt: skip

    def of(self, count: int) -> list[float]:
        """The weights of `count` states, first to last."""
        if self.weights == "constant":
            return [1.0] * count
        if self.weights == "linear":
            return [k / count for k in range(1, count + 1)]
        return [self.gamma ** (count - k) for k in range(1, count + 1)]


def correction_loss(
    loss: Callable[[Any], Tensor],
    states: Iterable[Any],
    *,
    weights: Weights = "exponential",
    gamma: float = 0.8,
    **misspelled: Any,
) -> Tensor:
    """sum_k w_k loss(states[k]), of the shape, device and dtype that `loss` returns.

    States in the order of the solve, the equilibrium last: its weight is 1. With N states, w_k is
    1, k / N or gamma^(N - k). Raises KnobError for impossible knobs, or if there is no state.
    """
    knobs = CorrectionKnobs(weights=weights, gamma=gamma, **misspelled)
    losses = [loss(state) for state in states]
    if not losses:
        raise KnobError("correction_loss got no states: give at least the equilibrium.")
    terms = [weight * value for weight, value in zip(knobs.of(len(losses)), losses, strict=True)]
    return torch.stack(terms).sum(0)


class KeptIterates:
    """Copies the iterates of some evaluations: an `on_step` for `solve`.

    `states` maps the evaluation (1, 2, ...; 1 is the start) to the iterate that f saw then. A solve
    that ends earlier leaves the later ones out. Raises KnobError if an evaluation is not positive.
    """

    reads_iterates: ClassVar[bool] = True  # see `andersonn_core.reading_iterates`

    def __init__(self, at: Sequence[int]) -> None:
        if not all(type(k) is int and k >= 1 for k in at):
            raise KnobError(
                f"at = {at!r} is not allowed: it must hold numbers of evaluations, 1 or above. "
                "Give for example (2, 4, 8)."
            )
        self.at = frozenset(at)
        self.states: dict[int, Any] = {}

    def __call__(self, step: Step) -> None:
        """Keep the iterate of this evaluation if it is one of those."""
        if step.evaluation in self.at:
            self.states[step.evaluation] = step.z()

    def with_gradient(self, cell: Callable[[Any, Any], Any], x: Any) -> dict[int, Any]:
        """f(z_k, x) of each kept iterate, by one evaluation each on autograd's tape.

        Its gradient is the Jacobian-free one: z_k counts as a constant (Fung et al., AAAI 2022).
        """
        return {evaluation: cell(z, x) for evaluation, z in self.states.items()}


def intermediate_states(
    cell: Callable[[Any, Any], Any],  # (z, x) -> z
    x: Any,
    z0: Any,
    method: MethodSpec,
    *,
    at: Sequence[int],
    rtol: float = 1e-3,
    max_iter: int = 40,
) -> tuple[dict[int, Any], SolveResult]:
    """Solve z = cell(z, x); f(z_k) with a Jacobian-free gradient at the evaluations `at`.

    Returns them by evaluation, in order, and the result of the solve, whose z has no tape. Each
    state costs one evaluation more than the solve. A cell with dropout needs
    `andersonn_core.deq.dropout.new_solve(cell)` before. Raises KnobError as `solve` does.
    """
    kept = KeptIterates(at)
    result = solve(lambda z: cell(z, x), z0, method, rtol=rtol, max_iter=max_iter, on_step=kept)
    return kept.with_gradient(cell, x), result
