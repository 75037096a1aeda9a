"""What a page shows of a store, looked up in a thread of its own, again when it has grown."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from andersonn_core.store import Store
from andersonn_core.sweeps.frames import curve_frame
from lab.sweeps.library import LIBRARY, Listed, changed, chosen_of
from lab.sweeps.sheet import Sheet

POLL = 0.5  # seconds between two looks at whether a sweep has grown


@dataclass(frozen=True)
class News:
    """What was read; `sheet` is None where the sweep has not changed."""

    listed: list[Listed]
    sweep_id: str
    sheet: Sheet | None
    error: str = ""


class Reader:
    """Follows one sweep of one store; reads in a thread of its own, tells on the page's."""

    def __init__(
        self,
        publish: Callable[[News], None],
        schedule: Callable[[Callable[[], None]], Any],
        present: Callable[[], bool] = lambda: True,
    ) -> None:
        self._publish, self._schedule, self._present = publish, schedule, present
        self._wake, self._closed = threading.Event(), False
        self._wanted: tuple[Path, str] | None = None
        self._seen: tuple[object, ...] = ()
        self._thread: threading.Thread | None = None

    def follow(self, path: Path | None, sweep_id: str = "") -> None:
        """Read this sweep from now on, the newest without a name; None: rest.

        To be called on the page's thread: what is known already is published at once.
        """
        self._wanted, self._seen = (None if path is None else (path, sweep_id)), ()
        if path is not None and (found := LIBRARY.at_hand(path, sweep_id)) is not None:
            listed, chosen, sheet = found  # then it is in the page's first picture
            news = News(listed, chosen.sweep_id, sheet)
            self._seen = _state(path, sweep_id, news)
            self._publish(news)
        if self._thread is None and path is not None:
            self._thread = threading.Thread(target=self._run, name="sweep reader", daemon=True)
            self._thread.start()
        self._wake.set()

    def close(self) -> None:
        """Read no more."""
        self._closed = True
        self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            wanted = self._wanted
            if wanted is not None and self._present():
                self._look(*wanted)
            self._wake.wait(POLL if wanted else None)
            self._wake.clear()

    def _look(self, path: Path, sweep_id: str) -> None:
        try:
            news = self._read(path, sweep_id)
        except ValueError as error:  # StoreError, or a status that is none
            news = News([], sweep_id, None, str(error))
        self._tell(path, sweep_id, news)

    def _tell(self, path: Path, sweep_id: str, news: News) -> None:
        """Publish what is news."""
        state = _state(path, sweep_id, news)
        if self._wanted == (path, sweep_id) and state != self._seen and not self._closed:
            self._seen = state
            self._schedule(lambda: self._publish(news))

    def _read(self, path: Path, sweep_id: str) -> News:
        if not changed(path)[1]:  # its driver is about to make it
            return News([], sweep_id, None)
        listed = LIBRARY.listed(path)
        chosen = chosen_of(listed, sweep_id)
        if chosen is None:
            return News(listed, "", None)
        before = self._seen[3] if self._seen else []
        if (chosen.sweep, chosen.done) in before:
            return News(listed, chosen.sweep_id, None)
        return News(listed, chosen.sweep_id, LIBRARY.sheet(path, chosen))


def _state(path: Path, sweep_id: str, news: News) -> tuple[object, ...]:
    """What is no news a second time."""
    return path, sweep_id, news.error, [(each.sweep, each.done) for each in news.listed]


def read_curves(path: Path, rows: list[int], most: int) -> pd.DataFrame:
    """The curves of some rows, at most so many."""
    with Store(path, read_only=True) as store:
        return curve_frame(store, rows[:most])
