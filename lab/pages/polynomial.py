"""The residual polynomial: what the chosen weights do to every eigenvalue at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import panel as pn

from andersonn_core import Anderson, SolveSpec
from andersonn_core.words import residual_text
from lab.figures.plane import Plane
from lab.live import Live
from lab.pages.card import STYLE, Card, Later, bokeh_pane, grid, text
from lab.spectra import Spectrum, SpectrumJob, drawable
from lab.theme import Palette

ROUNDING = 1e-13
LEGEND = """<p>On a linear map the residual after k steps is p<sub>k</sub>(J) times the first one.
The polynomial must be 1 at 1 (the cross), and Anderson chooses the rest: it becomes small where the
eigenvalues (dots) lie. Forward iteration has no choice: its polynomial is &lambda;<sup>k</sup>,
small only near 0.</p><p>{roots}</p><p>Move the window or scrub through the evaluations and watch
the roots walk. The dashed line is the unit circle.</p>"""
ROOTS = {
    "full": "<b>A full restart erases roots from the memory.</b> Those already placed can no "
    "longer move, and new ones have to walk to the eigenvalues next to 1 again.",
    "never": "<b>A sliding window lets roots drift.</b> With the oldest difference goes what held "
    "them at the eigenvalues next to 1.",
    "deflated": "<b>Deflation keeps roots.</b> A restart keeps the directions of the eigenvalues "
    "next to 1: roots settle there, and the new ones are free for the rest.",
    "auto": "<b>A test of the map decides what keeps the roots</b> next to 1: on a linear map two "
    "orthogonal pairs or a fixed space, on others slow directions or nothing.",
}
PLAIN = "<b>Without a window Anderson is forward iteration</b>: all roots lie at one point."


def roots_of(anderson: Anderson, n: int) -> str:
    """What becomes of the roots with this history, of a state of n elements; markup."""
    if not anderson.window:
        return PLAIN
    keeps = anderson.restart in ("full", "never") or anderson.directions(n) > 0
    return ROOTS[anderson.restart if keeps else "full"]


class Polynomial(Card):
    """|p_k| over the complex plane at the evaluation that the playback shows."""

    title = "How Anderson's polynomial bends down on the eigenvalues"

    def __init__(self, colors: Palette, schedule: Callable[[Callable[[], None]], Any]) -> None:
        super().__init__()
        self.plane = Plane(colors)
        self.spectrum: Spectrum | None = None
        self.evaluation = 1
        self.job = SpectrumJob(lambda spectrum: schedule(lambda: self._arrive(spectrum)))
        self.legend = text("", "lab-legend")
        self.pane = Later(
            bokeh_pane(self.plane.figure), css_classes=["lab-plane"], stylesheets=[STYLE]
        )
        words = pn.Column(
            self.note, self.legend, css_classes=["lab-words"], stylesheets=[STYLE], margin=0
        )
        self.box = self.boxed(grid(self.pane, words, name="lab-side"), noted=False)
        self.box.visible = False

    def show(self, live: Live, spec: SolveSpec | None) -> None:
        """New runs: ask for their polynomial, or step aside."""
        problem = live.problem
        known = problem is not None and problem.spectrum is not None
        self.box.visible = (
            spec is not None and problem is not None and drawable(spec.problem, known)
        )
        self.pane.show(self.box.visible)
        if self.box.visible and spec is not None:
            self.legend.object = LEGEND.format(roots=roots_of(live.anderson, live.elements))
            self.job.request(spec)
        else:
            self.job.cancel()
            self.spectrum = None

    def _arrive(self, spectrum: Spectrum) -> None:
        self.spectrum = spectrum
        self.plane.place(spectrum.box, spectrum.eigenvalues)
        self.scrub(self.evaluation)

    def scrub(self, evaluation: int) -> None:
        """Show p_k for the step that led to this evaluation."""
        self.evaluation = evaluation
        spectrum = self.spectrum
        if spectrum is None or not self.box.visible or not len(spectrum.magnitude):
            return
        row = min(evaluation, len(spectrum.magnitude)) - 1
        self.plane.show(spectrum.magnitude[row], spectrum.box)
        level = float(spectrum.typical[row])
        words = f"at most {residual_text(level)}" if level >= ROUNDING else "rounding error"
        self.say(f"After {row} steps |p_{row}| is {words} on half of the eigenvalues.")

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.plane.paint(colors)

    def __panel__(self) -> pn.viewable.Viewable:
        return self.box
