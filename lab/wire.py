"""A page's websocket: whether somebody is at its other end, and that messages leave at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def send_at_once(document: Any) -> None:
    """Switch off the waiting (Nagle's algorithm) of this page's open websockets.

    Bokeh sends one message in several parts, and TCP holds each small part back until the browser's
    machine has acknowledged the one before, which that may put off for a while.
    """
    for connection in document.session_context.session._subscribed_connections:
        handler = connection._socket  # Bokeh's; Panel reaches it by the same names
        if handler.ws_connection is not None:
            handler.set_nodelay(True)


def presence(document: Any) -> Callable[[], bool]:
    """Whether the page's websocket is open; true until it was open once, and outside a server."""
    seen = [False]

    def present() -> bool:
        """Whether somebody looks on, or may still come."""
        context = document.session_context
        session = None if context is None else getattr(context, "session", None)
        if session is None:
            return True
        seen[0] |= session.connection_count > 0
        return not seen[0] or session.connection_count > 0

    return present
