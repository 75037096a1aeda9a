"""What a card is: a title, a line of words under it, and a figure; and the page's style sheet."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import panel as pn

from lab.theme import Palette

STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")


def text(markup: str = "", *classes: str, **options: Any) -> pn.pane.HTML:
    """A pane for markup that this package wrote; all else is escaped before it comes here."""
    settings: dict[str, Any] = dict(sizing_mode="stretch_width", margin=0, stylesheets=[STYLE])
    return pn.pane.HTML(markup, css_classes=list(classes), **(settings | options))


def escape(words: object) -> str:
    """Text that is safe between tags and in attributes."""
    return html.escape(str(words), quote=True)


def bokeh_pane(plot: Any, **options: Any) -> pn.pane.Bokeh:
    """A figure that fills its place; its colors are its own, not the design's."""
    settings: dict[str, Any] = dict(sizing_mode="stretch_width", margin=0)
    return pn.pane.Bokeh(plot, theme=None, **(settings | options))


class Later(pn.Column):
    """A place for panes that most visits never need; they join the page when it first shows them.

    The page's first second grows with its models: Panel walks through all of them for every widget.
    """

    def __init__(self, *parts: Any, **options: Any) -> None:
        super().__init__(**(dict(sizing_mode="stretch_width", margin=0, visible=False) | options))
        self._parts = list(parts)

    def show(self, yes: bool = True) -> None:
        """Show the panes, or hide them."""
        if yes and not self.objects:
            self.objects = self._parts
        self.visible = yes


class Card(pn.viewable.Viewer):
    """A titled box; `note` is its live sentence."""

    title = ""

    def __init__(self) -> None:
        super().__init__()
        self.heading = text(f"<h2>{escape(self.title)}</h2>", "lab-card-title")
        self.note = text("", "lab-card-note")

    def say(self, words: str) -> None:
        """Write the card's live sentence; plain text."""
        markup = escape(words)
        if self.note.object != markup:
            self.note.object = markup

    def boxed(self, *parts: Any, noted: bool = True, **options: Any) -> pn.Column:
        """The card with its parts below title and sentence."""
        head = (self.heading, self.note) if noted else (self.heading,)
        return self.framed(*head, *parts, **options)

    def framed(self, *parts: Any, **options: Any) -> pn.Column:
        """The box alone, around parts that have a place for title and sentence themselves."""
        settings: dict[str, Any] = dict(
            sizing_mode="stretch_width",
            css_classes=["lab-card", "lab-cell"],
            stylesheets=[STYLE],
            margin=0,
        )
        return pn.Column(*parts, **(settings | options))


class Plot(Protocol):
    """A Bokeh figure that follows the theme."""

    figure: Any

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        ...


P = TypeVar("P", bound=Plot)


class PlotCard(Card, Generic[P]):
    """A card with one plot, as high as its figure."""

    def __init__(self, plot: P) -> None:
        super().__init__()
        self.plot = plot

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.plot.paint(colors)

    def __panel__(self) -> pn.viewable.Viewable:
        return self.boxed(bokeh_pane(self.plot.figure, height=self.plot.figure.height))


def grid(*parts: Any, name: str) -> pn.Column:
    """Parts side by side, or below one another where it is narrow; `name` is the CSS class."""
    return pn.Column(
        *parts,
        css_classes=["lab-grid", *name.split()],
        stylesheets=[STYLE],
        sizing_mode="stretch_width",
        margin=0,
    )
