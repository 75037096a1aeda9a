"""CPU against GPU: bars over batch sizes, live where there is a GPU, else recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import panel as pn
import panel_material_ui as pmui
import torch

from andersonn_core import SolveSpec
from andersonn_core.record.timings import Timing
from lab.devices import DeviceTimings, TimingNews
from lab.figures.bars import DeviceBars
from lab.live import Live
from lab.pages.banner import Banner
from lab.pages.card import Card, Later, bokeh_pane
from lab.recordings import look
from lab.theme import Palette

BARS = "Bars: an evaluation of the map and Anderson's step."
SHOWN_SIZES = (1, 4, 16, 64, 256, 1024)


class Devices(Card):
    """Seconds of one Anderson evaluation on both kinds of device."""

    title = "CPU against GPU"

    def __init__(self, colors: Palette, schedule: Callable[[Callable[[], None]], Any]) -> None:
        super().__init__()
        self.bars = DeviceBars(colors)
        self.pane = Later(bokeh_pane(self.bars.figure))
        self.button = pmui.Button(
            label="Time this machine",
            icon="timer",
            variant="outlined",
            size="small",
            margin=(8, 0, 4, 0),
        )
        self.button.on_click(lambda _: self.measure())
        self.timings = DeviceTimings(self._news, schedule)
        self.spec: SolveSpec | None = None
        self.problem = ""
        self.banner = Banner()
        self.box = self.boxed(self.banner, self.pane, self.button)
        self.measured: tuple[Timing, ...] = ()

    def show(self, live: Live, spec: SolveSpec | None) -> None:
        """Show what is known of this problem; where there is a GPU, time it."""
        same = spec is not None and self.spec is not None and spec.problem.name == self.problem
        self.spec = spec
        self.box.visible = spec is not None
        if same or spec is None:
            return
        self.problem, self.measured = spec.problem.name, ()
        self.timings.cancel()
        self._draw()
        if torch.cuda.is_available():
            self.measure()

    def measure(self) -> None:
        """Time the present settings over batch sizes, in a process of its own."""
        if self.spec is not None:
            self.button.param.update(disabled=True, label="Timing ...")
            self.timings.start([self.spec])

    def _news(self, news: TimingNews) -> None:
        self.measured = news.rows
        self._draw(news.sentence)
        if news.done:
            self._ready()

    def _ready(self) -> None:
        self.button.param.update(disabled=False, label="Time this machine")

    def _draw(self, sentence: str = "") -> None:
        """Bars of what was measured here and of the newest recorded GPU, and whose they are."""
        rows = [row for row in self.measured if row.method == "anderson"]
        words = [sentence] if sentence else []
        if rows:
            names = ", ".join(dict.fromkeys(row.device for row in rows))
            words.append(f"Measured now: {names}; {rows[0].clock}.")
        recording = None
        if not torch.cuda.is_available():
            found = look()
            recording, known = found.newest(lambda each: each.gpu_timings(self.problem))
            rows += [row for row in known if row.method == "anderson"]
            words += [] if recording else [found.missing(self.problem)]
            words += found.refused
        self.banner.tell(recording)
        words += [BARS] if rows else []
        self.say(" ".join(words))
        self.pane.show(bool(rows))
        self.bars.show(_sorted(rows))

    def paint(self, colors: Palette) -> None:
        """Take the colors of a theme."""
        self.bars.paint(colors)

    def stop(self) -> None:
        """Stop what is being timed; it can be asked for again."""
        self.timings.cancel()
        self._ready()

    def close(self) -> None:
        """Stop what is being timed."""
        self.timings.close()

    def __panel__(self) -> pn.viewable.Viewable:
        return self.box


def _sorted(rows: Sequence[Timing]) -> list[tuple[str, float, bool]]:
    """(label, seconds, whether on a GPU) by batch size, the CPU first."""
    shown = [row for row in rows if row.batch_size in SHOWN_SIZES]
    shown.sort(key=lambda row: (row.batch_size, row.gpu))
    return [
        (
            f"B = {row.batch_size}, {'GPU' if row.gpu else 'CPU'}",
            row.map_seconds + row.method_seconds,
            row.gpu,
        )
        for row in shown
    ]
