"""Numbers of every batch, kept in a bounded memory: neighbors are merged as they become many."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

MOST = 600  # points of a series
MEAN_OF = 16  # batches that a smoothed value looks back on
LAST = ("passes", "seconds", "evals")  # where a batch ended: of merged ones the last counts
MEAN = ("loss", "accuracy", "forward_evals", "adjoint_evals")
WORST = ("forward_residual", "adjoint_residual")
NAMES = (*LAST, *MEAN, *WORST)


class Series:
    """Columns with a row per batch, or per 2, 4, 8, ... batches of a long training.

    One thread adds while others read.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most, self.stride, self.count = most, 1, 0
        self._rows: dict[str, list[float]] = {name: [] for name in NAMES}
        self._open: list[dict[str, float]] = []  # batches of the row to come
        self._lock = threading.Lock()
        self._recent: dict[str, deque[float]] = {
            name: deque(maxlen=MEAN_OF) for name in ("loss", "accuracy")
        }

    def add(self, row: Mapping[str, float]) -> None:
        """Append a batch; its loss and accuracy as the mean of the last batches."""
        kept = {name: float(row[name]) for name in NAMES}
        with self._lock:
            self._add(kept)

    def _add(self, kept: dict[str, float]) -> None:
        self.count += 1
        span = max(1, min(MEAN_OF, self.count // 4))  # few at first, where a mean would lag
        for name, recent in self._recent.items():
            recent.append(kept[name])
            kept[name] = sum(list(recent)[-span:]) / span
        self._open.append(kept)
        if len(self._open) >= self.stride:
            self._append(self._open)
            self._open = []
            if len(self._rows[NAMES[0]]) >= self.most:
                self._halve()

    def _append(self, rows: list[dict[str, float]]) -> None:
        for name, column in self._rows.items():
            column.append(_merged(name, [row[name] for row in rows]))

    def _halve(self) -> None:
        self.stride *= 2
        for name, column in self._rows.items():
            pairs = zip(column[::2], column[1::2], strict=False)
            left = [column[-1]] if len(column) % 2 else []
            self._rows[name] = [_merged(name, pair) for pair in pairs] + left

    def columns(self) -> dict[str, NDArray[np.float64]]:  # (R,) each
        """The series; R is at most `most`."""
        with self._lock:
            return {name: np.array(column) for name, column in self._rows.items()}

    def __len__(self) -> int:
        return len(self._rows[NAMES[0]])

    def last(self, name: str) -> float:
        """The newest value of a column; NaN where there is none."""
        with self._lock:
            if self._open:
                return self._open[-1][name]
            column = self._rows[name]
            return column[-1] if column else math.nan


def _merged(name: str, values: list[float] | tuple[float, ...]) -> float:
    if name in LAST:
        return values[-1]
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return math.nan
    return max(known) if name in WORST else sum(known) / len(known)
