"""What every engine does, and the loop that those with workers share."""

from __future__ import annotations

import queue
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Self

from andersonn_core.store.rows import Row
from andersonn_core.sweeps.trial import CodeVersionError, Trial

LOOK = 0.2  # seconds between two looks at whether the sweep is to stop, or its engine has died


class EngineError(RuntimeError):
    """An engine is gone; what was done is in the store, and the same call goes on from there."""


class Engine(ABC):
    """Runs trials, in any order; a context that ends its workers.

    What goes wrong in a trial is that trial's row; EngineError and CodeVersionError end a sweep.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def devices(self, wanted: list[str]) -> set[str]:
        """The models of the devices that trials will run on, by the names that knobs have."""

    @abstractmethod
    def run(self, trials: Iterable[Trial], should_stop: Callable[[], bool]) -> Iterator[Row]:
        """The rows of all trials as they end; after a stop no further ones."""

    def close(self) -> None:
        """End what the engine started."""
        return None


class Pool(Engine):
    """An engine that hands trials to workers as futures."""

    room: int  # trials under way at once: some more than workers, so that none waits for the driver
    died: tuple[type[BaseException], ...]  # what a future holds whose worker ended, not the trial

    @abstractmethod
    def submit(self, trial: Trial) -> Any:
        """A future of the trial's row."""

    @abstractmethod
    def look(self) -> None:
        """Raise EngineError if no worker will ever answer again."""

    @abstractmethod
    def abandon(self, futures: list[Any]) -> None:
        """Nobody waits for these any more."""

    def lost(self, trials: list[Trial]) -> Iterator[Row]:
        """The rows of trials whose workers ended under them."""
        for trial in trials:
            yield trial.failed(WORKER_ENDED, self._device())

    @abstractmethod
    def _device(self) -> str:
        """The device that a trial is kept under which no worker survived."""

    def run(self, trials: Iterable[Trial], should_stop: Callable[[], bool]) -> Iterator[Row]:
        """The rows of all trials as they end; after a stop no further ones."""
        todo, waiting = iter(trials), dict[Any, Trial]()
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            while True:
                # there may be fewer workers than a moment ago
                for trial in islice(todo, max(0, self.room - len(waiting))):
                    future = self.submit(trial)
                    waiting[future] = trial
                    future.add_done_callback(ended.put)
                if not waiting or should_stop():
                    return
                future = self._next(ended)
                if future is None or future not in waiting:
                    continue
                yield from self._rows(future, waiting.pop(future), waiting)
        finally:
            self.abandon(list(waiting))

    def _next(self, ended: queue.SimpleQueue[Any]) -> Any:
        try:
            return ended.get(timeout=LOOK)
        except queue.Empty:
            self.look()
            return None

    def _rows(self, future: Any, trial: Trial, waiting: dict[Any, Trial]) -> Iterator[Row]:
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or isinstance(error, self.died):
            yield from self.lost([trial, *self._taken_along(waiting)])
        elif isinstance(error, CodeVersionError):
            raise error
        elif error is not None:
            yield trial.failed(f"{type(error).__name__}: {error}", self._device())
        else:
            yield future.result()

    def _taken_along(self, waiting: dict[Any, Trial]) -> list[Trial]:
        """The trials that the same death ended; none where workers die one by one."""
        return []


WORKER_ENDED = (
    "its worker ended: killed, or out of memory. Lower the batch size or the problem size, or give "
    "the workers more memory, and run again with retry_failed=True."
)
