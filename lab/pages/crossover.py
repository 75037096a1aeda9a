"""The Crossover page: when does mixing pay for itself?"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

import panel as pn

from andersonn_core.runcard import device_name
from lab import crossover_words as words
from lab.controls import Controls
from lab.grid import Grid, News
from lab.later import call_later
from lab.pages.card import STYLE, escape, grid, text
from lab.pages.convergence import PACE, together
from lab.pages.crossover_cards import PredictedCard, RooflineCard
from lab.pages.map_card import Maps
from lab.pages.rail import Rail
from lab.pages.recorded_card import RecordedCrossover
from lab.phase import Plan, Setting
from lab.recordings import look
from lab.theme import Palette

Publish = Callable[[News], None]
Schedule = Callable[[Callable[[], None]], Any]


class CrossoverAnswer(pn.viewable.Viewer):
    """Question, answer, verdict, and whose time it is."""

    def __init__(self) -> None:
        super().__init__()
        self.question = text(f"<h1>{escape(words.QUESTION)}</h1>", "lab-question")
        self.headline = text("", "lab-answer")
        self.verdict = text("", "lab-verdict")
        self.status = text("", "lab-status")
        self.theory = text(
            f"<details><summary>What is going on?</summary><p>{escape(words.THEORY)}</p></details>",
            "lab-theory",
        )

    def show(self, maps: Maps, refusals: str = "") -> None:
        """Say what is known so far, and which recordings were refused."""
        plan, here, best = maps.plan, maps.here, maps.best
        assert plan is not None
        spread = maps.spreads.get(plan.here)
        again = None if best is None else maps.spreads.get(best.setting)
        self._write(self.headline, words.headline(here, spread))
        if here is not None and here.error:
            self.verdict.object = f"<p class='error' role='alert'>{escape(here.error)}</p>"
        else:
            sentence = words.verdict(here, spread, best, again, maps.complete)
            self._write(self.verdict, f"{sentence} {words.batches(maps.sizes())}".strip())
        device = plan.anderson.problem.torch_device
        name = device_name(device) + ("" if device.type == "cuda" else ", 1 thread")
        clock = "CUDA events" if device.type == "cuda" else "thread CPU time"
        self.status.object = escape(f"Measured here: {name}; {clock}. {refusals}".strip())

    @staticmethod
    def _write(pane: pn.pane.HTML, sentence: str) -> None:
        markup = f"<p>{escape(sentence)}</p>" if sentence else ""
        if pane.object != markup:
            pane.object = markup

    def __panel__(self) -> pn.viewable.Viewable:
        line = pn.Row(
            self.status, self.theory, sizing_mode="stretch_width", margin=0,
            css_classes=["lab-line"], stylesheets=[STYLE],
        )  # fmt: skip
        return pn.Column(
            self.question, self.headline, self.verdict, line, sizing_mode="stretch_width",
            margin=0, css_classes=["lab-answers"], stylesheets=[STYLE],
        )  # fmt: skip


class Crossover(pn.viewable.Viewer):
    """Controls -> a plan of cells -> two phase diagrams and the sentences about them."""

    worker: ClassVar[type] = Grid

    def __init__(
        self,
        controls: Controls,
        colors: Palette,
        workers: Callable[[Publish], Grid],
        schedule: Schedule,
        rail: Rail | None = None,
    ) -> None:
        super().__init__()
        self.controls, self.schedule, self.shown = controls, schedule, False
        self.rail = rail or Rail(controls, schedule)
        self.grid = workers(self.publish)
        self.maps = Maps(colors, self._pick, self._submit, self.grid.cancel)
        self.answer = CrossoverAnswer()
        self.predicted, self.roofline = PredictedCard(colors), RooflineCard(colors)
        self.recorded, self._refusals = RecordedCrossover(colors), ""
        self.painted = (self.maps, self.predicted, self.roofline, self.recorded)
        self._next_start, self._waiting = 0.0, False
        controls.param.watch(lambda _: self._moved(), "revision")

    # -- plans ------------------------------------------------------------------------------------

    def show(self) -> None:
        """The page is looked at: compute what is not known yet."""
        self.shown = True
        self._submit()

    def hide(self) -> None:
        """Another page is looked at: compute nothing, draw nothing."""
        self.shown = False
        self.grid.drop()

    def _moved(self) -> None:
        """A control moved: begin at once with its cell, but in a drag no more often than PACE."""
        wait = self._next_start - time.monotonic()
        if not self.shown or self._waiting:
            return
        if wait <= 0:
            self._submit()
        else:
            self._waiting = True
            call_later(wait, lambda: self.schedule(self._submit))

    def _submit(self) -> None:
        self._next_start, self._waiting = time.monotonic() + PACE, False
        if not self.shown:
            return
        specs = self.controls.specs()
        plan = Plan(specs["picard"], specs["anderson"])
        self.grid.start(plan)
        with together():
            self.maps.begin(plan)
            self.roofline.plan(plan)
            self._replay(plan)
            self._explain()

    def publish(self, news: News) -> None:
        """The only place that changes figures while cells are computed."""
        if self.shown:
            with together():
                self.maps.take(news)
                if news.roof is not None:
                    self.roofline.show(news.roof)
                self._explain()

    def _explain(self) -> None:
        """What follows from the cells that are known."""
        self.answer.show(self.maps, self._refusals)
        self.predicted.show(self.maps.known(), self.maps.here)

    def _replay(self, plan: Plan) -> None:
        """Show what was recorded of this problem on a GPU's machine, if anything was."""
        found, name = look(), plan.anderson.problem.name
        self._refusals = found.refusals
        self.recorded.show(*found.newest(lambda each: each.crossovers_of(name)))

    def _pick(self, setting: Setting) -> None:
        """A cell was clicked: the sliders go there."""
        self.schedule(lambda: self.controls.apply(setting._asdict()))

    # -- colors, end ------------------------------------------------------------------------------

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        for card in self.painted:
            card.paint(colors)

    def close(self) -> None:
        """The visitor has left."""
        self.shown = False
        self.grid.close()

    def parts(self) -> tuple[Any, Any]:
        """The answer, and the cards below it."""
        below = pn.Column(
            self.maps, grid(self.predicted, self.roofline, name="lab-strip"), self.recorded,
            sizing_mode="stretch_width", css_classes=["lab-figures"], margin=0,
            stylesheets=[STYLE],
        )  # fmt: skip
        return self.answer, below

    def __panel__(self) -> pn.viewable.Viewable:
        return grid(self.rail, *self.parts(), name="lab-page")
