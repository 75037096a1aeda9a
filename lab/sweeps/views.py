"""Four linked views of a sweep: heat map, scatter, parallel coordinates, residual curves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import panel as pn
import panel_material_ui as pmui

from lab.later import call_later
from lab.pages.card import STYLE, Later, escape, grid, text
from lab.pages.convergence import Schedule, together
from lab.pages.map_card import SEGMENTS
from lab.sweeps import curves, heat, parallel, raster, scatter
from lab.sweeps.card import WIDE, ViewCard, view_select
from lab.sweeps.columns import Column, Levels, Measured, Scattered, measured
from lab.sweeps.machines import mixed_words
from lab.sweeps.newest import Newest
from lab.sweeps.notes import notes
from lab.sweeps.quantities import Keeper, available
from lab.sweeps.selection import Selection
from lab.sweeps.sheet import Sheet
from lab.sweeps.shown import Shown, Tint
from lab.sweeps.tiles import tiles
from lab.sweeps.trials import Indices
from lab.tasks import sentence
from lab.theme import Palette

PACE = 0.35  # seconds between two drawings of a sweep that is still running
NO_AXIS = "(one row)"


class SweepViews(pn.viewable.Viewer):
    """The trials of a sweep, brushed in any view and selected in all.

    `read_curves(rows, most)` gives the columns row, evaluation, seconds and level of these stored
    rows; with a `schedule` it is called from a thread of its own. `opened(row)` is told which trial
    a visitor wants to see. Without a `schedule` everything happens at once. `below`: what comes
    below the views.
    """

    def __init__(
        self,
        colors: Palette,
        read_curves: curves.Read,
        opened: Callable[[int], None],
        schedule: Schedule | None = None,
        below: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        self.colors, self._read, self._opened = colors, read_curves, opened
        self._schedule = schedule
        self.selected: Callable[[], None] = lambda: None  # told of another selection
        self.selection = Selection(self._selected)
        self.heat = heat.Heat(self._brush, lambda index: opened(int(self.trials.rows[index])))
        self.scatter = scatter.Scatter(self._brush)
        self.parallel = parallel.Parallel(self._brush)
        self.curves = curves.Curves(self._brush)
        self.views = {
            heat.NAME: self.heat, scatter.NAME: self.scatter, parallel.NAME: self.parallel,
            curves.NAME: self.curves,
        }  # fmt: skip
        self._planned: int | None = None
        self._newest = Newest("sweep curves", schedule, self._unread)
        self._next, self._waiting, self._filling = 0.0, False, False
        self._compiling, self._drawing = False, 0
        self._build(below)
        for view in self.views.values():
            view.paint(colors)

    # -- building ---------------------------------------------------------------------------------

    def _build(self, below: Sequence[Any]) -> None:
        self.quantity = view_select("color")
        self.x, self.y = view_select("across"), view_select("up")
        self.across, self.up = view_select("across", width=150), view_select("up", width=150)
        self.machine = view_select("machine", **WIDE)
        self.by = pmui.RadioButtonGroup(
            options={"evaluations": "evaluation", "seconds": "seconds"}, value="evaluation",
            size="small", color="primary", sx=SEGMENTS, margin=(4, 0, 4, 8),
        )  # fmt: skip
        for widget in (self.quantity, self.x, self.y, self.across, self.up):
            widget.param.watch(lambda _: self._chosen(), "value")
        self.machine.param.watch(lambda _: self._restrict(), "value")
        self.by.param.watch(lambda _: self._by_changed(), "value")
        self.clear = pmui.Button(
            label="Clear selection", icon="deselect", variant="outlined", size="small",
            margin=(0, 12, 0, 0), disabled=True,
        )  # fmt: skip
        self.clear.on_click(lambda _: self.forget())
        self.sentence = text("", "lab-verdict")
        self.how, self.warning = text("", "lab-card-note"), text("", "lab-note", visible=False)
        self.tiles = text("", "lab-tiles")
        self.cards = {
            heat.NAME: ViewCard(
                "Heat map", [self.heat.drawn], [self.quantity, self.x, self.y]
            ),
            scatter.NAME: ViewCard(
                "Trial by trial", [self.scatter.figure], [self.across, self.up]
            ),
            parallel.NAME: ViewCard("Parallel coordinates", [self.parallel.figure], []),
            curves.NAME: ViewCard(
                "Residual curves", [*self.curves.figures.values()], [self.by]
            ),
        }  # fmt: skip
        self.cards[curves.NAME].panes[1].visible = False
        scattered, lower = self.cards[scatter.NAME], [*self.cards.values()][2:]
        beside = {"css_classes": ["lab-cell", "lab-place"], "stylesheets": [STYLE]}
        self.rest = (
            Later(scattered, visible=True, **beside),
            Later(grid(*lower, name="lab-strip"), *below, visible=True),
        )  # fmt: skip
        if pn.state.curdoc is not None and pn.state.loaded:
            self.heat.figure.on_change("inner_width", lambda attr, old, new: self._complete())
        else:
            self._complete()

    def _complete(self) -> None:
        """Put the other views into the page.

        Into one that stands, once the browser has laid out the heat map: at once it would show
        none of them for a second more; and before, it would still be making the first widgets,
        make them twice, and throw where it removes those that were not mounted yet.
        """
        with together():
            for part in self.rest:  # two: Panel walks through the whole page for each
                part.show()

    # -- trials -----------------------------------------------------------------------------------

    def open(self, sheet: Sheet, planned: int | None = None) -> None:
        """Show the trials of another sweep; nothing of the last one stays.

        `planned`: how many trials there will be.
        """
        self._planned = planned
        self._keepers: dict[str, Keeper] = {}
        self._measured: dict[str, Measured] = {}
        self.selection.parts.clear()
        for view in self.views.values():
            view.forget()
        self._take(sheet)

    def update(self, sheet: Sheet) -> None:
        """More trials of the same sweep: selection and axes stay. Drawn a few times a second."""
        self._sheet, wait = sheet, self._next - time.monotonic()
        if wait <= 0 or self._schedule is None:
            self._take(sheet)
        elif not self._waiting:
            self._waiting, schedule = True, self._schedule
            call_later(wait, lambda: schedule(self._catch_up))

    def _catch_up(self) -> None:
        self._waiting = False
        self._take(self._sheet)

    def _take(self, sheet: Sheet) -> None:
        started = time.monotonic()
        self._sheet, self._machines = sheet, sheet.machines
        known = [*self._machines]
        kept = next((w for w in known if self._machines[w] == self._machine_key()), None)
        with together():
            self._fill(self.machine, known, kept or next(iter(known), None))
            self.machine.visible = len(known) > 1
            self._restrict()
        # A million trials take longer than the pace: leave the page as much time as they took.
        took = time.monotonic() - started
        self._next = started + took + max(PACE, took)

    def _machine_key(self) -> tuple[str, str] | None:
        return getattr(self, "_machine", None)

    def _restrict(self) -> None:
        """Keep to the trials of one machine."""
        if self._filling:
            return
        first = next(iter(self._machines.values()), ("", ""))
        self._machine = self._machines[self.machine.value] if len(self._machines) > 1 else first
        self.trials = self._sheet.trials(self._machine)
        with together():
            self._offer()
            self._warn()
            self._draw()

    def _offer(self) -> None:
        """What can be chosen of these trials; what was chosen stays, if it is still there."""
        trials, every = self.trials, self.trials.every_axis
        quantities = available(trials)
        first, second = heat.default_axes(trials)
        names = {axis.label: name for name, axis in every.items()}
        self._fill(self.quantity, {q.label: n for n, q in quantities.items()}, "num_evals")
        self._fill(self.x, names, first)
        self._fill(self.y, names | {NO_AXIS: ""}, second)
        for name, column in measured(trials).items():
            self._measured.setdefault(name, column)
        places = {each.label: name for name, each in self._measured.items()} | names
        self._fill(self.across, places, "seconds")
        self._fill(self.up, places, "num_evals")

    def _fill(self, widget: Any, options: Any, otherwise: Any) -> None:
        """Offer these options; the choice stays if it can."""
        values = [*options.values()] if isinstance(options, dict) else options
        value = widget.value if widget.value in values else otherwise
        if widget.options != options or widget.value != value:
            self._filling = True
            try:
                widget.param.update(options=options, value=value)
            finally:
                self._filling = False

    # -- drawing ----------------------------------------------------------------------------------

    def _chosen(self) -> None:
        """Other axes or colors."""
        if not self._filling:
            with together():
                self._draw()

    def _brush(self, view: str, expression: hv.dim | None, words: str) -> None:
        """A view was brushed."""
        self.selection.set(view, expression, words)

    def _selected(self) -> None:
        """The selection changed, here or in a plot that is linked."""
        for name, view in self.views.items():
            if name not in self.selection.parts:
                view.forget()
        with together():
            self._draw()
            self.selected()

    @property
    def first_selected(self) -> tuple[str, int] | None:
        """The first trial that is selected, or the first one: in words, and its row."""
        if not hasattr(self, "trials") or not self.trials.count:
            return None
        mask = self.selection.mask(self.trials)
        index = 0 if mask is None else int(mask.argmax())
        return self.trials.setting(index), int(self.trials.rows[index])

    def forget(self) -> None:
        """Select nothing."""
        for view in self.views.values():
            view.forget()
        self.selection.clear()

    def _shown(self) -> Shown:
        trials, mask = self.trials, self.selection.mask(self.trials)
        name = self.quantity.value
        keeper = self._keepers.setdefault(name, Keeper(available(trials)[name]))
        quantity = keeper.quantity
        values = np.zeros(0)
        if quantity.column:
            order = trials.order(quantity.column)
            values = trials.values(quantity.column)[order[[0, -1]] if order.size else order]
        return Shown(trials, mask, Tint(quantity, keeper.hold(values), self.colors))

    def _draw(self) -> None:
        """Draw everything: the heat map first, the others each in a turn of its own.

        Between two turns the server answers others, and the browser draws what it has. The curves
        follow when they have been read.
        """
        shown = self._shown()
        self._drawing += 1
        drawing = self._drawing
        if shown.trials.count > parallel.MOST_LINES:
            self._prepare()
        self._say(shown)
        self._draw_heat(shown)
        parts = [self._draw_scatter, self._draw_parallel, self._ask]
        if self._schedule is None or shown.trials.count <= parallel.MOST_LINES:
            for part in parts:
                part(shown)
        else:
            self._schedule(lambda: self._go_on(drawing, shown, parts))

    def _go_on(self, drawing: int, shown: Shown, parts: list[Callable[[Shown], None]]) -> None:
        """Draw the next part, unless something newer is being drawn."""
        if drawing == self._drawing and self._schedule is not None:
            with together():
                parts[0](shown)
            if parts[1:]:
                self._schedule(lambda: self._go_on(drawing, shown, parts[1:]))

    def _draw_heat(self, shown: Shown) -> None:
        axes = shown.trials.every_axis
        if axes:
            x = axes[self.x.value]
            y = axes[self.y.value] if self.y.value and self.y.value != self.x.value else None
            self.heat.draw(shown, x, y)

    def _draw_scatter(self, shown: Shown) -> None:
        self.scatter.draw(shown, self._place(self.across.value), self._place(self.up.value))

    def _draw_parallel(self, shown: Shown) -> None:
        through = [*map(Levels, shown.trials.axes.values())]
        through += [self._measured[name] for name in ("num_evals", "seconds")]
        self.parallel.draw(shown, through)

    def _prepare(self) -> None:
        """Have datashader compiled; what needs it is drawn when it is."""
        schedule = self._schedule
        if schedule is None:
            raster.prepare.wait()
        elif not self._compiling:
            self._compiling = True
            raster.prepare(lambda: schedule(self._chosen))

    def _place(self, name: str) -> Column:
        return self._measured.get(name) or Scattered(self.trials.every_axis[name])

    def _ask(self, shown: Shown) -> None:
        """Read the curves of the selection, the newest request only."""

        def read() -> tuple[Indices, pd.DataFrame]:
            index = curves.sample(shown.trials, shown.mask)
            return index, self._read(shown.trials.rows[index].tolist(), curves.MOST)

        self._newest.ask(read, lambda found: self._draw_curves(shown, *found))

    def _unread(self, error: Exception) -> None:
        self.cards[curves.NAME].say(f"The curves could not be read: {sentence(error)}")

    def _draw_curves(self, shown: Shown, index: Indices, frame: pd.DataFrame) -> None:
        chosen = shown.trials.count if shown.mask is None else int(shown.mask.sum())
        with together():
            self.curves.draw(shown, index, frame)
            self.cards[curves.NAME].say(self.curves.note(shown, chosen))

    def _by_changed(self) -> None:
        self.curves.by = self.by.value
        for by, pane in zip(self.curves.figures, self.cards[curves.NAME].panes, strict=True):
            pane.visible = by == self.by.value

    # -- words ------------------------------------------------------------------------------------

    def _say(self, shown: Shown) -> None:
        """What is selected, by what, and how it ended."""
        trials = shown.trials
        words = self.selection.sentence(trials)
        if self._planned is not None and trials.count < self._planned:
            words += f" {trials.count:,} of {self._planned:,} are computed."
        markup = f"<p role='status' aria-live='polite'>{escape(words)}</p>"
        _write(self.sentence, markup)
        how = (
            f"Selected: {self.selection.words}."
            if self.selection.parts
            else ("Drag a box in any view to select trials in all of them.")
        )
        _write(self.how, escape(how))
        self.clear.disabled = not self.selection.parts
        _write(self.tiles, tiles(shown))
        for name, words in notes(shown).items():
            self.cards[name].say(words)

    def _warn(self) -> None:
        """Say that seconds of several machines are not mixed."""
        words = mixed_words(self._machines, str(self.machine.value))
        _write(self.warning, f"<div class='warning' role='note'>{escape(words)}</div>")
        self.warning.visible = bool(words)

    # -- colors, end ------------------------------------------------------------------------------

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.colors = colors
        with together():
            for view in self.views.values():
                view.paint(colors)
            if hasattr(self, "trials"):
                self._draw()

    def close(self) -> None:
        """The visitor has left: read no more."""
        self._drawing += 1
        self._newest.close()

    def __panel__(self) -> pn.viewable.Viewable:
        head = pn.Row(
            self.clear, self.tiles, sizing_mode="stretch_width", margin=(6, 0, 0, 0),
            stylesheets=[STYLE],
        )  # fmt: skip
        return pn.Column(
            self.warning, self.machine, self.sentence, self.how, head,
            grid(self.cards[heat.NAME], self.rest[0], name="lab-strip"), self.rest[1],
            sizing_mode="stretch_width", margin=(12, 0, 0, 0), css_classes=["lab-views"],
            stylesheets=[STYLE],
        )  # fmt: skip


def _write(pane: Any, markup: str) -> None:
    if pane.object != markup:
        pane.object = markup
