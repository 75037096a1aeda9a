"""When a page may change: while it is built, and again once the browser has all of it.

What Panel changes in between, from the moment the browser has fetched the document until it says
that it is ready, is dropped by Panel's own bookkeeping and never reaches the browser.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import panel as pn


class Gate:
    """Calls functions on the document's thread: at once while building, later when ready."""

    def __init__(self, document: Any) -> None:
        self._document, self._lock = document, threading.Lock()
        self._builder: int | None = threading.get_ident()
        self._waiting: list[Callable[[], None]] | None = []

    def __call__(self, function: Callable[[], None]) -> None:
        """Call a function when the page may change."""
        if self._builder == threading.get_ident():
            function()
            return
        with self._lock:
            if self._waiting is not None:
                self._waiting.append(function)
                return
        self._document.add_next_tick_callback(function)

    def shut(self) -> None:
        """The page is built: wait until the browser is ready."""
        self._builder = None
        pn.state.onload(self._open)

    def _open(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting or [], None
        for function in waiting:
            self._document.add_next_tick_callback(function)
