"""What a windowed method fixes for a solve: the form of its history, and which columns count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from andersonn_core.arrays import Counts, Events, Flags, Floats
from andersonn_core.kernels import DifferenceWindow, ResidualWindow
from andersonn_core.least_squares import (
    Filter,
    ResidualGram,
    ScaledGram,
    newest,
    not_aligned,
    well_conditioned,
)
from andersonn_core.results import Event

Window = DifferenceWindow | ResidualWindow
Gram = ScaledGram | ResidualGram
# How the history is kept, and the least-squares problem that goes with it.
FORMS: dict[str, tuple[type[Window], type[Gram]]] = {
    "gram": (DifferenceWindow, ScaledGram),
    "qr": (DifferenceWindow, ScaledGram),
    "residuals": (ResidualWindow, ResidualGram),
}


@dataclass(frozen=True)
class Settings:
    """The knobs that all windowed methods may have."""

    window: int
    mixing: float = 1.0
    regularization: float | None = None
    period: int = 1
    delay: int = 0
    least_squares: str = "gram"
    fallback: bool = False
    max_condition: float | None = None
    filtering: float = 0.0
    max_growth: float | None = None
    max_weights: float | None = None

    def columns(
        self, stored: Counts, limit: Counts | None, event: Events
    ) -> Filter | None:  # (m,), (B,), (B,)
        """The rules that leave out columns of this step, together; None without any.

        Of all columns, or of the newest `limit`.
        """
        if limit is None and self.max_condition is None and not self.filtering:
            return None

        def columns(matrix: Floats, used: Flags) -> Flags:  # (B, m, m), (B, m)
            """What the rules leave; FILTER for those who lose something."""
            if limit is not None:
                used = newest(used, stored, limit)
            taken = used
            if self.filtering:
                taken = not_aligned(matrix, taken, stored, self.filtering)
            if self.max_condition is not None:
                taken = well_conditioned(matrix, taken, stored, self.max_condition)
            event[(taken != used).any(1)] |= np.int16(Event.FILTER)
            return taken

        return columns
