"""Which trials are selected, by which view: one HoloViews selection expression for all of them.

HoloViews' `link_selections` holds the expression, so that any other HoloViews plot of the frame can
join (`Selection.links(plot)`). Its layers for rasterized plots do not draw our four views: with a
million trials one such view took 280 to 530 ms to answer a brush, before the browser had it, while
the expression itself is evaluated in 3 to 20 ms. It knows no parallel coordinates either.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import holoviews as hv
import numpy as np

from lab.sweeps.trials import Mask, Trials
from lab.sweeps.words import selected_words

LINKED = "linked plot"


class Selection:
    """What each view selects; a trial is selected if all of them have it."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.links = hv.link_selections.instance()
        self.parts: dict[str, tuple[hv.dim, str]] = {}  # view -> expression, and in words
        self._changed, self._own = changed, False
        self._trials: Trials | None = None
        self._mask: Mask | None = None
        self.links.param.watch(self._moved_elsewhere, "selection_expr")

    def set(self, view: str, expression: hv.dim | None, words: str = "") -> None:
        """Let a view select these trials, or no longer any."""
        if expression is None:
            self.parts.pop(view, None)
        else:
            self.parts[view] = (expression, words)
        self._tell()

    def clear(self) -> None:
        """Select nothing: every trial counts."""
        self.parts.clear()
        self._tell()

    @property
    def expression(self) -> hv.dim | None:
        """The trials that all views have, or None for every trial."""
        parts = [expression for expression, _ in self.parts.values()]
        return functools.reduce(operator.and_, parts) if parts else None

    @property
    def words(self) -> str:
        """What selects, in words."""
        return "; ".join(f"{words} ({view})" for view, (_, words) in self.parts.items())

    def _tell(self) -> None:
        self._own = True
        try:
            # Linked plots take back what they had selected, and the first of that takes ours back.
            for _ in range(2):
                self.links.selection_expr = self.expression
        finally:
            self._own = False
        self._trials = None
        self._changed()

    def _moved_elsewhere(self, event: Any) -> None:
        """Another plot that is linked has been brushed: it has the whole selection now."""
        if self._own:
            return
        expression = event.new
        self.parts = {} if expression is None else {LINKED: (expression, str(expression))}
        self._trials = None
        self._changed()

    def mask(self, trials: Trials) -> Mask | None:  # -> (n,)
        """Which trials are selected; None if all are."""
        if not self.parts:
            return None
        if trials is not self._trials:
            expression = self.expression
            assert expression is not None
            found = expression.apply(trials.dataset, expanded=True, flat=True)
            self._trials, self._mask = trials, np.asarray(found, bool)
        return self._mask

    def sentence(self, trials: Trials) -> str:
        """What is selected, in words."""
        return selected_words(trials, self.mask(trials))
