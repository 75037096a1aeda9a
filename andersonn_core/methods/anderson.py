"""Anderson acceleration, type II (Anderson 1965; Walker and Ni, SIAM J. Numer. Anal. 49, 2011).

With g_k = f(z_k) - z_k and the stored differences dz_j = z_{j+1} - z_j, dg_j = g_{j+1} - g_j:

    gamma   = argmin || g_k - dG^T gamma ||_2
    z_{k+1} = z_k + mixing g_k - (dZ + mixing dG)^T gamma
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from andersonn_core.arrays import Counts, Events, Flags, Floats
from andersonn_core.kernels import DifferenceWindow, Progress, ResidualWindow, rows_for
from andersonn_core.least_squares import (
    ResidualGram,
    ScaledGram,
    Weights,
    condition,
    default_regularization,
    qr_weights,
)
from andersonn_core.methods.base import MethodSpec, MethodState, StepDiagnostics, no_event
from andersonn_core.methods.fallback import FallbackState
from andersonn_core.results import Event
from andersonn_core.specs import knob

Window = DifferenceWindow | ResidualWindow
Gram = ScaledGram | ResidualGram
# How the history is kept, and the least-squares problem that goes with it.
FORMS: dict[str, tuple[type[Window], type[Gram]]] = {
    "gram": (DifferenceWindow, ScaledGram),
    "qr": (DifferenceWindow, ScaledGram),
    "residuals": (ResidualWindow, ResidualGram),
}


@dataclass
class AndersonDiagnostics(StepDiagnostics):
    """What an Anderson step saw."""

    gamma: Floats  # (B, m)
    removed: Floats  # (B,) what the step expects to take off ||g||^2
    norm: Floats  # (B,) ||g||
    used: Flags  # (B, m)
    pivots: Floats  # (B, m)

    @property
    def depth(self) -> Floats:  # (..., B)
        """How many differences the step used."""
        return np.asarray(self.used.sum(-1), dtype=np.float64)

    def columns(self) -> dict[str, NDArray[Any]]:  # (..., B) each
        """Gain, weights, condition.

        With (A + lambda I) y = t for unit columns the least-squares residual is
        ||g||^2 - y^T (t + lambda y); it cancels below the rounding of the Gram matrix.
        """
        with np.errstate(all="ignore"):  # a broken sample's numbers
            left = 1 - self.removed / self.norm**2
            return {
                "event": self.event,
                "depth": self.depth,
                "gain": np.sqrt(np.maximum(left, 0.0)),
                "weight_norm": np.abs(self.gamma).sum(-1),
                "condition": condition(self.pivots) if self.pivots.shape[-1] else 1 + 0 * left,
            }


@dataclass
class AndersonState(MethodState):
    """The window, the previous point, and the fallback's counters."""

    window: Window
    gram: Gram
    last_z: Tensor  # (B, n) previous iterate
    last_g: Tensor  # (B, n) its residual
    count: Counts  # (B,) differences stored since the last restart; -1: no residual yet
    spent: Flags  # (B,) the full window has been used once
    stretch: Floats  # (B,) largest ||dz|| / ||dg|| of the differences in slot 0; NaN: not known
    fallback: FallbackState
    plain_step: AndersonDiagnostics
    evaluation: int = 0

    def amplification(self) -> Floats:  # (B,)
        """The largest ||dz|| / ||dg|| seen: in every m-th step, which is when it is measured."""
        return self.stretch

    def residual(self) -> Tensor:  # (B, n)
        """The window says where: a ring of residuals holds it already."""
        self.g = self.window.next_residual(self.g)
        return self.g

    def forget(self, samples: Flags) -> None:  # (B,)
        """Empty the history of some samples."""
        chosen = self._cleared(samples)
        self.gram.forget(chosen)
        self.count[chosen] = self.window.nothing

    def restart(self) -> None:
        """Empty the histories that have been used in full but for what a difference needs."""
        chosen = self._cleared(self.spent)
        self.gram.restart(chosen)
        self.count[chosen] = 0

    def _cleared(self, samples: Flags) -> Flags | slice:  # (B,)
        chosen = slice(None) if np.count_nonzero(samples) == len(samples) else samples
        self.window.clear(chosen)
        self.spent = self.spent & ~samples
        return chosen


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
    least_squares: Literal["gram", "qr", "residuals"] = knob(
        "gram",
        "gram: scaled Gram matrix, float64 solve; qr: orthogonal factorization, slower; residuals: "
        "Gram matrix of the residuals instead of their differences, least memory traffic, for "
        "large and well-conditioned cells.",
    )
    fallback: bool = knob(
        True,
        "A sample that circles goes on with plain steps from its best iterate for a while.",
    )

    def memory_vectors(self, n: int) -> int:
        """Two rings, two residuals, two iterates, the fallback's best."""
        return 2 * min(self.window, n) + 5

    def init(self, z: Tensor) -> AndersonState:  # (B, n)
        """A workspace of at most n differences: more would be dependent."""
        batch, n = z.shape
        size, rows, precision = min(self.window, n), rows_for(z), torch.finfo(z.dtype).eps
        ridge = self.regularization
        if ridge is None:
            ridge = default_regularization(z.dtype)
        window_of, gram_of = FORMS[self.least_squares if size else "gram"]
        window = window_of.like(z, size, self.mixing, rows)
        nothing, one = np.zeros((batch, window.size)), np.ones((batch, window.size))
        plain_step = AndersonDiagnostics(
            no_event(z), nothing, np.zeros(batch), np.ones(batch), nothing > 0, one
        )
        g, last_g = window.residuals(z)
        return AndersonState(
            plain_step,
            g,
            rows,
            Progress.of(batch),
            plain_step=plain_step,
            window=window,
            gram=gram_of.of(batch, window.size, ridge, precision),
            last_z=z,
            last_g=last_g,
            count=np.full(batch, window.nothing),
            spent=np.zeros(batch, np.bool_),
            stretch=np.full(batch, np.nan),
            fallback=FallbackState.of(batch, precision),
        )

    def step(self, state: AndersonState, z: Tensor, f_z: Tensor) -> Tensor:
        """Return z + mixing g - (dZ + mixing dG)^T gamma (B, n); plain without differences."""
        state.timer.lap("bookkeeping")
        if state.norms is None:
            state.measure(z, f_z)
        event, fallback = no_event(z), state.fallback
        since = state.evaluation - self.delay  # evaluations since the history started
        weights = None
        if state.window.size and since > state.window.nothing:
            rhs = self._remember(state, z, f_z, event)
            if self.fallback:
                self._watch(state, event)
            if since % self.period == 0:
                weights = self._weights(state, rhs, event)
        z_next = self._next(state, z, f_z, weights)
        if fallback.active and fallback.home.any():
            fallback.best.fill(z_next, fallback.home)
        self._record(state, event, weights)
        state.last_z, state.g, state.last_g = z, state.last_g, state.g
        state.norms, state.evaluation = None, state.evaluation + 1
        return z_next

    def _remember(
        self, state: AndersonState, z: Tensor, f_z: Tensor, event: Events
    ) -> Floats:  # (B, n), (B, n), (B,) -> (B, m)
        """Store the newest difference; restart="full" leaves it alone once a window was used."""
        state.timer.lap("gram")
        window, gram = state.window, state.gram
        if self.restart == "full" and np.count_nonzero(state.spent):
            event[state.spent] |= np.int8(Event.RESTART)
            state.restart()
        row, rhs, lengths = window.append(
            z, f_z, state.g, state.last_z, state.last_g, state.evaluation
        )
        storing = ~state.fallback.plain if state.fallback.active else None
        dropped = gram.store(window.slot, row, storing, window.stored)
        if dropped is not None:
            event[dropped] |= np.int8(Event.DROP)
            wild = ~(row[:, window.slot] < np.inf)
            if wild.any():
                window.erase(wild)
        state.count += 1 if storing is None else storing
        if lengths is not None:
            ratio = lengths / np.sqrt(row[:, window.slot])
            state.stretch = np.fmax(state.stretch, ratio)  # fmax passes over 0 / 0
        return rhs

    def _watch(self, state: AndersonState, event: Events) -> None:
        """Let samples that circle fall back to plain steps: their history is emptied."""
        state.timer.lap("bookkeeping")
        assert state.norms is not None
        fallback, progress = state.fallback, state.progress
        if np.count_nonzero(progress.evicted):
            fallback.best.save(progress.evicted, state.last_z, state.last_g, self.mixing)
        fallback.watch(progress, state.norms[0])
        if fallback.active:
            state.forget(fallback.plain)
            event[fallback.plain] |= np.int8(Event.PLAIN)
            event[fallback.fired] |= np.int8(Event.FALLBACK)

    def _weights(self, state: AndersonState, rhs: Floats, event: Events) -> Weights:  # (B, m), (B,)
        """Solve for the weights; a column that was dropped is gone for good."""
        assert state.norms is not None
        state.timer.lap("solve")
        window, gram = state.window, state.gram
        if self.least_squares == "qr":
            columns = window.columns.transpose(0, 1)  # (B, m, n)
            weights = qr_weights(columns, state.g, gram.used, window.stored, gram.ridge)
        else:
            weights = gram.solve(rhs)
        if weights.dropped is not None:
            event[weights.dropped] |= np.int8(Event.DROP)
            gram.keep_only(weights.used)
        state.spent |= state.count >= window.size + window.nothing
        return weights

    def _next(
        self, state: AndersonState, z: Tensor, f_z: Tensor, weights: Weights | None
    ) -> Tensor:  # (B, n), (B, n) -> (B, n)
        state.timer.lap("mix")
        target = state.target(z)
        if weights is not None:
            state.window.step(z, f_z, state.g, weights.gamma, out=target)
        elif self.mixing == 1.0:
            target.copy_(f_z)
        else:
            torch.add(z, state.g, alpha=self.mixing, out=target)
        state.timer.lap("bookkeeping")
        return target

    def _record(self, state: AndersonState, event: Events, weights: Weights | None) -> None:
        """What this step saw, raw: the history makes columns of it after the solve."""
        assert state.norms is not None
        if weights is None:
            state.diagnostics = replace(state.plain_step, event=event)
            return
        gamma = weights.gamma * weights.used  # not the newest residual's, which is no difference's
        state.diagnostics = AndersonDiagnostics(
            event, gamma, weights.removed, state.norms[0], weights.used, weights.pivots
        )
