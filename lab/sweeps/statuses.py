"""How a trial ended: one word, one color and one marker each, in every view."""

from __future__ import annotations

from dataclasses import dataclass

from lab.theme import Palette


@dataclass(frozen=True)
class Mark:
    """How trials with one status are named and drawn."""

    word: str
    short: str
    light: str  # of the Okabe-Ito palette, like `dark`; "" takes the theme's text color
    dark: str
    marker: str

    def color(self, colors: Palette) -> str:
        """Its color in a theme."""
        return (self.dark if colors.dark else self.light) or colors.text


MARKS = {
    "CONVERGED": Mark("converged", "converged", "#0072B2", "#56B4E9", "circle"),
    "MAX_ITER": Mark("ran out of evaluations", "ran out", "#E69F00", "#E69F00", "square"),
    "STALLED": Mark("stalled", "stalled", "#009E73", "#009E73", "diamond"),
    "DIVERGED": Mark("diverged", "diverged", "#D55E00", "#D55E00", "triangle"),
    "NONFINITE": Mark("not finite", "not finite", "#CC79A7", "#CC79A7", "inverted_triangle"),
    "CANCELLED": Mark("stopped on request", "stopped", "#51606f", "#a7b5c2", "dash"),
    "FAILED": Mark("failed", "failed", "", "", "x"),
}
STATUSES = tuple(MARKS)
CONVERGED = STATUSES.index("CONVERGED")
