"""Sweeps that this server runs: one at a time, the next ones wait; every page sees the same."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from andersonn_core import Sweep
from andersonn_core.store import StoreError
from andersonn_core.sweeps.engines import EngineError
from andersonn_core.sweeps.progress import SweepProgress
from lab.pool import Slot
from lab.runner import POOL

State = Literal["waiting", "running", "done", "stopped", "failed"]
MOST_WAITING = 4  # sweeps besides the one that runs


class Refused(Exception):
    """A sweep may not begin now; the message says why and what to do."""


@dataclass(eq=False)
class Job:
    """One sweep on its way into a store."""

    sweep: Sweep
    store: Path
    executor: Any
    visitor: str
    state: State = "waiting"
    progress: SweepProgress | None = None
    error: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def active(self) -> bool:
        """Whether it computes, or will."""
        return self.state in ("waiting", "running")

    def stop(self) -> None:
        """End it; what is done is kept."""
        self._stop.set()

    def run(self) -> None:
        """Run it to its end; whatever stops it is said in words."""
        self.state = "running"
        try:
            self.store.parent.mkdir(parents=True, exist_ok=True)
            if self.executor == "serial":
                # between two trials whoever moves a slider goes first
                with Slot(POOL.slots, background=True) as slot:
                    self._run(lambda: (slot.turn(), self._stop.is_set())[1])
            else:
                self._run(self._stop.is_set)
            self.state = "stopped" if self._stop.is_set() else "done"
        except (ValueError, OSError, EngineError, StoreError) as error:
            self.error, self.state = str(error), "failed"
        except Exception as error:
            self.error, self.state = f"{type(error).__name__}: {error}", "failed"
            raise

    def _run(self, should_stop: Callable[[], bool]) -> None:
        self.sweep.run(
            self.executor, self.store, progress=self._tell, should_stop=should_stop, yes=True
        )

    def _tell(self, progress: SweepProgress) -> None:
        self.progress = progress


class Jobs:
    """All sweeps of this server; every method may be called from any thread."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque(maxlen=32)
        self._lock, self._one = threading.Lock(), threading.Lock()

    def start(self, sweep: Sweep, store: Path, executor: Any, visitor: str) -> Job:
        """Begin a sweep, or have it wait for its turn; raises Refused."""
        with self._lock:
            same = self.find(sweep.sweep_id, store)
            if same is not None and same.active:
                return same
            active = [job for job in self._jobs if job.active]
            if len(active) > MOST_WAITING:
                raise Refused(
                    f"{len(active)} sweeps are under way on this server: yours may begin when one "
                    "of them ends."
                )
            job = Job(sweep, store, executor, visitor)
            self._jobs.append(job)
        threading.Thread(target=self._turn, args=(job,), name="sweep", daemon=True).start()
        return job

    def _turn(self, job: Job) -> None:
        with self._one:
            if job._stop.is_set():
                job.state = "stopped"
            else:
                job.run()

    def find(self, sweep_id: str, store: Path) -> Job | None:
        """The newest job of a sweep in a store."""
        found = [j for j in self._jobs if j.sweep.sweep_id == sweep_id and j.store == store]
        return found[-1] if found else None


JOBS = Jobs()
