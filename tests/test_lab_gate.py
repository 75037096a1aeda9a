"""When a page may change, how its messages travel, and what does not make it pause."""

import asyncio
import queue
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import panel as pn
import pytest
from bokeh.client import pull_session
from bokeh.document import Document

from lab.gate import Gate
from lab.own_map import _free_port
from lab.wire import send_at_once


@pytest.fixture
def document(monkeypatch):
    """A document with an open session; its callbacks run when a test asks for them."""
    monkeypatch.setattr(pn.state, "onload", lambda function: function())
    connection = SimpleNamespace(_socket=SimpleNamespace(ws_connection=None))
    session = SimpleNamespace(_subscribed_connections=[connection])
    context = SimpleNamespace(session=session, destroyed=False)
    document = Document()
    document._session_context = lambda: context
    return document


def in_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def waiting(document):
    return list(document.session_callbacks)


def test_what_another_thread_asks_for_while_changes_are_collected_is_not_lost(document):
    async def visit():
        gate = Gate(document)
        gate.shut()
        document.hold("collect")
        in_a_thread(lambda: gate(print))
        # Whoever ends a collection copies this list and then empties it: what a thread puts onto
        # it in between is gone.
        assert document.callbacks._held_events == [] and not waiting(document)
        document.unhold()
        await asyncio.sleep(0)
        assert len(waiting(document)) == 1

    asyncio.run(visit())


def test_calls_are_made_at_once_while_building_and_wait_until_the_browser_is_ready(
    document, monkeypatch
):
    ready, calls = [], []
    monkeypatch.setattr(pn.state, "onload", ready.append)

    async def visit():
        gate = Gate(document)
        gate(lambda: calls.append(1))
        assert calls == [1]
        gate.shut()
        in_a_thread(lambda: gate(print))
        await asyncio.sleep(0)
        assert not waiting(document)
        ready[0]()
        assert len(waiting(document)) == 1

    asyncio.run(visit())


def test_nothing_is_asked_of_a_document_whose_visitor_has_left(document):
    async def visit():
        gate = Gate(document)
        gate.shut()
        document.session_context.destroyed = True
        gate(print)
        await asyncio.sleep(0)
        assert not waiting(document)

    asyncio.run(visit())


def test_small_messages_leave_at_once_on_a_real_websocket():
    seen: queue.Queue[int] = queue.Queue()

    def app():
        document = pn.state.curdoc

        def look():
            if connections := document.session_context.session._subscribed_connections:
                send_at_once(document)
                (handler,) = (connection._socket for connection in connections)
                wire = handler.ws_connection.stream.socket
                seen.put(wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        document.add_periodic_callback(look, 50)
        return pn.pane.Str("")

    port = _free_port()
    pn.serve(app, port=port, address="127.0.0.1", threaded=True, show=False, verbose=False)
    session = visit(f"http://127.0.0.1:{port}/")
    assert seen.get(timeout=20) == 1
    session.close()


def visit(address: str, patience: float = 20.0):
    """A session with a server that may still be starting."""
    end = time.monotonic() + patience
    while True:
        try:
            return pull_session(url=address)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def test_what_was_imported_is_left_out_of_later_collections_once():
    code = "import gc, lab.pauses as p; p.spare_imports(); n = gc.get_freeze_count(); "
    code += "kept = [[] for _ in range(1000)]; p.spare_imports(); "
    code += "assert n == gc.get_freeze_count() > 1000"
    subprocess.run([sys.executable, "-c", code], check=True)
