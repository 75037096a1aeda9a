"""The top of the page: the question, the live answer in words, how the runs ended, the badges."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import panel as pn
import panel_material_ui as pmui
import torch

from andersonn_core.words import residual_text
from lab import words
from lab.live import Live
from lab.pages.card import STYLE, Later, escape, text
from lab.theme import LABELS, Palette

STATUS_SECONDS = 1.0  # a screen reader can't follow more often


STALE = "<div class='stale'>"
FOLD = {  # as plain as the other fold beside it
    "boxShadow": "none",
    "background": "none",
    "& .MuiAccordionSummary-root": {
        "minHeight": "18px", "padding": 0, "flexDirection": "row-reverse", "width": "fit-content",
        "marginLeft": "-4px", "color": "text.secondary",
    },
    "& .MuiAccordionSummary-content": {"margin": "0 !important"},
    "& .MuiAccordionDetails-root": {"padding": "0 0 2px 18px"},
    "& .MuiSvgIcon-root": {"fontSize": "18px", "color": "text.secondary"},
    "& .MuiTypography-root": {"fontSize": "12.5px", "lineHeight": "18px", "fontWeight": 400},
}  # fmt: skip


class Answer(pn.viewable.Viewer):
    """Question, answer, verdict, status line and badges."""

    def __init__(self, colors: Palette, start_over: Callable[[], None]) -> None:
        super().__init__()
        self.colors, self._said = colors, 0.0
        self.start_over = pmui.Button(
            label="Start over",
            icon="restart_alt",
            variant="outlined",
            size="small",
            visible=False,
            margin=(4, 0),
        )
        self.start_over.on_click(lambda _: start_over())
        self.question = text(f"<h1>{escape(words.QUESTION)}</h1>", "lab-question")
        self.headline = text("", "lab-answer")
        self.verdict = text("", "lab-verdict")
        self.status = text("", "lab-status")
        self.tiles = text("", "lab-tiles")
        self.decided = text("", "lab-decided")
        self.notes = Later(
            pmui.Accordion(
                ("What Anderson decided", self.decided), active=[], margin=0,
                sizing_mode="stretch_width", disable_gutters=True, sx=FOLD,
            )
        )  # fmt: skip
        self.theory = text(
            f"<details><summary>What is going on?</summary><p>{escape(words.THEORY)} "
            "<code>make notebooks</code> opens <code>notebooks/01_anderson</code>, which derives "
            "it from the secant method.</p></details>",
            "lab-theory",
        )

    def run(self, live: Live) -> None:
        """While solves run: the status counts."""
        self.start_over.visible = False
        now = time.monotonic()
        if now - self._said < STATUS_SECONDS:
            return
        self._said = now
        levels = {}
        for name, trace in live.traces.items():
            if trace.levels is not None and len(trace.levels):
                levels[name] = (trace.evaluations, float(torch.tensor(trace.levels).nanmedian()))
        self._status(words.running_line(levels))

    def stale(self) -> None:
        """Turn the answer pale: it belongs to runs that were superseded.

        The mark is in the markup: a change of CSS classes would lay out the whole page anew.
        """
        for pane in (self.headline, self.verdict, self.tiles):
            if pane.object and not pane.object.startswith(STALE):
                pane.object = f"{STALE}{pane.object}</div>"

    def show(self, live: Live) -> None:
        """Say what came out."""
        self.start_over.visible = bool(live.errors)
        self._said = 0.0
        if live.errors:
            return self._fail(live)
        results = {name: live.results[name] for name in live.methods}  # not as they ended
        self.headline.object = _paragraph(
            words.headline(results, live.problem_name, live.anderson.window)
        )
        gain = words.gain(live.anderson, live.elements, results)
        verdict = words.verdict(live.compare(), live.problem, results)
        self.verdict.object = _paragraph(f"{gain} {verdict}".strip())
        self._tell(results["anderson"].notes)
        self._status(words.status_line(results, live.problem_name))
        self.tiles.object = self._badges(live)
        return None

    def _fail(self, live: Live) -> None:
        sentences = " ".join(dict.fromkeys(live.errors.values()))
        self.headline.object = _paragraph("This run could not be finished.")
        self.verdict.object = f"<p class='error' role='alert'>{escape(sentences)}</p>"
        self.tiles.object = ""
        self._status("")
        self._tell(())

    def _tell(self, notes: Sequence[str]) -> None:
        """List what the method decided, if it did; folded or not as it was."""
        self.notes.show(bool(notes))
        items = "".join(f"<li>{escape(note)}</li>" for note in notes)
        self.decided.object = f"<ul>{items}</ul>" if notes else ""

    def _status(self, line: str) -> None:
        self.status.object = f"<div role='status' aria-live='polite'>{escape(line)}</div>"

    def _badges(self, live: Live) -> str:
        tiles = [self._same(live), self._error(live), *self._events(live)]
        return "<div class='tiles'>" + "".join(tile for tile in tiles if tile) + "</div>"

    def _same(self, live: Live) -> str:
        forward, anderson = live.results["picard"], live.results["anderson"]
        if live.problem is None or not _is_array(forward.z):
            return ""
        both = forward.converged & anderson.converged
        if not bool(both.any()):
            return ""
        agree = None
        if live.problem.predict is not None:
            reads = [live.problem.predict(result.z).argmax(1) for result in (forward, anderson)]
            agree = (int((reads[0] == reads[1])[both].sum()), int(both.sum()))
        ends = [torch.as_tensor(result.z).reshape(len(both), -1) for result in (forward, anderson)]
        gap = words.distance(ends[0][both], ends[1][both])
        kind, sentence = words.equilibrium_badge(gap, live.tolerance, agree)
        color = {"good": self.colors.good, "warn": self.colors.warn, "bad": self.colors.bad}[kind]
        verdict = {
            "good": "same equilibrium",
            "warn": "nearly the same equilibrium",
            "bad": "different equilibria",
        }
        return _tile(verdict[kind], sentence, color)

    def _error(self, live: Live) -> str:
        """The true error of the end points, in the median of the batch, where z* is known."""
        if live.problem is None or live.problem.z_star is None:
            return ""
        star = live.problem.z_star.double().flatten(1)
        parts = []
        for name in ("picard", "anderson"):
            z = live.results[name].z
            gap = torch.linalg.vector_norm(z.double().flatten(1) - star, dim=1)
            level = float((gap / torch.linalg.vector_norm(star, dim=1)).nanmedian())
            parts.append(f"{LABELS[name]} {residual_text(level)}")
        return _tile("true error", ", ".join(parts))

    def _events(self, live: Live) -> list[str]:
        counts = live.results["anderson"].diagnostics
        shown = {"fallbacks": "fallbacks", "drops": "dropped columns"}
        return [_tile(str(counts[key]), label) for key, label in shown.items() if counts.get(key)]

    def __panel__(self) -> pn.viewable.Viewable:
        return pn.Column(
            self.question,
            self.headline,
            self.verdict,
            self.start_over,
            self.tiles,
            pn.Row(
                self.status,
                self.theory,
                sizing_mode="stretch_width",
                margin=0,
                css_classes=["lab-line"],
                stylesheets=[STYLE],
            ),
            self.notes,
            sizing_mode="stretch_width",
            margin=0,
            css_classes=["lab-answers"],
            stylesheets=[STYLE],
        )


def _is_array(z: object) -> bool:
    return isinstance(z, torch.Tensor | np.ndarray)


def _paragraph(sentence: str) -> str:
    return f"<p>{escape(sentence)}</p>" if sentence else ""


def _tile(head: str, rest: str, color: str = "") -> str:
    dot = f"<span class='dot' style='background:{color}'></span>" if color else ""
    return f"<span class='tile'>{dot}<b>{escape(head)}</b> {escape(rest)}</span>"
