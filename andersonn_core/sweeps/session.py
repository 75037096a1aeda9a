"""One run of a sweep: what is there, what is to be done, and every new row into the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import pandas as pd

from andersonn_core.runcard import code_version
from andersonn_core.solve import SolveSpec
from andersonn_core.store import FAILED, Row, Store
from andersonn_core.store.store import Key
from andersonn_core.sweeps.engines import Engine
from andersonn_core.sweeps.frames import sweep_frame
from andersonn_core.sweeps.plan import Plan
from andersonn_core.sweeps.progress import OnProgress, SweepProgress
from andersonn_core.sweeps.trial import Trial, device_of

FLUSH = 0.25  # seconds of rows that a killed driver may lose, and does again


class Session:
    """The only writer: workers hand their rows to it."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        engine: Engine,
        retry_failed: bool = False,
        sweep_id: str | None = None,
    ) -> None:
        self.plan, self.store, self.engine = plan, store, engine
        self.numbers: dict[Key, list[int]] = {}
        trials = self._planned()
        self.devices = engine.devices(sorted({device for _, device in trials.values()}))
        self.sweep = store.register(sweep_id or plan.sweep_id, plan.record(), plan.total)
        there = self._there(retry_failed)
        self.todo = [trial for key, (trial, _) in trials.items() if key not in there]
        self.found = sum(len(self.numbers[key]) for key in there)

    def run(self, tell: OnProgress, should_stop: Callable[[], bool]) -> None:
        """Run what is to be done; what is done when anything ends it is kept."""
        self._start, self._done, self._failed = time.monotonic(), self.found, 0
        unsaved: list[Row] = []
        saved = self._start
        tell(self._progress())
        # closed at once, whatever happens here, so that no worker goes on for a sweep that is over
        with closing(self.engine.run(self.todo, should_stop)) as rows:
            try:
                for row in rows:
                    unsaved.append(row)
                    self._count(row)
                    if time.monotonic() - saved > FLUSH:
                        self._save(unsaved)
                        saved = time.monotonic()
                        tell(self._progress())
            finally:
                self._save(unsaved)
        tell(self._progress())

    def frame(self) -> pd.DataFrame:
        """The rows that this code made on these devices, one a trial, in the sweep's order."""
        frame = sweep_frame(self.store, self.sweep)
        ours = (frame["code"] == code_version()) & frame["device"].isin(self.devices)
        # two workers of different models may both have done a trial: the later one counts
        return frame[ours].drop_duplicates("number", keep="last").reset_index(drop=True)

    def _planned(self) -> dict[Key, tuple[Trial, str]]:
        """The trials by key, each once, with the device that it names, in the order to run them.

        Those of one problem follow one another: it is built once, and methods that are compared run
        in the same minute. Repeats are far apart, to see what changes with time.
        """
        planned: list[tuple[tuple[int, int, str], Trial, str]] = []
        last, problem = None, ""
        for number, trial, spec in self.plan.trials():
            if spec is not last and isinstance(spec, SolveSpec):
                last, problem = spec, spec.problem.spec_id
            if trial.key not in self.numbers:
                planned.append(((trial.repeat, trial.seed, problem), trial, device_of(spec)))
            self.numbers.setdefault(trial.key, []).append(number)
        planned.sort(key=lambda item: item[0])
        return {trial.key: (trial, device) for _, trial, device in planned}

    def _there(self, retry_failed: bool) -> set[Key]:
        """The keys that need no trial; their rows are made members of the sweep."""
        stored = self.store.found((spec_id for spec_id, _, _ in self.numbers), code_version())
        there, pairs = set[Key](), list[tuple[int, int]]()
        for key in self.numbers.keys() & stored.keys():
            here = [found for found in stored[key] if found.device in self.devices]
            usable = [found for found in here if not (found.failed and retry_failed)]
            if usable:
                there.add(key)
                pairs += [(number, found.row) for number in self.numbers[key] for found in usable]
        self.store.link(self.sweep, pairs)
        return there

    def _count(self, row: Row) -> None:
        self.devices.add(row.device)  # workers that came later may have others
        self._done += len(self.numbers[row.key])
        self._failed += row.status == FAILED

    def _save(self, unsaved: list[Row]) -> None:
        """Write the rows in one transaction, and forget them."""
        if unsaved:
            self.store.add(self.sweep, [(self.numbers[row.key], row) for row in unsaved])
            unsaved.clear()

    def _progress(self) -> SweepProgress:
        seconds = time.monotonic() - self._start
        return SweepProgress(self.plan.total, self._done, self.found, self._failed, seconds)
