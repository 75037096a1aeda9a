"""Trials one after another in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable

from andersonn_core.store.rows import Row
from andersonn_core.sweeps.engines.base import Engine
from andersonn_core.sweeps.trial import Trial, device_names, run_trial


class Serial(Engine):
    """One trial at a time, on one torch thread."""

    def devices(self, wanted: list[str]) -> set[str]:
        """The models of this machine's devices."""
        return set(device_names(wanted))

    def run(
        self, trials: Iterable[Trial], should_stop: Callable[[], bool]
    ) -> Generator[Row, None, None]:
        """The rows of all trials in their order; after a stop no further ones."""
        for trial in trials:
            if should_stop():
                return
            yield run_trial(trial)
