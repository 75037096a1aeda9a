"""The recorded crossover of the present problem over batch sizes, on both devices."""

from __future__ import annotations

from collections.abc import Sequence

import panel as pn

from andersonn_core.record.crossing import DeviceCrossover
from andersonn_core.words import ratio_text, seconds_text
from lab.figures.by_batch import ByBatch, Series
from lab.pages.banner import Banner
from lab.pages.card import Card, Later, bokeh_pane, escape, grid, text
from lab.recorded_words import DEVICES, WALLS, ahead, crossover_lines, settings_line
from lab.recordings import Recording
from lab.theme import LABELS, Palette

COLUMNS = ("device", "B", "forward", "Anderson", "S", "Anderson is ahead")


class RecordedCrossover(Card):
    """Whole solves of both methods on both devices, and what Anderson buys on each."""

    title = "As recorded: both methods on both devices, by batch size"

    def __init__(self, colors: Palette) -> None:
        super().__init__()
        self.banner = Banner()
        self.seconds, self.speedup = ByBatch("seconds", colors), ByBatch("speedup", colors)
        self.settings, self.table = text("", "lab-note"), text("", "lab-table")
        panes = [bokeh_pane(plot.figure) for plot in (self.seconds, self.speedup)]
        parts = Later(
            self.banner, self.note, grid(*panes, name="lab-pair"), self.settings, self.table
        )
        self.parts = parts
        self.box = self.boxed(
            parts, noted=False, margin=(12, 0, 0, 0), visible=False, css_classes=["lab-card"]
        )
        self.rows: Sequence[DeviceCrossover] = ()

    def show(self, recording: Recording | None, rows: Sequence[DeviceCrossover]) -> None:
        """Show the rows of a recording; without any the card steps aside."""
        if rows != self.rows:
            self.rows = rows
            self.banner.tell(recording)
            if rows:
                self._draw()
        self.parts.show(bool(rows))
        self.box.visible = bool(rows)

    def _draw(self) -> None:
        rows = self.rows
        self.say(crossover_lines(rows))
        self.settings.object = escape(settings_line(rows))
        self.seconds.show(
            [walls(rows, gpu, name) for gpu in DEVICES for name in WALLS if _on(rows, gpu)]
        )
        factors = [speedups(rows, gpu) for gpu in DEVICES]
        self.speedup.show([each for each in factors if each.sizes])
        self.table.object = _table(rows)

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        for plot in (self.seconds, self.speedup):
            plot.paint(colors)

    def __panel__(self) -> pn.viewable.Viewable:
        return self.box


def walls(rows: Sequence[DeviceCrossover], gpu: bool, name: str) -> Series:
    """One method's wall seconds on one device."""
    mine, wall = [vars(row) for row in _on(rows, gpu)], WALLS[name]
    seconds = [row[wall] for row in mine]
    short = {"picard": "forward"}.get(name, LABELS[name])
    return Series(
        role=f"gpu {name}" if gpu else name, name=f"{DEVICES[gpu]}, {short}",
        sizes=[row["batch_size"] for row in mine], values=seconds,
        lows=[row[f"{wall}_low"] for row in mine], highs=[row[f"{wall}_high"] for row in mine],
        told=[seconds_text(each) for each in seconds],
    )  # fmt: skip


def speedups(rows: Sequence[DeviceCrossover], gpu: bool) -> Series:
    """S at the tolerance on one device, where both methods met it."""
    mine = [row for row in _on(rows, gpu) if row.speedup]
    values = [row.speedup or 1.0 for row in mine]
    spans = [row.speedup_interval for row in mine]
    return Series(
        role="gpu anderson" if gpu else "anderson", name=DEVICES[gpu],
        sizes=[row.batch_size for row in mine], values=values,
        lows=[low or each for (low, _), each in zip(spans, values, strict=True)],
        highs=[high or each for (_, high), each in zip(spans, values, strict=True)],
        told=[ratio_text(each) for each in values],
    )  # fmt: skip


def _on(rows: Sequence[DeviceCrossover], gpu: bool) -> list[DeviceCrossover]:
    return sorted((row for row in rows if row.gpu is gpu), key=lambda row: row.batch_size)


def _table(rows: Sequence[DeviceCrossover]) -> str:
    """The same as a table, for who can't see colors."""
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(row))}</tr>"
        for gpu in DEVICES
        for row in _on(rows, gpu)
    )
    head = "".join(f"<th scope='col'>{name}</th>" for name in COLUMNS)
    return (
        "<details><summary>The same as a table</summary><div class='wide' tabindex='0' "
        f"role='region' aria-label='recorded crossovers'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div></details>"
    )


def _cells(row: DeviceCrossover) -> list[str]:
    factor = "" if row.speedup is None else ratio_text(row.speedup)
    return [
        f"{DEVICES[row.gpu]}, {row.device}", str(row.batch_size),
        f"{seconds_text(row.forward_wall_seconds)}, {row.forward_evals} evaluations",
        f"{seconds_text(row.anderson_wall_seconds)}, {row.anderson_evals} evaluations",
        factor, ahead(row),
    ]  # fmt: skip
