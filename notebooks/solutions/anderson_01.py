"""The exercise of notebook 01: its check, and a solution. Try before you read on!"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from andersonn_core import PROBLEMS, Anderson, solve

Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

MAPS = {
    "a rotation": PROBLEMS["rotation"](dtype="float64"),
    "a linear map of 8 numbers": PROBLEMS["affine"](size=8, dtype="float64"),
    "a tanh layer of 16 neurons": PROBLEMS["tanh"](size=16, batch_size=1, dtype="float64"),
}


def solution(z_old: Tensor, f_old: Tensor, z: Tensor, f_z: Tensor) -> Tensor:  # (n,) each -> (n,)
    """f_z - gamma (f_z - f_old), gamma = (g . dg) / (dg . dg)."""
    g = f_z - z
    dg = g - (f_old - z_old)
    gamma = (g @ dg) / (dg @ dg)
    return f_z - gamma * (f_z - f_old)


@dataclass(frozen=True)
class Verdict:
    """Whether a step is right, and in words what is wrong with it."""

    passed: bool
    words: str

    def __str__(self) -> str:
        return self.words


def check(step: Step) -> Verdict:
    """Compare a step (z_old, f_old, z, f_z) -> z_next with `Anderson(window=1)` on three maps."""
    for name, spec in MAPS.items():
        problem = spec.build()
        points: list[Tensor] = []  # (1, n) each
        method = Anderson(window=1, regularization=0.0, fallback=False)
        solve(
            problem.f, problem.z0, method, max_iter=6,
            on_step=lambda seen, points=points: points.append(seen.z().clone()),
        )  # fmt: skip
        for k in range(2, len(points)):
            known = [each[0] for old in points[k - 2 : k] for each in (old, problem.f(old))]
            words = _what_is_wrong(step, known, points[k][0])
            if words:
                return Verdict(False, f"Not yet. On {name}, on the way to z_{k}: {words}")
    return Verdict(True, "Right: these are Anderson's own steps, on all three maps.")


def _what_is_wrong(step: Step, known: list[Tensor], expected: Tensor) -> str:
    """One sentence, empty if the step ends where Anderson's does."""
    z_next = step(*(vector.clone() for vector in known))
    if not isinstance(z_next, Tensor) or z_next.shape != expected.shape:
        shape = tuple(z_next.shape) if isinstance(z_next, Tensor) else type(z_next).__name__
        return f"the step should return {len(expected)} numbers, it returns {shape}."
    if torch.allclose(z_next, expected, rtol=1e-8, atol=1e-10):
        return ""
    z_old, f_old, z, f_z = known
    gamma = (f_z - expected) @ (f_z - f_old) / ((f_z - f_old) @ (f_z - f_old))
    mistakes = {
        "this is forward iteration, z_next = f_z: where is the past?": f_z,
        "gamma has the wrong sign.": f_z + gamma * (f_z - f_old),
        "this combines the points; combine their images f instead.": z - gamma * (z - z_old),
        "gamma is right, but f_z should lose gamma (f_z - f_old).": f_z - gamma * (z - z_old),
    }
    for words, mistake in mistakes.items():
        if torch.allclose(z_next, mistake, rtol=1e-8, atol=1e-10):
            return words
    return f"the step ends {float((z_next - expected).norm()):.2g} away from Anderson's."
