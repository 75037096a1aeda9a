"""The Sweeps page: which settings, and how sure are we?"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pandas as pd
import panel as pn
import panel_material_ui as pmui

from andersonn_core import KnobError, RunCard, SolveSpec
from andersonn_core.store import Store, StoreError
from andersonn_core.store.compare import compare
from andersonn_core.sweeps.frames import sweep_frame
from lab.controls import Controls, values_of
from lab.pages.card import STYLE, escape, grid, text
from lab.pages.convergence import Schedule, together
from lab.pages.rail import Rail
from lab.pages.sweep_cards import SetupCard, StoreCard
from lab.pages.visitor import Visitor
from lab.sweeps.answers import QUESTION, THEORY, status
from lab.sweeps.folder import OWN, path_of, stores
from lab.sweeps.jobs import JOBS, Job, Jobs, Refused
from lab.sweeps.library import CROSSED, Listed
from lab.sweeps.reading import News, Reader, read_curves
from lab.sweeps.report import report
from lab.sweeps.setup import ASK, SweepSetup, axis_choices
from lab.sweeps.sheet import Sheet
from lab.sweeps.views import SweepViews
from lab.theme import Palette


class SweepAnswer(pn.viewable.Viewer):
    """Question, answer, the buttons and how far it is."""

    def __init__(self, start: Callable[[], None], stop: Callable[[], None]) -> None:
        super().__init__()
        self.question = text(f"<h1>{escape(QUESTION)}</h1>", "lab-question")
        self.headline, self.verdict = text("", "lab-answer"), text("", "lab-verdict")
        self.status = text("", "lab-status", margin=(0, 0, 0, 6))
        self.theory = text(
            f"<details><summary>What is going on?</summary><p>{escape(THEORY)}</p></details>",
            "lab-theory",
        )
        self.start = _button("Start", "play_arrow", "contained")
        self.stop = _button("Stop", "stop", "outlined")
        self.start.on_click(lambda _: start())
        self.stop.on_click(lambda _: stop())

    def say(self, first: str, second: str) -> None:
        """The answer."""
        _write(self.headline, f"<p>{escape(first)}</p>" if first else "")
        _write(self.verdict, f"<p>{escape(second)}</p>" if second else "")

    def tell(self, words: str, job: Job | None) -> None:
        """How far it is, and what can be done."""
        _write(self.status, f"<div role='status' aria-live='polite'>{escape(words)}</div>")
        active = job is not None and job.active
        self.start.disabled, self.stop.disabled = active, not active

    def __panel__(self) -> pn.viewable.Viewable:
        bar = pn.Row(
            self.start, self.stop, self.status, self.theory, sizing_mode="stretch_width",
            margin=(6, 0, 2, 0), css_classes=["lab-line", "lab-run"], stylesheets=[STYLE],
        )  # fmt: skip
        return pn.Column(
            self.question, self.headline, self.verdict, bar, sizing_mode="stretch_width", margin=0,
            css_classes=["lab-answers"], stylesheets=[STYLE],
        )  # fmt: skip


class Sweeps(pn.viewable.Viewer):
    """Controls and axes -> a sweep of this server -> rows of a store -> linked views."""

    worker: ClassVar[type] = Reader

    def __init__(
        self,
        controls: Controls,
        colors: Palette,
        workers: Callable[[Callable[[News], None]], Reader],
        schedule: Schedule,
        rail: Rail | None = None,
        jobs: Jobs = JOBS,
    ) -> None:
        super().__init__()
        self.controls, self.schedule, self.jobs, self.shown = controls, schedule, jobs, False
        self.rail = rail or Rail(controls, schedule)
        self.opened: Callable[[dict[str, Any]], None] = lambda values: None
        self.changed: Callable[[], None] = lambda: None  # the link follows
        self.store, self.sweep_id, self.notice, self._asked = OWN, "", "", ""
        self._unread = ""  # why the store could not be read
        self.listed: list[Listed] = []
        self.sheet: Sheet | None = None
        self._drawn = ""  # the sweep that the views show
        self.visitor = Visitor(width=0, height=0, margin=0)
        self.answer = SweepAnswer(lambda: schedule(self.start), lambda: schedule(self.stop))
        self.setup = SetupCard(lambda: schedule(self._planned_anew))
        files = {"sweep.csv": self._csv, "sweep.parquet": self._parquet, "sweep.html": self._html}
        self.stores = StoreCard(lambda: schedule(self._choose), files, self._compare, self._card)
        below = [grid(self.stores, name="lab-strip")]
        self.views = SweepViews(colors, self._curves, self._open_row, schedule, below)
        self.views.selected = lambda: schedule(self._selected)
        self.reader = workers(self.publish)
        self.setup.offer(axis_choices(self.base), SweepSetup())
        controls.param.watch(lambda _: schedule(self._planned_anew), "revision")

    # -- what a visitor does ----------------------------------------------------------------------

    @property
    def base(self) -> SolveSpec:
        """The solve that the sliders describe, without the page's split of the time."""
        return self.controls.specs()["anderson"].replace(profile=False)

    @property
    def job(self) -> Job | None:
        """The sweep of this server that is shown, if it is one."""
        return self.jobs.find(self.sweep_id, path_of(self.store))

    @property
    def present(self) -> Listed | None:
        """The sweep that is shown."""
        return next((each for each in self.listed if each.sweep_id == self.sweep_id), None)

    def open(self, store: str, sweep_id: str) -> None:
        """Show what a link says, where it is still there."""
        self.store = store if store in stores() else OWN
        self.sweep_id = sweep_id

    def start(self) -> None:
        """Run what is chosen, into the page's own store."""
        self.notice = ""
        try:
            sweep = self.setup.setup.sweep(self.base)
            if sweep.total > ASK and self._asked != sweep.sweep_id:
                self._asked = sweep.sweep_id
                raise Refused(f"These are {sweep.total:,} trials: press Start again to run them.")
            job = self.jobs.start(sweep, path_of(OWN), self.setup.executor, self.visitor.word)
        except (KnobError, Refused) as error:
            self.notice = str(error)
            self._tell()
            return
        self.store, self.sweep_id = OWN, job.sweep.sweep_id
        self._follow()

    def stop(self) -> None:
        """End the sweep that is shown; what is done is kept."""
        if self.job is not None:
            self.job.stop()
            self._tell()

    def _choose(self) -> None:
        """Another store or sweep was chosen."""
        if self.stores.store.value != self.store:
            self.store, self.sweep_id = self.stores.store.value, ""
        else:
            self.sweep_id = self.stores.sweep.value
        self.notice = ""
        self._follow()

    def _follow(self) -> None:
        self.sheet = None
        self.reader.follow(path_of(self.store), self.sweep_id)
        self._tell()
        self.changed()

    def _planned_anew(self) -> None:
        """A slider or an axis moved: say what Start would run."""
        if self.shown:
            self.notice = ""
            self.setup.offer(axis_choices(self.base))
            self._tell()

    def _open_row(self, row: int) -> None:
        """A cell was clicked: its solve goes to the Convergence page."""
        with Store(path_of(self.store), read_only=True) as store:
            card = store.card(row)
        if card.spec.get("problem") is None:
            self.notice = "Only solves can be opened there; this is a training."
            self._tell()
            return
        self.opened(values_of(SolveSpec.from_dict(card.spec)))

    # -- what comes back --------------------------------------------------------------------------

    def show(self) -> None:
        """The page is looked at; the first visitor of an empty store sees a first sweep run."""
        self.shown = True
        if not self.sweep_id and not path_of(OWN).exists() and self.store == OWN:
            self.start()
        else:
            self._follow()

    def hide(self) -> None:
        """Another page is looked at; a sweep goes on."""
        self.shown = False
        self.reader.follow(None)

    def publish(self, news: News) -> None:
        """Show what was read."""
        if not self.shown:
            return
        with together():
            self.listed, self.sweep_id = news.listed, news.sweep_id or self.sweep_id
            self._unread = news.error
            if news.sheet is not None and self.present is not None:
                self.sheet = news.sheet
                self._draw(news.sheet, self.present)
            self.stores.offer(stores(), self.store, self.listed, self.sweep_id)
            self._tell()
        self.changed()

    def _draw(self, sheet: Sheet, present: Listed) -> None:
        if self._drawn == present.sweep_id and len(sheet.frame):
            self.views.update(sheet)
        else:
            self._drawn = present.sweep_id
            self.views.open(sheet, present.total)
        self.answer.say(*sheet.answer)
        self.stores.show_failed(sheet.failures, sheet.num_failed)

    def _tell(self) -> None:
        try:
            sweep = self.setup.setup.sweep(self.base)
            here = f"on the sliders' solve of {type(self.base.problem).label}"
            planned = f"Start runs {sweep.total:,} trials {here}."
        except KnobError as error:
            planned = str(error)
        self.answer.tell(status(self.job, self.notice or self._unread, planned), self.job)

    # -- files ------------------------------------------------------------------------------------

    def _curves(self, rows: Sequence[int], most: int) -> pd.DataFrame:
        return read_curves(path_of(self.store), [int(row) for row in rows], most)

    def _rows(self) -> pd.DataFrame:
        """All columns of the sweep that is shown."""
        if self.present is None:
            return pd.DataFrame()
        with Store(path_of(self.store), read_only=True) as store:
            crossovers = self.present.done <= CROSSED
            return sweep_frame(store, self.present.sweep, crossovers)

    def _csv(self) -> io.BytesIO:
        return io.BytesIO(self._rows().to_csv(index=False).encode())

    def _parquet(self) -> io.BytesIO:
        return io.BytesIO(self._rows().to_parquet(index=False))

    def _html(self) -> io.BytesIO:
        found, present = self._card(), self.present
        if found is None or present is None:
            return io.BytesIO(b"<!DOCTYPE html><title>A sweep</title><p>No trials yet.</p>")
        return io.BytesIO(report(self._rows(), present.axes, self._curves, *found).encode())

    def _card(self) -> tuple[str, RunCard] | None:
        """The run card of the first trial that is selected, and which it is."""
        first = None if self.sheet is None else self.views.first_selected
        if first is None:
            return None
        words, row = first
        with Store(path_of(self.store), read_only=True) as store:
            return words, store.card(row)

    def _selected(self) -> None:
        """Another selection, another trial."""
        if self.stores.made.visible and (found := self._card()) is not None:
            self.stores.show_card(*found)

    def _compare(self, name: str) -> str:
        try:
            with (
                Store(path_of(self.store), read_only=True) as first,
                Store(path_of(name), read_only=True) as second,
            ):
                return compare(first, second).sentence
        except StoreError as error:
            return str(error)

    # -- colors, end ------------------------------------------------------------------------------

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.views.paint(colors)

    def close(self) -> None:
        """The visitor has left; a sweep goes on, and its link finds it."""
        self.shown = False
        self.reader.close()
        self.views.close()

    def parts(self) -> tuple[Any, Any]:
        """The answer, and the cards below it."""
        below = pn.Column(
            grid(self.setup, name="lab-strip"), self.views, self.visitor,
            sizing_mode="stretch_width", css_classes=["lab-figures"], margin=0,
            stylesheets=[STYLE],
        )  # fmt: skip
        return self.answer, below

    def __panel__(self) -> pn.viewable.Viewable:
        return grid(self.rail, *self.parts(), name="lab-page")


def _button(label: str, icon: str, variant: str) -> Any:
    return pmui.Button(
        label=label, icon=icon, variant=variant, size="small", margin=(0, 8, 0, 0), color="primary"
    )


def _write(pane: pn.pane.HTML, markup: str) -> None:
    if pane.object != markup:
        pane.object = markup
