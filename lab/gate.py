"""When a page may change: while it is built, and again once the browser has all of it.

What Panel changes in between, from the moment the browser has fetched the document until it says
that it is ready, is dropped by Panel's own bookkeeping and never reaches the browser.

Later, Bokeh may lose a callback that another thread adds: while a page's changes are collected it
goes onto the same list, which is emptied in two steps. (Seen in long drags: the page stood still
for good.) So callbacks are added by the thread that collects, between two collections.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import panel as pn

from lab.wire import send_at_once


class Gate:
    """Calls functions on the document's thread: at once while building, later when ready."""

    def __init__(self, document: Any) -> None:
        self._document, self._lock = document, threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._builder: int | None = threading.get_ident()
        self._waiting: list[Callable[[], None]] | None = []

    def __call__(self, function: Callable[[], None]) -> None:
        """Call a function when the page may change."""
        if self._builder == threading.get_ident():
            function()
        else:
            self.when_ready(function)

    def when_ready(self, function: Callable[[], None]) -> None:
        """Call a function once the browser has the page, and its own turn comes."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.append(function)
                return
        self._loop.call_soon_threadsafe(self._enter, function)

    def _enter(self, function: Callable[[], None]) -> None:
        """Put a function onto the document's queue, unless the visitor has left."""
        context = self._document.session_context
        if context is not None and not context.destroyed:
            self._document.add_next_tick_callback(function)

    def shut(self) -> None:
        """The page is built: wait until the browser is ready."""
        self._builder = None
        pn.state.onload(self._open)

    def _open(self) -> None:
        send_at_once(self._document)
        with self._lock:
            waiting, self._waiting = self._waiting or [], None
        for function in waiting:
            self._enter(function)
