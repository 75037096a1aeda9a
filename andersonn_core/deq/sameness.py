"""Whether a cell is a function of its state and its input: what every gradient here relies on.

Dropout that draws a mask at each call, batch norm that lets samples see each other, or a weight
that changes between two evaluations make it something else, and the gradient silently wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from andersonn_core.layout import WORKING, beside_double

DRIFT = 1e3  # rounding errors by which two values at one point may differ
SLACK = 1e-3  # and by how much relative residuals; half precision rounds more, in another order
HALF_SLACK = 0.03
REMEDY = (
    "use VariationalDropout for dropout and group norm for batch norm, or put the cell into eval "
    "mode."
)


def check_residual(z: Tensor, f_z: Tensor, claimed: Tensor, half: bool) -> None:
    """Raise RuntimeError unless f_z has the relative residuals (B,) that the solve saw at z (B, n).

    `half`: whether f was computed in half precision. Residuals that are not finite are passed over.
    """
    value = f_z.detach().to(WORKING[f_z.dtype])
    residual, scale = (
        torch.linalg.vector_norm(beside_double(part), dim=1, dtype=torch.float64)
        for part in (value - z.detach(), value)
    )
    now = (residual / scale).cpu()
    off = (now - claimed).abs() / claimed.clamp(min=1.0)
    if bool((off > (HALF_SLACK if half else SLACK)).any()):
        worst = int(off.nan_to_num().argmax())
        raise RuntimeError(
            f"the cell gave another value at the same point: sample {worst} had a relative "
            f"residual of {float(claimed[worst]):.2g} there in the solve and has "
            f"{float(now[worst]):.2g} now, so that its gradient would be wrong: {REMEDY}"
        )


def check_reached(wanted: Sequence[Tensor], reached: Sequence[Tensor]) -> None:
    """Raise RuntimeError unless all of `wanted`, which f depended on, is among `reached` again."""
    if not {id(tensor) for tensor in wanted} <= {id(tensor) for tensor in reached}:
        raise RuntimeError(
            "the cell does not depend on the tensors of the forward pass any more, so that a "
            "second derivative would miss them: do not exchange its parameters before the backward "
            "pass (torch.func.functional_call does), or use gradient='unrolled'."
        )


def check_value(now: Tensor, before: Tensor) -> None:  # (B, n) each
    """Raise RuntimeError unless two values of f at one point agree up to rounding."""
    now, before = now.detach(), before.detach()
    allowed = DRIFT * torch.finfo(now.dtype).eps * before.abs().amax(1)
    if bool(((now - before).abs().amax(1) > allowed).any()):
        raise RuntimeError(
            "the cell gave another value at the same point in the backward pass, so that the "
            f"gradient would be wrong: {REMEDY} Spectral norm in training mode moves at each use, "
            "and a new forward pass draws new masks."
        )
