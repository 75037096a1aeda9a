"""The Convergence page: how many past steps are worth remembering?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import panel as pn

from lab.controls import Controls
from lab.live import Live
from lab.pages.answer import Answer
from lab.pages.curves_card import Curves
from lab.pages.rail import Rail
from lab.pages.strip import SampleMap, TimeSplit
from lab.runner import Runner, Update
from lab.theme import Palette

SETTLE_MS = 120  # after the last change: cards that a drag need not redraw wait so long


class Convergence(pn.viewable.Viewer):
    """Controls -> runner -> curves; everything else follows when the runs have ended."""

    def __init__(self, controls: Controls, colors: Palette, runner: Callable[[Any], Runner]) -> None:
        super().__init__()
        self.controls, self.live = controls, Live()
        self.rail = Rail(controls)
        self.answer = Answer(colors)
        self.curves = Curves(colors, controls.rtol)
        self.cards = [TimeSplit(colors), SampleMap(colors)]
        self.runner = runner(self.publish)
        controls.param.watch(lambda _: self.submit(), "revision")

    def submit(self) -> None:
        """Run what the controls describe."""
        self.runner.submit(self.controls.specs())

    def publish(self, updates: list[Update]) -> None:
        """The only place that changes figures while runs are under way."""
        if True:
            if updates[0].reset:
                self._begin()
            self.curves.take(self.live, updates)
            if self.live.complete:
                self.show()
            else:
                self.answer.run(self.live)

    def _begin(self) -> None:
        before, self.live = self.live, Live()
        specs = self.controls.specs()
        spec = specs["anderson"]
        self.live.restart(specs, spec.rtol, self.controls.problem, spec.method.window)
        self.curves.begin(self.live, before)
        self.answer.stale(True)

    def show(self) -> None:
        """All runs have ended."""
        self.answer.show(self.live)
        self.curves.show(self.live)
        if not self.live.errors:
            for card in self.cards:
                card.show(self.live)

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.answer.colors = colors
        for card in (self.curves, *self.cards):
            card.paint(colors)

    def __panel__(self) -> pn.viewable.Viewable:
        strip = pn.FlexBox(*self.cards, sizing_mode="stretch_width", gap="12px")
        return pn.Column(self.answer, self.curves, strip, sizing_mode="stretch_width", margin=(14, 18))
