"""Trials in processes of this machine, one torch thread each, by loky.

loky's workers do not run the caller's script again, as the standard library's would, so that a
sweep works in a script without `if __name__ == "__main__"`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import loky
import torch

from andersonn_core.runcard import device_name
from andersonn_core.specs import KnobError
from andersonn_core.store.rows import Row
from andersonn_core.sweeps.engines.base import Pool
from andersonn_core.sweeps.trial import Trial, device_names, run_trial

IDLE = 300.0  # seconds after which workers that nobody needs end: starting them takes some
ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
# loky restarts workers that grew by 300 MB: larger problems do that, and a start takes seconds
ENVIRONMENT["LOKY_MAX_MEMORY_LEAK_SIZE"] = "1e12"

_resting: dict[int, Any] = {}  # pools without work, by their number of workers


class Processes(Pool):
    """As many workers as cores, or as were asked for; where one dies, all are replaced."""

    died = (BrokenProcessPool,)

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise KnobError(f"workers = {workers!r} is not allowed: it must be at least 1.")
        self.workers = workers or loky.cpu_count()  # those that this process may use
        self.room = self.workers + 2
        self._names: set[str] = set()
        self._pool: Any = _resting.pop(self.workers, None)

    def _new(self) -> Any:
        return loky.ProcessPoolExecutor(
            self.workers, timeout=IDLE, env=ENVIRONMENT,
            initializer=_end_with_the_driver, initargs=(os.getpid(),),
        )  # fmt: skip

    def devices(self, wanted: list[str]) -> set[str]:
        """The models of this machine's devices."""
        self._names = set(device_names(wanted))
        return self._names

    def submit(self, trial: Trial) -> Any:
        """A future of the trial's row."""
        self._pool = self._pool or self._new()
        try:
            return self._pool.submit(run_trial, trial)
        except BrokenProcessPool as error:  # a worker died just now, or while the pool was resting
            lost: Future[Row] = Future()
            lost.set_exception(error)
            return lost

    def look(self) -> None:
        """A pool whose worker died says so in its futures."""
        return None

    def abandon(self, futures: list[Any]) -> None:
        """Do not wait for trials under way: their workers are ended."""
        if futures:
            self._end()

    def close(self) -> None:
        """Let the workers rest, for the next sweep of this process."""
        if self._pool is not None:
            before = _resting.get(self.workers)
            _resting[self.workers], self._pool = self._pool, None
            if before is not None:
                before.shutdown(wait=False)

    def taken_along(self, waiting: dict[Any, Trial]) -> list[Any]:
        """All that have no result yet: one death ends the pool."""
        also = [future for future in waiting if not future.done() or future.exception()]
        self._end()
        return also

    def _end(self) -> None:
        self._pool.shutdown(wait=False, kill_workers=True)
        self._pool = None

    def _device(self) -> str:
        return next(iter(self._names), device_name(torch.device("cpu")))


def _end_with_the_driver(driver: int) -> None:
    """What a worker begins with: Ctrl-C is the driver's to hear, and its end is the worker's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
