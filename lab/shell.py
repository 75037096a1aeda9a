"""The frame around the pages: header, rail, theme, link; one visitor's session from start to end."""

from __future__ import annotations

from typing import Any

import panel as pn
import panel_material_ui as pmui
import torch

from andersonn_core.runcard import device_name
from lab.controls import Controls
from lab.pages import PAGES
from lab.pages.card import escape, text
from lab.runner import Runner, presence
from lab.theme import material_theme, palette
from lab.url import from_query, pins_from_query, to_query

OWN = ["Axis", "Grid", "Figure", "Plot", "Title", "ColorBar"]  # what our palette paints
KNOWN = ("theme",)  # query parameters that belong to the shell
HEADER = {
    ".MuiAppBar-root": {
        "backgroundColor": "background.paper", "backgroundImage": "none", "color": "text.primary",
        "boxShadow": "none",
        "borderBottom": "1px solid", "borderColor": "divider",
    },
    ".MuiToolbar-root": {"minHeight": "48px !important", "height": "48px"},
    ".MuiAppBar-root .title": {"display": "none"},
}  # fmt: skip


class Shell:
    """One visitor's controls, page and frame."""

    def __init__(self, document: Any) -> None:
        self.controls = Controls()
        self.notes = from_query(self._query(), self.controls, known=KNOWN)
        pins, pin_notes = pins_from_query(self._query())
        dark = pn.config.theme == "dark"
        schedule, present = document.add_next_tick_callback, presence(document)
        self.view = PAGES["Convergence"](
            self.controls, palette(dark), lambda publish: Runner(publish, schedule, present), schedule
        )
        self.page = self._page(dark)
        self.view.submit_pins(pins)
        self.notes += pin_notes
        self.controls.param.watch(lambda _: self._sync(), "revision")
        self.view.pins_changed = self._sync
        self.view.submit()

    def _query(self) -> str:
        location = pn.state.location
        return location.search if location is not None else ""

    def _sync(self) -> None:
        """Keep the address complete: it is the link."""
        if pn.state.location is not None:
            query = to_query(self.controls, self.view.pins.specs)
            theme = "&theme=dark" if self.page.dark_theme else ""
            pn.state.location.search = f"?{query}{theme}" if query or theme else ""

    def _page(self, dark: bool) -> pmui.Page:
        page = pmui.Page(
            title="Anderson Lab", header=[self._header()], main=[*self._warnings(), self.view],
            busy_indicator=None, theme_config=material_theme(), dark_theme=dark, sx=HEADER,
        )  # fmt: skip
        page._custom_theme = OWN
        page.param.watch(lambda event: self._paint(event.new), "dark_theme")
        return page

    def _paint(self, dark: bool) -> None:
        self.view.paint(palette(dark))
        self._sync()

    def _warnings(self) -> list[Any]:
        if not self.notes:
            return []
        items = "".join(f"<li>{note}</li>" for note in self.notes)  # escaped by lab.url
        return [text(f"<div class='warning' role='alert'>Part of the link could not be used:<ul>{items}</ul></div>",
                     "lab-warnings", margin=(12, 18, 0, 18))]  # fmt: skip

    def _header(self) -> Any:
        """The pages, and the device that computes."""
        names = "".join(f"<a aria-current='page' href='#'>{escape(name)}</a>" for name in PAGES)
        device = "GPU: " + device_name(torch.device("cuda")) if torch.cuda.is_available() else "CPU only"
        return text(
            f"<div class='header'><strong>Anderson Lab</strong><nav aria-label='Pages'>{names}</nav>"
            f"<span class='device'>{escape(device)}</span></div>", "lab-header",
        )  # fmt: skip

    def close(self) -> None:
        """Stop what the visitor left running."""
        self.view.close()
