"""How long the parts of each evaluation took, from marks that nobody waits for in a solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from andersonn_core import recorder
from andersonn_core.arrays import Floats
from andersonn_core.timing import Clock

# The parts of an evaluation in their order: f, the three kernels, what the host sends.
PARTS = "map", *recorder.PARTS, "bookkeeping"


@dataclass(frozen=True)
class _Row:
    marks: list[Any]  # around the parts, or around several evaluations
    share: int | None = None  # of so many evaluations, one; None: the marks tell the parts apart


@dataclass
class Times:
    """The rows of one solve, one for each evaluation that was made."""

    clock: Clock
    profile: bool
    rows: list[_Row] = field(default_factory=list)

    def split(self) -> Callable[[str], None]:
        """A row for one evaluation, which begins now; call what it returns as each part ends."""
        marks = [self.clock.mark()]

        def ended(part: str) -> None:
            if self.profile or part in (PARTS[0], PARTS[-1]):
                marks.append(self.clock.mark())
            if part == PARTS[-1]:
                self.rows.append(_Row(marks))

        return ended

    def whole(self, work: Callable[[], None], evaluations: int) -> None:
        """A row for each evaluation of `work`, which cannot be looked into."""
        start = self.clock.mark()
        work()
        self.rows += [_Row([start, self.clock.mark()], evaluations)] * evaluations

    def known(self, evaluation: int) -> tuple[float, float]:
        """Seconds of the map and of what came after it; without a split all of it and 0."""
        row = self.rows[evaluation - 1]
        between = self._between(row)
        if row.share is not None:
            return between[0] / row.share, 0.0
        return between[0], sum(between[1:])

    def columns(self, count: int) -> dict[str, Any]:
        """The history's columns of seconds for so many evaluations; waits for the device.

        The last one takes what was under way when the solve had ended.
        """
        rows = self.rows[:count]
        pairs = np.array([self.known(k + 1) for k in range(len(self.rows))]).reshape(-1, 2)
        surplus = pairs[count:].sum()
        pairs = pairs[:count]
        pairs[[row.share is not None for row in rows], 1] = np.nan
        if count:
            last = 1 if rows[-1].share is None else 0
            pairs[-1, last] += surplus
        seconds = torch.from_numpy(pairs)
        found: dict[str, Any] = {"map_seconds": seconds[:, 0], "method_seconds": seconds[:, 1]}
        if self.profile and count and all(row.share is None for row in rows):
            found["part_seconds"] = self._parts(rows, surplus)
        return found

    def _parts(self, rows: list[_Row], surplus: float) -> dict[str, Tensor]:  # (K,) each
        table: Floats = np.array([self._between(row)[1:] for row in rows])
        table[-1, -1] += surplus
        return dict(zip(PARTS[1:], torch.from_numpy(table.T.copy()), strict=True))

    def _between(self, row: _Row) -> list[float]:
        marks = row.marks
        return [self.clock.seconds(*pair) for pair in zip(marks, marks[1:], strict=False)]
