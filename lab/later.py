"""Calls after a delay, from one thread that waits for all of them.

A timer of its own would start a thread each time, and on a busy machine whoever starts a thread
waits long for it: here the thread that answers all visitors.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable


class Alarm:
    """Functions by the time at which they are due; each must be quick: they share the thread."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def after(self, delay: float, function: Callable[[], None]) -> None:
        """Call a function from the alarm's thread after so many seconds."""
        with self._changed:
            due = time.monotonic() + delay
            heapq.heappush(self._due, (due, next(self._numbers), function))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="alarm", daemon=True)
                self._thread.start()
            elif self._due[0][0] == due:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            function = self._next()
            try:
                function()
            except Exception:  # one page's mistake must not silence the others
                logging.getLogger(__name__).exception("A delayed call failed.")

    def _next(self) -> Callable[[], None]:
        """Wait for the function that is due first."""
        with self._changed:
            while True:
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait)


call_later = Alarm().after
