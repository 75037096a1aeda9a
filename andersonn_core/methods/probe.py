"""An evaluation that tests the map: where an affine one's residual is known beforehand.

At z - dZ^T gamma that is g - dG^T gamma. The evaluation after it goes on where the step would have
led; samples without a probe take a step at the same evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Events, Flags, Floats
from andersonn_core.least_squares import Weights
from andersonn_core.results import Event

if TYPE_CHECKING:
    from andersonn_core.methods.windowed import WindowState


@dataclass
class Probe:
    """What is foretold at a point that is evaluated next, and where to go from there."""

    samples: Flags  # (B,) the others go on as ever, but for the ring, which all share: it waits
    after: Tensor  # (B, n) the step's own proposal, evaluated next
    foretold: Tensor  # (B, n) g - dG^T gamma
    weight: Floats  # (B,) 1 + ||gamma||_1: how much rounding errors of the history count

    @classmethod
    def begin(
        cls, state: WindowState, z_next: Tensor, weights: Weights
    ) -> Probe | None:  # (B, n), (B, m)
        """In place: those who want one go to z - dZ^T gamma first, then where the step leads."""
        samples = state.keeper.wants_probe(state)
        if samples is None:
            return None
        foretold = state.window.predict(state.g, weights.gamma)
        probe = cls(samples, z_next.clone(), foretold, 1 + np.abs(weights.gamma).sum(1))
        places = state.places(samples)
        z_next[places] = z_next[places].sub_(foretold[places], alpha=state.settings.mixing)
        return probe

    def end(
        self, state: WindowState, z: Tensor, f_z: Tensor, event: Events
    ) -> Tensor:  # (B, n), (B, n), (B,) -> (B, n)
        """Compare residuals with the foretold ones; go on as if there had been no probe."""
        off = torch.sub(state.g, self.foretold)
        _save_best(state, z)
        if not self.samples.all():
            self._go_on(state, z, f_z)
        state.keeper.judge(state, self, np.sqrt(state.rows.squares(off)))
        event[self.samples] |= np.int16(Event.PROBE)
        return self.after

    def _go_on(self, state: WindowState, z: Tensor, f_z: Tensor) -> None:  # (B, n), (B, n)
        """Samples without a probe take a step; their newest difference replaces the one before."""
        assert state.norms is not None
        window, among = state.window, np.flatnonzero(~self.samples)
        places = state.places(~self.samples)
        window.replace(places, z, state.g, state.last_z, state.last_g)
        row, rhs = window.products(state.g)
        part: Any = state.gram.select(places)
        part.store(window.slot, row[among], None, window.stored)
        gamma = np.zeros_like(rhs)
        gamma[among] = part.solve(rhs[among]).gamma
        state.gram.put(among, part)
        step = torch.empty_like(self.after)
        window.step(z, f_z, state.g, gamma, out=step)
        state.last_z = state.last_z.clone()
        for old, new in ((self.after, step), (state.last_z, z), (state.last_g, state.g)):
            old[places] = new[places]
        state.last_norm = np.where(self.samples, state.last_norm, state.norms[0])

    def select(self, indices: Tensor) -> Probe:  # (A,)
        """The probe of some samples."""
        places = indices.cpu().numpy()
        weight, samples = self.weight[places], self.samples[places]
        return Probe(samples, self.after[indices], self.foretold[indices], weight)


def _save_best(state: WindowState, z: Tensor) -> None:  # (B, n)
    """For the fallback: a probe may be the best point, or follow it."""
    if not state.settings.fallback:
        return
    progress, best, mixing = state.progress, state.fallback.best, state.settings.mixing
    if np.count_nonzero(progress.evicted):
        best.save(progress.evicted, state.last_z, state.last_g, mixing)
    if np.count_nonzero(progress.newest):
        best.save(progress.newest, z, state.g, mixing)
    state.saved = progress.newest
