"""Both phase diagrams, what they show, how far they are, and their numbers to take away."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import pandas as pd
import panel as pn
import panel_material_ui as pmui
import torch

from andersonn_core.memory import available_bytes, cache_sizes
from lab import crossover_words as words
from lab.figures.phase_map import PhaseMap
from lab.grid import News
from lab.pages.card import STYLE, Card, bokeh_pane, escape, grid, text
from lab.phase import AXES, Cell, Plan, Setting, Spread, leaders
from lab.quantities import QUANTITIES, Quantity
from lab.theme import Palette

SAID_EVERY = 1.0  # seconds: a screen reader can't follow more often
SEGMENTS = {"& .MuiToggleButton-root": {
    "textTransform": "none", "whiteSpace": "nowrap", "padding": "3px 12px", "fontSize": "13px",
}}  # fmt: skip
CROSSES = "Crosses: no convergence, bounded by the thick line."
CHOICES = {quantity.label: name for name, quantity in QUANTITIES.items()}


class Maps(Card):
    """The cells of the newest plan as two heat maps with one scale."""

    def __init__(
        self,
        colors: Palette,
        pick: Callable[[Setting], None],
        go: Callable[[], None],
        stop: Callable[[], None],
    ) -> None:
        super().__init__()
        self.colors, self._go, self._stop = colors, go, stop
        free = available_bytes(torch.device("cpu"))
        self.knees = cache_sizes() | ({} if free is None else {"free memory": free})
        self.plan: Plan | None = None
        self.cells: dict[Setting, Cell] = {}
        self._single: dict[Setting, Cell] = {}  # as one run gave them
        self.winner: Setting | None = None
        self.spreads: dict[Setting, Spread] = {}
        self.news: News | None = None
        self._said = 0.0
        self.maps = {axis: PhaseMap(axis, colors, pick) for axis in AXES}
        self.quantity = pmui.RadioButtonGroup(
            options=CHOICES, value="speedup", size="small", margin=(0, 14, 0, 0),
            color="primary", sx=SEGMENTS,
        )  # fmt: skip
        self.quantity.param.watch(lambda _: self.draw(), "value")
        self.progress = text("", "lab-status", margin=(0, 0, 0, 14))
        self.button = pmui.Button(
            label="Stop", icon="stop_circle", variant="outlined", size="small", margin=(0, 8, 0, 0)
        )
        self.button.on_click(lambda _: self._stop() if self.running else self._go())
        self.csv = pmui.FileDownload(
            callback=self._csv, filename="anderson-lab-crossover.csv", label="Download CSV",
            size="small", icon="table_view", margin=0,
        )  # fmt: skip
        self.csv.variant = "outlined"  # its constructor warns about a word that it adds by itself
        self.table = text("", "lab-table")

    @property
    def running(self) -> bool:
        """Whether more cells are to come."""
        return self.news is None or not self.news.ended

    # -- news -------------------------------------------------------------------------------------

    def begin(self, plan: Plan) -> None:
        """Another plan: what is known of it stays."""
        if self.plan is None or not plan.is_kin(self.plan):
            self.cells, self._single, self.spreads = {}, {}, {}
        self.plan, self.news, self.winner = plan, None, None
        self.draw()

    def take(self, news: News) -> None:
        """More of the newest plan."""
        self._single |= news.cells
        self.spreads |= news.spreads
        self.cells = self._single | {
            setting: replace(self._single[setting], speedup=spread.speedup)
            for setting, spread in self.spreads.items()
            if setting in self._single
        }
        self.news, self.winner = news, news.winner or self.winner
        self.draw()

    @property
    def here(self) -> Cell | None:
        """The cell of the present setting."""
        return None if self.plan is None else self.cells.get(self.plan.here)

    @property
    def best(self) -> Cell | None:
        """The best cell of the window x mixing map."""
        plan = self.plan
        if plan is None or self.winner is not None:
            return self.cells.get(self.winner) if self.winner else None
        mine = (self.cells[each] for each in plan.known(self.cells) if plan.on_map("mixing", each))
        return next(iter(leaders(mine, 1)), None)

    @property
    def complete(self) -> bool:
        """Whether all cells of the plan were computed."""
        return self.plan is not None and self.plan.every <= self.cells.keys()

    def known(self) -> list[Cell]:
        """The computed cells of both maps."""
        return (
            [] if self.plan is None else [self.cells[each] for each in self.plan.known(self.cells)]
        )

    def sizes(self) -> list[Cell]:
        """The cells of the present window and mixing, by batch size."""
        plan = self.plan
        assert plan is not None
        settings = [plan.setting("batch", plan.here.window, row) for row in plan.rows("batch")]
        return [self.cells[each] for each in settings if each in self.cells]

    # -- drawing ----------------------------------------------------------------------------------

    def draw(self) -> None:
        """Draw everything that is known in the chosen quantity."""
        plan, quantity = self.plan, QUANTITIES[self.quantity.value]
        if plan is None:
            return
        heading = f"<h2>{escape(quantity.title)}</h2>"
        if self.heading.object != heading:
            self.heading.object = heading
        memory = self.quantity.value == "memory"
        self.say(self._note(quantity))
        cells = self._with_bytes(plan) if memory else self.cells
        scale = quantity.scale([cells[each] for each in plan.known(cells)])
        best, knees = (None, self.knees) if memory else (self.best, {})
        for drawn in self.maps.values():
            drawn.show(plan, cells, quantity, scale, best, knees)
        self._tell()

    def _note(self, quantity: Quantity) -> str:
        """What numbers, colors and lines mean, as far as they are there."""
        known, parts = self.known(), [quantity.note]
        if self.quantity.value == "speedup":
            if any(cell.converged and math.isinf(cell.speedup) for cell in known):
                parts.append("\N{INFINITY}: only Anderson converges.")
            if any(cell.bound for cell in known):
                parts.append("+: at least; forward iteration runs out of evaluations.")
        if self.quantity.value != "memory" and any(
            cell.how and not cell.converged for cell in known
        ):
            parts.append(CROSSES)
        if any(cell.error for cell in known):
            parts.append("n/a: could not be computed; point at it to see why.")
        return " ".join([*parts, "Click a cell to set the sliders to it."])

    def _with_bytes(self, plan: Plan) -> dict[Setting, Cell]:
        """All cells: what their history takes is known before they are computed."""
        rest = plan.every - self.cells.keys()
        return self.cells | {each: Cell(each, memory=plan.bytes_at(each)) for each in rest}

    def _tell(self) -> None:
        """Say how far the computation is; seldom, while it is under way."""
        news, now = self.news, time.monotonic()
        running = self.running
        if running and now - self._said < SAID_EVERY:
            return
        self._said = now if running else 0.0
        stopped = not running and bool(news and news.stopped)
        self.button.param.update(  # disabled, not hidden: the page would be laid out anew
            label="Go on" if stopped else "Stop",
            icon="play_circle" if stopped else "stop_circle",
            disabled=not (running or stopped),
        )
        if news is None:
            sentence = "Computing ..."
        elif running:
            sentence = words.progress(news.done, news.total, news.seconds_left)
        else:
            sentence = news.error or words.summary(self.known(), news.stopped, news.total)
            self.table.object = self._table()
        self.progress.object = f"<div role='status' aria-live='polite'>{escape(sentence)}</div>"

    # -- numbers ----------------------------------------------------------------------------------

    def frame(self) -> pd.DataFrame:
        """A row per computed cell, with the repeats' interval where there is one."""
        rows = []
        for setting, cell in sorted(self.cells.items()):
            record = asdict(cell)
            del record["setting"], record["prediction"]
            spread = self.spreads.get(setting)
            low, high = (math.nan, math.nan) if spread is None else (spread.low, spread.high)
            rows.append(setting._asdict() | record | {"speedup_low": low, "speedup_high": high})
        return pd.DataFrame(rows)

    def _csv(self) -> io.StringIO:
        buffer = io.StringIO()
        self.frame().to_csv(buffer, index=False)
        buffer.seek(0)
        return buffer

    def _table(self) -> str:
        """The window x mixing map as a table, for who can't see colors."""
        plan, quantity = self.plan, QUANTITIES[self.quantity.value]
        assert plan is not None
        head = "".join(f"<th scope='col'>{window:g}</th>" for window in plan.windows)
        rows = []
        for row in reversed(plan.rows("mixing")):
            settings = [plan.setting("mixing", window, row) for window in plan.windows]
            shown = [self._entry(quantity, self.cells.get(setting)) for setting in settings]
            cells = "".join(f"<td>{escape(entry)}</td>" for entry in shown)
            rows.append(f"<tr><th scope='row'>{row:g}</th>{cells}</tr>")
        title = f"{quantity.label} by mixing (rows) and window (columns)"
        return (
            f"<details><summary>The same as a table</summary><div class='wide' tabindex='0' "
            f"role='region' aria-label='{escape(title)}'><table><caption>{escape(title)}</caption>"
            f"<thead><tr><th scope='col'>mixing</th>{head}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table></div></details>"
        )

    @staticmethod
    def _entry(quantity: Quantity, cell: Cell | None) -> str:
        if cell is None:
            return ""
        if cell.error:
            return "failed"
        return (quantity.text(cell) or "not resolved") if cell.converged else cell.how

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.colors = colors
        for drawn in self.maps.values():
            drawn.paint(colors)

    def __panel__(self) -> pn.viewable.Viewable:
        bar = pn.FlexBox(
            self.quantity, self.button, self.csv, self.progress, align_items="center",
            sizing_mode="stretch_width", margin=(6, 0, 2, 0), stylesheets=[STYLE],
        )  # fmt: skip
        panes = [bokeh_pane(drawn.figure, height=330) for drawn in self.maps.values()]
        return self.boxed(bar, grid(*panes, name="lab-pair"), self.table, css_classes=["lab-card"])
