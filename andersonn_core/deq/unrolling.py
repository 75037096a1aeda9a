"""A solve made again on a tape: forward iteration, and Anderson with its least squares."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from andersonn_core.deq.adjoint import AdjointWarning, Rows
from andersonn_core.deq.sameness import HALF_SLACK, SLACK, check_residual
from andersonn_core.layout import WORKING, beside_double
from andersonn_core.least_squares import default_regularization
from andersonn_core.methods import Anderson, MethodSpec, Picard
from andersonn_core.results import SolveResult
from andersonn_core.specs import KnobError

# What a replay can follow: differences are used newest first, and no step is taken back.
_PLAIN = {"restart": ("full", "never"), "max_growth": (None,), "max_weights": (None,),
          "randomize": ("nothing",), "filtering": (0.0,), "history": ("state",)}  # fmt: skip

Pair = tuple[Tensor, Tensor]  # (B, n) each: z and g, or their differences dz and dg


def check_unrollable(method: MethodSpec) -> None:
    """Raise KnobError for a method whose steps are not a formula of the newest iterates."""
    if isinstance(method, Picard):
        return
    if isinstance(method, Anderson):
        odd = [name for name, fine in _PLAIN.items() if getattr(method, name) not in fine]
        odd += [name for name in ("window", "mixing") if isinstance(getattr(method, name), str)]
        if not odd:
            return
        what = ", ".join(f"{name} = {getattr(method, name)!r}" for name in odd)
        raise KnobError(
            f"gradient = 'unrolled' can't tape a method with {what}: leave "
            f"{'it' if len(odd) == 1 else 'them'} at the default, or use gradient='implicit'."
        )
    raise KnobError(
        f"gradient = 'unrolled' tapes Picard and Anderson, not {method.label}: give one of them, "
        "or use gradient='implicit'."
    )


def replay(
    f: Rows, start: Tensor, method: MethodSpec, result: SolveResult, half: bool
) -> Tensor:  # (B, n) -> (B, n); (B, n)
    """The answer of `result` computed anew from z0 with a tape, sample by sample.

    How many differences each step used is read from the history; their weights are solved for
    anew, so that the derivative goes through the least squares, too. Raises RuntimeError if f has
    another value at the first two points than in the solve: later ones also depend on the weights.
    """
    history, narrow = result.history, start.dtype
    if not len(history.residual):
        return start
    z = start.to(WORKING[narrow])
    depth = history.depth.nan_to_num(0.0).to(z.device, torch.int64)  # (K, B)
    mixing = history.mixing.nan_to_num(1.0).to(z)  # (K, B)
    chosen = _rows_of_answer(result).to(z.device)  # (B,)
    pairs: list[Pair] = []  # newest last
    last: Pair | None = None
    for row in range(int(chosen.max())):
        value = f(z.to(narrow))
        if row < 2:
            check_residual(z, value, history.relative_residual[row], half)
        g = value.to(z.dtype) - z
        if last is not None:
            pairs = _newest([*pairs, (z - last[0], g - last[1])], method.largest_window)
        last = z, g
        step = mixing[row, :, None] * g
        used = int(depth[row].max())
        if used:
            step = step - _correction(pairs[-used:], g, depth[row], mixing[row], _ridge(method, z))
        z = torch.where((row < chosen)[:, None], z + step, z)
    return z.to(narrow)


def warn_if_elsewhere(taped: Tensor, answer: Tensor, half: bool) -> None:  # (B, n) each
    """Warn where the steps made again have ended at another point than the solve."""
    taped, answer = (beside_double(each.detach()).double() for each in (taped, answer))
    off, size = (torch.linalg.vector_norm(each, dim=1) for each in (taped - answer, answer))
    if bool((off > (HALF_SLACK if half else SLACK) * size).any()):
        warnings.warn(
            "the steps that were made again on a tape ended at another point than the solve, and "
            "so is their gradient: the least-squares problems are nearly singular. Narrow the "
            "window, raise regularization, or use gradient='implicit'.",
            AdjointWarning,
            stacklevel=2,
        )


def _newest(pairs: list[Pair], window: int) -> list[Pair]:
    return pairs[max(len(pairs) - window, 0) :]


def _ridge(method: MethodSpec, z: Tensor) -> float:
    ridge: float | None = getattr(method, "regularization", None)
    return default_regularization(z.dtype) if ridge is None else ridge


def _rows_of_answer(result: SolveResult) -> Tensor:  # (B,)
    """The evaluation, from 0, whose iterate is each sample's answer."""
    rows = result.history.relative_residual
    best = torch.where(rows.isnan(), torch.inf, rows).argmin(0)
    return torch.where(result.converged, result.sample_evals - 1, best)


def _correction(
    pairs: list[Pair], g: Tensor, depth: Tensor, mixing: Tensor, ridge: float
) -> Tensor:  # (B, n) pairs, (B, n), (B,), (B,) -> (B, n)
    """(dZ + mixing dG)^T gamma with gamma = argmin || g - dG^T gamma ||, newest `depth` pairs."""
    dz, dg = (torch.stack(part, 1) for part in zip(*pairs, strict=True))  # (B, d, n)
    age = torch.arange(len(pairs), 0, -1, device=g.device)  # newest: 1
    used = (age <= depth[:, None])[:, :, None]  # (B, d, 1)
    dz, dg = torch.where(used, dz, 0.0), torch.where(used, dg, 0.0)
    gram = beside_double(dg @ dg.mT).double()  # (B, d, d)
    square = gram.diagonal(dim1=1, dim2=2)
    scale = torch.where(square > 0, square, 1.0).rsqrt()  # (B, d)
    eye = torch.eye(len(pairs), dtype=gram.dtype, device=gram.device)
    missing = torch.diag_embed((square == 0).to(gram))
    scaled = scale[:, :, None] * gram * scale[:, None, :] + missing + ridge * eye
    rhs = scale * beside_double((dg @ g[:, :, None])[:, :, 0]).double()
    gamma = (scale * torch.linalg.solve(scaled, rhs)).to(g)  # (B, d)
    du = dz + mixing[:, None, None] * dg
    correction: Tensor = (gamma[:, None, :] @ du)[:, 0]
    return correction
