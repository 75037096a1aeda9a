"""The residual polynomial p_k of a solve: what its weights do to every eigenvalue at once.

On a linear map with iteration matrix J each residual is g_k = p_k(J) g_0 with p_k(1) = 1, and p_k
depends on the weights only. Anderson's p_k is small where the eigenvalues are: its roots walk
there. Forward iteration has p_k(lambda) = lambda^k. (Walker and Ni, SIAM J. Numer. Anal. 49, 2011.)

How it is evaluated: passengers u <- lambda u + delta, one per point lambda, ride in the state
next to z. A method forms the same combination of all of a state, so the passenger's residual is
p_k(lambda) delta exactly. Being tiny (delta = 1e-100) they can't be felt in any inner product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from andersonn_core.driver import Step, reading_iterates
from andersonn_core.methods import MethodSpec
from andersonn_core.solve import solve

DELTA = 1e-100  # its square times any number of points vanishes beside ||z||^2 in float64
State = tuple[Tensor, Tensor, Tensor]


def residual_polynomial(
    f: Callable[[Tensor], Tensor],
    z0: Tensor,  # (1, ...) float64
    method: MethodSpec,
    grid: Tensor,  # (G,) complex
    max_iter: int = 50,
    rtol: float = 1e-14,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:  # (K, G) complex128
    """p_0 = 1, p_1, ... at the points of `grid`: row k belongs to evaluation k + 1.

    f sees one sample in float64. The solve ends at rtol, since a residual of rounding errors has no
    polynomial. Raises ValueError for another batch or another dtype.
    """
    if z0.dtype != torch.float64 or z0.shape[0] != 1:
        raise ValueError(
            f"z0 must hold one sample in float64, not {tuple(z0.shape)} in {z0.dtype}: "
            "pass z0[:1].double()."
        )
    points = grid.detach().to(torch.complex128).flatten()
    real, imag = points.real[None], points.imag[None]  # (1, G)
    rows: list[Tensor] = []

    def with_passengers(state: State) -> State:
        z, u, v = state
        return f(z), real * u - imag * v + DELTA, imag * u + real * v

    @reading_iterates
    def on_step(step: Step) -> None:
        """Read the polynomial's values off the passengers' residuals."""
        state: Any = step.z()
        _, u, v = state
        g_real = (real - 1) * u - imag * v + DELTA
        g_imag = imag * u + (real - 1) * v
        rows.append(torch.complex(g_real[0], g_imag[0]) / DELTA)

    start: State = (z0, torch.zeros_like(real), torch.zeros_like(real))
    solve(
        with_passengers, start, method, rtol=rtol, max_iter=max_iter,
        on_step=on_step, should_stop=should_stop,
    )  # fmt: skip
    return torch.stack(rows) if rows else points.new_zeros(0, len(points))


def half_plane(
    box: tuple[float, float, float], width: int, height: int
) -> Tensor:  # (height, width) complex128
    """Points over left <= Re <= right, 0 <= Im <= top: a real map's p_k is symmetric."""
    left, right, top = box
    x = torch.linspace(left, right, width, dtype=torch.float64)
    y = torch.linspace(0.0, top, height, dtype=torch.float64)
    return torch.complex(x.expand(height, width), y[:, None].expand(height, width)).contiguous()


def mirrored(values: Tensor) -> Tensor:  # (..., height, width) -> (..., 2 height - 1, width)
    """Magnitudes on the whole plane, from those on the upper half."""
    return torch.cat((values.flip(-2)[..., :-1, :], values), dim=-2)


def jacobian(f: Callable[[Tensor], Tensor], z: Tensor, step: float = 1e-6) -> Tensor:  # (n, n)
    """The derivative of a map of one sample by central differences in float64: 2n calls of f."""
    flat = z.detach().double().reshape(-1)
    size = step * max(float(flat.abs().max()), math.sqrt(step))
    columns = []
    for index in range(len(flat)):
        shift = torch.zeros_like(flat)
        shift[index] = size
        ahead, behind = (f((flat + sign * shift).reshape(z.shape)).reshape(-1) for sign in (1, -1))
        columns.append((ahead - behind) / (2 * size))
    return torch.stack(columns, dim=1)
