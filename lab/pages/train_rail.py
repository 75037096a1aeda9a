"""The Train page's rail: window, mixing and batch size, regime, gradient, other knobs folded."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import panel as pn
import panel_material_ui as pmui

from andersonn_core import GRADIENTS, KnobError
from lab.pages.card import STYLE, text
from lab.pages.rail import BIG, FOLD
from lab.pages.widgets import BoundWidget, bound_widget
from lab.training.setup import CHOICES, KNOBS, LIVE, REGIMES, Setup

NEXT_START = tuple(name for name in (*KNOBS, "regime") if name not in LIVE)
SUMMARY = (
    "A deep equilibrium network with 64,000 parameters, and scikit-learn's handwritten digits: "
    "1437 to learn from, 360 to be tested on."
)


class TrainRail(pn.viewable.Viewer):
    """Widgets bound to a setup; a refused value springs back and says why."""

    def __init__(self, setup: Setup, changed: Callable[[], None]) -> None:
        super().__init__()
        self.setup, self._changed, self._busy = setup, changed, False
        self.bound: dict[str, BoundWidget] = {}
        self.notice = text("", "lab-notice", margin=(6, 0))
        self.selects = {name: self._select(name) for name in CHOICES}
        self.regime_words = text("", "lab-note", margin=(0, 0, 4, 0))
        self.gradient_words = text("", "lab-note", margin=(0, 0, 4, 0))
        self.pending = text("", "lab-note", margin=(4, 0, 0, 0))
        for name, knob in KNOBS.items():
            bound = bound_widget(knob, knob)
            bound.watch(lambda value, name=name: self.set(name, self.bound[name].read(value)))
            self.bound[name] = bound
        self.follow()

    def _select(self, name: str) -> Any:
        label = {"regime": "compare at", "gradient": "gradient"}[name]
        select = pmui.Select(
            label=label, options=CHOICES[name], size="small", sizing_mode="stretch_width",
            margin=(8, 0, 4, 0),
        )  # fmt: skip
        select.param.watch(lambda event: self.set(name, event.new), "value")
        return select

    def set(self, name: str, value: Any) -> None:
        """A widget moved: take the value, or let the widget spring back and say why."""
        if self._busy or getattr(self.setup, name) == value:
            return
        try:
            self.setup = self.setup.replace(**{name: value})
        except KnobError as error:
            self.follow(str(error))
            return
        self.follow()
        self._changed()

    def take(self, setup: Setup) -> None:
        """Show other choices."""
        self.setup = setup
        self.follow()

    def follow(self, notice: str = "") -> None:
        """Show the choices, and why some have no effect."""
        setup = self.setup
        self._busy = True
        try:
            for name, select in self.selects.items():
                select.value = getattr(setup, name)
            for name, bound in self.bound.items():
                reason = setup.unused.get(name, "")
                bound.follow(KNOBS[name], setup.effective(name), reason)
                bound.widget.visible = not (name in ("epochs", "seconds") and reason)
        finally:
            self._busy = False
        self.regime_words.object = html.escape(REGIMES[setup.regime].words)
        self.gradient_words.object = html.escape(self._gradient_words())
        markup = f"<div class='warning' role='alert'>{html.escape(notice)}</div>"
        self.notice.object, self.notice.visible = markup if notice else "", bool(notice)

    def _gradient_words(self) -> str:
        setup, words = self.setup, GRADIENTS[self.setup.gradient].summary
        if setup.gradient_of("picard").name != setup.gradient:
            words += " Forward iteration keeps no differences: it has the implicit gradient."
        return words

    def differs(self, running: Setup | None) -> None:
        """Say which choices a training under way does not have."""
        names = [
            name.replace("_", " ")
            for name in NEXT_START
            if running is not None and getattr(running, name) != getattr(self.setup, name)
        ]
        words = f"{', '.join(names).capitalize()}: from the next Start on." if names else ""
        if self.pending.object != words:
            self.pending.object = words

    def __panel__(self) -> pn.viewable.Viewable:
        live = text("<h3>live, from the next batch on</h3>", "lab-section", margin=(10, 0, 0, 0))
        folded = [
            self.bound[name].pane for name in KNOBS if name not in (*BIG, "epochs", "seconds")
        ]
        more = pmui.Accordion(
            ("More knobs", pn.Column(*folded, sizing_mode="stretch_width")), active=[],
            sizing_mode="stretch_width", margin=(6, 0), disable_gutters=True, sx=FOLD,
        )  # fmt: skip
        summary = text(html.escape(SUMMARY), "lab-note", "lab-summary", margin=(2, 0, 0, 0))
        return pn.Column(
            summary, live, *(self.bound[name].pane for name in BIG), self.selects["gradient"],
            self.gradient_words,
            text("<h3>for the next Start</h3>", "lab-section", margin=(10, 0, 0, 0)),
            self.selects["regime"], self.regime_words, self.bound["epochs"].pane,
            self.bound["seconds"].pane, self.pending, self.notice, more,
            sizing_mode="stretch_width", margin=0, css_classes=["lab-rail"], stylesheets=[STYLE],
        )  # fmt: skip
