"""The driver: the only place that calls the map, so it alone counts, times, freezes and stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from andersonn_core.arrays import Flags, Floats
from andersonn_core.compiling import UNCOMPILED, has_numba
from andersonn_core.kernels import Kept
from andersonn_core.layout import StateLayout
from andersonn_core.memory import check_fits, check_room, solve_bytes
from andersonn_core.methods import MethodSpec, MethodState
from andersonn_core.outcome import attach_partial, result_of
from andersonn_core.recorder import Recorder
from andersonn_core.referee import Referee, Rows
from andersonn_core.results import RUNNING, SolveResult, Status
from andersonn_core.runcard import RunCard
from andersonn_core.sharding import Shards
from andersonn_core.specs import Spec, knob
from andersonn_core.timing import PartTimer, clock_for

EVERYONE = slice(None)


@dataclass(frozen=True)
class Step:
    """What `on_step` receives after each evaluation: numbers on the CPU for a live figure."""

    evaluation: int  # 1, 2, ...
    relative_residual: Tensor  # (B,) float64, NaN for samples that stopped earlier
    status: Tensor  # (B,) int8; -1 while running
    event: Tensor  # (B,) int16, flags of Event
    depth: Tensor  # (B,) differences used
    seconds: float  # when the residual was known, by the history's clock
    z: Callable[[], Any]  # copies the evaluated iterate, in the user's structure; only in time


class SolveKnobs(Spec):
    """The knobs of the driver itself."""

    title: ClassVar[str] = "solve"

    rtol: float = knob(
        1e-6, "Stop a sample when ||f(z) - z|| <= atol + rtol ||f(z)||.",
        minimum=0.0, maximum=1.0, typical=(1e-10, 1e-1), symbol="tol", log=True,
    )  # fmt: skip
    atol: float = knob(0.0, "Absolute part of the stop test.", minimum=0.0, typical=(0.0, 1e-3))
    max_iter: int = knob(
        200, "Largest number of evaluations of f.",
        minimum=1, maximum=10_000_000, typical=(10, 1000), symbol="K",
    )  # fmt: skip
    batch_dims: int = knob(
        1, "1: the first dimension is the batch; 0: the whole state is one sample.",
        minimum=0, maximum=1,
    )  # fmt: skip
    compact: bool = knob(
        False, "Evaluate only unfinished samples once fewer than half of the batch still runs."
    )
    profile: bool = knob(
        False, "Split the method's time into Gram row, solve, mix and bookkeeping."
    )
    capture: bool = knob(
        False,
        "On a GPU, capture f and the step as a CUDA graph and replay it; f must do the same work "
        "in every call.",
        identity=False,
    )

    @model_validator(mode="after")
    def _fixed_shapes(self) -> Self:
        if self.capture and self.compact:
            raise ValueError(
                "capture = True replays work of one shape, and compact = True changes it: leave "
                "one of them at False."
            )
        return self


def reading_iterates(on_step: Callable[[Step], None]) -> Callable[[Step], None]:
    """The same callback, said to call `step.z()`: on a GPU the solve then waits for every step."""
    on_step.reads_iterates = True  # type: ignore[attr-defined]
    return on_step


@dataclass(frozen=True)
class Task:
    """What a driver is to do: f from a start whose layout says that it can be one."""

    f: Callable[[Any], Any]
    z0: Any
    layout: StateLayout
    method: MethodSpec
    knobs: SolveKnobs
    card: RunCard
    on_step: Callable[[Step], None] | None = None
    should_stop: Callable[[], bool] | None = None
    shards: Shards | None = None
    confirming: Callable[[Tensor], Tensor] | None = None  # f for `_confirm`; None: the map
    lasting: bool = False  # whether the method's history is read after the solve


class Driver:
    """One solve; `rows` are the samples still evaluated: without compaction all, always.

    Shapes: B samples in the batch, A of them in the rows, n elements each, with shards this rank's.
    """

    def __init__(self, task: Task) -> None:
        self.f, self.layout, self.shards = task.f, task.layout, task.shards
        self.method, self.knobs, self.card = task.method, task.knobs, task.card
        self.on_step, self.should_stop = task.on_step, task.should_stop
        self.working = self.layout.working_dtype
        check_memory(self.layout, self.method, self.shards)
        self.clock = clock_for(self.layout.device)
        self.referee = Referee(
            self.layout.batch, self.knobs.rtol, self.knobs.atol, self.method.largest_window
        )
        self.answer = self.layout.pack(task.z0).clone()  # (B, n)
        self.stretch = np.full(self.layout.batch, np.nan)  # (B,) see MethodState.amplification
        self.num_evals = self.compactions = 0
        # of who solves, and of states that are gone
        self.notes: tuple[str, ...] = () if has_numba() else (UNCOMPILED,)
        self.confirming = task.confirming
        self.confirmed_from = 0  # the history row of the confirming evaluation, if there was one
        self.elapsed = 0.0
        self.z: Tensor  # (A, n) to be evaluated next
        self.evaluated: Tensor  # (A, n) evaluated last
        self._take_everyone()
        self.state.lasting = task.lasting
        self.recorder = Recorder(self.layout.batch, self.clock)  # after what had to be compiled

    @torch.no_grad()
    @np.errstate(all="ignore")  # residuals of a broken sample are inf and NaN by right
    def run(self) -> SolveResult:
        """Iterate until every sample has a status; attach the partial result to any exception."""
        try:
            if self.layout.batch:
                self._iterate()
                if self.compactions and self._confirm():
                    self._iterate()
        except BaseException as error:
            attach_partial(error, self._partial)
            raise
        return self._result()

    def _partial(self) -> SolveResult:
        self._stop_all(Status.CANCELLED, alone=True)
        return self._result()

    def _iterate(self) -> None:
        """Evaluate, judge, step, until no sample runs."""
        running = self.referee.running(self.rows)
        while np.count_nonzero(running):
            if self.should_stop is not None and self.should_stop():
                self._stop_all(Status.CANCELLED)
                return
            start = self.clock.mark()
            f_z = self._evaluate()
            middle = self.clock.mark()
            residual = self._judge(f_z, running)
            going_on = self.referee.running(self.rows)
            z_next = self._propose(f_z, going_on) if np.count_nonzero(going_on) else None
            self.recorder.add(self.rows, self.state, residual, running, running, going_on)
            end = self.clock.mark()
            self.recorder.time((start, middle, end), self.state.timer)
            if self.state.looks():
                self.method.observe(self.state, self.recorder.latest)
            self._emit()
            del f_z  # before the map makes another
            running = going_on
            if z_next is not None:
                self.z = z_next
                running = self._compact(going_on)
        self._store_answers()

    def _evaluate(self, f: Callable[[Tensor], Tensor] | None = None) -> Tensor:  # (A, n)
        """Call the map once; nothing else in this class costs an evaluation.

        The values are in the working dtype.
        """
        f_z = (f or self.map)(self.z)
        self.num_evals += 1
        self.previous, self.evaluated = self.evaluated, self.z
        return self._widened(f_z)

    def _widened(self, values: Tensor) -> Tensor:  # (A, n)
        """In the working dtype."""
        return values if values.dtype is self.working else values.to(self.working)

    def _judge(self, f_z: Tensor, running: Flags) -> Floats:  # (A, n), (A,) -> (A,)
        """The residuals' norms; keeps the best iterate, gives statuses."""
        everyone = np.count_nonzero(running) == len(running)
        residual, scale = self.state.measure(
            self._widened(self.z), f_z, None if everyone else running
        )
        progress = self.state.progress
        self._keep_best()
        met = self.referee.judge(
            self.rows,
            self.num_evals,
            self.num_evals >= self.knobs.max_iter - (self.compactions > 0),
            residual,
            scale,
            progress,
            lambda: self._entries_finite(f_z),
        )
        if np.count_nonzero(met):
            progress.settle(running & met)
        return residual

    def _entries_finite(self, f_z: Tensor) -> Flags:  # (A, n) -> (A,)
        """On all ranks."""
        odd = (~torch.isfinite(f_z)).sum(1).cpu().double().numpy()
        flags: Flags = self.state.rows.total(odd) == 0
        return flags

    def _keep_best(self) -> None:
        evicted = self.state.progress.evicted
        if np.count_nonzero(evicted):
            self.best.save(evicted, self.previous)

    def _propose(self, f_z: Tensor, going_on: Flags) -> Tensor:  # (A, n), (A,) -> (A, n)
        """The next iterates; samples that stopped do not move again."""
        z_next = self.method.step(self.state, self._widened(self.z), f_z)
        if z_next.dtype is not self.z.dtype:
            z_next = z_next.to(self.z.dtype)
        event = self.state.diagnostics.event
        if np.count_nonzero(event):
            self.referee.excuse(self.rows, event, self.num_evals)
        if np.count_nonzero(going_on) < len(going_on):
            stopped = self._on_device(np.flatnonzero(~going_on))
            z_next[stopped] = self.z[stopped]
        return z_next

    # -- rows: all samples, or after compaction those that still run ------------------------------

    def _take_everyone(self) -> None:
        self.rows: Rows = EVERYONE
        self.map = self.layout.wrap(self.f)
        self.z = self.evaluated = self.previous = self.answer
        self.best = Kept()
        self.state = self._fresh_state()

    def _compact(self, going_on: Flags) -> Flags:  # (A,) -> (A,)
        """Drop finished samples from the rows once fewer than half still run; who goes on."""
        few = 2 * int(going_on.sum()) < len(going_on) and self.num_evals + 2 <= self.knobs.max_iter
        select: Any = getattr(self.f, "select", None)
        able = self.layout.batch_dims == 1 and select is not None
        if not (self.knobs.compact and few and able) or self.confirmed_from:
            return going_on
        keep = np.flatnonzero(going_on)
        rows = keep if isinstance(self.rows, slice) else self.rows[keep]
        part = select(self._on_device(rows))  # may raise: nothing has changed yet
        self._store_answers()
        self.rows, self.map = rows, self.layout.wrap(part)
        places = self._on_device(keep)
        self.z, self.evaluated = self.z[places], self.evaluated[places]
        self.state, self.best = self.state.select(places), self.best.select(places)
        self.compactions += 1
        return np.ones(len(keep), np.bool_)

    def _confirm(self) -> bool:
        """Evaluate the whole batch once more at its answers: part of a batch may round differently.

        Returns whether a sample lost its claim to have converged and runs again.
        """
        referee = self.referee
        if self.num_evals >= self.knobs.max_iter or (referee.status == Status.CANCELLED).any():
            return False
        self.notes, lasting = self.notes + self.state.notes(), self.state.lasting
        self._take_everyone()
        self.state.lasting = lasting
        self.confirmed_from = self.num_evals
        start = self.clock.mark()
        f_z = self._evaluate(self.confirming)
        middle = self.clock.mark()
        residual, scale = self.state.measure(self._widened(self.z), f_z)
        everyone = np.ones(self.layout.batch, np.bool_)
        lost = (referee.status == Status.CONVERGED) & ~referee.met(residual, scale)
        again = RUNNING if self.num_evals < self.knobs.max_iter else Status.MAX_ITER
        referee.status[lost] = again
        nobody = ~everyone
        self.recorder.add(EVERYONE, self.state, residual, everyone, nobody, nobody)
        self.recorder.time((start, middle, self.clock.mark()), PartTimer())
        self._emit()
        return again == RUNNING and bool(lost.any())

    def _fresh_state(self) -> MethodState:
        z, shards = self._widened(self.z), self.shards
        state = self.method.init(z) if shards is None else self.method.init_shard(z, shards)
        state.timer = PartTimer(self.clock if self.knobs.profile else None)
        state.rtol = self.knobs.rtol
        if self.z.dtype is self.working:
            state.targets = self.z, torch.empty_like(self.z)  # the start's memory is used again
        return state

    def _on_device(self, values: Any) -> Tensor:
        return torch.from_numpy(values).to(self.layout.device)

    # -- what is kept and shown -------------------------------------------------------------------

    def _store_answers(self, alone: bool = False) -> None:
        """Alone: without what needs other ranks, which may be elsewhere."""
        stretch = None if alone and self.shards else self.state.amplification()
        if stretch is not None:
            self.stretch[self.rows] = np.fmax(self.stretch[self.rows], stretch)
        progress, values = self.state.progress, self.evaluated
        kept = np.isfinite(progress.best[-1]) & ~progress.newest
        if kept.any():
            values = values.clone()
            self.best.fill(values, kept)
        if isinstance(self.rows, slice):
            self.answer = values
        else:
            self.answer[self._on_device(self.rows)] = values

    def _stop_all(self, status: Status, alone: bool = False) -> None:
        """Give every running sample this status and keep its best iterate."""
        self.referee.finish(status)
        if self.state.progress.best:  # not where the first residual could not be taken
            self._store_answers(alone)

    def _emit(self) -> None:
        """Hand the newest row to `on_step`; the time that takes is nobody's."""
        if self.on_step is None:
            return
        recorder, (start, middle, end) = self.recorder, self.recorder.marks[-1]
        known = self.elapsed + self.clock.seconds(start, middle)
        self.elapsed = known + self.clock.seconds(middle, end)
        evaluated, rows, answer = self.evaluated, self.rows, self.answer
        evaluation = self.num_evals

        def whole() -> Any:
            """A copy: the buffers are used again."""
            if self.num_evals != evaluation:
                raise RuntimeError(
                    "step.z() makes the iterate only while on_step runs: call it there and keep "
                    "what it returns."
                )
            if isinstance(rows, slice):
                return self.layout.unpack(evaluated.clone())
            return self.layout.unpack(answer.index_copy(0, self._on_device(rows), evaluated))

        stepping, diagnostics = recorder.stepping[-1], recorder.diagnostics[-1]
        self.on_step(
            Step(
                evaluation=evaluation,
                relative_residual=torch.from_numpy(recorder.relative[-1]),
                status=torch.from_numpy(self.referee.status.copy()),
                event=torch.from_numpy(np.where(stepping, diagnostics.event, np.int16(0))),
                depth=torch.from_numpy(np.where(stepping, diagnostics.depth, np.nan)),
                seconds=known,
                z=whole,
            )
        )

    def _result(self) -> SolveResult:
        return result_of(
            self.layout.unpack(self.answer), self.referee.status.copy(), self.recorder.history(),
            self.card, stretch=self.stretch, notes=self.notes + self.state.notes(),
            counted={"compactions": self.compactions}, confirmed_from=self.confirmed_from,
        )  # fmt: skip


def check_memory(layout: StateLayout, method: MethodSpec, shards: Shards | None = None) -> None:
    """Refuse a solve whose workspace would not fit, before anything is computed.

    With shards every rank refuses it if one has to.
    """
    if shards is not None:
        for rank, part in enumerate(shards.parts):
            size = layout.batch, shards.elements, layout.working_dtype, part.elements
            what = f"{part.elements} elements of {layout.batch} samples with {method.label}"
            check_room(solve_bytes(method, *size), part.free, f"rank {rank}", what)
        return
    needed = solve_bytes(method, layout.batch, layout.elements, layout.working_dtype)
    what = f"a solve of {layout.batch} samples of {layout.elements} elements with {method.label}"
    check_fits(needed, layout.device, what)
