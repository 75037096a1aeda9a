"""The Convergence page: how many past steps are worth remembering?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import panel as pn
from panel.io.document import unlocked

from andersonn_core import SolveResult, SolveSpec
from andersonn_core.faults import is_device_failure
from lab.code import as_python
from lab.controls import Controls
from lab.later import call_later
from lab.live import Live
from lab.pages.answer import Answer
from lab.pages.card import STYLE, grid
from lab.pages.curves_card import Curves
from lab.pages.devices_card import Devices
from lab.pages.picture import Picture
from lab.pages.playback import Playback
from lab.pages.polynomial import Polynomial
from lab.pages.rail import Rail
from lab.pages.shelf import Shelf
from lab.pages.strip import SampleMap, TimeSplit
from lab.pins import Pin, Pins
from lab.runner import Runner, Update
from lab.tasks import sentence
from lab.theme import Palette

Publish = Callable[[list[Update]], None]
Schedule = Callable[[Callable[[], None]], Any]


def together() -> AbstractContextManager[None]:
    """Send all changes to the browser in one message: each one costs a walk through all models."""
    return unlocked(policy="collect")  # in order: a stream of points must follow its own reset


SETTLED = 0.3  # seconds after the runs' end before the slower cards follow
SAID = 0.08  # seconds after the first points before the page says that runs are under way
PACE = 0.06  # seconds from one start of runs to the next while a slider moves


class Convergence(pn.viewable.Viewer):
    """Controls -> runner -> curves; everything else follows when the runs have ended."""

    worker: ClassVar[type] = Runner

    def __init__(
        self,
        controls: Controls,
        colors: Palette,
        runner: Callable[[Publish], Runner],
        schedule: Schedule,
        rail: Rail | None = None,
    ) -> None:
        super().__init__()
        self.controls, self.colors, self.live = controls, colors, Live()
        self.specs: dict[str, SolveSpec] = {}
        self.pins_changed: Callable[[], None] = lambda: None
        self.rail = rail or Rail(controls, schedule)
        # Panel runs some events without Bokeh's lock: figures change on the schedule only.
        self.schedule, self._scrubbing, self._closed = schedule, False, False
        self.settled_after = SETTLED
        self.pins = Pins(lambda: schedule(self._list_pins))
        self.answer = Answer(colors, self.start_over)
        self.curves = Curves(colors, controls.rtol, schedule)
        self.playback = Playback(self._follow_slider, lambda: self.runner.cancel())
        self.time_split, self.samples = TimeSplit(colors), SampleMap(colors)
        self.devices = Devices(colors, schedule)
        self.picture, self.polynomial = Picture(colors), Polynomial(colors, schedule)
        self.shelf = Shelf(self.pins, self._pin, list(self.curves.pair.figures.values()))
        self.painted = (
            self.curves,
            self.time_split,
            self.samples,
            self.devices,
            self.picture,
            self.polynomial,
        )
        self.runner, self.pin_runner = runner(self.publish), runner(self._publish_pins)
        self._next_start, self._waiting, self.shown = 0.0, False, True
        controls.param.watch(lambda _: self._moved(), "revision")

    # -- runs -------------------------------------------------------------------------------------

    def show(self) -> None:
        """The page is looked at: run what the controls describe now, if that is not what stands."""
        self.shown = True
        if not self.live.complete or self.specs != self.controls.specs():
            self.submit()

    def hide(self) -> None:
        """Another page is looked at: run nothing, draw nothing."""
        self.shown = False
        self.playback.stop()
        self.runner.cancel()
        self.polynomial.job.cancel()
        self.devices.stop()
        if self.shelf.live is not self.live:
            self.live = Live()  # some cards still show the runs before

    def _moved(self) -> None:
        """A control moved: run at once what it asks for, but in a drag no more often than PACE."""
        if not self.shown:
            return
        wait = self._next_start - time.monotonic()
        if wait <= 0:
            self._start()
        elif not self._waiting:
            self._waiting = True
            call_later(wait, lambda: self.schedule(self._start))

    def _start(self) -> None:
        self._next_start, self._waiting = time.monotonic() + PACE, False
        self.submit()

    def submit(self) -> None:
        """Run what the controls describe, if the page is looked at."""
        if not self.shown:
            return
        self.specs = self.controls.specs()
        self.runner.submit(self.specs)

    def start_over(self) -> None:
        """Every knob as declared, and run again."""
        self.controls.reset()
        self.submit()

    @property
    def problem_name(self) -> str:
        """The key of the problem in PROBLEMS."""
        return str(self.controls.problem)

    def submit_pins(self, specs: list[SolveSpec]) -> None:
        """Run, and pin, what a link has pinned."""
        if specs:
            self._pinned = specs
            self.pin_runner.submit({str(index): spec for index, spec in enumerate(specs)})

    def publish(self, updates: list[Update]) -> None:
        """The only place that changes figures while runs are under way."""
        if not self.shown:  # what was stopped is run again when it is looked at
            self.live = Live()
            return
        with together(), self._unless_the_device_failed():
            if updates[0].reset:
                self._begin(updates[0].kept)
            self.curves.take(self.live, updates)
            if self.live.complete:
                self._end()
            elif updates[0].reset:  # the first points travel alone: they are the answer
                self._later(SAID, self._go_on)
            else:
                self._go_on()

    @contextmanager
    def _unless_the_device_failed(self) -> Iterator[None]:
        """Some cards ask the device of the runs: where it has failed since, the page says so."""
        try:
            yield
        except RuntimeError as error:
            if not is_device_failure(error):
                raise
            self.live.errors["anderson"] = sentence(error)
            self.answer.show(self.live)

    def _publish_pins(self, updates: list[Update]) -> None:
        for update in updates:
            if update.result is not None and update.error is None:
                self.pins.items.append(Pin.of(self._pinned[int(update.method)], update.result))
        self._list_pins()

    def _begin(self, kept: Sequence[str] = ()) -> None:
        before, methods = self.live, {name: spec.method for name, spec in self.specs.items()}
        self.live = Live(methods, self.controls.rtol, self.problem_name)
        self.live.keep(before, kept)
        self.playback.stop()
        self.curves.begin(self.live, before, kept)

    def _go_on(self) -> None:
        """Say, and show everywhere, that runs are under way."""
        if self.live.complete:
            return
        with together():
            self.answer.stale()
            self.answer.run(self.live)
            self.playback.stop_run.disabled = False
            self.curves.draw()

    def _later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function on the document's thread, unless newer runs have begun by then."""
        live = self.live

        def call() -> None:
            """Newer runs may have begun while this stood in the document's queue, too."""
            if live is self.live and not self._closed:
                function()

        call_later(seconds, lambda: self.schedule(call) if live is self.live else None)

    def _end(self) -> None:
        """All runs have ended: say what came out, and show it everywhere."""
        live = self.live
        self.playback.stop_run.disabled = True
        self.answer.show(live)
        self.curves.show(live)
        if not live.errors:
            # The slower cards wait: while a slider moves, the next run has already begun by then.
            if self.settled_after:
                self._later(self.settled_after, self._settle)
            else:
                self._settle()

    def _settle(self) -> None:
        """Show the finished runs card by card, so that a move need not wait for all of them."""
        live = self.live
        cards = iter(
            [
                lambda: self.time_split.show(live),
                lambda: self.samples.show(live),
                lambda: self.picture.show(live),
                lambda: self.devices.show(live, self.spec),
                lambda: self.curves.offer(self.spec),
                lambda: self.polynomial.show(live, self.spec),
                lambda: self._rewind(live),
                lambda: self.shelf.show(live, self.code()),
            ]
        )

        def show_next() -> None:
            """Show one card, and put the next at the end of the document's queue."""
            show = next(cards, None)
            if show is not None and live is self.live and not self._closed:
                with together(), self._unless_the_device_failed():
                    show()
                self.schedule(show_next)

        show_next()

    def _rewind(self, live: Live) -> None:
        self.playback.reset(live.longest)
        self.scrub(live.longest, cursor=False)

    @property
    def spec(self) -> SolveSpec | None:
        """Anderson's solve as a record that other processes can run."""
        return self.specs["anderson"]

    def code(self) -> str:
        """Python that gives the picture's numbers."""
        return as_python(self.specs)

    # -- playback, pins, colors -------------------------------------------------------------------

    def _follow_slider(self, _evaluation: int) -> None:
        """The slider moved: show where it is when its turn comes, however often it moved."""
        if not self._scrubbing:
            self._scrubbing = True
            self.schedule(self._scrub_to_slider)

    def _scrub_to_slider(self) -> None:
        self._scrubbing = False
        with self._unless_the_device_failed():
            self.scrub(self.playback.slider.value)

    def scrub(self, evaluation: int, cursor: bool = True) -> None:
        """Show everything as it was at an evaluation."""
        if not self.live.complete or self.live.errors:
            return
        seconds = self.live.seconds_at("anderson", evaluation)
        self.curves.pair.show_cursor(evaluation if cursor else None, seconds if cursor else None)
        self.samples.plot.show_cursor(evaluation if cursor else None)
        self.picture.scrub(evaluation)
        self.polynomial.scrub(evaluation)

    def _pin(self) -> str:
        result = self.live.results.get("anderson")
        if result is None:
            return "There is no finished run to pin yet."
        return self.pins.add(self.pin_of(result))

    def pin_of(self, result: SolveResult) -> Pin:
        """Anderson's present run as a pin."""
        return Pin.of(self.specs["anderson"], result)

    def _list_pins(self) -> None:
        self.curves.pair.set_pins(self.pins.lines())
        self.curves.pair.draw()
        self.shelf.list()
        self.pins_changed()

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.colors = self.answer.colors = colors
        for card in self.painted:
            card.paint(colors)
        self._list_pins()

    def close(self) -> None:
        """The visitor has left."""
        self._closed = True
        self.runner.close()
        self.pin_runner.close()
        self.polynomial.job.cancel()
        self.devices.close()

    def parts(self) -> tuple[Any, Any]:
        """The answer, and the cards below it."""
        below = pn.Column(
            self.curves, self.playback,
            grid(self.time_split, self.samples, self.devices, name="lab-strip"),
            grid(self.picture, self.polynomial, name="lab-row"), self.shelf,
            sizing_mode="stretch_width", css_classes=["lab-figures"], margin=0, stylesheets=[STYLE],
        )  # fmt: skip
        return self.answer, below

    def laid_out(self, full: bool = False) -> pn.Column:
        """Rail, answer and figures; `full` where the page fills a window and its parts scroll."""
        name = "lab-page lab-full" if full else "lab-page"
        return grid(self.rail, *self.parts(), name=name)

    def __panel__(self) -> pn.viewable.Viewable:
        return self.laid_out()
