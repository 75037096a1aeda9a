"""Broyden's good method with limited memory (Broyden 1965; Kelley, SIAM 1995, chapter 7).

The root of g(z) = f(z) - z is sought with an inverse Jacobian H = -mixing I + U^T V, updated from
each pair dz, dg by the secant equation H dg = dz with the smallest change of the Jacobian:

    H <- H + (dz - H dg) (dz^T H) / (dz^T H dg),      z_{k+1} = z_k - H g_k
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from andersonn_core.arrays import Counts, Events, Floats
from andersonn_core.kernels import Progress, rows_for
from andersonn_core.methods.base import (
    MethodSpec,
    MethodState,
    StepDiagnostics,
    mixing_knob,
    no_event,
)
from andersonn_core.results import Event
from andersonn_core.specs import knob

SMALL = 1e-8  # a denominator below this fraction of ||dz^T H|| ||dg|| carries no information


@dataclass
class BroydenDiagnostics(StepDiagnostics):
    """What a Broyden step saw: there is no least-squares problem, so no gain and no weights."""

    rank: Counts  # (B,)

    @property
    def depth(self) -> Floats:  # (..., B)
        """How many rank-one updates the step used."""
        return self.rank.astype(np.float64)

    def columns(self) -> dict[str, NDArray[Any]]:  # (..., B) each
        """Event, depth and mixing; the rest does not exist."""
        nothing = np.full(self.rank.shape, np.nan)
        return super().columns() | dict.fromkeys(("gain", "weight_norm", "condition"), nothing)


@dataclass
class BroydenState(MethodState):
    """The rank-one factors and the previous point."""

    u: Tensor  # (B, m, n)
    v: Tensor  # (B, m, n)
    rank: Tensor  # (B,) int64, factors in use
    last_z: Tensor  # (B, n)
    last_g: Tensor  # (B, n)
    started: bool = False


class Broyden(MethodSpec):
    """Broyden's good method; it restarts when `window` rank-one updates are used up."""

    name: ClassVar[str] = "broyden"
    label: ClassVar[str] = "Broyden"

    window: int = knob(
        10, "Rank-one updates that are kept before a restart; 0 is forward iteration.",
        minimum=0, maximum=100, typical=(0, 20), symbol="m",
    )  # fmt: skip
    mixing: float = mixing_knob("Weight on f(z) in the first inverse Jacobian; 1 is undamped.")

    def memory_vectors(self, n: int) -> int:
        """Two factors an update, two points, two residuals, and six temporaries of an update."""
        return 2 * self.window + 10

    def init(self, z: Tensor) -> BroydenState:  # (B, n)
        """No updates yet."""
        batch, n = z.shape
        rank = torch.zeros(batch, dtype=torch.int64, device=z.device)
        return BroydenState(
            BroydenDiagnostics(no_event(z), np.full(len(z), self.mixing), rank.cpu().numpy()),
            z.new_empty(z.shape),
            rows_for(z),
            Progress.of(batch),
            u=z.new_zeros(batch, self.window, n),
            v=z.new_zeros(batch, self.window, n),
            rank=rank.clone(),
            last_z=torch.zeros_like(z),
            last_g=torch.zeros_like(z),
        )

    def step(
        self, state: BroydenState, z: Tensor, f_z: Tensor
    ) -> Tensor:  # (B, n), (B, n) -> (B, n)
        """Return z - H g (B, n) with the newest secant pair taken into H."""
        if state.norms is None:
            state.measure(z, f_z)
        g, event = state.g, no_event(z)
        if state.started and self.window:
            state.timer.lap("gram")
            self._update(state, z - state.last_z, g - state.last_g, event)
        state.timer.lap("mix")
        z_next = torch.sub(z, self._inverse(state.u, state.v, g), out=state.target(z))
        state.timer.lap("bookkeeping")
        rank = state.rank.cpu().numpy().copy()
        state.diagnostics = BroydenDiagnostics(event, state.diagnostics.mixing, rank)
        state.last_z, state.g, state.last_g = z, state.last_g, g
        state.norms, state.started = None, True
        return z_next

    def _inverse(
        self, u: Tensor, v: Tensor, x: Tensor
    ) -> Tensor:  # (B, m, n), (B, m, n), (B, n) -> (B, n)
        """H x = -mixing x + U^T (V x); with u and v exchanged, H^T x."""
        weights = torch.bmm(x[:, None, :], v.mT)  # (B, 1, m)
        return torch.bmm(weights, u)[:, 0, :].sub_(x, alpha=self.mixing)

    def _update(self, state: BroydenState, dz: Tensor, dg: Tensor, event: Events) -> None:
        """Append one pair per sample; a full memory is dropped first, an empty pair is refused."""
        full = state.rank >= self.window
        state.u.masked_fill_(full[:, None, None], 0.0)
        state.v.masked_fill_(full[:, None, None], 0.0)
        state.rank.masked_fill_(full, 0)
        row = self._inverse(state.v, state.u, dz)  # dz^T H
        denominator = (row * dg).sum(1)
        scale = torch.linalg.vector_norm(row, dim=1) * torch.linalg.vector_norm(dg, dim=1)
        taken = (denominator.abs() > SMALL * scale) & torch.isfinite(denominator)
        safe = torch.where(taken, denominator, 1.0)[:, None]
        column = (dz - self._inverse(state.u, state.v, dg)) / safe
        rows = torch.arange(len(full), device=dz.device)
        state.u[rows, state.rank] = torch.where(taken[:, None], column, 0.0)
        state.v[rows, state.rank] = torch.where(taken[:, None], row, 0.0)
        state.rank += taken
        flags = full * int(Event.RESTART) + ~taken * int(Event.REJECT)
        event |= flags.cpu().numpy().astype(event.dtype)
