"""One state of a sweep, made once for all visitors who look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from andersonn_core.store import FAILED
from lab.sweeps.answers import headline, setting
from lab.sweeps.machines import machines, of_machine
from lab.sweeps.trials import Trials, swept

Machine = tuple[str, str]  # device, code version
MOST_FAILED = 20  # failed trials that are listed


class Sheet:
    """The rows of a sweep, and what all visitors' pages show of them.

    `axes`: the swept columns, or the planned levels of each (default: dotted columns with several
    levels). Raises KeyError for an axis that the frame does not have.
    """

    def __init__(
        self, frame: pd.DataFrame, axes: Mapping[str, Sequence[Any]] | Sequence[str] | None = None
    ) -> None:
        self.frame = frame
        self.axes = swept(frame) if axes is None else axes
        self.machines = machines(frame)
        self._trials: dict[Machine, Trials] = {}

    def trials(self, machine: Machine) -> Trials:
        """Those of one machine and code version; all, where there is only one."""
        if machine not in self._trials:
            several = len(self.machines) > 1
            frame = of_machine(self.frame, machine) if several else self.frame
            self._trials[machine] = Trials(frame, self.axes)
        return self._trials[machine]

    def prepare(self, reasons: Mapping[int, str]) -> None:
        """Make what every page begins with, in the thread that has read the rows.

        `reasons`: why the rows `failed` lists failed.
        """
        self.answer = headline(self.frame, [*self.axes])
        failed = self.failed
        self.failures = [
            (f"{setting(row, [*self.axes])}, seed {row['seed']}", reasons.get(row["row"], ""))
            for _, row in failed.head(MOST_FAILED).iterrows()
        ]
        self.num_failed = len(failed)
        trials = self.trials(next(iter(self.machines.values()), ("", "")))
        for column in ("num_evals", "seconds"):
            trials.order(column)
            trials.logs(column)
        if trials.count:
            _ = trials.dataset, trials.lost, trials.reached

    @property
    def failed(self) -> pd.DataFrame:
        """The rows of trials that failed."""
        return self.frame[self.frame["status"] == FAILED]
