"""A solved least-squares problem, and the ridge that it was solved with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from andersonn_core.arrays import Flags, Floats


@dataclass
class Weights:
    """A solved least-squares problem."""

    gamma: Floats  # (B, m), zero in columns that were not used
    removed: Floats  # (B,) what the weights take off ||g||^2
    used: Flags  # (B, m) the columns that took part
    pivots: Floats  # (B, m) of the scaled matrix's factor, 1 for unused columns
    dropped: Flags | None  # (B,) lost a column as numerically dependent; None: nobody

    def gain(self, norm: Floats) -> Floats:  # (B,) ||g||
        """The least-squares residual over ||g||: what the step promises to leave."""
        return gain(self.removed, norm)


def gain(removed: Floats, norm: Floats) -> Floats:  # (..., B) each
    """sqrt(1 - removed / ||g||^2), which cancels below the rounding of the Gram matrix."""
    with np.errstate(all="ignore"):  # a broken sample's numbers
        left: Floats = np.sqrt(np.maximum(1 - removed / norm**2, 0.0))
    return left


def default_regularization(dtype: torch.dtype) -> float:
    """Ten rounding errors of the type in which the Gram matrix was accumulated.

    A ridge below the rounding of the Gram matrix does nothing: six float32 columns that differ by
    1e-4 gave an indefinite matrix with 1e-8 in every one of 50 draws, and never with 1e-6.
    """
    return 10 * torch.finfo(dtype).eps


def condition(pivots: Floats) -> Floats:  # (..., m) -> (...)
    """(largest pivot / smallest pivot)^2, a lower bound of the matrix's condition number."""
    bound: Floats = (pivots.max(-1) / pivots.min(-1)) ** 2
    return bound
