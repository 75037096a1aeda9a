"""What the host sees of a solve on the device: rows of the records, some evaluations late.

A look starts to copy what is new to the host and waits for nothing. It is read when the next but
one evaluations are under way, by when the copy is there, or nearly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Events, Flags, Floats
from andersonn_core.device.buffers import NUMBERS, DeviceState
from andersonn_core.results import RUNNING

EVERY = 2  # evaluations between two looks
LAG = 2 * EVERY  # the most evaluations that the host is behind


@dataclass(frozen=True)
class Row:
    """One evaluation, (B,) each."""

    evaluation: int
    numbers: dict[str, Floats]  # NUMBERS; NaN where a sample had stopped before
    event: Events
    status: Any  # int8 of Status; RUNNING for those that went on
    running: Flags  # who ran before it


@dataclass
class _Look:
    """Copies on their way."""

    first: int  # evaluations before it
    last: int  # the newest evaluation in it
    parts: tuple[Tensor, ...]  # numbers (6, EVERY, B), event (EVERY, B), status (B,), evals (B,)
    there: torch.cuda.Event | None  # None: the copies are there already


class Looks:
    """The rows of one solve, in order; each is given out once."""

    def __init__(self, state: DeviceState) -> None:
        self.state = state
        self._under_way: deque[_Look] = deque()

    def begin(self, evaluation: int) -> None:
        """Start to copy the newest rows: EVERY of them, or fewer at the end."""
        state, first = self.state, (evaluation - 1) // EVERY * EVERY
        rows = slice(first % self._rows, first % self._rows + EVERY)
        numbers, event = state.records.numbers[:, rows], state.records.event[rows]
        sources = numbers, event, state.status, state.evals
        if state.g.device.type != "cuda":
            parts = tuple(part.clone() for part in sources)
            self._under_way.append(_Look(first, evaluation, parts, None))
            return
        parts = tuple(torch.empty_like(part, device="cpu", pin_memory=True) for part in sources)
        for part, source in zip(parts, sources, strict=True):
            part.copy_(source, non_blocking=True)
        there = torch.cuda.Event()
        there.record()
        self._under_way.append(_Look(first, evaluation, parts, there))

    def late(self) -> Iterator[Row]:
        """The rows of the looks but the newest one."""
        while len(self._under_way) > 1:
            yield from self._rows_of(self._under_way.popleft())

    def rest(self) -> Iterator[Row]:
        """The rows of all looks; waits for the device."""
        while self._under_way:
            yield from self._rows_of(self._under_way.popleft())

    @property
    def _rows(self) -> int:
        return self.state.records.event.shape[0]

    def _rows_of(self, look: _Look) -> Iterator[Row]:
        if look.there is not None:
            look.there.synchronize()
        numbers, event, status, evals = (part.numpy() for part in look.parts)
        for place in range(look.last - look.first):
            yield _row(look.first + place + 1, numbers[:, place], event[place], status, evals)


def _row(evaluation: int, numbers: Floats, event: Events, status: Any, evals: Counts) -> Row:
    """A row as it was: what stopped before has none, what stopped later was still running."""
    there = evals >= evaluation
    shown = np.where(there, numbers, np.nan)
    return Row(
        evaluation,
        dict(zip(NUMBERS, shown, strict=True)),
        np.where(there, event, np.int16(0)),
        np.where(evals > evaluation, np.int8(RUNNING), status),
        there,
    )
