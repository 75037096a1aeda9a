"""The Train page's table: both methods as they stand, pinned ones, and the same in Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import panel as pn
import panel_material_ui as pmui

from andersonn_core.words import percent_text, ratio_text, residual_text, seconds_text
from lab.pages.card import STYLE, Card, escape, text
from lab.pages.train_cards import ORDER, View
from lab.theme import LABELS
from lab.training.race import Result
from lab.training.setup import METHODS, Setup

HEADINGS = ("", "method", "window m", "mixing", "B", "compared at", "epochs", "test accuracy",
            "time", "evaluations", "S", "compute saved")  # fmt: skip
NUMBERS = range(2, len(HEADINGS))


class TableCard(Card):
    """Both methods as they stand, and those that were pinned."""

    title = "Results"

    def __init__(
        self, pin: Callable[[], str], unpin: Callable[[], str],
        schedule: Callable[[Callable[[], None]], Any],
    ) -> None:  # fmt: skip
        super().__init__()
        self.table, self.code = text("", "lab-table"), text("", "lab-code")
        self.pin, self.unpin = (
            pmui.Button(
                label=label, icon=icon, variant="outlined", size="small", margin=(4, 8, 4, 0)
            )
            for label, icon in (("Pin this training", "push_pin"), ("Remove the last pin", "close"))
        )
        self.said = text("", "lab-status")
        self.pin.on_click(lambda _: schedule(lambda: self._say(pin())))
        self.unpin.on_click(lambda _: schedule(lambda: self._say(unpin())))

    def _say(self, sentence: str) -> None:
        self.said.object = f"<div role='status' aria-live='polite'>{escape(sentence)}</div>"

    def show(self, view: View, pins: Sequence[Result]) -> None:
        """Fill the table."""
        now = [] if view.race is None else view.race.results()
        rows = [*(("now", each) for each in now), *_numbered(pins)]
        markup = _table([_row(*row) for row in rows])
        if self.table.object != markup:
            self.table.object = markup
        self.pin.disabled, self.unpin.disabled = not now, not pins
        code = _code(view.setup if view.race is None else view.race.setup)
        if self.code.object != code:
            self.code.object = code

    def __panel__(self) -> pn.viewable.Viewable:
        bar = pn.FlexBox(
            self.pin, self.unpin, self.said, align_items="center", sizing_mode="stretch_width",
            margin=0, stylesheets=[STYLE],
        )  # fmt: skip
        return self.boxed(self.table, bar, self.code, noted=False)


def _numbered(pins: Sequence[Result]) -> list[tuple[str, Result]]:
    return [(f"pin {1 + place // len(METHODS)}", each) for place, each in enumerate(pins)]


def _row(name: str, each: Result) -> list[str]:
    setup = Setup(**each.setup)
    mixes = each.method == "anderson"
    known = math.isfinite(each.speedup)
    faster = known and each.speedup > 1
    accuracy = f"{100 * each.accuracy:.1f} %" if math.isfinite(each.accuracy) else ""
    return [
        name, LABELS[each.method], str(setup.window) if mixes else "",
        str(setup.mixing) if mixes else "", f"{setup.batch_size}", _regime(setup),
        f"{each.epochs:.3g}", accuracy,
        seconds_text(each.seconds), f"{each.evals:,}", ratio_text(each.speedup) if known else "",
        percent_text(1 - 1 / each.speedup) if faster else "none" if known else "",
    ]  # fmt: skip


def _regime(setup: Setup) -> str:
    return {
        "tolerance": f"tolerance {residual_text(setup.rtol)}",
        "cap": "25 evaluations, 1e-2",
        "time": f"{setup.seconds:g} s each",
    }[setup.regime]


def _table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return (
            "<p class='empty'>The numbers of both methods come with Start; pin them to compare.</p>"
        )
    head = "".join(
        f"<th scope='col'{_right(k)}>{escape(name)}</th>" for k, name in enumerate(HEADINGS)
    )
    body = "".join(
        "<tr>" + "".join(f"<td{_right(k)}>{escape(c)}</td>" for k, c in enumerate(row)) + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='wide' tabindex='0' role='region' aria-label='Results'>{table}</div>"


def _right(column: int) -> str:
    return " class='number'" if column in NUMBERS else ""


def _code(setup: Setup) -> str:
    """Python that makes the same trainings."""
    specs = [f"print({setup.specs()[name]!r}.run().epochs)" for name in ORDER]
    gradient = type(setup.specs()["anderson"].gradient).__name__
    extra = (
        [f"from andersonn_core.deq.gradients import {gradient}"] if gradient != "Implicit" else []
    )
    lines = [
        "from andersonn_core import Anderson, Picard", *extra,
        "from andersonn_core.training import TrainSpec", "", *specs,
    ]  # fmt: skip
    code = escape("\n".join(lines))
    return (
        "<details><summary>The same in Python</summary>"
        f"<pre tabindex='0' aria-label='Python code of this training'>{code}</pre></details>"
    )
