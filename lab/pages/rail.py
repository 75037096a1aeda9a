"""The rail: problem, presets, the three big sliders, and every other knob folded."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import panel as pn
import panel_material_ui as pmui

from andersonn_core import PROBLEMS, Anderson
from andersonn_core.driver import SolveKnobs
from andersonn_core.problems import ProblemSpec
from andersonn_core.specs import KnobError
from lab.controls import CHOICES, PRESETS, Controls
from lab.knobs import KNOBS
from lab.pages.card import STYLE, text
from lab.pages.widgets import BoundWidget, bound_widget

FOLD = {
    "boxShadow": "none",
    "backgroundImage": "none",
    "border": "1px solid",
    "borderColor": "divider",
    "& .MuiAccordionSummary-root": {"minHeight": "40px", "padding": "0 12px"},
    "& .MuiAccordionSummary-content": {"margin": "8px 0"},
    "& .MuiTypography-root": {"fontSize": "14px", "fontWeight": 500},
}
BIG = ("window", "mixing", "batch_size")
SECTIONS = {
    "Problem": tuple(ProblemSpec.knobs()),
    "Anderson": tuple(Anderson.knobs()),
    "Solver": tuple(SolveKnobs.knobs()),
}


class Rail(pn.viewable.Viewer):
    """Widgets bound to the controls; a refused value springs back and says why."""

    def __init__(
        self,
        controls: Controls,
        schedule: Callable[[Callable[[], None]], Any],
        own_map: bool = False,
    ) -> None:
        super().__init__()
        self.controls, self.own_map, self._busy = controls, own_map, False
        self._schedule = schedule
        self.bound: dict[str, BoundWidget] = {}
        self._bind(name for name in BIG if not (own_map and name == "batch_size"))
        self.folded = pn.Column(sizing_mode="stretch_width")
        self.problem = pmui.Select(
            label="Problem", value=controls.problem, sizing_mode="stretch_width", size="small",
            options={spec.label: key for key, spec in PROBLEMS.items()}, margin=(4, 0, 8, 0),
        )  # fmt: skip
        self.problem.param.watch(lambda event: self._set("problem", event.new), "value")
        self.also = pmui.Select(
            label="also show", value=controls.also, options=CHOICES, size="small",
            description=controls.param.also.doc, sizing_mode="stretch_width", margin=(8, 0, 2, 0),
        )  # fmt: skip
        self.also.param.watch(lambda event: self._set("also", event.new), "value")
        self.same = text("", "lab-note", margin=(0, 0, 4, 0))
        self.summary = text("", "lab-note", "lab-summary", margin=(0, 0, 8, 0))
        self.others = text("", "lab-note", margin=(6, 0))
        self.notice = text("", "lab-notice", margin=(6, 0))
        controls.param.watch(lambda _: self.follow(), ["revision", "notice"])
        self.follow()

    def _bind(self, names: Iterable[str]) -> None:
        for name in names:
            bound = bound_widget(self.controls.knob(name), KNOBS[name])
            bound.watch(lambda value, name=name: self._set(name, value))
            self.bound[name] = bound

    def unfold(self) -> None:
        """Make the other knobs' widgets, which most visits never need, and show them."""
        if not self.folded.objects:
            self._bind(name for name in KNOBS if name not in self.bound)
            self.follow()
            self.folded.objects = [*self._sections(), *([] if self.own_map else [self.others])]

    # -- binding ----------------------------------------------------------------------------------

    def _set(self, name: str, value: Any) -> None:
        """A widget moved: set the knob, or let the widget spring back."""
        if self._busy:
            return
        try:
            value = self.bound[name].read(value) if name in self.bound else value
            if name == "problem":
                self.controls.apply({"problem": value})
            elif getattr(self.controls, name) != value:
                setattr(self.controls, name, value)
        except KnobError:
            self.follow()

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def follow(self) -> None:
        """Show the controls' values, ranges and reasons."""
        reasons = self.controls.unavailable()
        with self._quiet():
            self.problem.value, self.also.value = self.controls.problem, self.controls.also
            for name, bound in self.bound.items():
                bound.follow(
                    self.controls.knob(name), getattr(self.controls, name), reasons.get(name, "")
                )
        self.summary.object = html.escape(PROBLEMS[self.controls.problem].summary)
        self.others.object = _others(reasons)
        self.same.object = html.escape(reasons.get("also", ""))
        self.same.visible = "also" in reasons
        foreign = _foreign(reasons)
        for name, bound in self.bound.items():
            bound.widget.visible = name not in foreign
        notice = self.controls.notice
        self.notice.object = (
            f"<div class='warning' role='alert'>{html.escape(notice)}</div>" if notice else ""
        )
        self.notice.visible = bool(notice)

    # -- layout -----------------------------------------------------------------------------------

    def _preset_row(self) -> pn.viewable.Viewable:
        buttons = []
        for name in PRESETS:
            button = pmui.Button(
                label=name,
                variant="outlined",
                size="small",
                margin=(0, 6, 6, 0),
                css_classes=["lab-preset"],
            )
            button.on_click(lambda _, name=name: self.controls.preset(name))
            buttons.append(button)
        return pn.FlexBox(
            *buttons,
            margin=(0, 0, 2, 0),
            sizing_mode="stretch_width",
            css_classes=["lab-presets"],
            stylesheets=[STYLE],
        )

    def _sections(self) -> list[Any]:
        known = {name for names in SECTIONS.values() for name in names}
        own = tuple(name for name in self.bound if name not in known)
        parts: list[Any] = []
        for title, names in SECTIONS.items():
            if title == "Problem" and self.own_map:
                continue
            parts.append(text(f"<h3>{title}</h3>", "lab-section", margin=(8, 0, 0, 0)))
            chosen = own + names if title == "Problem" else names
            parts += [
                self.bound[name].pane for name in chosen if name in self.bound and name not in BIG
            ]
        return parts

    def __panel__(self) -> pn.viewable.Viewable:
        big = [bound.pane for name, bound in self.bound.items() if name in BIG]
        head = [] if self.own_map else [self.problem, self.summary, self._preset_row()]
        more = pmui.Accordion(
            ("More knobs", self.folded), active=[], sizing_mode="stretch_width", margin=(6, 0),
            disable_gutters=True, sx=FOLD,
        )  # fmt: skip
        more.param.watch(lambda _: self._schedule(self.unfold), "active")
        return pn.Column(
            *head, *big, self.also, self.same, self.notice, more, sizing_mode="stretch_width",
            margin=0, css_classes=["lab-rail"], stylesheets=[STYLE],
        )  # fmt: skip


def _foreign(reasons: Mapping[str, str]) -> list[str]:
    """Knobs that only other problems declare; the page lists them in words."""
    common = {name for names in SECTIONS.values() for name in names} | {"size"}
    return [name for name in reasons if name in KNOBS and name not in common]


def _others(reasons: Mapping[str, str]) -> str:
    names = _foreign(reasons)
    if not names:
        return ""
    items = ", ".join(html.escape(name.strip("_").replace("_", " ")) for name in names)
    return f"Knobs of other problems, without effect here: {items}."
