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

from andersonn_core.runcard import device_name
from lab.controls import Controls
from lab.gate import Gate
from lab.later import call_later
from lab.pages import PAGES
from lab.pages.card import escape, text
from lab.pages.convergence import SETTLED
from lab.runner import Runner
from lab.theme import material_theme, palette
from lab.url import from_query, pins_from_query, to_query
from lab.wire import presence

OWN = ["Axis", "Grid", "Figure", "Plot", "Title", "ColorBar"]  # what our palette paints
KNOWN = ("theme",)  # query parameters that belong to the shell
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
    """One visitor's controls, page and frame."""

    def __init__(self, document: Any) -> None:
        self._changes, self.location = 0, pn.state.location
        self.controls = Controls()
        self.notes = from_query(self._query(), self.controls, known=KNOWN)
        self.controls.notice = ""  # the page says it above everything else
        pins, pin_notes = pins_from_query(self._query())
        dark = pn.config.theme == "dark"
        schedule, present = Gate(document), presence(document)
        self.view = PAGES["Convergence"](
            self.controls,
            palette(dark),
            lambda publish: Runner(publish, schedule, present),
            schedule,
        )
        self.page = frame(
            self.view, self._paint, header=_header(), above=self._warnings(), dark=dark
        )
        self.notes += pin_notes
        self.controls.param.watch(lambda _: self._sync(), "revision")
        self.view.pins_changed = self._sync
        if self.notes:
            # The address keeps only what could be used, once the browser has told its own.
            pn.state.onload(lambda: document.add_timeout_callback(self._sync, SETTLED_MS))
        self.view.settled_after = 0  # what is known already is in the first picture
        self.view.submit()
        self.view.submit_pins(pins)
        schedule.shut()
        self.view.settled_after = SETTLED

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
            self.view.schedule(self._write_address)

    def _write_address(self) -> None:
        if self.location is not None:
            query = to_query(self.controls, self.view.pins.specs)
            theme = "&theme=dark" if self.page.dark_theme else ""
            self.location.search = f"?{query}{theme}" if query or theme else ""

    def _paint(self, dark: bool) -> None:
        self.view.schedule(lambda: self.view.paint(palette(dark)))
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
        self.view.close()


def frame(
    view: Any,
    paint: Callable[[bool], None],
    *,
    header: Any,
    above: Sequence[Any] = (),
    dark: bool = False,
) -> pmui.Page:
    """A page around a view, in our theme; `paint` is told when the visitor changes it."""
    page = pmui.Page(
        title="Anderson Lab",
        header=[header],
        main=[*above, view.laid_out(full=True)],
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


def _header() -> Any:
    """The pages, and the device that computes."""
    names = "".join(f"<a aria-current='page' href='#'>{escape(name)}</a>" for name in PAGES)
    device = (
        "GPU: " + device_name(torch.device("cuda")) if torch.cuda.is_available() else "CPU only"
    )
    return title(
        f"<nav aria-label='Pages'>{names}</nav><span class='device'>{escape(device)}</span>"
    )


def title(markup: str) -> Any:
    """What follows the name of the lab in the header."""
    return text(f"<div class='header'>{markup}</div>", "lab-header")
