"""What every engine does, and the loop that those with workers share."""

from __future__ import annotations

import queue
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any, Self

from andersonn_core.store.rows import Row
from andersonn_core.sweeps.trial import CodeVersionError, Trial

LOOK = 0.2  # seconds between two looks at whether the sweep is to stop, or its engine has died


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
    def run(
        self, trials: Iterable[Trial], should_stop: Callable[[], bool]
    ) -> Generator[Row, None, None]:
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

    def outcome(self, future: Any) -> Row | BaseException:
        """The row of a future that is done, or why there is none."""
        outcome: Row | BaseException = future.exception() or future.result()
        return outcome

    def taken_along(self, waiting: dict[Any, Trial]) -> list[Any] | None:
        """The futures that a worker's death ends besides its own; None where workers die alone."""
        return None

    @abstractmethod
    def _device(self) -> str:
        """The device that a trial is kept under which no worker survived."""

    def run(
        self, trials: Iterable[Trial], should_stop: Callable[[], bool]
    ) -> Generator[Row, None, None]:
        """The rows of all trials as they end; after a stop no further ones.

        Trials that a death took along are run again one by one: the one under which a worker dies
        then is the one that did it.
        """
        todo, suspects = iter(trials), deque[Trial]()
        waiting, alone = dict[Any, Trial](), False
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            while True:
                if not (suspects and waiting):
                    alone = bool(suspects)
                    for trial in self._next_trials(todo, suspects, waiting):
                        future = self.submit(trial)
                        waiting[future] = trial
                        future.add_done_callback(ended.put)
                if not waiting or should_stop():
                    return
                future = self._next(ended)
                if future not in waiting:
                    continue
                trial, outcome = waiting.pop(future), self.outcome(future)
                if isinstance(outcome, self.died):
                    also = self.taken_along(waiting)
                    if also is not None and not alone:
                        suspects += [trial, *(waiting.pop(each) for each in also)]
                        continue
                yield self._row(trial, outcome)
        finally:
            self.abandon(list(waiting))

    def _next_trials(
        self, todo: Iterator[Trial], suspects: deque[Trial], waiting: dict[Any, Trial]
    ) -> Iterable[Trial]:
        if suspects:
            return [suspects.popleft()]
        # there may be fewer workers than a moment ago
        return islice(todo, max(0, self.room - len(waiting)))

    def _next(self, ended: queue.SimpleQueue[Any]) -> Any:
        try:
            return ended.get(timeout=LOOK)
        except queue.Empty:
            self.look()
            return None

    def _row(self, trial: Trial, outcome: Row | BaseException) -> Row:
        if isinstance(outcome, Row):
            return outcome
        if isinstance(outcome, CodeVersionError):
            raise outcome
        if isinstance(outcome, self.died):
            return trial.failed(WORKER_ENDED, self._device())
        return trial.failed(f"{type(outcome).__name__}: {outcome}", self._device())


WORKER_ENDED = (
    "its worker ended: killed, or out of memory. Lower the batch size or the problem size, or give "
    "the workers more memory, and run again with retry_failed=True."
)
