"""CPU against GPU: bars over batch sizes, live where there is a GPU, else recorded, else one line."""

from __future__ import annotations

import panel as pn

from lab.figures.bars import DeviceBars
from lab.live import Live
from lab.pages.card import Card, bokeh_pane
from lab.theme import Palette


class Devices(Card):
    """Seconds of the same solve on both kinds of device."""

    title = "CPU against GPU"

    def __init__(self, colors: Palette) -> None:
        super().__init__()
        self.bars = DeviceBars(colors)
        self.pane = bokeh_pane(self.bars.figure, height=150, sizing_mode="stretch_width", visible=False)

    def show(self, live: Live) -> None:
        """Show what is known of this problem."""
        self.say("No GPU here, and no recorded GPU run yet.")

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.bars.paint(colors)

    def __panel__(self) -> pn.viewable.Viewable:
        return self.boxed(self.pane)
