"""Newest run wins: solves in threads, their rows coalesced into at most 30 updates a second.

The pump is the only way from a thread to the page: `publish` is called through `schedule`, which must
put a function onto the document's own thread (`doc.add_next_tick_callback`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from andersonn_core import RunCard, SolveResult, SolveSpec, Status, Step, solve
from andersonn_core.driver import Driver, SolveKnobs
from andersonn_core.methods import MethodSpec
from andersonn_core.problems import Problem
from lab.cache import Cache
from lab.frames import Frames
from lab.pool import Pool, Slot
from lab.pump import Pump

WALL_LIMIT = 20.0  # seconds of one run
THREADS = 1  # torch threads of a run: small maps are slower with more, and CPU time sees only one
LONGEST_SENTENCE = 300
PRESENCE_SECONDS = 0.25  # how often a run looks whether its visitor is still there

BUSY = "The lab is busy: too many runs are waiting. Move a control again in a moment."
OVERTIME = (
    f"Stopped after {WALL_LIMIT:.0f} s, the longest that one run may take on this page. "
    "Lower the batch size, the problem size or max_iter, or run it in Python."
)
NO_MEMORY = "The run did not fit into memory: lower the batch size, the problem size or the window."


@dataclass(frozen=True)
class NewRows:
    """Consecutive evaluations of one solve: k rows, B samples."""

    evaluation: NDArray[np.int64]  # (k,) 1, 2, ...
    seconds: NDArray[np.float64]  # (k,) by the solve's clock
    relative_residual: NDArray[np.float64]  # (k, B) NaN after a sample stopped
    event: NDArray[np.int8]  # (k, B) flags of Event
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
    reset: bool = False  # the first update of a generation, whatever its method
    superseded: bool = False  # with reset: a run that was still going was cut off


Row = tuple[int, float, NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
Solver = Callable[[Problem, Callable[[Step], None], Callable[[], bool]], SolveResult]


@dataclass(frozen=True)
class Task:
    """What one method of a generation is to do."""

    build: Callable[[], Problem]
    solve: Solver
    key: Hashable | None = None  # of its result; None: not to be kept


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

    def stop(self) -> None:
        """Ask the run to end after its present evaluation."""
        if self.stopped_at is None:
            self.stopped_at = time.perf_counter()


@dataclass
class Counts:
    """What happened since the program started; the page's benchmark reads it."""

    started: int = 0
    finished: int = 0
    stopped: int = 0
    reused: int = 0
    stop_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=4096))


POOL = Pool()
RESULTS: Cache[tuple[SolveResult, Frames | None, Problem]] = Cache(48 * 2**20)
PROBLEMS_BUILT: Cache[Problem] = Cache(192 * 2**20)
COUNTS = Counts()
