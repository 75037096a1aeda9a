"""Anderson acceleration, type II (Anderson 1965; Walker and Ni, SIAM J. Numer. Anal. 49, 2011).

With g_k = f(z_k) - z_k and the stored differences dz_j = z_{j+1} - z_j, dg_j = g_{j+1} - g_j:

    gamma   = argmin || g_k - dG^T gamma ||_2
    z_{k+1} = z_k + mixing g_k - (dZ + mixing dG)^T gamma
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from andersonn_core.kernels import DifferenceWindow
from andersonn_core.least_squares import Weights, default_regularization, gram_weights, qr_weights
from andersonn_core.methods.base import MethodSpec, MethodState, StepDiagnostics
from andersonn_core.methods.fallback import FallbackState
from andersonn_core.results import Event
from andersonn_core.specs import knob


@dataclass
class AndersonState(MethodState):
    """The window, the previous point, and the fallback's counters."""

    window: DifferenceWindow
    z: Tensor  # (B, n) previous iterate
    g: Tensor  # (B, n) its residual
    known: Tensor  # (B,) bool: the previous point may form a difference
    spent: Tensor  # (B,) bool: the full window has been used once
    stretch: Tensor  # (B,) float64: largest ||dz|| / ||dg||
    fallback: FallbackState
    evaluation: int = 0

    def amplification(self) -> Tensor:  # (B,)
        """The largest ||dz|| / ||dg|| seen."""
        return self.stretch


class Anderson(MethodSpec):
    """Anderson acceleration of type II with a scaled, regularized least-squares problem per sample."""

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
        None, "Ridge on the Gram matrix after scaling it to unit diagonal; None: 10 rounding errors.",
        minimum=0.0, maximum=1.0, typical=(1e-12, 1e-1), symbol="lambda", log=True,
    )  # fmt: skip
    restart: Literal["full", "never"] = knob(
        "full", "full: use a full window once, then keep only the newest difference; never: slide."
    )
    period: int = knob(1, "Extrapolate at every p-th step, plain steps between.", minimum=1, maximum=100,
                       typical=(1, 10), symbol="p")  # fmt: skip
    delay: int = knob(
        0, "Plain steps before the history starts.", minimum=0, maximum=10_000, typical=(0, 20)
    )
    least_squares: Literal["gram", "qr"] = knob(
        "gram", "gram: scaled Gram matrix, float64 solve; qr: orthogonal factorization, slower."
    )
    fallback: bool = knob(
        True,
        "A sample that stops making progress goes on with plain steps from its best iterate for a while.",
    )

    def memory_vectors(self, n: int) -> int:
        """Two rings, the previous point and residual, a residual, the next point, the fallback's best."""
        return 2 * min(self.window, n) + 5

    def init(self, z: Tensor) -> AndersonState:  # (B, n)
        """A workspace of at most n differences: more would be dependent."""
        batch, n = z.shape
        no = torch.zeros(batch, dtype=torch.bool, device=z.device)
        return AndersonState(
            diagnostics=StepDiagnostics.plain(batch, z.device),
            window=DifferenceWindow.like(z, min(self.window, n)),
            z=torch.zeros_like(z),
            g=torch.zeros_like(z),
            known=no.clone(),
            spent=no.clone(),
            stretch=torch.zeros(batch, dtype=torch.float64, device=z.device),
            fallback=FallbackState.like(z),
        )

    def step(
        self, state: AndersonState, z: Tensor, f_z: Tensor
    ) -> Tensor:  # (B, n), (B, n) -> (B, n)
        """z + mixing g - (dZ + mixing dG)^T gamma; plain where no difference may be used."""
        state.timer.lap("bookkeeping")
        g = f_z - z
        event = torch.zeros(z.shape[0], dtype=torch.int8, device=z.device)
        if state.window.size:
            state.timer.lap("gram")
            self._remember(state, z, g, event)
        norm = torch.linalg.vector_norm(g, dim=1)
        if self.fallback and state.window.size:
            state.timer.lap("bookkeeping")
            self._watch(state, norm / torch.linalg.vector_norm(f_z, dim=1), event)
        z_next = torch.add(z, g, alpha=self.mixing)
        state.diagnostics = StepDiagnostics.plain(z.shape[0], z.device)
        if self._extrapolates(state):
            self._accelerate(state, z_next, g, norm, event)
        if self.fallback and bool(state.fallback.fired.any()):
            z_next = self._from_best(state, z_next)
        state.diagnostics.event = event
        state.z, state.g = z, g
        state.known = torch.full_like(state.known, state.evaluation >= self.delay)
        state.evaluation += 1
        return z_next

    def _extrapolates(self, state: AndersonState) -> bool:
        """Whether this step is one of every `period` after the delay."""
        since = state.evaluation - self.delay
        return state.window.size > 0 and since > 0 and since % self.period == 0

    def _remember(self, state: AndersonState, z: Tensor, g: Tensor, event: Tensor) -> None:
        """Store the newest difference; with restart="full" it alone survives a window that was used."""
        samples = state.known & ~state.fallback.plain
        if not bool(samples.any()):
            return
        if self.restart == "full":
            restarting = samples & state.spent
            state.window.clear(restarting)
            state.spent &= ~restarting
            event |= (restarting * int(Event.RESTART)).to(event.dtype)
        dz, dg = z - state.z, g - state.g
        state.window.append(dz, dg, samples, state.evaluation)
        ratio = (torch.linalg.vector_norm(dz, dim=1) / torch.linalg.vector_norm(dg, dim=1)).double()
        seen = samples & torch.isfinite(ratio) & (ratio > state.stretch)
        state.stretch = torch.where(seen, ratio, state.stretch)

    def _watch(self, state: AndersonState, relative: Tensor, event: Tensor) -> None:  # (B,)
        """Let samples without progress fall back: their history is emptied."""
        state.fallback.watch(relative, state.z, state.g, self.mixing)
        state.window.clear(state.fallback.fired)
        state.spent &= ~state.fallback.fired
        event |= (state.fallback.fired * int(Event.FALLBACK)).to(event.dtype)

    def _accelerate(
        self, state: AndersonState, z_next: Tensor, g: Tensor, norm: Tensor, event: Tensor
    ) -> None:  # (B, n), (B, n), (B,), (B,) int8
        """In place: z_next - (dZ + mixing dG)^T gamma, and what the step saw."""
        state.timer.lap("gram")
        rhs = state.window.project(g)
        state.timer.lap("solve")
        weights = self._weights(state, g, rhs)
        gamma = torch.where(state.fallback.plain[:, None], 0.0, weights.gamma)
        state.timer.lap("mix")
        state.window.subtract(z_next, gamma, self.mixing)
        state.timer.lap("bookkeeping")
        state.window.valid &= weights.used | state.fallback.plain[:, None]
        state.spent |= (state.window.count >= state.window.size) & ~state.fallback.plain
        event |= ((weights.dropped > 0) * int(Event.DROP)).to(event.dtype)
        state.diagnostics = _diagnostics(state.window.gram, rhs, gamma, weights, norm, event)

    def _weights(self, state: AndersonState, g: Tensor, rhs: Tensor) -> Weights:  # (B, n), (B, m)
        window, ridge = state.window, self.regularization
        if ridge is None:
            ridge = default_regularization(g.dtype)
        if self.least_squares == "qr":
            return qr_weights(window.dg, g, window.valid, window.stamp, ridge)
        return gram_weights(window.gram, rhs, window.valid, window.stamp, ridge, g.dtype)

    def _from_best(self, state: AndersonState, z_next: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """For samples that fall back now: a plain step from their best iterate."""
        return torch.where(state.fallback.fired[:, None], state.fallback.best.saved, z_next)


def _diagnostics(
    gram: Tensor, rhs: Tensor, gamma: Tensor, weights: Weights, norm: Tensor, event: Tensor
) -> StepDiagnostics:  # (B, m, m), (B, m), (B, m), ..., (B,), (B,)
    """Gain from ||g||^2 - 2 gamma rhs + gamma G gamma, which cancels below the rounding of the Gram matrix."""
    quadratic = (gamma[:, None, :] @ gram @ gamma[:, :, None])[:, 0, 0]
    squared = norm.double().square()
    left = (squared - 2 * (gamma * rhs).sum(1) + quadratic).clamp(min=0)
    return StepDiagnostics(
        gain=(left / squared).sqrt(),
        weight_norm=gamma.abs().sum(1),
        condition=weights.condition,
        depth=(gamma != 0).sum(1).double(),
        event=event,
    )
