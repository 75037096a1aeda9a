"""The step that all methods with a window of past differences share.

With g = f(z) - z, the stored differences dz_j and dg_j, and weights gamma:

    z_{k+1} = z_k + mixing g_k - (dZ + mixing dG)^T gamma

gamma minimizes || g_k - dG^T gamma || unless the keeper knows better; the keeper decides what is
kept of the history when the window is full.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Events, Flags, Floats
from andersonn_core.kernels import DifferenceWindow, Previous, Progress, rows_for
from andersonn_core.least_squares import (
    Filter,
    ScaledGram,
    Weights,
    default_regularization,
    qr_weights,
)
from andersonn_core.methods.base import MethodState, no_event
from andersonn_core.methods.fallback import FallbackState
from andersonn_core.methods.guard import Guard
from andersonn_core.methods.keeper import Keeper
from andersonn_core.methods.probe import Probe
from andersonn_core.methods.settings import FORMS, Gram, Settings, Window
from andersonn_core.methods.steering import Steering
from andersonn_core.methods.stretch import Stretch
from andersonn_core.methods.window_diagnostics import WindowDiagnostics
from andersonn_core.results import Event
from andersonn_core.sharding import Shards, elements


@dataclass
class WindowState(MethodState):
    """The window, the previous point, the keeper, and the fallback's counters."""

    settings: Settings
    keeper: Keeper
    window: Window
    gram: Gram
    last_z: Tensor  # (B, n) previous iterate
    last_g: Tensor  # (B, n) its residual
    last_norm: Floats  # (B,) and ||g|| of it
    count: Counts  # (B,) differences stored since the last restart; -1: no residual yet
    spent: Flags  # (B,) the full window has been used once
    stretch: Stretch  # of the differences in slot 0
    fallback: FallbackState
    plain_step: WindowDiagnostics
    limit: Counts  # (B,) the most differences that a step uses now
    mixing: Floats  # (B,) the weight on f(z) now
    guard: Guard | None = None
    steering: Steering | None = None
    evaluation: int = 0
    steps: int = 0  # evaluations that were not probes
    probe: Probe | None = None
    saved: Flags | None = None  # (B,) whose best point, a probe, the fallback holds already

    @classmethod
    def of(
        cls,
        z: Tensor,
        settings: Settings,
        keeper: Keeper,
        steering: Steering | None = None,
        shards: Shards | None = None,
    ) -> WindowState:  # (B, n)
        """A workspace of at most n differences: more would be dependent; n of the whole state."""
        batch, precision = len(z), torch.finfo(z.dtype).eps
        size, rows = min(settings.window, elements(z, shards)), rows_for(z, shards)
        ridge = settings.regularization
        if ridge is None:
            ridge = default_regularization(z.dtype)
        window_of, gram_of = FORMS[settings.least_squares if size else "gram"]
        window = window_of.like(z, size, settings.mixing, rows)
        nothing, one = np.zeros((batch, window.size)), np.ones((batch, window.size))
        mixing = np.full(batch, settings.mixing)
        plain_step = WindowDiagnostics(
            no_event(z), mixing, nothing, np.zeros(batch), np.ones(batch), nothing > 0, one
        )
        g, last_g = window.residuals(z)
        return cls(
            plain_step,
            g,
            rows,
            Progress.of(batch),
            settings=settings,
            keeper=keeper,
            plain_step=plain_step,
            window=window,
            gram=gram_of.of(batch, window.size, ridge, precision),
            last_z=z,
            last_g=last_g,
            last_norm=np.full(batch, np.inf),
            count=np.full(batch, window.nothing),
            spent=np.zeros(batch, np.bool_),
            stretch=Stretch(np.full(batch, np.nan)),
            fallback=FallbackState.of(batch, precision),
            limit=np.full(batch, size),
            mixing=mixing,
            guard=Guard.of(batch, settings.max_growth, settings.max_weights),
            steering=steering,
        )

    def amplification(self) -> Floats:  # (B,)
        """The largest ||dz|| / ||dg|| seen: in every m-th step, which is when it is measured."""
        return self.stretch.found(self.rows)

    def residual(self, z: Tensor, f_z: Tensor) -> tuple[Floats, Floats]:  # (B, n) -> (B,), (B,)
        """The window says where: a ring of residuals holds it already."""
        self.keeper.foresee(self)
        self.g, norms = self.window.measure(z, f_z, self.g, self._previous())
        return norms

    def _previous(self) -> Previous | None:
        """What the window may take the next difference from at once; None: not yet, or never."""
        window, begun = self.window, self.steps > self.settings.delay
        if not isinstance(window, DifferenceWindow) or not (begun and window.size):
            return None
        needed = self.probe is not None or self.lasting
        older = None if needed else self.keeper.older(window, self.spent)
        return None if older is None else Previous(self.last_z, self.last_g, older)

    def notes(self) -> tuple[str, ...]:
        """The keeper's, the steering's and the guard's."""
        parts = (self.keeper, self.steering, self.guard)
        return tuple(note for part in parts if part is not None for note in part.notes())

    # -- the history --------------------------------------------------------------------------

    def forget(self, samples: Flags) -> None:  # (B,)
        """Empty the history of some samples."""
        chosen = self._cleared(samples)
        self.gram.forget(chosen)
        self.count[chosen] = self.window.nothing

    def restart(self, samples: Flags) -> None:  # (B,)
        """Empty the histories of some samples but for what the next difference needs."""
        chosen = self._cleared(samples)
        self.gram.restart(chosen)
        self.count[chosen] = 0

    def _cleared(self, samples: Flags) -> Flags | slice:  # (B,)
        chosen = slice(None) if np.count_nonzero(samples) == len(samples) else samples
        self.window.keep_newest(chosen)
        self.spent = self.spent & ~samples
        return chosen

    def fold(self, weights: Floats, places: Counts) -> None:  # (A, k, m), (A,)
        """Go on with combinations of the columns of some samples instead of the columns.

        A sample whose combinations under- or overflow goes on without any.
        """
        chosen = self.gram.combinations(places, weights)
        slots, applied = self.window.fold(chosen, torch.from_numpy(places).to(self.g.device))
        fine = self.gram.fold(places, slots, applied)
        self.count[places] = weights.shape[1]
        self.spent[places] = False
        if not fine.all():
            failed = np.zeros_like(self.spent)
            failed[places[~fine]] = True
            self.restart(failed)

    # -- the step -----------------------------------------------------------------------------

    def advance(self, z: Tensor, f_z: Tensor) -> Tensor:  # (B, n), (B, n) -> (B, n)
        """The next point to evaluate; a plain step without differences."""
        self.timer.lap("bookkeeping")
        if self.norms is None:
            self.measure(z, f_z)
        assert self.norms is not None
        event, settings, fallback = no_event(z), self.settings, self.fallback
        if self.probe is not None:
            return self._after_probe(self.probe, z, f_z, event)
        guard, steering = self.guard, self.steering
        refused = guard.refused(self, event) if guard is not None else None
        if steering is not None:
            steering.begin(self)
        since = self.steps - settings.delay  # evaluations since the history started
        weights = None
        if self.window.size and since > self.window.nothing:
            rhs = self._remember(z, event)
            if settings.fallback:
                self._watch(event)
            if guard is not None:
                guard.forget(self, refused)
            if since % settings.period == 0:
                weights = self._weights(rhs, event)
        if steering is not None:
            steering.weigh(self, weights)
        z_next = self._next(z, f_z, weights)
        if steering is not None:
            steering.mix(self, z_next, weights)
        if guard is not None:
            guard.remember(weights, refused, z_next)
        if fallback.active and fallback.home.any():
            fallback.best.fill(z_next, fallback.home)
        if weights is not None:
            self.probe = Probe.begin(self, z_next, weights)
        self._record(event, weights)
        self.last_norm = self.norms[0]
        self.last_z, self.g, self.last_g = z, self.last_g, self.g
        self.norms, self.evaluation, self.steps = None, self.evaluation + 1, self.steps + 1
        return z_next

    def _remember(self, z: Tensor, event: Events) -> Floats:  # (B, n), (B,) -> (B, m)
        """Store the newest difference; the keeper makes room for it."""
        self.timer.lap("gram")
        window, gram = self.window, self.gram
        self.keeper.make_room(self, event)
        row, rhs, lengths = window.append(z, self.g, self.last_z, self.last_g, self.evaluation)
        row, rhs = self.keeper.settle(self, row, rhs)
        storing = ~self.fallback.plain if self.fallback.active else None
        dropped = gram.store(window.slot, row, storing, window.stored)
        if dropped is not None:
            event[dropped] |= np.int16(Event.DROP)
            wild = ~(row[:, window.slot] < np.inf)
            if wild.any():
                window.erase(wild)
        self.count += 1 if storing is None else storing
        if lengths is not None:
            self.stretch.add(lengths, row[:, window.slot].copy())
        return rhs

    def _watch(self, event: Events) -> None:
        """Let samples that circle fall back to plain steps: their history is emptied."""
        self.timer.lap("bookkeeping")
        assert self.norms is not None
        fallback, progress = self.fallback, self.progress
        evicted = progress.evicted if self.saved is None else progress.evicted & ~self.saved
        if np.count_nonzero(evicted):
            fallback.best.save(evicted, self.last_z, self.last_g, self.settings.mixing)
        self.saved = None
        fallback.watch(progress, self.norms[0])
        if fallback.active:
            self.forget(fallback.plain)
            event[fallback.plain] |= np.int16(Event.PLAIN)
            event[fallback.fired] |= np.int16(Event.FALLBACK)

    def _weights(self, rhs: Floats, event: Events) -> Weights:  # (B, m), (B,)
        """Solve for the weights; a column that was dropped is gone for good."""
        self.timer.lap("solve")
        limited = self.steering is not None and "window" in self.steering.rules
        limit = self.limit if limited else None
        gram, columns = self.gram, self.settings.columns(self.window.stored, limit, event)
        if self.settings.least_squares == "qr":
            weights = self._by_qr(columns)
        else:
            weights = gram.solve(rhs, columns)
        if weights.dropped is not None:
            event[weights.dropped] |= np.int16(Event.DROP)
            gram.keep_only(weights.used)
        self.keeper.choose(self, weights)
        self.spent |= self.count >= self.limit
        if self.guard is not None:
            self.guard.weigh(self, weights, event)
        return weights

    def _by_qr(self, columns: Filter | None) -> Weights:
        window, used = self.window, self.gram.used
        if columns is not None and isinstance(self.gram, ScaledGram):
            used = columns(self.gram.matrix, used)
        dg = window.columns.transpose(0, 1)  # (B, m, n)
        return qr_weights(dg, self.g, used, window.stored, self.gram.ridge)

    def go_plain(self, weights: Weights, samples: Flags) -> None:  # (B,)
        """Give some samples the weights of a plain step."""
        weights.gamma[samples] = weights.removed[samples] = 0.0
        weights.used[samples], weights.pivots[samples] = False, 1.0
        if self.window.nothing < 0:  # weights of residuals sum to one
            weights.gamma[samples, self.window.slot] = 1.0

    def _next(
        self, z: Tensor, f_z: Tensor, weights: Weights | None
    ) -> Tensor:  # (B, n), (B, n) -> (B, n)
        self.timer.lap("mix")
        target = self.target(z)
        if weights is not None:
            self.window.step(z, f_z, self.g, weights.gamma, out=target)
        elif self.settings.mixing == 1.0:
            target.copy_(f_z)
        else:
            torch.add(z, self.g, alpha=self.settings.mixing, out=target)
        self.timer.lap("bookkeeping")
        return target

    def _record(self, event: Events, weights: Weights | None) -> None:
        """What this step saw, raw: the history makes columns of it after the solve."""
        assert self.norms is not None
        if weights is None:
            self.diagnostics = replace(self.plain_step, event=event, mixing=self.mixing)
            return
        gamma = weights.gamma * weights.used  # not the newest residual's, which is no difference's
        self.diagnostics = WindowDiagnostics(
            event, self.mixing, gamma, weights.removed, self.norms[0], weights.used, weights.pivots
        )

    def _after_probe(
        self, probe: Probe, z: Tensor, f_z: Tensor, event: Events
    ) -> Tensor:  # (B, n), (B, n) -> (B, n)
        """Where the step before led."""
        z_next = probe.end(self, z, f_z, event)
        self.diagnostics = replace(self.plain_step, event=event)
        self.norms, self.probe, self.evaluation = None, None, self.evaluation + 1
        return z_next

    def places(self, samples: Flags) -> Tensor:  # (B,) -> (A,)
        """Where some samples are, on the state's device."""
        return torch.from_numpy(np.flatnonzero(samples)).to(self.g.device)
