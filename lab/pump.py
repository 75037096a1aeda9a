"""How often a page is updated: coalesced, at most 30 times a second, never two updates pending.

Pages that are updated at the same time share these 30: one thread serves them all.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from lab.later import call_later

INTERVAL = 1 / 28  # seconds; with one borrowed interval at most 30 in any second
SHARED_FOR = 0.5  # seconds after an update for which a page counts


class Shares:
    """Which pumps have emitted lately."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[int, float] = {}

    def count(self, pump: Pump, now: float) -> int:
        """Note that this one emits; the number of those that do."""
        with self._lock:
            self._last = {
                key: when for key, when in self._last.items() if now - when < SHARED_FOR
            } | {id(pump): now}
            return len(self._last)


SHARES = Shares()


class Pump:
    """Turns any number of requests into few calls of `emit` on the document's thread.

    `emit` tells whether there was anything new: if not, the next update need not wait for it.

    An urgent request (the first point after a move) may come one interval early; the next waits
    the longer for it. `schedule` is called at most once until the call it scheduled has run.
    """

    def __init__(
        self,
        emit: Callable[[], bool],
        schedule: Callable[[Callable[[], None]], Any],
        clock: Callable[[], float] = time.perf_counter,
        later: Callable[[float, Callable[[], None]], Any] = call_later,
        shares: Shares = SHARES,
    ) -> None:
        self._shares = shares
        self._emit, self._schedule, self._clock, self._later = emit, schedule, clock, later
        self._lock = threading.Lock()
        self._next = 0.0  # when the next ordinary update may go
        self._rings = math.inf  # when the earliest timer rings
        self._dirty = self._urgent = self._pending = self._closed = False

    def request(self, urgent: bool = False, hold: float = 0.0) -> None:
        """Say that there is something to emit; `hold`: seconds to wait unless urgent."""
        with self._lock:
            self._dirty = True
            self._urgent |= urgent
            if self._pending or self._closed:
                return
            now = self._clock()
            early = INTERVAL if self._urgent else 0.0
            wait = max(self._next - early - now, 0.0 if self._urgent else hold)
            at_once = self._pending = wait <= 0
            timed = not at_once and now + wait < self._rings
            if timed:
                self._rings = now + wait
        if at_once:
            self._go()
        elif timed:
            self._later(wait, self._ring)

    def close(self) -> None:
        """Emit nothing any more."""
        with self._lock:
            self._closed = True

    def _ring(self) -> None:
        """A wait is over: emit, unless another request took everything along."""
        with self._lock:
            self._rings = math.inf
            dirty = self._dirty
        if dirty:
            self.request()

    def _go(self) -> None:
        try:
            self._schedule(self._fire)
        except Exception:  # the document is gone: nobody is left to be told
            self.close()

    def _fire(self) -> None:
        with self._lock:
            self._pending = self._dirty = self._urgent = False
            now, before = self._clock(), self._next
            late = max(before, now - INTERVAL / 2)  # a late update does not delay all others
            self._next = late + INTERVAL  # for what is asked for meanwhile
            if self._closed:
                return
        emitted = self._emit()
        with self._lock:
            self._next = late + INTERVAL * self._shares.count(self, now) if emitted else before
