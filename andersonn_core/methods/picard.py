"""Picard's forward iteration, the baseline: z <- z + mixing (f(z) - z)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from andersonn_core.kernels import Progress, rows_for
from andersonn_core.methods.base import (
    MethodSpec,
    MethodState,
    StepDiagnostics,
    mixing_knob,
    no_event,
)
from andersonn_core.sharding import Shards


class Picard(MethodSpec):
    """Forward iteration z_{k+1} = (1 - mixing) z_k + mixing f(z_k); no memory."""

    name: ClassVar[str] = "picard"
    label: ClassVar[str] = "Forward iteration"

    mixing: float = mixing_knob()

    def init(self, z: Tensor) -> MethodState:  # (B, n)
        """No workspace beyond one residual."""
        return self.init_shard(z, None)

    def shard_problem(self) -> str | None:
        """None."""
        return None

    def init_shard(self, z: Tensor, shards: Shards | None) -> MethodState:  # (B, n)
        """The same."""
        plain = StepDiagnostics(no_event(z), np.full(len(z), self.mixing))
        return MethodState(plain, z.new_empty(z.shape), rows_for(z, shards), Progress.of(len(z)))

    def step(
        self, state: MethodState, z: Tensor, f_z: Tensor
    ) -> Tensor:  # (B, n), (B, n) -> (B, n)
        """Return z + mixing (f(z) - z), (B, n)."""
        state.timer.lap("mix")
        if self.mixing == 1.0:
            return state.target(z).copy_(f_z)
        return torch.lerp(z, f_z, self.mixing, out=state.target(z))
