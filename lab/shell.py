"""The frame around the pages: header, theme, link; one visitor's session."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import panel as pn
import panel_material_ui as pmui
import torch
from panel.util import edit_readonly
from tornado.websocket import WebSocketClosedError

from andersonn_core import SolveSpec
from andersonn_core.runcard import device_name
from lab.controls import Controls
from lab.gate import Gate
from lab.later import call_later
from lab.pages.card import escape, grid, text
from lab.pages.convergence import SETTLED, Convergence, together
from lab.pages.crossover import Crossover
from lab.pages.navigation import Navigation
from lab.pages.rail import Rail
from lab.pages.sweeps import Sweeps
from lab.pages.train import Train
from lab.quantities import QUANTITIES
from lab.sweeps.link import STORE, SWEEP, sweep_from_query, sweep_to_fields
from lab.theme import material_theme, palette
from lab.training import link
from lab.url import choice_from_query, from_query, pins_from_query, to_query
from lab.wire import presence

PAGES = {"Convergence": Convergence, "Crossover": Crossover, "Train": Train, "Sweeps": Sweeps}
OWN = ["Axis", "Grid", "Figure", "Plot", "Title", "ColorBar"]  # what our palette paints
FIRST, SPEEDUP = next(iter(PAGES)), next(iter(QUANTITIES))  # as long as the link is silent
KNOWN = (
    "theme",
    "page",
    "quantity",
    "recorded",
    link.RUN,
    link.CHOSEN,
    STORE,
    SWEEP,
)  # query parameters that belong to the shell
HEADER = {
    ".MuiAppBar-root": {
        "backgroundColor": "background.paper", "backgroundImage": "none", "color": "text.primary",
        "boxShadow": "none", "borderBottom": "1px solid", "borderColor": "divider",
    },
    ".MuiToolbar-root": {"minHeight": "48px !important", "height": "48px"},
    ".MuiAppBar-root .title": {"fontSize": "17px", "fontWeight": 600, "color": "text.primary"},
}  # fmt: skip
SETTLED_MS = 400
RESTED = 0.6  # seconds without a change before the address follows
LOADER = """
#loader:not(.error) { background: none !important; pointer-events: none }
#loader .spinner { display: none }
"""


def _of_a_closed_tab(record: logging.LogRecord) -> bool:
    """Whether a log record says no more than that a visitor left while something was being sent."""
    return bool(record.exc_info) and isinstance(record.exc_info[1], WebSocketClosedError)


logging.getLogger("asyncio").addFilter(lambda record: not _of_a_closed_tab(record))


class Shell:
    """One visitor's controls, pages and frame."""

    def __init__(self, document: Any) -> None:
        self._changes, self.location = 0, pn.state.location
        self.controls = Controls()
        self.notes = from_query(self._query(), self.controls, known=KNOWN)
        self.controls.notice = ""  # the page says it above everything else
        self._pins, pin_notes = pins_from_query(self._query())
        first, page_notes = choice_from_query(self._query(), "page", [*PAGES], FIRST)
        self._quantity, view_notes = choice_from_query(
            self._query(), "quantity", [*QUANTITIES], SPEEDUP
        )
        self._recorded, recorded_notes = choice_from_query(
            self._query(), "recorded", ["off", "on"], "off"
        )
        self._setup, self._run, train_notes = link.from_query(self._query())
        self._sweep, sweep_notes = sweep_from_query(self._query())
        self.notes += pin_notes + page_notes + view_notes + recorded_notes + train_notes
        self.notes += sweep_notes
        self.schedule, self._present = Gate(document), presence(document)
        self.colors = palette(pn.config.theme == "dark")
        self.rail = Rail(self.controls, self.schedule)
        self.views: dict[str, Any] = {}
        self.shown = ""
        self._parts: dict[str, tuple[Any, ...]] = {}
        self.body = grid(self.rail, name="lab-page lab-full")
        self.names = Navigation(names=[*PAGES], current=first, margin=(0, 0, 0, 22))
        self.names.param.watch(
            lambda event: self.schedule(lambda: self._turn_to(event.new)), "current"
        )
        self.page = frame(
            self.body, self._paint, header=[self.names, _device()], above=self._warnings(),
            dark=self.colors.dark,
        )  # fmt: skip
        self.controls.param.watch(lambda _: self._sync(), "revision")
        if self.notes:
            # The address keeps only what could be used, once the browser has told its own.
            pn.state.onload(lambda: document.add_timeout_callback(self._sync, SETTLED_MS))
        self.visit(first)
        self.schedule.shut()

    # -- pages ------------------------------------------------------------------------------------

    @property
    def view(self) -> Any:
        """The page that is shown."""
        return self.views[self.shown]

    def _turn_to(self, name: str) -> None:
        """Show a page; all of it goes to the browser in one message, before what it shows next."""
        with together():
            self.visit(name)

    def visit(self, name: str) -> None:
        """Show a page, made when it is first visited; the others rest."""
        if name not in PAGES or name == self.shown:
            return
        if self.shown:
            self.view.hide()
        self.shown = name
        if name in self.views:
            self._lay_out()
            self.view.show()
        else:
            self._begin(name)
        self._sync()

    def _begin(self, name: str) -> None:
        """Make a page and show it as the link says."""
        kind = PAGES[name]

        def worker(publish: Any) -> Any:
            return kind.worker(publish, self.schedule, self._present)

        view = kind(self.controls, self.colors, worker, self.schedule, self.rail)
        # A Viewer is no part of the page itself: its `visible` would say nothing to the browser.
        self.views[name], self._parts[name] = view, tuple(map(pn.panel, view.parts()))
        if isinstance(view, Sweeps):  # what is known already goes to the browser with the page
            view.open(*self._sweep)
            view.changed, view.opened = self._sync, self._open_on_convergence
            view.show()
        self.body.extend(self._parts[name])
        self._lay_out()
        if isinstance(view, Convergence):
            self._begin_convergence(view)
        elif isinstance(view, Crossover):
            view.maps.quantity.value = self._quantity
            view.maps.quantity.param.watch(lambda _: self._sync(), "value")
            self.schedule.when_ready(view.show)  # its cells would compete with the page's loading
        elif isinstance(view, Train):
            view.open(self._setup, self._run)
            view.changed = self._sync
            view.show()
            self.schedule.when_ready(view.registry.prepare)

    def _open_on_convergence(self, values: dict[str, Any]) -> None:
        """A trial of a sweep, as the sliders say it."""
        self.controls.reset(values["problem"])
        self.controls.apply(values)
        self.names.current = "Convergence"

    def _begin_convergence(self, view: Convergence) -> None:
        view.pins_changed, view.settled_after = self._sync, 0
        view.curves.beside.value = self._recorded == "on"
        view.curves.beside.param.watch(lambda _: self._sync(), "value")
        view.show()  # what is known already is in the first picture
        view.submit_pins(self._pins)
        view.settled_after = SETTLED

    def _lay_out(self) -> None:
        for name, parts in self._parts.items():
            for part in parts:
                part.visible = name == self.shown
        self.body[0].visible = not isinstance(self.view, Train)  # which has a rail of its own

    def _query(self) -> str:
        return self.location.search if self.location is not None else ""

    def _sync(self) -> None:
        """Keep the address complete: it is the link.

        It follows when the controls have come to rest; the browser may refuse a hundred a minute.
        """
        self._changes += 1
        change = self._changes
        call_later(RESTED, lambda: self._rest(change))

    def _rest(self, change: int) -> None:
        if change == self._changes:  # a drag asks twenty times a second
            self.schedule(self._write_address)

    def _write_address(self) -> None:
        if self.location is not None:
            query = to_query(self.controls, self._pinned(), self._own())
            self.location.search = f"?{query}" if query else ""

    def _pinned(self) -> list[SolveSpec]:
        """The pinned runs, or those of the link until somebody looks at them."""
        convergence = self.views.get("Convergence")
        return self._pins if convergence is None else convergence.pins.specs

    def _own(self) -> dict[str, str]:
        """What the link says besides controls and pins."""
        own = {"theme": "dark"} if self.page.dark_theme else {}
        if self.shown != FIRST:
            own["page"] = self.shown
        convergence = self.views.get("Convergence")
        if self._recorded == "on" if convergence is None else convergence.curves.beside.value:
            own["recorded"] = "on"
        crossover = self.views.get("Crossover")
        quantity = self._quantity if crossover is None else crossover.maps.quantity.value
        own |= {"quantity": quantity} if quantity != SPEEDUP else {}
        sweeps = self.views.get("Sweeps")
        own |= sweep_to_fields(
            *(self._sweep if sweeps is None else (sweeps.store, sweeps.sweep_id))
        )
        train = self.views.get("Train")
        return own | (
            link.to_fields(self._setup, self._run)
            if train is None
            else link.to_fields(train.rail.setup, train.key)
        )

    def _paint(self, dark: bool) -> None:
        self.colors = palette(dark)
        for view in self.views.values():
            self.schedule(lambda view=view: view.paint(self.colors))
        self._sync()

    def _warnings(self) -> list[Any]:
        if not self.notes:
            return []
        items = "".join(f"<li>{note}</li>" for note in self.notes)  # escaped by lab.url
        return [
            text(
                "<div class='warning' role='alert'>Part of the link could not be used:"
                f"<ul>{items}</ul></div>",
                "lab-warnings",
                margin=(12, 18, 0, 18),
            )
        ]

    def close(self) -> None:
        """Stop what the visitor left running."""
        self._changes += 1
        for view in self.views.values():
            view.close()


def frame(
    body: Any,
    paint: Callable[[bool], None],
    *,
    header: Sequence[Any],
    above: Sequence[Any] = (),
    dark: bool = False,
) -> pmui.Page:
    """A page around a body, in our theme; `paint` is told when the visitor changes it."""
    page = pmui.Page(
        title="Anderson Lab",
        header=list(header),
        main=[*above, body],
        busy_indicator=None,
        raw_css=[LOADER],
        theme_config=material_theme(),
        dark_theme=dark,
        sx=HEADER,
    )
    page._custom_theme = OWN
    with edit_readonly(page):
        page.busy = False  # unlinked: else each event walks through all models of the page, twice
    page.param.watch(lambda event: paint(event.new), "dark_theme")
    return page


def _device() -> Any:
    """The device that computes."""
    device = (
        "GPU: " + device_name(torch.device("cuda")) if torch.cuda.is_available() else "CPU only"
    )
    return title(f"<span class='device'>{escape(device)}</span>")


def title(markup: str) -> Any:
    """What follows the name of the lab in the header."""
    return text(f"<div class='header'>{markup}</div>", "lab-header")
