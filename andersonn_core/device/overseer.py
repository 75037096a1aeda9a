"""What only shows over many evaluations, decided by the host a few of them late.

A sample that circles goes on with plain steps from its best iterate; one that makes no progress has
stalled: the rules of `FallbackState` and `Referee`, which see each evaluation's row when it has
come. Their decisions go to the device as masks that nobody waits for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Flags
from andersonn_core.device.buffers import NUMBERS, DeviceState
from andersonn_core.device.looks import Row
from andersonn_core.driver import SolveKnobs
from andersonn_core.kernels import Progress
from andersonn_core.methods.fallback import FallbackState
from andersonn_core.referee import Referee
from andersonn_core.results import RUNNING, Event, Status

PLAIN_STEP = {"gain": 1.0, "weight_norm": 0.0, "condition": 1.0, "depth": 0.0}


class Overseer:
    """Watches one solve's rows; `before_mix` and `after_mix` carry out what it decided."""

    def __init__(self, state: DeviceState, knobs: SolveKnobs, window: int, fallback: bool) -> None:
        batch, precision = len(state.status), torch.finfo(state.g.dtype).eps
        self.state, self.progress = state, Progress.of(batch)
        self.referee = Referee(batch, knobs.rtol, knobs.atol, window)
        self.fallback = FallbackState.of(batch, precision) if fallback else None
        self._plain: Tensor | None = None  # (B,) bool, on the device, who takes plain steps
        self._began: Tensor | None = None  # (B,) bool, who begins with them now
        self._home: Tensor | None = None  # (B,) bool, who goes back to the best iterate now

    @property
    def intervenes(self) -> bool:
        """Whether the next step is not the kernels' alone."""
        return self._plain is not None or self._home is not None

    def watch(self, row: Row) -> None:
        """Take the newest row; decide."""
        running = row.running
        self.progress.add(row.numbers["relative_residual"], running)
        self.referee.excuse(slice(None), row.event, row.evaluation)
        stalled = self.referee.stalled(slice(None), row.evaluation, self.progress)
        if stalled is not None:
            self._stop(stalled)
        fallback = self.fallback
        if fallback is None:
            return
        before = fallback.plain
        fallback.watch(self.progress, row.numbers["residual"])
        if (fallback.plain != before).any():
            self._plain = self._sent(fallback.plain) if fallback.plain.any() else None
        if fallback.active and fallback.fired.any():
            self._began = self._sent(fallback.fired)
        if fallback.home.any():
            self._home = self._sent(fallback.home)

    def _stop(self, samples: Flags) -> None:  # (B,)
        status = self.state.status
        mask = self._sent(samples) & (status == RUNNING)
        status.copy_(torch.where(mask, torch.full_like(status, Status.STALLED), status))

    def before_mix(self, evaluation: int) -> None:
        """Make the step of those on plain steps a plain one, and their history empty."""
        if self._plain is None:
            return
        state, plain = self.state, self._plain & (self.state.status == RUNNING)
        state.forget(plain)
        state.gamma.masked_fill_(plain[:, None], 0.0)
        state.count.masked_fill_(plain, 0)
        place = (evaluation - 1) % state.records.event.shape[0]
        for name, value in PLAIN_STEP.items():
            state.records.numbers[NUMBERS.index(name), place].masked_fill_(plain, value)
        event = state.records.event[place]
        event.bitwise_or_(plain.to(event.dtype) * int(Event.PLAIN))
        if self._began is not None:
            event.bitwise_or_((self._began & plain).to(event.dtype) * int(Event.FALLBACK))
            self._began = None

    def after_mix(self, out: Tensor) -> None:  # (B, n)
        """Send those home who go there; it is evaluated again, and plain steps go on from it."""
        if self._home is None:
            return
        home = self._home & (self.state.status == RUNNING)
        out.copy_(torch.where(home[:, None], self.state.best, out))
        self._home = None

    def _sent(self, flags: Any) -> Tensor:  # (B,)
        """On its way to the device."""
        there = torch.from_numpy(np.ascontiguousarray(flags))
        if self.state.g.device.type != "cuda":
            return there.clone()
        return there.pin_memory().to(self.state.g.device, non_blocking=True)
