"""The live page for anybody's own map: `explore(f, z0)` in a notebook cell, or served."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import panel as pn

from andersonn_core import SolveResult, SolveSpec
from andersonn_core.driver import SolveKnobs
from andersonn_core.layout import StateLayout
from andersonn_core.problems import Problem
from lab.code import NAMES
from lab.controls import Controls
from lab.gate import Gate
from lab.pages.card import escape
from lab.pages.convergence import Convergence
from lab.pages.rail import Rail
from lab.pins import Pin
from lab.runner import Runner
from lab.shell import frame, title
from lab.theme import palette
from lab.wire import presence

CODE = """from andersonn_core import {methods}, crossover, solve

# f and z0 are your own
{runs}
print(crossover(forward, anderson).sentence)
"""
HOST = "127.0.0.1"
FRAME = (
    '<iframe src="{address}" title="Anderson Lab: {name}" width="100%" height="1080" '
    'style="border: 0"></iframe>'
)


def explore(f: Callable[[Any], Any], z0: Any, *, batch_dims: int = 1, name: str = "") -> Explore:
    """Watch Anderson and forward iteration on your own map z -> f(z) from z0.

    z0 is a tensor or a NumPy array, or a tuple or dict of them; with batch_dims=1 its first
    dimension is the batch. As the last line of a notebook cell the page appears below it, served by
    the kernel to this machine only; `.show()` opens it in a browser, `.servable()` serves it.
    Raises KnobError for a start that can't be iterated from.
    """
    StateLayout.of(z0, batch_dims)
    return Explore(f, z0, batch_dims, name or getattr(f, "__name__", "your map"))


def session_document() -> Any:
    """The document of the visitor for whom this code runs; None in a notebook or a script."""
    document = pn.state.curdoc
    return document if document is not None and document.session_context else None


class OwnMap(Convergence):
    """The Convergence page without a problem to choose."""

    def __init__(self, problem: Problem, batch_dims: int) -> None:
        self.problem, self.batch_dims = problem, batch_dims
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate: Gate | None = None  # to the document, where a server shows the page
        self._presence: Callable[[], bool] | None = None
        self._layout: pn.viewable.Viewable | None = None
        self._alone = threading.RLock()  # without a document's thread, updates take turns
        controls = Controls()
        controls.reset("affine")  # its knobs are hidden
        super().__init__(
            controls, palette(pn.config.theme == "dark"),
            lambda publish: Runner(publish, self.on_document, self._present), self.on_document,
            Rail(controls, self.on_document, own_map=True),
        )  # fmt: skip
        self.devices.box.visible = False  # a map given as code stays in this process

    def submit(self) -> None:
        """Run both methods on the map."""
        self.specs = self.controls.specs()
        methods = {name: spec.method for name, spec in self.specs.items()}
        self.runner.submit_map(self.problem, methods, self._knobs())

    def _knobs(self) -> SolveKnobs:
        spec = self.specs["anderson"]
        knobs = {name: value for name, value in spec if name in SolveKnobs.knobs()}
        return SolveKnobs(**(knobs | {"batch_dims": self.batch_dims}))

    @property
    def problem_name(self) -> str:
        """The map's name."""
        return self.problem.name

    @property
    def spec(self) -> SolveSpec | None:
        """None: a map that was given as code can't be sent to another process."""
        return None

    def pin_of(self, result: SolveResult) -> Pin:
        """Anderson's present run as a pin."""
        spec = self.specs["anderson"]
        return Pin(self.problem.name, spec.method, spec.rtol, result)

    def code(self) -> str:
        """The calls of `solve` that give the picture's numbers."""
        knobs = {
            name: value
            for name, value in self._knobs()
            if value != SolveKnobs.knobs()[name].default
        }
        rest = "".join(f", {name}={value!r}" for name, value in knobs.items())
        lines = [
            f"{NAMES[name]} = solve(f, z0, {spec.method!r}{rest})"
            for name, spec in self.specs.items()
        ]
        methods = sorted({type(spec.method).__name__ for spec in self.specs.values()})
        return CODE.format(methods=", ".join(methods), runs="\n".join(lines))

    # -- where the page is ------------------------------------------------------------------------

    def _present(self) -> bool:
        return self._presence is None or self._presence()

    def on_document(self, function: Callable[[], None]) -> None:
        """Call on the document's thread: a server's, or the kernel's, which must push by itself."""
        if self._gate is not None:
            self._gate(function)
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(self._call_and_push, function)
        else:
            with self._alone:
                function()

    def _call_and_push(self, function: Callable[[], None]) -> None:
        function()
        if self._layout is not None:
            pn.io.push_notebook(self._layout)

    def start(self) -> OwnMap:
        """Run for the first time."""
        if session_document() is not None:
            self._presence = presence(session_document())
            self._gate = Gate(session_document())
        else:
            with contextlib.suppress(RuntimeError):  # no loop: a plain script
                self._loop = asyncio.get_running_loop()
        self.submit()
        if self._gate is not None:
            self._gate.shut()
        return self

    def __panel__(self) -> pn.viewable.Viewable:
        self._layout = super().__panel__()
        return self._layout


class Explore(pn.viewable.Viewer):
    """What `explore` returns: each display is a page of its own."""

    def __init__(self, f: Callable[[Any], Any], z0: Any, batch_dims: int, name: str) -> None:
        super().__init__()
        self._problem = Problem(name=name, f=f, z0=z0)
        self._batch_dims = batch_dims
        self._address: str | None = None  # where a notebook's kernel serves it

    def page(self) -> OwnMap:
        """A new page, already running."""
        return OwnMap(self._problem, self._batch_dims).start()

    def __panel__(self) -> pn.viewable.Viewable:
        page = self.page()
        if session_document() is None:
            return page.__panel__()
        pn.state.on_session_destroyed(lambda _: page.close())
        header = title(f"<span>{escape(self._problem.name)}</span>")
        return frame(
            page.laid_out(full=True),
            lambda dark: page.schedule(lambda: page.paint(palette(dark))),
            header=[header],
            dark=page.colors.dark,
        )

    def show(self, **options: Any) -> Any:
        """Open the page in a browser."""
        return pn.serve(self.__panel__, **({"title": self._problem.name} | options))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """A frame around the page, which this kernel's own event loop serves between the cells.

        Shown directly, each of its Material controls would bring the whole script bundle along, and
        style sheets from a foreign host.
        """
        if self._address is None:
            port = _free_port()
            origin = f"{HOST}:{port}"
            self.show(
                address=HOST, port=port, websocket_origin=[origin], start=False, show=False,
                verbose=False,
            ).start()  # fmt: skip
            self._address = f"http://{origin}/"
        return {
            "text/plain": f"{self._problem.name}: {self._address}",
            "text/html": FRAME.format(address=self._address, name=escape(self._problem.name)),
        }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
