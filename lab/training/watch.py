"""One page's look at a training: its news, coalesced, on the page's own thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lab.pump import Pump
from lab.training.race import Race

HOLD = 0.25  # seconds for which news wait for more: five figures change with them


class Watch:
    """Calls `publish` after news of the training that it follows, on the thread of `schedule`."""

    def __init__(
        self,
        publish: Callable[[], None],
        schedule: Callable[[Callable[[], None]], Any],
        present: Callable[[], bool] = lambda: True,
    ) -> None:
        self._publish = publish
        self._pump = Pump(self._emit, schedule)
        self._present = present
        self.race: Race | None = None

    def follow(self, race: Race | None) -> None:
        """Follow this training from now on, or none."""
        if self.race is not None:
            self.race.leave(self._hear)
        self.race = race
        if race is not None:
            race.watch(self._hear)

    def close(self) -> None:
        """The visitor has left, or looks at another page; the training goes on."""
        self.follow(None)
        self._pump.close()

    def _hear(self) -> None:
        race = self.race
        if race is not None and not self._present():
            race.leave(self._hear)  # the tab was closed
            return
        first = race is not None and sum(lane.steps for lane in race.lanes.values()) < 2
        self._pump.request(urgent=first or (race is not None and not race.active), hold=HOLD)

    def _emit(self) -> bool:
        if self.race is None:
            return False
        self._publish()
        return True
