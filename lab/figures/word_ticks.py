"""An axis with words for ticks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bokeh.models import CustomJSTickFormatter, FixedTicker

WORDS = "for (const [at, word] of words) if (Math.abs(tick - at) < 1e-6) return word; return ''"


class WordTicks:
    """An axis whose ticks are words at places."""

    def __init__(self, axis: Any) -> None:
        self.axis = axis
        self._shown: dict[float, str] | None = None
        self.formatter = CustomJSTickFormatter(args={"words": []}, code=WORDS)
        axis.formatter, axis.ticker = self.formatter, FixedTicker(ticks=[])

    def show(self, ticks: Mapping[float, str], title: str) -> None:
        """Write these words; an axis that stands is not touched."""
        if self.axis.axis_label != title:
            self.axis.axis_label = title
        if self._shown != ticks:
            self._shown = dict(ticks)
            self.formatter.args = {"words": [list(item) for item in ticks.items()]}
            self.axis.ticker.ticks = list(ticks)
