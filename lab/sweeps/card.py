"""A card with its widgets beside the title."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import panel as pn
import panel_material_ui as pmui

from lab.pages.card import STYLE, Card, bokeh_pane


class ViewCard(Card):
    """A view with its widgets beside the title."""

    def __init__(self, title: str, figures: Sequence[Any], widgets: Sequence[Any]) -> None:
        self.title = title
        super().__init__()
        self.widgets = widgets
        self.panes = [bokeh_pane(each, height=each.height) for each in figures]

    def __panel__(self) -> pn.viewable.Viewable:
        head = pn.Row(
            self.heading, *self.widgets, sizing_mode="stretch_width", align="start", margin=0,
            height=44 if self.widgets else 22, css_classes=["lab-head"], stylesheets=[STYLE],
        )  # fmt: skip
        return self.framed(head, self.note, *self.panes)


WIDE = {"sizing_mode": "stretch_width", "width": None, "max_width": 420}  # less on a telephone
SMALL = {"& .MuiSelect-select": {"fontSize": "13px"}}


def view_select(name: str, **size: Any) -> Any:
    """A small select beside a title; its options come with the trials."""
    settings = {"width": 114} | size
    return pmui.Select(
        label=name, options=[], size="small", margin=(4, 0, 0, 8), sx=SMALL, **settings
    )
