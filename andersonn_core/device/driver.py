"""A solve whose steps stay on the device: the host only launches, and looks back a little late."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from andersonn_core.device.buffers import DeviceState, Rules
from andersonn_core.device.graph import Graph, Work
from andersonn_core.device.interface import Choice, Kernels, kernels_for, make_room
from andersonn_core.device.looks import EVERY, LAG, Looks, Row
from andersonn_core.device.overseer import Overseer
from andersonn_core.device.times import Times
from andersonn_core.driver import Step, Task, check_memory
from andersonn_core.least_squares import default_regularization
from andersonn_core.methods import Anderson, Picard
from andersonn_core.methods.anderson import AUTO
from andersonn_core.outcome import attach_partial, result_of
from andersonn_core.referee import DIVERGENCE
from andersonn_core.results import RUNNING, Event, History, SolveResult, Status
from andersonn_core.timing import clock_for

# Anderson's knobs that the device can't do all values of, and those that it can.
POSSIBLE: dict[str, tuple[Any, ...]] = {
    "restart": ("full", "never", "deflated"), "period": (1,), "delay": (0,),
    "least_squares": ("gram",), "max_condition": (None,), "filtering": (0.0,),
    "max_growth": (None,), "max_weights": (None,), "randomize": ("nothing",),
}  # fmt: skip


def obstacle(task: Task) -> str:
    """Why a solve needs the host in every step; empty if it does not."""
    method = task.method
    if task.shards is not None:
        return "its elements are on several ranks"
    if type(method) not in (Anderson, Picard):
        return f"{method.label} is stepped by the host"
    if isinstance(method, Anderson) and (reason := _obstacle(method)):
        return reason
    if task.knobs.compact:
        return "compact = True is the host's work"
    if getattr(task.on_step, "reads_iterates", False):
        return "on_step reads the iterates"
    if task.lasting:
        return "the gradient reads its history"
    choice = _choice(task)
    return choice.reason if choice.kernels is None else ""


def _obstacle(method: Anderson) -> str:
    for name, possible in POSSIBLE.items():
        if getattr(method, name) not in possible:
            return f"{name} = {getattr(method, name)!r} is decided by the host"
    if AUTO in (method.window, method.mixing):
        return "what is 'auto' is decided by the host"
    return ""


def _choice(task: Task) -> Choice:
    layout, (window, kept) = task.layout, _differences(task)
    return kernels_for(layout.device, layout.working_dtype, window, kept)


def _differences(task: Task) -> tuple[int, int]:
    """How many are used, and how many directions of them a restart keeps."""
    method, n = task.method, task.layout.elements
    if not isinstance(method, Anderson):
        return 0, 0
    return method.slots(n), method.directions(n) if method.restart == "deflated" else 0


class DeviceDriver:
    """One solve by Anderson's method or forward iteration: `Driver`'s statuses, counts, history.

    But for a stall: the host decides it from the rows, so that sample stops as late as they come.
    f is called up to LAG times more than the samples need, as the host learns late that all have
    stopped; they don't move any more. `diagnostics["surplus_evals"]` counts these calls, and their
    seconds are in the last row. With capture, f's own code runs for a few of them only.
    """

    def __init__(
        self,
        task: Task,
        kernels: Kernels | None = None,
        capture: Callable[[Work], Work] | None = None,
    ) -> None:
        method = task.method
        assert isinstance(method, Anderson | Picard), obstacle(task)
        self.layout, self.method = task.layout, method
        self.knobs, self.card = task.knobs, task.card
        self.on_step, self.should_stop = task.on_step, task.should_stop
        check_memory(self.layout, method)
        self.times = Times(clock_for(self.layout.device), task.knobs.profile)
        self.map = self.layout.wrap(task.f)
        self.answer = self.layout.pack(task.z0).clone()  # (B, n)
        self.working = self.answer.to(self.layout.working_dtype)  # (B, n) evaluated next
        self.last = torch.zeros_like(self.working)  # (B, n) evaluated before
        # (B, n) the next point as f sees it, where that is narrower than what steps see
        self.narrow = None if self.answer.dtype is self.working.dtype else self.answer.clone()
        window, kept = _differences(task)
        choice = _choice(task)
        chosen = kernels or choice.kernels
        assert chosen is not None, choice.reason
        self.kernels = chosen
        self.notes: tuple[str, ...] = (choice.reason,) if kernels is None else ()
        self.state = self._fresh_state(window, kept)
        self.looks = Looks(self.state)
        falls_back = isinstance(method, Anderson) and method.fallback and window > 0
        self.overseer = Overseer(self.state, task.knobs, method.largest_window, falls_back)
        self.record_graph = capture
        self._capture()
        self.rows: list[Row] = []
        self.wall: list[float] = []
        self.cancelled = False
        self._elapsed = 0.0

    def _capture(self) -> None:
        wanted = self.knobs.capture
        self.graph = Graph(self._unit, EVERY, self.record_graph) if wanted else None

    def _fresh_state(self, window: int, kept: int) -> DeviceState:
        method, knobs, kind = self.method, self.knobs, self.working.dtype
        ridge = getattr(method, "regularization", None)
        rules = Rules(
            window=window, ridge=default_regularization(kind) if ridge is None else ridge,
            precision=torch.finfo(kind).eps, rtol=knobs.rtol, atol=knobs.atol,
            max_iter=knobs.max_iter, mixing=float(method.mixing),
            sliding=getattr(method, "restart", "") == "never", divergence=DIVERGENCE,
            kept=kept,
        )  # fmt: skip
        parts = self.kernels.parts(self.working, window)
        ring = torch.bfloat16 if getattr(method, "history", "") == "bfloat16" else kind
        if kind is torch.float64 and ring is not kind:
            self.notes += ("history = 'bfloat16' is for float32 states: it is kept in float64",)
            ring = kind
        return DeviceState.of(self.working, rules, parts, LAG, ring)

    def _widen(self, row: Row) -> None:
        """Keep the history in the state's type from now on, where a difference was too large."""
        state = self.state
        if not (row.event & int(Event.OVERFLOW)).any() or state.dg.dtype is state.g.dtype:
            return
        state.dg, state.du = state.dg.to(state.g.dtype), state.du.to(state.g.dtype)
        self.notes += (
            f"a difference at evaluation {row.evaluation} was too large for a history in bfloat16: "
            f"it went on in {str(state.g.dtype).removeprefix('torch.')}",
        )
        self._capture()  # what was captured reads the old ring

    @torch.no_grad()
    @np.errstate(all="ignore")  # residuals of a broken sample are inf and NaN by right
    def run(self) -> SolveResult:
        """Iterate until every sample has a status; attach the partial result to any exception."""
        try:
            if self.layout.batch:
                self._iterate()
        except BaseException as error:
            self.cancelled = True
            attach_partial(error, self._result)
            raise
        return self._result()

    def _iterate(self) -> None:
        started, done = time.perf_counter(), 0
        while done < self.knobs.max_iter:
            if self.should_stop is not None and self.should_stop():
                self.cancelled = True
                return
            done += self._go_on(done + 1)
            self.wall += [time.perf_counter() - started] * (done - len(self.wall))
            if done % EVERY == 0 or done == self.knobs.max_iter:
                self.looks.begin(done)
                self._take(self.looks.late())
                if self._ended:
                    return

    def _go_on(self, evaluation: int) -> int:
        """Make this evaluation and its step, or as many as a graph holds; how many."""
        replay = None
        if self.graph is not None and not self.overseer.intervenes:
            replay = self.graph.replay(evaluation, self.knobs.max_iter)
        if self.graph is not None and replay is not None:
            self.times.whole(replay, self.graph.evaluations)
            return self.graph.evaluations
        self._step(self.times.split(), evaluation)
        return 1

    def _unit(self) -> None:
        """What is captured: steps after which the two points are in each other's place again."""
        points = self.working, self.last
        try:
            for _ in range(EVERY):
                self._step(lambda part: None)
        finally:
            self.working, self.last = points

    def _step(self, ended: Callable[[str], None], evaluation: int | None = None) -> None:
        """One evaluation, and the step from it; without a number, of those without a mask."""
        kernels, state = self.kernels, self.state
        plain = evaluation == 1 or not state.rules.window
        f_z = self.map(self.z).to(self.working.dtype)
        ended("map")
        points = self.working, self.last, f_z
        if not plain:
            make_room(kernels, state)
        kernels.advance(state, *points, plain)
        ended("gram")
        kernels.solve(state, plain)
        ended("solve")
        if evaluation is not None:
            self.overseer.before_mix(evaluation)
        kernels.mix(state, *points, self.last)
        ended("mix")
        if evaluation is not None:
            self.overseer.after_mix(self.last)
        self.working, self.last = self.last, self.working
        if self.narrow is not None:  # the next point is the one that f will see
            self.narrow.copy_(self.working)
            self.working.copy_(self.narrow)
        ended("bookkeeping")

    @property
    def z(self) -> Tensor:  # (B, n)
        """The next point, as f sees it."""
        return self.working if self.narrow is None else self.narrow

    @property
    def _ended(self) -> bool:
        """Whether every sample had a status when the host last looked."""
        return bool(self.rows) and not (self.rows[-1].status == RUNNING).any()

    def _take(self, rows: Any) -> None:
        """Keep rows that have come, and show them."""
        for row in rows:
            if self._ended:
                return  # what follows was under way when the end was not known
            self.rows.append(row)
            self.overseer.watch(row)
            self._widen(row)
            if self.on_step is not None:
                self.on_step(self._shown(row))

    # -- what is shown and returned ---------------------------------------------------------------

    def _shown(self, row: Row) -> Step:
        in_map, in_method = self.times.known(row.evaluation)
        known = self._elapsed + in_map
        self._elapsed = known + in_method
        return Step(
            evaluation=row.evaluation,
            relative_residual=torch.from_numpy(row.numbers["relative_residual"]),
            status=torch.from_numpy(row.status),
            event=torch.from_numpy(row.event),
            depth=torch.from_numpy(row.numbers["depth"]),
            seconds=known,
            z=_too_late,
        )

    def _result(self) -> SolveResult:
        """Waits for the device."""
        calls, state = len(self.times.rows), self.state
        if calls % EVERY and calls < self.knobs.max_iter:
            self.looks.begin(calls)
        self._take(self.looks.rest())
        status = state.status.cpu().numpy().copy()
        status[status == RUNNING] = Status.CANCELLED
        newest = self.last if calls else self.working
        values = torch.where((state.newest | (state.evals == 0))[:, None], newest, state.best)
        self.answer = values.to(self.answer.dtype)
        captured = (self.graph.note,) if self.graph is not None and self.graph.note else ()
        return result_of(
            self.layout.unpack(self.answer), status, self._history(), self.card,
            stretch=state.stretch.cpu().numpy(), notes=self.notes + captured,
            counted={"compactions": 0, "surplus_evals": calls - len(self.rows)},
        )  # fmt: skip

    def _history(self) -> History:
        batch, rows, mixing = self.layout.batch, self.rows, self.state.rules.mixing

        def column(name: str) -> Tensor:  # (K, B)
            values = [row.numbers[name] for row in rows]
            return torch.from_numpy(np.array(values).reshape(len(rows), batch))

        names = "relative_residual", "residual", "gain", "weight_norm", "condition", "depth"
        columns: dict[str, Any] = {name: column(name) for name in names}
        event = np.array([row.event for row in rows], np.int16)
        running = np.array([row.running for row in rows], np.bool_)
        return History(
            **columns,
            mixing=torch.where(torch.isnan(columns["depth"]), torch.nan, mixing),
            event=torch.from_numpy(event.reshape(len(rows), batch)),
            running=torch.from_numpy(running.reshape(len(rows), batch)),
            wall_seconds=torch.tensor(self.wall[: len(rows)], dtype=torch.float64),
            clock=self.times.clock.name,
            **self.times.columns(len(rows)),
        )


def _too_late() -> Any:
    raise RuntimeError(
        "step.z() is not there in a solve on the device: on_step hears of an evaluation when "
        "others are under way. Say that on_step needs them, and each step waits for it: "
        "on_step=andersonn_core.reading_iterates(on_step)."
    )
