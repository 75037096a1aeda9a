"""The Train page: what does a faster equilibrium buy while a model learns?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import panel as pn
import panel_material_ui as pmui

from lab.controls import Controls
from lab.pages.card import STYLE, escape, grid, text
from lab.pages.convergence import together
from lab.pages.rail import Rail
from lab.pages.train_cards import (
    CurvesCard,
    DigitsCard,
    EvaluationsCard,
    GradientCard,
    SolveCard,
    StiffnessCard,
    View,
)
from lab.pages.train_rail import TrainRail
from lab.pages.train_table import TableCard
from lab.pages.visitor import Visitor
from lab.theme import Palette
from lab.training import words
from lab.training.race import Race, Result
from lab.training.registry import MOST_PINS, REGISTRY, Refused, Registry
from lab.training.setup import Setup
from lab.training.watch import Watch

Schedule = Callable[[Callable[[], None]], Any]


class TrainAnswer(pn.viewable.Viewer):
    """Question, answer, verdict, the buttons and how far it is."""

    def __init__(self, actions: dict[str, Callable[[], None]], schedule: Schedule) -> None:
        super().__init__()
        self.question = text(f"<h1>{escape(words.QUESTION)}</h1>", "lab-question")
        self.headline = text("", "lab-answer")
        self.verdict = text("", "lab-verdict")
        self.status = text("", "lab-status", margin=(0, 0, 0, 6))
        self.theory = text(
            f"<details><summary>What is going on?</summary><p>{escape(words.THEORY)}</p></details>",
            "lab-theory",
        )
        self.start = _button("Start", "play_arrow", "contained")
        self.pause = _button("Pause", "pause", "outlined")
        self.stop = _button("Stop", "stop", "outlined")
        for button, name in ((self.start, "start"), (self.pause, "pause"), (self.stop, "stop")):
            button.on_click(lambda _, name=name: schedule(actions[name]))

    def show(self, race: Race | None, mine: bool, notice: str) -> None:
        """Say what is known, and what can be done."""
        _write(self.headline, _paragraph(words.headline(race)))
        wrong = "".join(
            f"<p class='error' role='alert'>{escape(each)}</p>" for each in words.failures(race)
        )
        _write(self.verdict, wrong or _paragraph(words.verdict(race)))
        line = escape(words.status(race, mine, notice))
        _write(self.status, f"<div role='status' aria-live='polite'>{line}</div>")
        self._buttons(race, mine)

    def _buttons(self, race: Race | None, mine: bool) -> None:
        state = "none" if race is None else race.state
        under_way = mine and state in ("waiting", "running", "paused")
        goes_on = state in ("paused", "stopped", "interrupted")
        blocked = race is not None and (race.pausing or (state == "paused" and not mine))
        # Disabled, not hidden: the browser lays out the whole page anew where something appears.
        self.start.disabled = under_way
        self.pause.param.update(
            label="Resume" if goes_on else "Pause",
            icon="play_arrow" if goes_on else "pause",
            disabled=blocked or not (under_way or goes_on),
        )
        self.stop.disabled = not under_way

    def __panel__(self) -> pn.viewable.Viewable:
        bar = pn.Row(
            self.start, self.pause, self.stop, self.status, self.theory,
            sizing_mode="stretch_width",
            margin=(6, 0, 2, 0), css_classes=["lab-line", "lab-run"], stylesheets=[STYLE],
        )  # fmt: skip
        return pn.Column(
            self.question, self.headline, self.verdict, bar,
            sizing_mode="stretch_width", margin=0, css_classes=["lab-answers"],
            stylesheets=[STYLE],
        )  # fmt: skip


class Train(pn.viewable.Viewer):
    """A setup -> a training of both methods -> figures that follow it."""

    worker: ClassVar[type] = Watch
    own_rail: ClassVar[bool] = True

    def __init__(
        self,
        controls: Controls,
        colors: Palette,
        workers: Callable[[Callable[[], None]], Watch],
        schedule: Schedule,
        rail: Rail | None = None,
        registry: Registry = REGISTRY,
    ) -> None:
        super().__init__()
        self.schedule, self.registry, self.shown = schedule, registry, False
        self.race: Race | None = None
        self.pins: list[Result] = []
        self.changed: Callable[[], None] = lambda: None  # the link follows
        self.notice = ""
        self.visitor = Visitor(width=0, height=0, margin=0)
        self.rail = TrainRail(Setup(), self._moved)
        actions = {"start": self.start, "pause": self.pause, "stop": self.stop}
        self.answer = TrainAnswer(actions, schedule)
        self.curves = CurvesCard(colors, lambda: schedule(self.draw))
        self.digits, self.table = DigitsCard(colors), TableCard(self._pin, self._unpin, schedule)
        self.solve, self.evaluations = SolveCard(colors), EvaluationsCard(colors)
        self.gradient, self.stiffness = GradientCard(colors), StiffnessCard(colors)
        self.cards = (
            self.curves, self.digits, self.solve, self.evaluations, self.gradient, self.stiffness,
        )  # fmt: skip
        self.watch = workers(self.draw)
        self.visitor.param.watch(lambda _: schedule(self._draw_answer), "word")

    # -- what a link says -------------------------------------------------------------------------

    def open(self, setup: Setup, key: str) -> None:
        """Show a link's choices and its training, if it is still kept."""
        self.rail.take(setup)
        if key:
            race = self.registry.find(key)
            if race is None:
                self.notice = words.LOST
            else:
                self._follow(race)

    @property
    def key(self) -> str:
        """The training's key in the link; empty where there is none."""
        return "" if self.race is None else self.race.key

    # -- what a visitor does ----------------------------------------------------------------------

    def start(self) -> None:
        """Begin a training with the present choices."""
        self._try(lambda: self.registry.start(self.rail.setup, self.visitor.word, self.pins))

    def pause(self) -> None:
        """Pause what runs, or go on with what was paused, stopped or interrupted."""
        race = self.race
        if race is None:
            return
        if race.state in ("running", "waiting"):
            if self.mine:
                race.pause()
        else:
            race.change(self.rail.setup)
            self._try(lambda: self.registry.resume(race, self.visitor.word))

    def stop(self) -> None:
        """Stop; what was learned is kept."""
        if self.race is not None and self.mine:
            self.race.stop()

    def _try(self, begin: Callable[[], Race]) -> None:
        """Begin or go on, or say why not."""
        self.notice = ""
        try:
            self._follow(begin())
        except Refused as refused:
            self.notice = str(refused)
        self.draw()
        self.changed()

    def _follow(self, race: Race) -> None:
        self.race, self.pins = race, race.pins
        self.watch.follow(race)
        if race.active:
            self.rail.take(race.setup)

    @property
    def mine(self) -> bool:
        """Whether this browser began what is shown."""
        word = self.visitor.word
        return self.race is not None and bool(word) and self.race.visitor == word

    def _moved(self) -> None:
        """A choice changed: what may change at once does."""
        if self.race is not None and self.race.active and self.mine:
            self.race.change(self.rail.setup)
        self.schedule(self._draw_choices)
        self.changed()

    def _draw_choices(self) -> None:
        race = self.race
        self.rail.differs(race.setup if race is not None and race.active else None)
        if race is None:
            self.draw()
        else:
            self._draw_answer()

    def _pin(self) -> str:
        race = self.race
        if race is None or not race.results():
            return "There is nothing to pin yet."
        if len(self.pins) >= MOST_PINS:
            return f"{MOST_PINS // 2} trainings are pinned, which is the most: remove one first."
        self.pins += race.results()
        self.draw()
        return "Pinned: move a slider, press Start again, and compare."

    def _unpin(self) -> str:
        del self.pins[-2:]
        self.draw()
        return "Removed."

    # -- drawing ----------------------------------------------------------------------------------

    def show(self) -> None:
        """The page is looked at."""
        self.shown = True
        self.watch.follow(self.race)
        self.draw()

    def hide(self) -> None:
        """Another page is looked at; the training goes on."""
        self.shown = False
        self.watch.follow(None)

    def draw(self) -> None:
        """Bring everything up to date with the training."""
        if not self.shown:
            return
        view = View(self.race, self.rail.setup, self.curves.axis.value)
        with together():
            self._draw_answer()
            for card in self.cards:
                card.show(view)
            self.table.show(view, self.pins)

    def _draw_answer(self) -> None:
        unknown = not self.visitor.word  # the browser has not answered yet
        self.answer.show(self.race, self.mine or unknown, self.notice)

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        for card in self.cards:
            card.paint(colors)

    def close(self) -> None:
        """The visitor has left; the training goes on, and its link finds it."""
        self.shown = False
        self.watch.close()

    def parts(self) -> tuple[Any, ...]:
        """The rail, the answer, and the cards below it."""
        below = pn.Column(
            self.curves, grid(self.digits, name="lab-strip"),
            grid(self.evaluations, self.solve, name="lab-strip"),
            grid(self.stiffness, self.gradient, name="lab-strip"),
            grid(self.table, name="lab-strip"), self.visitor,
            sizing_mode="stretch_width", css_classes=["lab-figures"], margin=0,
            stylesheets=[STYLE],
        )  # fmt: skip
        return self.rail, self.answer, below

    def __panel__(self) -> pn.viewable.Viewable:
        return grid(*self.parts(), name="lab-page")


def _button(label: str, icon: str, variant: str) -> Any:
    return pmui.Button(
        label=label, icon=icon, variant=variant, size="small", margin=(0, 8, 0, 0), color="primary"
    )


def _paragraph(sentence: str) -> str:
    return f"<p>{escape(sentence)}</p>" if sentence else ""


def _write(pane: pn.pane.HTML, markup: str) -> None:
    if pane.object != markup:
        pane.object = markup
