"""What the views share: dragging a box selects, a tap without a drag takes the selection back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bokeh.events import SelectionGeometry
from bokeh.models import BoxAnnotation, BoxSelectTool

from lab.figures.base import paint
from lab.theme import Palette

Box = tuple[float, float, float, float]  # left, right, bottom, top


class Brushable:
    """A figure in which a box can be dragged; what was brushed stays outlined."""

    def __init__(self, plot: Any, brushed: Callable[[Box], None]) -> None:
        self.plot, self._brushed = plot, brushed
        # No renderer selects by itself: what is selected is the server's to say, for all views.
        self.tool = BoxSelectTool(renderers=[], persistent=False)
        plot.add_tools(self.tool)
        plot.toolbar.active_drag = self.tool
        plot.on_event(SelectionGeometry, self._selected)

    def _selected(self, event: SelectionGeometry) -> None:
        geometry = event.geometry
        if event.final and geometry["type"] == "rect":
            x0, x1, y0, y1 = (float(geometry[name]) for name in ("x0", "x1", "y0", "y1"))
            self._brushed((min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)))

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        paint(self.plot, colors)
        overlay = self.tool.overlay
        overlay.line_color, overlay.fill_color = colors.text, colors.text
        overlay.fill_alpha, overlay.line_dash, overlay.line_alpha = 0.06, "solid", 0.8


class Region:
    """The outline of what a view selects."""

    def __init__(self, plot: Any) -> None:
        self.box = BoxAnnotation(visible=False, line_width=1.6, fill_alpha=0.0, level="overlay")
        plot.add_layout(self.box)

    def show(self, box: Box | None) -> None:
        """Outline a box, or nothing."""
        if box is None:
            self.box.visible = False
        else:
            left, right, bottom, top = box
            self.box.update(left=left, right=right, bottom=bottom, top=top, visible=True)

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.box.line_color = colors.text


def fit(span: Any, low: float, high: float) -> None:
    """Move a range to these ends, if it is elsewhere."""
    if (span.start, span.end) != (low, high):
        span.update(start=low, end=high)
