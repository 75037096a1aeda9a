"""Play, pause, step and scrub through the evaluations; every card follows the same number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import panel as pn
import panel_material_ui as pmui

from lab.pages.card import STYLE

PERIOD_MS = 120  # between two evaluations while playing
LONGEST_SECONDS = 8.0  # of a whole playback: long runs are played in larger steps


class Playback(pn.viewable.Viewer):
    """A slider over the evaluations of the longer run, and four buttons."""

    def __init__(self, scrub: Callable[[int], None], stop: Callable[[], None]) -> None:
        super().__init__()
        self._scrub, self._quiet, self._timer = scrub, False, None
        self.slider = pmui.IntSlider(
            label="evaluation",
            start=1,
            end=2,
            value=1,
            sizing_mode="stretch_width",
            margin=(0, 12, 0, 6),
            size="small",
        )
        self.slider.param.watch(self._moved, "value")
        self.play = self._button("Play", "play_arrow", self._toggle)
        self.stop_run = self._button("Stop the run", "stop_circle", stop)
        self.stop_run.disabled = True
        buttons = [
            self._button("To the start", "first_page", lambda: self.go(1)),
            self._button("One step back", "chevron_left", lambda: self.go(self.slider.value - 1)),
            self.play,
            self._button("One step on", "chevron_right", lambda: self.go(self.slider.value + 1)),
            self._button("To the end", "last_page", lambda: self.go(self.slider.end)),
        ]
        self.buttons = buttons

    def _button(self, name: str, icon: str, action: Callable[[], None]) -> Any:
        button = pmui.IconButton(
            icon=icon, description=name, label=name, size="small", margin=0, color="primary"
        )
        button.on_click(lambda _: action())
        return button

    def _moved(self, event: Any) -> None:
        if not self._quiet:
            self._scrub(event.new)

    def go(self, evaluation: int) -> None:
        """Move to an evaluation."""
        self.slider.value = max(1, min(int(evaluation), self.slider.end))

    def reset(self, longest: int) -> None:
        """New runs: the slider spans them and stands at their end."""
        self.stop()
        self._quiet = True
        end = max(longest, 2)
        self.slider.param.update(end=end, value=end)
        self._quiet = False

    # -- playing ----------------------------------------------------------------------------------

    def _toggle(self) -> None:
        if self._timer is not None:
            return self.stop()
        if self.slider.value >= self.slider.end:
            self.go(1)
        self.play.param.update(icon="pause", label="Pause", description="Pause")
        self._timer = pn.state.add_periodic_callback(self._tick, PERIOD_MS)
        return None

    def _tick(self) -> None:
        step = max(1, round(self.slider.end * PERIOD_MS / 1e3 / LONGEST_SECONDS))
        self.go(self.slider.value + step)
        if self.slider.value >= self.slider.end:
            self.stop()

    def stop(self) -> None:
        """Pause."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
            self.play.param.update(icon="play_arrow", label="Play", description="Play")

    def __panel__(self) -> pn.viewable.Viewable:
        return pn.Row(
            *self.buttons,
            self.slider,
            self.stop_run,
            sizing_mode="stretch_width",
            css_classes=["lab-card", "lab-playback"],
            stylesheets=[STYLE],
            margin=0,
            align="center",
        )
