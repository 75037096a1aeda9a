"""What tests of the dashboard's runs share: a document without a server, and small runs."""

import queue
import time
from collections.abc import Callable

from andersonn_core import PROBLEMS, Anderson, Picard, SolveSpec
from lab.runner import Update

PATIENCE = 60.0  # seconds after which a test gives up


def run_until(done: Callable[[], object], calls: queue.Queue[Callable[[], None]]) -> None:
    """Run a document's callbacks as they come, until something is so."""
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, "nothing happened"
        try:
            calls.get(timeout=0.01)()
        except queue.Empty:
            pass


class Document:
    """A document as Bokeh's: callbacks queue up and run one after the other on its thread."""

    def __init__(self) -> None:
        self.queue: queue.Queue[Callable[[], None]] = queue.Queue()
        self.updates: list[Update] = []
        self.flushes: list[list[Update]] = []
        self.most_pending = 0
        self.session_context = None

    def add_next_tick_callback(self, callback: Callable[[], None]) -> None:
        self.queue.put(callback)
        self.most_pending = max(self.most_pending, self.queue.qsize())

    def publish(self, updates: list[Update]) -> None:
        self.flushes.append(updates)
        self.updates += updates

    def run_until(self, done: Callable[[], object]) -> None:
        run_until(done, self.queue)

    def shows(self, generation: int) -> bool:
        return any(u.generation == generation for u in self.updates)

    def run_until_ended(self, generation: int, methods: int = 2) -> list[Update]:
        def mine() -> list[Update]:
            return [u for u in self.updates if u.generation == generation]

        def ended() -> bool:
            before = {u.method for u in self.updates if u.ended}
            kept = {name for u in mine() for name in u.kept}
            return len({u.method for u in mine() if u.ended} | kept & before) >= methods

        self.run_until(ended)
        return mine()


def specs(window: int = 3, seed: int = 0, **knobs) -> dict[str, SolveSpec]:
    problem = PROBLEMS["tanh"](size=8, batch_size=2, seed=seed)
    return {
        "picard": SolveSpec(problem=problem, method=Picard(), **knobs),
        "anderson": SolveSpec(problem=problem, method=Anderson(window=window), **knobs),
    }
