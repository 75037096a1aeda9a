"""The threads that solve, shared by all visitors: they take turns, so their clocks stay honest.

Two solves of a small map at once fight over the interpreter's lock: measured, each then takes 2.4
times the CPU time and both together end no sooner. So one computes at a time, and between two
evaluations it lets others go on. Only a job that waited too long, for somebody's slow evaluation,
computes beside it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import torch

SLOTS = 1  # jobs that compute at the same time
MOST_BESIDE = 2  # more, at most, of jobs that waited longer than PATIENCE
PATIENCE = 0.06  # seconds
THREADS = 24  # jobs that are under way: computing, or waiting for their turn between evaluations
MOST_JOBS = 64  # jobs that are under way or queued; more are turned away
TURN = 0.008  # seconds after which a job lets waiting ones go on


class Slots:
    """A fixed number of slots, handed from job to job between evaluations.

    A job that has not shown anything yet goes first: it waits for one evaluation of somebody else's
    run, not for the whole run. Waiting costs no CPU time, so it does not show in the seconds.
    """

    def __init__(self, count: int = SLOTS, clock: Callable[[], float] = time.perf_counter) -> None:
        self._free, self._clock, self._lock = count, clock, threading.Lock()
        self._new: deque[threading.Event] = deque()
        self._waiting: deque[threading.Event] = deque()

    def slot(self) -> Slot:
        """A place in the queue; a context manager."""
        return Slot(self, self._clock)

    def take(self, new: bool) -> None:
        """Wait for a slot; `new` jobs overtake the others."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            ticket = threading.Event()
            (self._new if new else self._waiting).append(ticket)
        while not ticket.wait(PATIENCE):  # whoever sets it hands over the slot
            if self._goes_beside(ticket):
                return

    def _goes_beside(self, ticket: threading.Event) -> bool:
        """Whether a job that waited too long may compute beside the others."""
        with self._lock:
            if ticket.is_set() or self._free <= -MOST_BESIDE:
                return False
            (self._new if ticket in self._new else self._waiting).remove(ticket)
            self._free -= 1
            return True

    def give(self) -> None:
        """Hand the slot to the next job."""
        with self._lock:
            queue = self._new or self._waiting
            if queue and self._free == 0:
                queue.popleft().set()
            else:
                self._free += 1

    def wanted(self, held: float) -> bool:
        """Whether a job that has held its slot for so long should let others go on."""
        return bool(self._new) or (held >= TURN and bool(self._waiting))


class Slot:
    """One job's place."""

    def __init__(self, slots: Slots, clock: Callable[[], float]) -> None:
        self._slots, self._clock = slots, clock

    def __enter__(self) -> Slot:
        self._slots.take(new=True)
        self._since = self._clock()
        return self

    def turn(self) -> None:
        """Between two evaluations: let others go on if they wait."""
        if self._slots.wanted(self._clock() - self._since):
            self._slots.give()
            self._slots.take(new=False)
            self._since = self._clock()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._slots.give()


class Pool:
    """The threads; each computes with one torch thread, the caller's own setting stays."""

    def __init__(self, most_jobs: int = MOST_JOBS) -> None:
        self.slots = Slots()
        self._admitted = threading.BoundedSemaphore(most_jobs)
        self._threads = ThreadPoolExecutor(
            THREADS, "solve", initializer=torch.set_num_threads, initargs=(1,)
        )

    def submit(self, job: Callable[[], None]) -> bool:
        """Start the job soon; False if too many are under way."""
        if not self._admitted.acquire(blocking=False):
            return False

        def work() -> None:
            try:
                job()
            finally:
                self._admitted.release()

        self._threads.submit(work)
        return True
