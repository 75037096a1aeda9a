"""Trials in processes of this machine, one torch thread each, by loky.

loky's workers do not run the caller's script again, as the standard library's would, so that a
sweep works in a script without `if __name__ == "__main__"`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import loky
import torch

from andersonn_core.runcard import device_name
from andersonn_core.specs import KnobError
from andersonn_core.store.rows import Row
from andersonn_core.sweeps.engines.base import WORKER_ENDED, Pool
from andersonn_core.sweeps.trial import Trial, device_names, run_trial

IDLE = 300.0  # seconds after which workers that nobody needs end: starting them takes some
ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
# loky restarts workers that grew by 300 MB: larger problems do that, and a start takes seconds
ENVIRONMENT["LOKY_MAX_MEMORY_LEAK_SIZE"] = "1e12"

_resting: dict[int, Any] = {}  # pools without work, by their number of workers


class Processes(Pool):
    """As many workers as cores, or as were asked for; one that dies is replaced.

    Where a worker dies, all trials under way are lost with it. Each is run again alone: the one
    under which a worker dies then is the one that did it.
    """

    died = (BrokenProcessPool,)

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise KnobError(f"workers = {workers!r} is not allowed: it must be at least 1.")
        self.workers = workers or loky.cpu_count()  # those that this process may use
        self.room = self.workers + 2
        self._names: set[str] = set()
        self._pool: Any = _resting.pop(self.workers, None)

    def _new(self) -> Any:
        return loky.ProcessPoolExecutor(self.workers, timeout=IDLE, env=ENVIRONMENT)

    def devices(self, wanted: list[str]) -> set[str]:
        """The models of this machine's devices."""
        self._names = set(device_names(wanted))
        return self._names

    def submit(self, trial: Trial) -> Any:
        """A future of the trial's row."""
        self._pool = self._pool or self._new()
        return self._pool.submit(run_trial, trial)

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

    def lost(self, trials: list[Trial]) -> Iterator[Row]:
        """Run each trial again alone, and fail the one that ends its worker again."""
        self._end()
        for trial in trials:
            future = self.submit(trial)
            if not isinstance(future.exception(), self.died):
                yield from self._rows(future, trial, {})
                continue
            yield trial.failed(WORKER_ENDED, self._device())
            self._end()

    def _end(self) -> None:
        self._pool.shutdown(wait=False, kill_workers=True)
        self._pool = None

    def _taken_along(self, waiting: dict[Any, Trial]) -> list[Trial]:
        """One death ends the pool: what was under way is all lost."""
        also = list(waiting.values())
        waiting.clear()
        return also

    def _device(self) -> str:
        return next(iter(self._names), device_name(torch.device("cpu")))
