"""A recorded median line on the plots of the Convergence page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from andersonn_core.record.curves import ResidualCurve
from lab.figures.curve_plot import Columns, Line, Marker
from lab.theme import LABELS
from lab.traces import marked

MARKER = 8.0  # pixels


@dataclass(frozen=True)
class Recorded:
    """One line; it ends where it met the tolerance of the live ones, if it did."""

    role: str
    name: str  # at its end
    columns: Columns  # evaluation, seconds, median

    @classmethod
    def of(cls, curve: ResidualCurve) -> Recorded:
        """The line of a curve, as far as its median is a number."""
        known = [level for level in curve.residual_at if level is not None]
        columns = {
            "evaluation": [float(k) for k in range(1, len(known) + 1)],
            "seconds": list(curve.seconds_at[: len(known)]), "median": known,
        }  # fmt: skip
        short = {"picard": "forward"}.get(curve.method, LABELS[curve.method])
        return cls(f"gpu {curve.method}", f"GPU, recorded: {short}", columns)

    def count(self, tolerance: float) -> int:
        """Its evaluations down to a tolerance, or all."""
        levels = self.columns["median"]
        return next((k for k, level in enumerate(levels, 1) if level <= tolerance), len(levels))

    def points(self, axis: str, tolerance: float) -> tuple[Sequence[float], Sequence[float]]:
        """Abscissas and residuals down to a tolerance."""
        count = self.count(tolerance)
        return self.columns[axis][:count], self.columns["median"][:count]

    def line(self, axis: str, tolerance: float, width: float) -> Line:
        """The line down to a tolerance."""
        return Line(*self.points(axis, tolerance), self.role, width, 1.0, name=self.name)

    def markers(self, axis: str, tolerance: float) -> list[Marker]:
        """Some of its points, which tell it apart without its color."""
        x, y = self.points(axis, tolerance)
        places = marked(len(x), len(x))
        return [Marker(x[k - 1], y[k - 1], self.role, MARKER) for k in places]
