"""The history while it grows: rows are kept as they come and made into tensors once, at the end."""

from __future__ import annotations

import time
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Flags, Floats
from andersonn_core.methods import MethodState, StepDiagnostics
from andersonn_core.referee import Rows
from andersonn_core.results import History
from andersonn_core.timing import Clock, PartTimer

PARTS = ("gram", "solve", "mix")  # named by the methods; the rest of a step is bookkeeping


class Recorder:
    """One entry per evaluation of f."""

    def __init__(self, batch: int, clock: Clock) -> None:
        self.batch, self.clock = batch, clock
        self.started = time.perf_counter()
        self.relative: list[Floats] = []  # (B,) each
        self.residual: list[Floats] = []  # (B,) each
        self.running: list[Flags] = []  # (B,) each
        self.stepping: list[Flags] = []  # (B,) each: made a step from this evaluation
        self.diagnostics: list[StepDiagnostics] = []
        self.marks: list[tuple[Any, Any, Any]] = []  # before f, after f, after the step
        self.parts: list[Any] = []
        self.wall: list[float] = []

    def add(
        self,
        rows: Rows,
        state: MethodState,
        residual: Floats,
        shown: Flags,
        running: Flags,
        stepping: Flags,
    ) -> None:
        """One evaluation: norms of the rows (A,), whose to show, who ran before, who goes on."""
        relative, diagnostics = state.progress.scores[-1], state.diagnostics
        if not isinstance(rows, slice) or np.count_nonzero(shown) < len(shown):
            residual = self._spread(rows, residual, shown, np.nan)
            relative = self._spread(rows, relative, shown, np.nan)
            running = self._spread(rows, running, running, False)
            stepping = self._spread(rows, stepping, stepping, False)
            diagnostics = self._whole(rows, diagnostics)
        self.residual.append(residual)
        self.relative.append(relative)
        self.running.append(running)
        self.stepping.append(stepping)
        self.diagnostics.append(diagnostics)

    def time(self, marks: tuple[Any, Any, Any], timer: PartTimer) -> None:
        """The clock marks around the map and the step of the newest row."""
        self.marks.append(marks)
        self.parts.append(timer.take())
        self.wall.append(time.perf_counter() - self.started)

    def latest(self, count: int) -> list[tuple[float, float]]:
        """Seconds of the map and of the step after it, in the last evaluations."""
        seconds = self.clock.seconds
        return [(seconds(a, b), seconds(b, c)) for a, b, c in self.marks[-count:]]

    def _spread(self, rows: Rows, values: Any, shown: Flags, hidden: Any) -> Any:  # (A,) -> (B,)
        masked = np.where(shown, values, hidden)
        if isinstance(rows, slice):
            return masked
        full = np.full(self.batch, hidden, dtype=masked.dtype)
        full[rows] = masked
        return full

    def _whole(self, rows: Rows, diagnostics: StepDiagnostics) -> StepDiagnostics:
        if isinstance(rows, slice):
            return diagnostics
        return diagnostics.spread(rows, self.batch)

    def history(self) -> History:
        """Everything so far as tensors (K, B) and (K,)."""
        seconds = [(self._between(a, b), self._between(b, c)) for a, b, c in self.marks]
        pairs = torch.tensor(seconds, dtype=torch.float64).reshape(-1, 2)
        profiled = any(len(laps) for laps in self.parts)
        return History(
            relative_residual=self._stack(self.relative, np.float64),
            residual=self._stack(self.residual, np.float64),
            running=self._stack(self.running, np.bool_),
            **self._columns(),
            map_seconds=pairs[:, 0],
            method_seconds=pairs[:, 1],
            wall_seconds=torch.tensor(self.wall, dtype=torch.float64),
            clock=self.clock.name,
            part_seconds=self._part_seconds(pairs[:, 1]) if profiled else {},
        )

    def _stack(self, rows: list[Any], dtype: Any) -> Tensor:  # -> (K, B)
        return torch.from_numpy(np.array(rows, dtype=dtype).reshape(len(rows), self.batch))

    def _columns(self) -> dict[str, Tensor]:
        """What the steps saw, (K, B) each; NaN, or no event, where a sample made no step."""
        if not self.diagnostics:
            nothing = torch.zeros(0, self.batch, dtype=torch.float64)
            columns = dict.fromkeys(
                ("gain", "weight_norm", "condition", "depth", "mixing"), nothing
            )
            return columns | {"event": nothing.to(torch.int16)}
        stepping = np.array(self.stepping)
        runs = [list(steps) for _, steps in groupby(self.diagnostics, type)]
        parts = [run[0].stack(run).columns() for run in runs]
        stacked = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        hidden = {name: 0 if name == "event" else np.nan for name in stacked}
        return {
            name: torch.from_numpy(np.where(stepping, values, hidden[name]).astype(values.dtype))
            for name, values in stacked.items()
        }

    def _part_seconds(self, method_seconds: Tensor) -> dict[str, Tensor]:  # (K,)
        parts = {name: torch.zeros_like(method_seconds) for name in PARTS}
        for row, (laps, marks) in enumerate(zip(self.parts, self.marks, strict=True)):
            ends = [mark for _, mark in laps[1:]] + [marks[2]]
            for (name, begin), end in zip(laps, ends, strict=False):
                if name in parts:
                    parts[name][row] += self._between(begin, end)
        return parts | {"bookkeeping": method_seconds - sum(parts.values())}

    def _between(self, start: Any, end: Any) -> float:
        return self.clock.seconds(start, end)
