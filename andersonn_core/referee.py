"""When a sample stops: the stop test and the other ends of a solve, per sample, on the host.

These are a dozen operations on B numbers each: NumPy does one in about 1 microsecond, torch in
about 5, which would cost more than a small map.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from andersonn_core.arrays import Counts, Events, Flags, Floats
from andersonn_core.kernels import Progress
from andersonn_core.results import RUNNING, Event, Status

DIVERGENCE = 1e6  # a residual this many times the first means divergence
STALL = 0.99  # the best residual must shrink to this fraction within max(50, 5 window) evaluations

Rows = slice | Counts  # which samples of the batch are evaluated


class Referee:
    """The statuses (B,) of a batch and what they are judged by."""

    def __init__(self, batch: int, rtol: float, atol: float, window: int) -> None:
        self.rtol, self.atol = rtol, atol
        self.status = np.full(batch, RUNNING, np.int8)
        self._limit = np.full(batch, np.inf)  # ||g|| above which a sample diverges
        self._wait = max(50, 5 * window)  # the least patience
        self._patience = np.full(batch, self._wait)
        self._since = np.zeros(batch, np.int64)  # the evaluation from which on it is expected

    def running(self, rows: Rows = slice(None)) -> Flags:
        """Which of the rows have no status yet."""
        flags: Flags = self.status[rows] == RUNNING
        return flags

    def finish(self, status: Status) -> None:
        """Give every running sample this status."""
        self.status[self.running()] = status

    def met(self, residual: Floats, scale: Floats) -> Flags:
        """The stop test ||g|| <= atol + rtol ||f(z)||, False for what is not finite."""
        bound = self.rtol * scale
        if self.atol:
            bound += self.atol
        flags: Flags = residual <= bound
        return flags & (scale < np.inf) if np.count_nonzero(flags) else flags

    def judge(
        self,
        rows: Rows,
        evaluation: int,
        last: bool,
        residual: Floats,
        scale: Floats,
        progress: Progress,
        entries_finite: Callable[[], Flags],
    ) -> Flags:
        """Take residuals ||g|| and scales ||f(z)|| of the rows; end those that stop.

        Returns which of the rows meet the stop test.
        """
        if evaluation == 1:
            self._limit[rows] = np.minimum(DIVERGENCE * residual, np.finfo(np.float64).max)
        met = self.met(residual, scale)
        stalled = self.stalled(rows, evaluation, progress)
        # Without an end in sight, which is the rule, two comparisons are all.
        tame = np.count_nonzero(residual <= self._limit[rows]) == len(residual)  # False for NaN
        if last or stalled is not None or not tame or np.count_nonzero(met):
            self._end(rows, last, residual, scale, met, stalled, entries_finite)
        return met

    def _end(
        self,
        rows: Rows,
        last: bool,
        residual: Floats,
        scale: Floats,
        met: Flags,
        stalled: Flags | None,
        entries_finite: Callable[[], Flags],
    ) -> None:
        """Give statuses to the running rows that stop; a later line outranks those before."""
        verdict = np.full(len(residual), Status.MAX_ITER if last else RUNNING, np.int8)
        if stalled is not None:
            verdict[stalled] = Status.STALLED
        verdict[residual > self._limit[rows]] = Status.DIVERGED
        finite = np.isfinite(residual) & np.isfinite(scale)
        if not (finite | ~self.running(rows)).all():
            # A norm may overflow while all entries are finite: divergence, not a broken map.
            broken = np.where(entries_finite(), Status.DIVERGED, Status.NONFINITE)
            verdict = np.where(finite, verdict, broken).astype(np.int8)
        verdict[met] = Status.CONVERGED
        self.status[rows] = np.where(self.running(rows), verdict, self.status[rows])

    def excuse(self, rows: Rows, event: Events, evaluation: int) -> None:  # (A,)
        """Let the stall test wait while a sample is on plain steps, which bound themselves.

        Each fallback doubles its patience, as it doubles the method's own.
        """
        fell_back, plain = (event & int(Event.FALLBACK)) != 0, (event & int(Event.PLAIN)) != 0
        self._since[rows] = np.where(plain, evaluation, self._since[rows])
        self._patience[rows] = np.where(fell_back, 2, 1) * self._patience[rows]

    def stalled(self, rows: Rows, evaluation: int, progress: Progress) -> Flags | None:
        """Which rows improved too little in their patience; None: nobody."""
        stuck = progress.stuck(STALL, self._wait)
        if stuck is None or self.rtol == 0:
            return None
        patience = self._patience[rows]
        for longer in np.unique(patience[stuck]):
            here = progress.stuck(STALL, int(longer))
            stuck &= (patience != longer) | (here if here is not None else False)
        stalled: Flags = stuck & (evaluation - self._since[rows] >= patience)
        return stalled if stalled.any() else None
