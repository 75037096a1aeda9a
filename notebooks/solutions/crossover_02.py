"""The exercise of notebook 02: its check, and a solution. Try before you read on!"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from andersonn_core import PROBLEMS, Anderson, solve
from andersonn_core.problems import ProblemSpec

Slowest = Callable[[Tensor, Tensor], Tensor]

MAPS = {
    "a symmetric linear map": PROBLEMS["affine"](size=40, dtype="float64"),
    "a linear map that turns": PROBLEMS["affine"](size=40, spectrum="disc", dtype="float64"),
    "Bratu's equation": PROBLEMS["bratu"](size=12, dtype="float64"),
}
DIFFERENCES = 5


def solution(dz: Tensor, dg: Tensor) -> Tensor:  # (m, n), (m, n) -> (m,)
    """With dz^T = Q R and v = R y: the last singular vector v of dg^T R^-1."""
    inverse = torch.linalg.inv(torch.linalg.qr(dz.T).R)
    return inverse @ torch.linalg.svd(dg.T @ inverse, full_matrices=False).Vh[-1]


@dataclass(frozen=True)
class Verdict:
    """Whether the weights are right, and in words what is wrong with them."""

    passed: bool
    words: str

    def __str__(self) -> str:
        return self.words


def check(slowest: Slowest) -> Verdict:
    """Compare the weights of (dz, dg) -> y with the best ones on three maps."""
    for name, spec in MAPS.items():
        dz, dg = _differences(spec)
        words = _what_is_wrong(slowest(dz.clone(), dg.clone()), dz, dg)
        if words:
            return Verdict(False, f"Not yet. On {name}: {words}")
    return Verdict(True, "Right: no combination is slower, on all three maps.")


def _differences(spec: ProblemSpec) -> tuple[Tensor, Tensor]:  # (m, n) each
    """What a sliding window holds when it is full for the first time."""
    problem = spec.build()
    points: list[Tensor] = []
    solve(
        problem.f, problem.z0, Anderson(window=DIFFERENCES, restart="never"), rtol=0.0,
        max_iter=DIFFERENCES + 1, on_step=lambda step: points.append(step.z().clone()),
    )  # fmt: skip
    z = torch.cat([point.reshape(1, -1) for point in points])
    g = torch.cat([(problem.f(point) - point).reshape(1, -1) for point in points])
    return z.diff(dim=0), g.diff(dim=0)


def ratio(y: Tensor, dz: Tensor, dg: Tensor) -> float:
    """||y dg|| / ||y dz||."""
    return float((y @ dg).norm() / (y @ dz).norm())


def _what_is_wrong(y: Tensor, dz: Tensor, dg: Tensor) -> str:
    """One sentence, empty if no combination is slower."""
    if not isinstance(y, Tensor) or y.shape != dz.shape[:1]:
        shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        return f"{len(dz)} weights are wanted, one for each row; this is {shape}."
    best, found = ratio(solution(dz, dg), dz, dg), ratio(y, dz, dg)
    if found <= best * (1 + 1e-6):
        return ""
    for words, mistake in _mistakes(dz, dg).items():
        if abs(ratio(mistake, dz, dg) - found) <= 1e-6 * found:
            return words
    if int((y != 0).sum()) == 1:
        return f"one row alone has the ratio {found:.3g}, a combination of all {best:.3g}."
    return f"the ratio is {found:.3g}, and can be {best:.3g}."


def _mistakes(dz: Tensor, dg: Tensor) -> dict[str, Tensor]:  # (m, n), (m, n) -> (m,) each
    """Weights that answer another question, by what is to be said of them."""
    inverse = torch.linalg.inv(torch.linalg.qr(dz.T).R)
    fastest = inverse @ torch.linalg.svd(dg.T @ inverse, full_matrices=False).Vh[0]
    _, small = torch.linalg.eigh(dg @ dg.T)
    _, large = torch.linalg.eigh(dz @ dz.T)
    return {
        "this is the fastest combination: take the other end of the singular values.": fastest,
        "dg is as small as it can be, but dz may be even smaller: divide.": small[:, 0],
        "dz is as large as it can be, but dg may be large, too: divide.": large[:, -1],
    }
