"""The threads that solve, shared by all visitors: they take turns, so their clocks stay honest.

Two solves of a small map at once fight over the interpreter's lock: measured, each then takes 2.4
times the CPU time and both together end no sooner. So one computes at a time, and between two
evaluations it lets others go on. Only a job that waited too long, for somebody's slow evaluation,
computes beside it. A background job computes while nobody else wants to.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

SLOTS = 1  # jobs that compute at the same time
MOST_BESIDE = 2  # more, at most, of jobs that waited longer than PATIENCE
PATIENCE = 0.06  # seconds
THREADS = 24  # jobs that are under way: computing, or waiting for their turn between evaluations
MOST_JOBS = 64  # jobs that are under way or queued; more are turned away
TURN = 0.008  # seconds after which a job lets waiting ones go on
BACKGROUND_TURN = 0.25  # the same among background jobs

# A solve of a small map holds the interpreter's lock nearly always; at Python's own 5 ms the thread
# that serves the page waited that long at every turn.
sys.setswitchinterval(5e-4)


@dataclass(eq=False)
class Ticket:
    """One job's place in the queue."""

    background: bool = False
    called: threading.Event = field(default_factory=threading.Event)
    granted: bool = False  # it holds a slot
    withdrawn: bool = False  # it wants none any more


class Slots:
    """A fixed number of slots, handed from job to job between evaluations.

    A job that has not shown anything yet goes first: it waits for one evaluation of somebody else's
    run, not for the whole run. Waiting costs no CPU time, so it does not show in the seconds.
    """

    def __init__(self, count: int = SLOTS) -> None:
        self._free, self._lock = count, threading.Lock()
        self._new: deque[Ticket] = deque()
        self._waiting: deque[Ticket] = deque()
        self._background: deque[Ticket] = deque()

    def take(self, ticket: Ticket, new: bool) -> None:
        """Wait for a slot; `new` jobs overtake the others."""
        with self._lock:
            if ticket.withdrawn:
                return
            if self._free > 0:
                self._free -= 1
                ticket.granted = True
                return
            ticket.called.clear()
            self._queue(ticket, new).append(ticket)
        while not ticket.called.wait(PATIENCE) and not self._goes_beside(ticket):
            pass

    def give(self, ticket: Ticket) -> None:
        """Hand the slot to the next job."""
        with self._lock:
            ticket.granted = False
            queue = self._new or self._waiting or self._background
            if queue and self._free == 0:
                following = queue.popleft()
                following.granted = True
                following.called.set()
            else:
                self._free += 1

    def withdraw(self, ticket: Ticket) -> None:
        """Let a job that was stopped wait no longer."""
        with self._lock:
            ticket.withdrawn = True
            for queue in (self._new, self._waiting, self._background):
                if ticket in queue:
                    queue.remove(ticket)
                    ticket.called.set()

    def wanted(self, ticket: Ticket, held: float) -> bool:
        """Whether a job that has held its slot for so long should let others go on."""
        if ticket.background:
            others = self._background if held >= BACKGROUND_TURN else ()
            return bool(self._new or self._waiting or others)
        return bool(self._new) or (held >= TURN and bool(self._waiting))

    def _queue(self, ticket: Ticket, new: bool) -> deque[Ticket]:
        if ticket.background:
            return self._background
        return self._new if new else self._waiting

    def _goes_beside(self, ticket: Ticket) -> bool:
        """Whether a job that waited too long may compute beside the others."""
        with self._lock:
            if ticket.called.is_set():
                return True
            if ticket.background or self._free <= -MOST_BESIDE:
                return False
            (self._new if ticket in self._new else self._waiting).remove(ticket)
            self._free -= 1
            ticket.granted = True
            return True


class Slot:
    """One job's slot: a context manager that waits for it."""

    def __init__(self, slots: Slots, background: bool = False) -> None:
        self._slots, self._ticket = slots, Ticket(background)

    def __enter__(self) -> Slot:
        self._slots.take(self._ticket, new=True)
        self._since = time.perf_counter()
        return self

    def turn(self) -> None:
        """Between two evaluations: let others go on if they wait."""
        held = time.perf_counter() - self._since
        if self._ticket.granted and self._slots.wanted(self._ticket, held):
            self._slots.give(self._ticket)
            self._slots.take(self._ticket, new=False)
            self._since = time.perf_counter()

    def leave(self) -> None:
        """Wait no longer: the job was stopped, and computes nothing more without a slot."""
        self._slots.withdraw(self._ticket)

    def __exit__(self, *_error: object) -> None:
        if self._ticket.granted:
            self._slots.give(self._ticket)


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
