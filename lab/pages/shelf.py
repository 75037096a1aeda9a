"""The shelf: pinned runs, link, Python, downloads, and how the numbers were made."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import panel as pn
import panel_material_ui as pmui
from bokeh.models import ColumnDataSource

from andersonn_core import RunCard
from lab.live import Live
from lab.pages.card import STYLE, escape, text
from lab.pins import HEADINGS, Pins
from lab.theme import LABELS

COPY = """
const fallback = () => window.prompt('Copy this:', content);
if (navigator.clipboard) navigator.clipboard.writeText(content).then(() => {}, fallback)
else fallback();
"""
COPY_LINK = "const content = window.location.href;" + COPY
COPY_CODE = "const content = source.data.code[0];" + COPY
PNG = """
const views = figures.map((f) => Bokeh.index.find_one(f)).filter((v) => v != null);
const parts = views.map((v) => v.export('png', true).canvas);
const out = document.createElement('canvas');
out.width = parts.reduce((sum, c) => sum + c.width, 0);
out.height = Math.max(...parts.map((c) => c.height));
const context = out.getContext('2d');
context.fillStyle = figures[0].background_fill_color;
context.fillRect(0, 0, out.width, out.height);
let x = 0; for (const c of parts) { context.drawImage(c, x, 0); x += c.width; }
const link = document.createElement('a');
link.download = 'anderson-lab.png';
link.href = out.toDataURL('image/png');
link.click();
"""


class Shelf(pn.viewable.Viewer):
    """Buttons, and below them what they unfold."""

    def __init__(self, pins: Pins, pin: Callable[[], str], figures: list[Any]) -> None:
        super().__init__()
        self.pins, self._pin = pins, pin
        self.code = ColumnDataSource({"code": [""]})
        self.live: Live | None = None
        self.said = text("", "lab-status")
        self.table = text("", "lab-table")
        self.removers = pn.FlexBox(sizing_mode="stretch_width", margin=0)
        self.code_pane, self.card_pane = (text("", visible=False) for _ in range(2))
        self.buttons = self._buttons(figures)
        self.list()

    def _buttons(self, figures: list[Any]) -> list[Any]:
        pin = _button("Pin this run", "push_pin")
        pin.on_click(lambda _: self._say(self._pin()))
        link = _button("Copy link", "link")
        link.js_on_click(code=COPY_LINK)
        link.on_click(
            lambda _: self._say("The link holds every setting and the pinned runs; it was copied.")
        )
        code = _button("Copy as Python", "code")
        code.js_on_click(args={"source": self.code}, code=COPY_CODE)
        code.on_click(
            lambda _: self._toggle(
                self.code_pane, "The code was copied; it prints the numbers of the picture."
            )
        )
        png = _button("Download PNG", "image")
        png.js_on_click(args={"figures": figures}, code=PNG)
        csv = pmui.FileDownload(
            callback=self._csv, filename="anderson-lab.csv", label="Download CSV", size="small",
            icon="table_view", margin=(0, 8, 8, 0),
        )  # fmt: skip
        csv.variant = "outlined"  # its constructor warns about a word that it adds by itself
        card = _button("How was this made?", "receipt_long")
        card.on_click(lambda _: self._toggle(self.card_pane, ""))
        return [pin, link, code, csv, png, card]

    def _say(self, sentence: str) -> None:
        self.said.object = f"<div role='status' aria-live='polite'>{escape(sentence)}</div>"

    def _toggle(self, pane: Any, sentence: str) -> None:
        pane.visible = not pane.visible
        self._say(sentence if pane.visible else "")

    # -- content ----------------------------------------------------------------------------------

    def show(self, live: Live, code: str) -> None:
        """New results: their code, table and cards."""
        self.live = live
        self.code.data = {"code": [code]}
        self.code_pane.object = (
            f"<pre tabindex='0' aria-label='Python code of this run'>{escape(code)}</pre>"
        )
        cards = {name: result.card for name, result in live.results.items()}
        self.card_pane.object = card_table(cards)
        self._say("")

    def list(self) -> None:
        """Show the pinned runs."""
        rows = self.pins.rows() if self.pins.items else []
        self.table.object = _table(rows)
        removers = []
        for index in range(len(rows)):
            button = pmui.Button(
                label=f"Remove run {index + 1}",
                icon="close",
                size="small",
                variant="text",
                margin=(2, 6, 0, 0),
            )
            button.on_click(lambda _, index=index: self.pins.remove(index))
            removers.append(button)
        self.removers.objects = removers

    def _csv(self) -> io.StringIO:
        frames = []
        for name, result in (self.live.results if self.live else {}).items():
            frame = result.to_frame()
            frame.insert(0, "method", LABELS[name])
            frames.append(frame)
        buffer = io.StringIO()
        (pd.concat(frames) if frames else pd.DataFrame()).to_csv(buffer, index=False)
        buffer.seek(0)
        return buffer

    def __panel__(self) -> pn.viewable.Viewable:
        return pn.Column(
            pn.FlexBox(*self.buttons, sizing_mode="stretch_width", margin=0),
            self.said,
            self.code_pane,
            self.card_pane,
            self.table,
            self.removers,
            sizing_mode="stretch_width",
            css_classes=["lab-card"],
            stylesheets=[STYLE],
            margin=0,
        )


def _button(label: str, icon: str) -> Any:
    return pmui.Button(
        label=label, icon=icon, variant="outlined", size="small", margin=(0, 8, 8, 0)
    )


def _table(rows: list[list[str]]) -> str:
    if not rows:
        return "<p class='empty'>No pinned runs yet: pin one, move a slider, compare.</p>"
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in HEADINGS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='wide' tabindex='0' role='region' aria-label='Pinned runs'>{table}</div>"


def card_table(cards: Mapping[str, RunCard]) -> str:
    """Run cards in words, by methods or by whatever tells them apart."""
    if not cards:
        return ""
    first = next(iter(cards.values()))
    facts = {
        "device": f"{first.device}, torch threads: {first.threads}",
        "date": first.date,
        "code": first.code_hash,
        "versions": ", ".join(f"{name} {version}" for name, version in first.versions.items()),
    }
    facts |= {
        f"spec id, {LABELS.get(name, name)}": card.spec_id or "a map of your own"
        for name, card in cards.items()
    }
    rows = "".join(
        f"<tr><th scope='row'>{escape(key)}</th><td>{escape(value)}</td></tr>"
        for key, value in facts.items()
    )
    full = "\n\n".join(card.to_json() for card in cards.values())
    return (
        f"<table><tbody>{rows}</tbody></table><details><summary>Full run cards (JSON); "
        "<code>python -m andersonn_core rerun card.json</code> says whether the numbers agree"
        "</summary>"
        f"<pre tabindex='0' aria-label='Run cards'>{escape(full)}</pre></details>"
    )
