"""How a page's messages travel to the browser: each at once."""

from __future__ import annotations

from typing import Any


def send_at_once(document: Any) -> None:
    """Switch off the waiting (Nagle's algorithm) of this page's open websockets.

    Bokeh sends one message in several parts, and TCP holds each small part back until the browser's
    machine has acknowledged the one before, which it may do 40 ms later: measured in a drag, half
    of the updates arrived more than 40 ms after they were sent.
    """
    for connection in document.session_context.session._subscribed_connections:
        handler = connection._socket  # Bokeh's; Panel reaches it by the same names
        if handler.ws_connection is not None:
            handler.set_nodelay(True)
