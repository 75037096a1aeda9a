"""Newest run wins: solves in threads, their rows coalesced into at most 30 updates a second.

The pump is the only way from a thread to the page: `publish` is called through `schedule`, which
must put a function onto the document's own thread (`doc.add_next_tick_callback`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from andersonn_core import SolveResult, SolveSpec, Status, Step
from andersonn_core.cache import Cache
from andersonn_core.driver import SolveKnobs
from andersonn_core.methods import MethodSpec
from andersonn_core.problems import Problem
from lab.frames import Frames
from lab.pool import Pool, Slot
from lab.pump import Pump
from lab.tasks import Task, map_task, sentence, spec_task

WALL_LIMIT = 20.0  # seconds of one run
HOLD = 0.025  # seconds for which the first method's first point waits for the others'
PRESENCE_SECONDS = 0.25  # how often a run looks whether its visitor is still there

BUSY = "The lab is busy: too many runs are waiting. Move a control again in a moment."
OVERTIME = (
    f"Stopped after {WALL_LIMIT:.0f} s, the longest that one run may take on this page. "
    "Lower the batch size, the problem size or max_iter, or run it in Python."
)
TOO_SOON = "Stopped before the first evaluation."


@dataclass(frozen=True)
class NewRows:
    """Consecutive evaluations of one solve: k rows, B samples."""

    evaluation: NDArray[np.int64]  # (k,) 1, 2, ...
    seconds: NDArray[np.float64]  # (k,) by the solve's clock
    relative_residual: NDArray[np.float64]  # (k, B) NaN after a sample stopped
    event: NDArray[np.int16]  # (k, B) flags of Event
    depth: NDArray[np.float64]  # (k, B)
    status: NDArray[np.int8]  # (B,) after the last row; -1 while running


@dataclass(frozen=True)
class Update:
    """News of one method of the newest generation, merged since the last update."""

    generation: int
    method: str  # the key given to `submit`
    rows: NewRows | None = None
    result: SolveResult | None = None  # once, at the end; status CANCELLED if it was stopped
    problem: Problem | None = None
    error: str | None = None  # one plain sentence
    frames: Frames | None = None  # predictions and states so far, for playback
    ended: bool = False  # no more of this method in this generation
    reset: bool = False  # the first update of a generation, whatever its method
    kept: tuple[str, ...] = ()  # with reset: methods whose run goes on from the generation before


Row = tuple[int, float, NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Kept:
    """A finished run as the cache holds it."""

    result: SolveResult
    frames: Frames | None
    problem: Problem = field(compare=False)


@dataclass(eq=False)
class Job:
    """One run under way; rows below `sent` have been published."""

    method: str
    task: Task
    rows: list[Row] = field(default_factory=list)
    sent: int = 0
    ended: bool = False
    reported: bool = False  # the end has been published
    result: SolveResult | None = None
    problem: Problem | None = None
    frames: Frames | None = None
    error: str | None = None
    stopped_at: float | None = None
    deadline: float = float("inf")
    slot: Slot | None = None  # None: it never had to compute

    def stop(self) -> None:
        """Ask the run to end after its present evaluation."""
        if self.stopped_at is None:
            self.stopped_at = time.perf_counter()
            if self.slot is not None:
                self.slot.leave()


@dataclass
class Counts:
    """What happened since the program started; the page's benchmark reads it."""

    started: int = 0
    finished: int = 0
    stopped: int = 0
    reused: int = 0
    stop_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=4096))

    def note(self, job: Job) -> None:
        """Count the end of a job; how long a stop took counts if it was computing."""
        if job.stopped_at is None:
            self.finished += 1
        elif job.problem is not None:
            self.stopped += 1
            self.stop_seconds.append(time.perf_counter() - job.stopped_at)


POOL = Pool()
RESULTS: Cache[Kept] = Cache(48 * 2**20)
COUNTS = Counts()


class Runner:
    """The runs of one visitor: one generation at a time, the newest.

    A generation is a set of methods that start together. Of the generation before, a method whose
    spec did not change goes on where it is; the others stop within one evaluation. Rows, results
    and errors arrive as `Update` lists in `publish`, on the thread that `schedule` leads to.
    """

    def __init__(
        self,
        publish: Callable[[list[Update]], None],
        schedule: Callable[[Callable[[], None]], Any],
        present: Callable[[], bool] = lambda: True,
        pool: Pool = POOL,
    ) -> None:
        self._publish, self._present, self._pool = publish, present, pool
        self._pump = Pump(self._emit, schedule)
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._generation = 0
        self._began = 0.0
        self._kept: tuple[str, ...] = ()
        self._fresh = self._closed = False

    # -- what the page calls --------------------------------------------------------------------

    def submit(self, specs: Mapping[str, SolveSpec]) -> int:
        """Run these instead of whatever runs now; returns the new generation's number."""
        return self._begin({method: spec_task(spec) for method, spec in specs.items()})

    def submit_map(
        self,
        problem: Problem,
        methods: Mapping[str, MethodSpec],
        knobs: SolveKnobs = SolveKnobs(),  # noqa: B008  a frozen record
    ) -> int:
        """Run methods on anybody's own map, which is never called by two threads at once."""
        guard = threading.Lock()
        tasks = {name: map_task(problem, method, knobs, guard) for name, method in methods.items()}
        return self._begin(tasks)

    def cancel(self) -> None:
        """Stop what runs; its results so far are published with the status CANCELLED."""
        with self._lock:
            for job in self._jobs.values():
                job.stop()

    def close(self) -> None:
        """Stop what runs and publish nothing any more: the visitor has left."""
        with self._lock:
            self._closed = True
            self.cancel()
            self._jobs = {}
        self._pump.close()

    @property
    def running(self) -> bool:
        """Whether a run of the newest generation is still under way."""
        with self._lock:
            return any(not job.ended for job in self._jobs.values())

    # -- generations ----------------------------------------------------------------------------

    def _begin(self, tasks: Mapping[str, Task]) -> int:
        with self._lock:
            if self._closed:
                return self._generation
            old, self._jobs, self._kept = self._jobs, {}, ()
            self._generation += 1
            self._fresh, self._began = True, time.perf_counter()
            starting = []
            for method, task in tasks.items():
                if _goes_on(old.get(method), task):
                    self._jobs[method] = old[method]
                    continue
                job = _remembered(method, task)
                if job is None:
                    job = Job(method, task, slot=Slot(self._pool.slots))
                    starting.append(job)
                self._jobs[method] = job
            dropped = [job for job in old.values() if job not in self._jobs.values()]
            self._kept = tuple(name for name, job in self._jobs.items() if job.sent or job.reported)
            for job in dropped:
                job.stop()
            if dropped and all(job.reported for job in self._jobs.values()):
                for job in [*self._jobs.values()][:1]:  # told again: others are gone
                    job.reported = False
        for job in starting:
            self._start(job)
        if any(map(_has_news, self._jobs.values())):
            self._request()
        return self._generation

    def _start(self, job: Job) -> None:
        if not self._pool.submit(lambda: self._work(job)):
            job.error, job.ended = BUSY, True
            self._request()

    # -- in a thread ----------------------------------------------------------------------------

    def _work(self, job: Job) -> None:
        """Run one job to its end, whatever happens in it."""
        assert job.slot is not None
        try:
            with job.slot as slot:
                if job.stopped_at is None:
                    self._solve(job, slot)
                else:
                    job.error = TOO_SOON
        except BaseException as error:  # a visitor's map may raise anything, SystemExit too
            job.error = sentence(error)
            job.result = getattr(error, "partial_result", None)
        self._end(job)

    def _solve(self, job: Job, slot: Slot) -> None:
        COUNTS.started += 1
        job.deadline = time.perf_counter() + WALL_LIMIT
        job.problem = job.task.build()
        job.frames = Frames(job.problem)
        looked = [time.perf_counter()]

        def on_step(step: Step) -> None:
            assert job.frames is not None
            job.frames.add(step)
            self._add(job, step)

        def should_stop() -> bool:
            slot.turn()
            return self._should_stop(job, looked)

        job.result = job.task.solve(job.problem, on_step, should_stop)
        if job.stopped_at is None and time.perf_counter() > job.deadline:
            job.error = OVERTIME

    def _should_stop(self, job: Job, looked: list[float]) -> bool:
        """Whether the job was superseded or stopped, takes too long, or has nobody who watches."""
        now = time.perf_counter()
        if now - looked[0] > PRESENCE_SECONDS:
            looked[0] = now
            if not self._present() or not threading.main_thread().is_alive():
                job.stop()
        return job.stopped_at is not None or now > job.deadline

    def _add(self, job: Job, step: Step) -> None:
        row = (
            step.evaluation, step.seconds, step.relative_residual.numpy(), step.event.numpy(),
            step.depth.numpy(), step.status.numpy(),
        )  # fmt: skip
        with self._lock:
            job.rows.append(row)
        if job.stopped_at is None:
            self._request()

    def _request(self) -> None:
        """Ask for an update; the first one at once when every method has its first point."""
        with self._lock:
            ready = all(map(_has_begun, self._jobs.values()))
            hold = 0.0 if ready else self._began + HOLD - time.perf_counter()
            urgent = ready and self._fresh
        self._pump.request(urgent, hold)

    def _end(self, job: Job) -> None:
        COUNTS.note(job)
        if job.error is None and job.result is not None and not _cancelled(job.result):
            _remember(job)
        with self._lock:
            job.ended = True
            current = self._jobs.get(job.method) is job
        if current:
            self._request()

    # -- on the document's thread ---------------------------------------------------------------

    def _emit(self) -> bool:
        """Publish what is new, if anything; of older generations nothing is left that could be."""
        with self._lock:
            updates = [self._news(job) for job in self._jobs.values() if _has_news(job)]
            if self._fresh and updates:
                updates[0] = replace(updates[0], reset=True, kept=self._kept)
                self._fresh = False
        if updates:
            self._publish(updates)
        return bool(updates)

    def _news(self, job: Job) -> Update:
        rows, job.sent = job.rows[job.sent :], len(job.rows)
        ended, job.reported = job.ended, job.ended
        return Update(
            self._generation, job.method, _stacked(rows), job.result if ended else None,
            job.problem, job.error if ended else None, job.frames, ended,
        )  # fmt: skip


def _has_news(job: Job) -> bool:
    return len(job.rows) > job.sent or (job.ended and not job.reported)


def _has_begun(job: Job) -> bool:
    return bool(job.rows) or job.ended


def _stacked(rows: Sequence[Row]) -> NewRows | None:
    if not rows:
        return None
    evaluation, seconds, residual, event, depth, status = zip(*rows, strict=True)
    return NewRows(
        np.array(evaluation), np.array(seconds), np.stack(residual), np.stack(event),
        np.stack(depth), status[-1],
    )  # fmt: skip


def _goes_on(job: Job | None, task: Task) -> bool:
    """Whether a run already does what the task asks for."""
    if job is None or task.key is None or job.task.key != task.key:
        return False
    if job.stopped_at is not None or job.error is not None:
        return False
    COUNTS.reused += 1
    return True


def _remembered(method: str, task: Task) -> Job | None:
    """A finished run from the cache, ready to be published at once."""
    kept = None if task.key is None else RESULTS.get(task.key)
    if kept is None:
        return None
    COUNTS.reused += 1
    return Job(
        method, task, _rows_of(kept.result), ended=True,
        result=kept.result, problem=kept.problem, frames=kept.frames,
    )  # fmt: skip


def _remember(job: Job) -> None:
    if job.task.key is not None and job.result is not None and job.problem is not None:
        RESULTS.put(job.task.key, Kept(job.result, job.frames, job.problem))


def _rows_of(result: SolveResult) -> list[Row]:
    history = result.history
    running = np.full(result.status.shape, -1, dtype=np.int8)
    columns = [history.relative_residual, history.event, history.depth]
    residual, event, depth = (column.cpu().numpy() for column in columns)
    last = len(residual) - 1
    status = result.status.cpu().numpy()
    return [
        (k + 1, float(seconds), residual[k], event[k], depth[k], status if k == last else running)
        for k, seconds in enumerate(history.seconds)
    ]


def _cancelled(result: SolveResult) -> bool:
    return bool((result.status == int(Status.CANCELLED)).any())
