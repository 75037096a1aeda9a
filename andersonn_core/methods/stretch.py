"""How far a state moves for a change of its residual: what the error estimate is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from andersonn_core.arrays import Floats
from andersonn_core.kernels import Rows


@dataclass
class Stretch:
    """The largest ||dz|| / ||dg|| of some differences: a lower bound of ||(I - J)^-1||.

    The lengths of a rank's own elements wait until the bound is asked for, since no step needs it:
    all ranks' are added up at once then.
    """

    largest: Floats  # (B,) NaN: not known
    waiting: list[tuple[Floats, Floats]] = field(default_factory=list)  # (B,) squares of both

    def add(self, length: Floats, square: Floats) -> None:  # (B,) each
        """A difference's ||dz||, of this rank's elements, and ||dg||^2, of all."""
        self.waiting.append((length**2, square))

    def found(self, rows: Rows) -> Floats:  # (B,)
        """The largest so far; all ranks must ask at the same time."""
        if self.waiting:
            moved, changed = (np.array(each) for each in zip(*self.waiting, strict=True))
            ratio = np.sqrt(rows.total(moved)) / np.sqrt(changed)
            self.largest = np.fmax(self.largest, np.fmax.reduce(ratio))  # passes over 0 / 0
            self.waiting = []
        return self.largest

    def select(self, indices: Tensor) -> Stretch:  # (A,)
        """Of some samples."""
        places = indices.cpu().numpy()
        waiting = [(length[places], square[places]) for length, square in self.waiting]
        return Stretch(self.largest[places], waiting)
