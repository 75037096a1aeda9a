"""Anderson acceleration, type II (Anderson 1965; Walker and Ni, SIAM J. Numer. Anal. 49, 2011).

With g_k = f(z_k) - z_k and the stored differences dz_j = z_{j+1} - z_j, dg_j = g_{j+1} - g_j:

    gamma   = argmin || g_k - dG^T gamma ||_2
    z_{k+1} = z_k + mixing g_k - (dZ + mixing dG)^T gamma
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from andersonn_core.kernels import DifferenceWindow
from andersonn_core.least_squares import Weights, default_regularization, gram_weights, qr_weights
from andersonn_core.methods.base import MethodSpec, MethodState, StepDiagnostics, no_event
from andersonn_core.methods.fallback import FallbackState
from andersonn_core.results import Event
from andersonn_core.specs import knob


@dataclass
class AndersonDiagnostics(StepDiagnostics):
    """What an Anderson step saw."""

    gamma: Tensor  # (B, m)
    projected: Tensor  # (B, m) (dG g + lambda D gamma): its product with gamma is what g loses
    squared: Tensor  # (B,) ||g||^2
    used: Tensor  # (B, m) bool
    condition: Tensor  # (B,)

    @classmethod
    def plain(cls, z: Tensor, size: int) -> AndersonDiagnostics:  # (B, n)
        """A step without differences."""
        nothing = z.new_zeros(z.shape[0], size, dtype=torch.float64)
        one = z.new_ones(z.shape[0], dtype=torch.float64)
        return cls(no_event(z), nothing, nothing, one, nothing.bool(), one)

    @property
    def depth(self) -> Tensor:  # (..., B)
        """How many differences the step used."""
        return self.used.sum(-1).double()

    def columns(self) -> dict[str, Tensor]:  # (..., B) each
        """Gain, weights, condition.

        With (G + lambda D) gamma = dG g the least-squares residual is
        ||g||^2 - gamma (dG g + lambda D gamma); it cancels below the rounding of the Gram matrix.
        """
        lost = (self.gamma * self.projected).sum(-1) / self.squared
        return {
            "event": self.event,
            "depth": self.depth,
            "gain": (1 - lost).clamp(min=0).sqrt(),
            "weight_norm": self.gamma.abs().sum(-1),
            "condition": self.condition,
        }


@dataclass
class AndersonState(MethodState):
    """The window, the previous point, and the fallback's counters."""

    window: DifferenceWindow
    z: Tensor  # (B, n) previous iterate
    g: Tensor  # (B, n) its residual
    spent: Tensor  # (B,) bool: the full window has been used once
    stretch: Tensor  # (B,) largest ||dz|| / ||dg||
    fallback: FallbackState
    plain_step: AndersonDiagnostics
    evaluation: int = 0

    def amplification(self) -> Tensor:  # (B,)
        """The largest ||dz|| / ||dg|| seen."""
        return self.stretch


class Anderson(MethodSpec):
    """Anderson acceleration of type II, one scaled and regularized problem per sample."""

    name: ClassVar[str] = "anderson"
    label: ClassVar[str] = "Anderson"

    window: int = knob(
        5, "Past differences that each step combines; 0 is forward iteration.",
        minimum=0, maximum=100, typical=(0, 20), symbol="m",
    )  # fmt: skip
    mixing: float = knob(
        1.0, "Weight on f(z); 1 is undamped.",
        minimum=0.0, maximum=2.0, exclusive_minimum=True, typical=(0.1, 1.5), symbol="beta",
    )  # fmt: skip
    regularization: float | None = knob(
        None, "Ridge on the Gram matrix scaled to unit diagonal; None: 10 rounding errors.",
        minimum=0.0, maximum=1.0, typical=(1e-12, 1e-1), symbol="lambda", log=True,
    )  # fmt: skip
    restart: Literal["full", "never"] = knob(
        "full", "full: use a full window once, then keep only the newest difference; never: slide."
    )
    period: int = knob(
        1, "Extrapolate at every p-th step, plain steps between.",
        minimum=1, maximum=100, typical=(1, 10), symbol="p",
    )  # fmt: skip
    delay: int = knob(
        0, "Plain steps before the history starts.", minimum=0, maximum=10_000, typical=(0, 20)
    )
    least_squares: Literal["gram", "qr"] = knob(
        "gram", "gram: scaled Gram matrix, float64 solve; qr: orthogonal factorization, slower."
    )
    fallback: bool = knob(
        True,
        "A sample that circles goes on with plain steps from its best iterate for a while.",
    )

    def memory_vectors(self, n: int) -> int:
        """Two rings, two points, two residuals, the fallback's best."""
        return 2 * min(self.window, n) + 5

    def init(self, z: Tensor) -> AndersonState:  # (B, n)
        """A workspace of at most n differences: more would be dependent."""
        batch, n = z.shape
        plain_step = AndersonDiagnostics.plain(z, min(self.window, n))
        return AndersonState(
            diagnostics=plain_step,
            plain_step=plain_step,
            window=DifferenceWindow.like(z, min(self.window, n)),
            z=torch.zeros_like(z),
            g=torch.zeros_like(z),
            spent=torch.zeros(batch, dtype=torch.bool, device=z.device),
            stretch=z.new_zeros(batch),
            fallback=FallbackState.like(z),
        )

    def step(self, state: AndersonState, z: Tensor, f_z: Tensor) -> Tensor:
        """Return z + mixing g - (dZ + mixing dG)^T gamma (B, n); plain without differences."""
        state.timer.lap("bookkeeping")
        g = f_z - z
        if state.norms is None:
            state.norms = _host(
                torch.linalg.vector_norm(g, dim=1), torch.linalg.vector_norm(f_z, dim=1)
            )
        z_next = torch.add(z, g, alpha=self.mixing)
        state.diagnostics = replace(state.plain_step, event=no_event(z))
        since = state.evaluation - self.delay  # evaluations since the history started
        if state.window.size and since > 0:
            self._remember(state, z, g)
            if self.fallback:
                self._watch(state)
            if since % self.period == 0:
                self._accelerate(state, z_next, g)
        if state.fallback.home.any():
            home = torch.from_numpy(state.fallback.home).to(z.device)
            z_next = torch.where(home[:, None], state.fallback.best.saved, z_next)
        state.z, state.g, state.norms, state.evaluation = z, g, None, state.evaluation + 1
        return z_next

    def _remember(self, state: AndersonState, z: Tensor, g: Tensor) -> None:  # (B, n), (B, n)
        """Store the newest difference; restart="full" leaves it alone once a window was used."""
        state.timer.lap("gram")
        if self.restart == "full" and bool(state.spent.any()):
            state.window.clear(state.spent)
            state.diagnostics.mark(state.spent, Event.RESTART)
            state.spent.zero_()
        dz, dg = z - state.z, g - state.g
        plain = state.fallback.plain
        storing = torch.from_numpy(~plain).to(z.device) if plain.any() else None
        state.window.append(dz, dg, storing, state.evaluation)
        ratio = torch.linalg.vector_norm(dz, dim=1) / torch.linalg.vector_norm(dg, dim=1)
        state.stretch = torch.fmax(state.stretch, ratio)  # fmax passes over 0 / 0

    def _watch(self, state: AndersonState) -> None:
        """Let samples that circle fall back to plain steps: their history is emptied."""
        assert state.norms is not None
        state.timer.lap("bookkeeping")
        fallback = state.fallback
        fallback.watch(*state.norms, state.z, state.g, self.mixing)
        if fallback.plain.any():
            plain = torch.from_numpy(fallback.plain).to(state.z.device)
            state.window.clear(plain)
            state.spent &= ~plain
            state.diagnostics.mark(plain, Event.PLAIN)
            fired = torch.from_numpy(fallback.fired).to(state.z.device)
            state.diagnostics.mark(fired, Event.FALLBACK)

    def _accelerate(self, state: AndersonState, z_next: Tensor, g: Tensor) -> None:
        """In place: z_next - (dZ + mixing dG)^T gamma (B, n), and what the step saw."""
        assert state.norms is not None
        state.timer.lap("gram")
        window, rhs = state.window, state.window.project(g)
        state.timer.lap("solve")
        ridge = self.regularization
        if ridge is None:
            ridge = default_regularization(g.dtype)
        weights = self._weights(state, g, rhs, ridge)
        state.timer.lap("mix")
        window.subtract(z_next, weights.gamma, self.mixing)
        state.timer.lap("bookkeeping")
        window.valid &= weights.used
        state.spent |= window.count >= window.size
        diagonal = window.gram.diagonal(dim1=1, dim2=2)
        seen = state.diagnostics = AndersonDiagnostics(
            event=state.diagnostics.event,
            gamma=weights.gamma,
            projected=torch.addcmul(rhs, diagonal, weights.gamma, value=ridge),
            squared=torch.from_numpy(state.norms[0] ** 2).to(g.device),
            used=weights.used,
            condition=weights.condition,
        )
        if weights.any_dropped:
            seen.mark(weights.dropped > 0, Event.DROP)

    def _weights(self, state: AndersonState, g: Tensor, rhs: Tensor, ridge: float) -> Weights:
        window = state.window
        if self.least_squares == "qr":
            return qr_weights(window.dg, g, window.valid, window.stamp, ridge)
        return gram_weights(window.gram, rhs, window.valid, window.stamp, ridge, g.dtype)


def _host(*norms: Tensor) -> Any:  # (B,) each
    return tuple(norm.double().cpu().numpy() for norm in norms)
