"""Trials on a Dask cluster: a scheduler's address, a client, or a cluster that was started."""

from __future__ import annotations

import time
from typing import Any

from distributed import Client, KilledWorker

from andersonn_core.runcard import code_version
from andersonn_core.specs import KnobError
from andersonn_core.sweeps.engines.base import EngineError, Pool
from andersonn_core.sweeps.trial import (
    Trial,
    check_code,
    device_names,
    run_trial,
)

REACHED = 10.0  # seconds for a scheduler to answer
FIRST_WORKER = 600.0  # seconds for a first worker to come: clusters have queues
COUNTED = 2.0  # seconds for which a number of workers holds
GONE = 5.0  # seconds without the scheduler after which it is gone


class Dask(Pool):
    """The workers of a scheduler; those that die are replaced by Dask, as far as it can.

    Dask runs a trial again whose worker died, and gives up after some deaths (its setting
    distributed.scheduler.allowed-failures).
    """

    died = (KilledWorker,)

    def __init__(self, cluster: Any, owned: Any = None) -> None:
        self._owned, self._mine = owned, not isinstance(cluster, Client)
        self._client = _client(cluster) if self._mine else cluster
        self._names: set[str] = set()
        self._missing_since: float | None = None
        self._workers, self._counted = 1, -COUNTED

    @property
    def room(self) -> int:  # type: ignore[override]
        """Two trials more than the workers that there were a moment ago: asking takes a message."""
        now = time.monotonic()
        if now - self._counted > COUNTED and self._client.status == "running":
            self._workers, self._counted = len(self._client.nthreads()), now
        return self._workers + 2

    def devices(self, wanted: list[str]) -> set[str]:
        """The models of all workers' devices; refuses workers that run other sources."""
        try:
            self._client.wait_for_workers(1, timeout=FIRST_WORKER)
        except TimeoutError:
            raise EngineError(
                f"no worker came to the scheduler within {FIRST_WORKER:.0f} s: start some with "
                "dask worker ADDRESS, or look at the cluster's queue."
            ) from None
        try:
            self._client.run(check_code, code_version())
            found = self._client.run(device_names, wanted)
        except ModuleNotFoundError as error:
            raise EngineError(
                f"a worker can't import what trials need ({error}): install anderson-lab there."
            ) from None
        self._names = {name for names in found.values() for name in names}
        return self._names

    def submit(self, trial: Trial) -> Any:
        """A future of the trial's row."""
        return self._client.submit(run_trial, trial, pure=False, retries=0)

    def look(self) -> None:
        """Raise EngineError once the scheduler has been away for some seconds."""
        if self._client.status == "running":
            self._missing_since = None
            return
        now = time.monotonic()
        self._missing_since = self._missing_since or now
        if self._client.status == "closed" or now - self._missing_since > GONE:
            raise EngineError(
                "the Dask scheduler is gone. What was done is in the store: start a scheduler and "
                "run the same sweep again."
            )

    def abandon(self, futures: list[Any]) -> None:
        """Tell the scheduler that nobody waits for these."""
        if futures and self._client.status == "running":
            self._client.cancel(futures, force=True)

    def close(self) -> None:
        """Leave the cluster; one that was started for the sweep ends."""
        if self._mine:
            self._client.close(timeout=GONE)
        if self._owned is not None:
            self._owned.close()

    def _device(self) -> str:
        return min(self._names)


def _client(cluster: Any) -> Client:
    try:
        return Client(  # type: ignore[no-untyped-call]
            cluster, timeout=REACHED, set_as_default=False
        )
    except (OSError, TimeoutError, ValueError) as error:
        raise KnobError(
            f"executor = {cluster!r}: no scheduler answers there within {REACHED:.0f} s ({error}). "
            "Start one with: dask scheduler; its first lines tell the address."
        ) from None
