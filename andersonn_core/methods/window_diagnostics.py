"""What a step with a window saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from andersonn_core.arrays import Flags, Floats
from andersonn_core.least_squares import condition, gain
from andersonn_core.methods.base import StepDiagnostics


@dataclass
class WindowDiagnostics(StepDiagnostics):
    """What a step saw."""

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
        ||g||^2 - y^T (t + lambda y).
        """
        with np.errstate(all="ignore"):  # a broken sample's numbers
            bound = condition(self.pivots) if self.pivots.shape[-1] else np.ones(self.norm.shape)
            return super().columns() | {
                "gain": gain(self.removed, self.norm),
                "weight_norm": np.abs(self.gamma).sum(-1),
                "condition": bound,
            }
