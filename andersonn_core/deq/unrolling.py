"""A solve made again on a tape: forward iteration, and Anderson with its least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from andersonn_core.deq.adjoint import Rows
from andersonn_core.least_squares import default_regularization
from andersonn_core.methods import Anderson, MethodSpec, Picard
from andersonn_core.results import SolveResult
from andersonn_core.specs import KnobError

_PLAIN = {"restart": ("full", "never"), "max_growth": (None,), "max_weights": (None,),
          "randomize": ("nothing",)}  # fmt: skip


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
    f: Rows, z: Tensor, method: MethodSpec, result: SolveResult
) -> Tensor:  # (B, n) -> (B, n); (B, n)
    """The answer of `result` computed anew from z0 with a tape, sample by sample.

    How many differences each step used is read from the history; their weights are solved for
    anew, so that the derivative goes through the least squares, too.
    """
    history = result.history
    if not len(history.residual):
        return z
    depth = history.depth.nan_to_num(0.0).to(z.device)  # (K, B)
    mixing = history.mixing.nan_to_num(1.0).to(z)  # (K, B)
    chosen = _rows_of_answer(result).to(z.device)  # (B,)
    going_on = torch.arange(len(depth), device=z.device)[:, None] < chosen  # (K, B)
    ridge = getattr(method, "regularization", None) or default_regularization(z.dtype)
    pairs: list[tuple[Tensor, Tensor]] = []  # (B, n) each: dz, dg, newest last
    last: tuple[Tensor, Tensor] | None = None
    for row in range(int(chosen.max())):
        g = f(z) - z
        if last is not None:
            pairs = [*pairs, (z - last[0], g - last[1])][-method.largest_window or len(pairs) + 1 :]
        last = z, g
        step = mixing[row, :, None] * g
        used = int(depth[row].max())
        if used:
            step = step - _correction(pairs[-used:], g, depth[row], mixing[row], ridge)
        z = torch.where(going_on[row, :, None], z + step, z)
    return z


def _rows_of_answer(result: SolveResult) -> Tensor:  # (B,)
    """The evaluation, from 0, whose iterate is each sample's answer."""
    rows = result.history.relative_residual
    best = torch.where(rows.isnan(), torch.inf, rows).argmin(0)
    return torch.where(result.converged, result.sample_evals - 1, best)


def _correction(
    pairs: list[tuple[Tensor, Tensor]], g: Tensor, depth: Tensor, mixing: Tensor, ridge: float
) -> Tensor:  # (B, n) pairs, (B, n), (B,), (B,) -> (B, n)
    """(dZ + mixing dG)^T gamma with gamma = argmin || g - dG^T gamma ||, newest `depth` pairs."""
    dz, dg = (torch.stack(part, 1) for part in zip(*pairs, strict=True))  # (B, d, n)
    age = torch.arange(len(pairs), 0, -1, device=g.device)  # newest: 1
    used = (age <= depth[:, None]).to(g)  # (B, d)
    dz, dg = dz * used[:, :, None], dg * used[:, :, None]
    gram = (dg @ dg.mT).double()  # (B, d, d)
    square = gram.diagonal(dim1=1, dim2=2)
    scale = torch.where(square > 0, square, 1.0).rsqrt()  # (B, d)
    eye = torch.eye(len(pairs), dtype=gram.dtype, device=g.device)
    missing = torch.diag_embed((square == 0).to(gram))
    scaled = scale[:, :, None] * gram * scale[:, None, :] + missing + ridge * eye
    rhs = scale * (dg @ g[:, :, None])[:, :, 0].double()
    gamma = (scale * torch.linalg.solve(scaled, rhs)).to(g)  # (B, d)
    du = dz + mixing[:, None, None] * dg
    correction: Tensor = (gamma[:, None, :] @ du)[:, 0]
    return correction
