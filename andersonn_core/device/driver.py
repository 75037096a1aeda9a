"""A solve whose steps stay on the device: the host only launches, and looks back a little late."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from andersonn_core.device.buffers import DeviceState, Rules
from andersonn_core.device.interface import Kernels, kernels_for
from andersonn_core.device.looks import EVERY, LAG, Looks, Row
from andersonn_core.device.overseer import Overseer
from andersonn_core.driver import SolveKnobs, Step, Task, check_memory
from andersonn_core.faults import unless_the_device_failed
from andersonn_core.least_squares import default_regularization
from andersonn_core.methods import Anderson, MethodSpec
from andersonn_core.outcome import result_of
from andersonn_core.referee import DIVERGENCE
from andersonn_core.results import RUNNING, History, SolveResult, Status
from andersonn_core.timing import clock_for

# Knobs of Anderson that only the host's loop has, with the values that the device can do, too.
PLAIN_KNOBS = {
    "period": 1, "delay": 0, "least_squares": "gram", "max_condition": None, "filtering": 0.0,
    "max_growth": None, "max_weights": None, "randomize": "nothing",
}  # fmt: skip


def obstacle(method: MethodSpec, knobs: SolveKnobs) -> str:
    """Why a solve needs the host in every step; empty if it does not."""
    if type(method) is not Anderson:
        return f"{method.label} is stepped by the host"
    if not isinstance(method.window, int) or method.window < 1:
        return f"window = {method.window!r} is stepped by the host"
    if method.mixing == "auto" or method.restart not in ("full", "never"):
        return f"mixing = {method.mixing!r}, restart = {method.restart!r} are decided by the host"
    for name, value in PLAIN_KNOBS.items():
        if getattr(method, name) != value:
            return f"{name} = {getattr(method, name)!r} is decided by the host"
    if knobs.compact or knobs.profile:
        return f"{'compact' if knobs.compact else 'profile'} = True is the host's work"
    return ""


class DeviceDriver:
    """One solve by Anderson's method; the same statuses, counts and history as `Driver`'s.

    But for a stall: the host decides it from the rows, so that sample stops as late as they come.
    f is called up to LAG times more than the samples need, as the host learns late that all have
    stopped; they don't move any more. `diagnostics["surplus_evals"]` counts these calls, and their
    seconds are in the last row.
    """

    def __init__(self, task: Task, kernels: Kernels | None = None) -> None:
        method = task.method
        assert isinstance(method, Anderson), obstacle(method, task.knobs)
        self.layout, self.method = task.layout, method
        self.knobs, self.card = task.knobs, task.card
        self.on_step, self.should_stop = task.on_step, task.should_stop
        check_memory(self.layout, method)
        self.clock = clock_for(self.layout.device)
        self.map = self.layout.wrap(task.f)
        self.z = self.layout.pack(task.z0).clone()  # (B, n)
        self.working = self.z.to(self.layout.working_dtype)  # (B, n) the same, as steps see it
        self.last = torch.zeros_like(self.working)  # (B, n) evaluated before
        window = method.slots(self.layout.elements)
        choice = kernels_for(self.layout.device, self.working.dtype, window)
        chosen = kernels or choice.kernels
        assert chosen is not None, choice.reason
        self.kernels, self.notes = chosen, (choice.reason,) if kernels is None else ()
        self.state = self._fresh_state(window)
        self.looks = Looks(self.state)
        self.overseer = Overseer(self.state, task.knobs, method.fallback)
        self.rows: list[Row] = []
        self.marks: list[tuple[Any, Any, Any]] = []
        self.wall: list[float] = []
        self.cancelled = False
        self._elapsed = 0.0

    def _fresh_state(self, window: int) -> DeviceState:
        method, knobs, kind = self.method, self.knobs, self.working.dtype
        ridge = method.regularization
        rules = Rules(
            window=window, ridge=default_regularization(kind) if ridge is None else ridge,
            precision=torch.finfo(kind).eps, rtol=knobs.rtol, atol=knobs.atol,
            max_iter=knobs.max_iter, mixing=method.first_mixing,
            sliding=method.restart == "never", divergence=DIVERGENCE,
        )  # fmt: skip
        parts = self.kernels.parts(self.working, window)
        return DeviceState.of(self.working, rules, parts, LAG)

    @torch.no_grad()
    @np.errstate(all="ignore")  # residuals of a broken sample are inf and NaN by right
    def run(self) -> SolveResult:
        """Iterate until every sample has a status; attach the partial result to any exception."""
        try:
            if self.layout.batch:
                self._iterate()
        except BaseException as error:
            self.cancelled = True
            with unless_the_device_failed():
                error.partial_result = self._result()  # type: ignore[attr-defined]
            raise
        return self._result()

    def _iterate(self) -> None:
        started = time.perf_counter()
        for evaluation in range(1, self.knobs.max_iter + 1):
            if self.should_stop is not None and self.should_stop():
                self.cancelled = True
                return
            self._step(evaluation)
            self.wall.append(time.perf_counter() - started)
            if evaluation % EVERY == 0 or evaluation == self.knobs.max_iter:
                self.looks.begin(evaluation)
                self._take(self.looks.late())
                if self._ended:
                    return

    def _step(self, evaluation: int) -> None:
        """One evaluation, and the step from it."""
        slot = (evaluation - 2) % self.state.rules.window if evaluation > 1 else None
        start = self.clock.mark()
        f_z = self.map(self.z).to(self.working.dtype)
        middle = self.clock.mark()
        state, points = self.state, (self.working, self.last, f_z)
        self.kernels.advance(state, *points, slot)
        self.kernels.solve(state, slot)
        self.overseer.before_mix(evaluation)
        self.kernels.mix(state, *points, self.last)
        self.overseer.after_mix(self.last)
        self.working, self.last = self.last, self.working
        if self.z.dtype is self.working.dtype:
            self.z = self.working
        else:  # the next point as f will see it
            self.z = self.working.to(self.z.dtype)
            self.working.copy_(self.z)
        self.marks.append((start, middle, self.clock.mark()))

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
            if self.on_step is not None:
                self.on_step(self._shown(row))

    # -- what is shown and returned ---------------------------------------------------------------

    def _shown(self, row: Row) -> Step:
        start, middle, end = self.marks[row.evaluation - 1]
        known = self._elapsed + self.clock.seconds(start, middle)
        self._elapsed = known + self.clock.seconds(middle, end)
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
        calls, state = len(self.marks), self.state
        if calls % EVERY and calls < self.knobs.max_iter:
            self.looks.begin(calls)
        self._take(self.looks.rest())
        status = state.status.cpu().numpy().copy()
        status[status == RUNNING] = Status.CANCELLED
        newest = self.last if calls else self.working
        values = torch.where((state.newest | (state.evals == 0))[:, None], newest, state.best)
        return result_of(
            self.layout.unpack(values.to(self.z.dtype)), status, self._history(), self.card,
            stretch=state.stretch.cpu().numpy(), notes=self.notes,
            counted={"compactions": 0, "surplus_evals": calls - len(self.rows)},
        )  # fmt: skip

    def _history(self) -> History:
        batch, rows, mixing = self.layout.batch, self.rows, self.state.rules.mixing
        seconds = np.array([self._seconds(marks) for marks in self.marks]).reshape(-1, 2)
        surplus = seconds[len(rows) :].sum()
        seconds = seconds[: len(rows)]
        if len(rows):
            seconds[-1, 1] += surplus

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
            map_seconds=torch.from_numpy(seconds[:, 0].copy()),
            method_seconds=torch.from_numpy(seconds[:, 1].copy()),
            wall_seconds=torch.tensor(self.wall[: len(rows)], dtype=torch.float64),
            clock=self.clock.name,
        )

    def _seconds(self, marks: tuple[Any, Any, Any]) -> tuple[float, float]:
        start, middle, end = marks
        return self.clock.seconds(start, middle), self.clock.seconds(middle, end)


def _too_late() -> Any:
    raise RuntimeError(
        "step.z() is not there in a solve on the device: on_step hears of an evaluation when "
        "others are under way. Solve on the CPU to see iterates."
    )
