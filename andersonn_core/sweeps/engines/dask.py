"""Trials on a Dask cluster: a scheduler's address, a client, or a cluster that was started."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

from distributed import Client, KilledWorker
from distributed.comm.addressing import parse_host_port

from andersonn_core.faults import first_line
from andersonn_core.runcard import code_version
from andersonn_core.specs import KnobError
from andersonn_core.store.rows import Row
from andersonn_core.sweeps.engines.base import Pool
from andersonn_core.sweeps.errors import EngineError
from andersonn_core.sweeps.trial import (
    Trial,
    check_code,
    device_names,
    run_trial,
)

BY_SOCKET = ("tcp://", "tls://")
REACHED = 10.0  # seconds for a scheduler to answer
FIRST_WORKER = 600.0  # seconds for a first worker to come: clusters have queues
COUNTED = 2.0  # seconds for which a number of workers holds
LEAVING = 5.0  # seconds for taking leave of a scheduler

SCHEDULER_GONE = (
    "the Dask scheduler is gone. What was done is in the store: start a scheduler and run the same "
    "sweep again."
)
NO_WORKER = (
    f"the Dask scheduler has had no worker for {FIRST_WORKER:.0f} s: start some with dask worker "
    "ADDRESS, or look at the cluster's queue, and run the same sweep again."
)
NOT_THERE = (
    "the Dask scheduler or a worker can't import what trials need ({}): install the same version "
    "of anderson-lab, with its extra `sweeps`, for both."
)


class Dask(Pool):
    """The workers of a scheduler; those that die are replaced by Dask, as far as it can.

    Dask runs a trial again whose worker died, and gives up after some deaths (its setting
    distributed.scheduler.allowed-failures).
    """

    died = (KilledWorker,)

    def __init__(self, cluster: Any, jobs: int = 0) -> None:
        """On an address, a client or a cluster; with `jobs` on a cluster that ends with this."""
        self._jobs, self._cluster, self._mine = jobs, cluster, not isinstance(cluster, Client)
        self._client = _client(cluster) if self._mine else cluster
        self._names: set[str] = set()
        self._workers, self._counted, self._seen = 1, -COUNTED, time.monotonic()

    @property
    def room(self) -> int:  # type: ignore[override]
        """Two trials more than the workers that there were a moment ago: asking takes a message."""
        now = time.monotonic()
        if now - self._counted > COUNTED:
            with _scheduler_needed():
                self._workers, self._counted = len(self._client.nthreads()), now
            self._seen = now if self._workers else self._seen
        return self._workers + 2

    def devices(self, wanted: list[str]) -> set[str]:
        """The models of all workers' devices; refuses workers that run other sources."""
        if self._jobs:
            self._cluster.scale(jobs=self._jobs)
        with _scheduler_needed():
            try:
                self._client.wait_for_workers(1, timeout=FIRST_WORKER)
            except TimeoutError:
                raise EngineError(NO_WORKER) from None
            try:
                self._client.run(check_code, code_version())
                found = self._client.run(device_names, wanted)
            except Exception as error:
                # a plain one is what a worker answers that can't import what it is to run
                if type(error) is Exception or isinstance(error, ImportError | AttributeError):
                    raise EngineError(NOT_THERE.format(first_line(error))) from None
                raise
        self._names = {name for names in found.values() for name in names}
        return self._names

    def submit(self, trial: Trial) -> Any:
        """A future of the trial's row."""
        self._check_scheduler()
        return self._client.submit(run_trial, trial, pure=False, retries=0)

    def outcome(self, future: Any) -> Row | BaseException:
        """The row, or why there is none; EngineError where no trial is to blame."""
        with _scheduler_needed():
            if future.cancelled():  # as all are when the scheduler is gone
                raise EngineError(SCHEDULER_GONE)
            outcome = super().outcome(future)
        if isinstance(outcome, ImportError | AttributeError | RuntimeError):
            if not isinstance(outcome, RuntimeError) or "deserializ" in str(outcome):
                raise EngineError(NOT_THERE.format(first_line(outcome)))
        return outcome

    def look(self) -> None:
        """Raise EngineError where there is no scheduler, or no worker for a long time."""
        self._check_scheduler()
        if self.room and time.monotonic() - self._seen > FIRST_WORKER:
            raise EngineError(NO_WORKER)

    def _check_scheduler(self) -> None:
        if self._client.status != "running":
            raise EngineError(SCHEDULER_GONE)

    def abandon(self, futures: list[Any]) -> None:
        """Tell the scheduler that nobody waits for these."""
        if futures and self._client.status == "running":
            self._client.cancel(futures, force=True)

    def close(self) -> None:
        """Leave the cluster; one that was started for the sweep ends."""
        if self._mine:
            with _quietly(self._client.status != "running"):
                self._client.close(timeout=LEAVING)
        if self._jobs:
            self._cluster.close()

    def _device(self) -> str:
        return min(self._names)


def _client(cluster: Any) -> Client:
    try:
        if isinstance(cluster, str) and cluster.startswith(BY_SOCKET):
            # a client that found nobody would print a traceback when it is collected
            _, _, place = cluster.partition("://")
            socket.create_connection(parse_host_port(place), timeout=REACHED).close()
        return Client(cluster, timeout=REACHED, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise KnobError(
            f"executor = {cluster!r}: no scheduler answers there within {REACHED:.0f} s ({error}). "
            "Start one with: dask scheduler; its first lines tell the address."
        ) from None


@contextmanager
def _scheduler_needed() -> Iterator[None]:
    """A message that does not arrive means that there is nobody to hear it."""
    try:
        yield
    except (OSError, CancelledError) as error:
        raise EngineError(SCHEDULER_GONE) from error


@contextmanager
def _quietly(quiet: bool) -> Iterator[None]:
    """Without the client's own lines: that the scheduler is gone is told once, by us."""
    log = logging.getLogger("distributed.client")
    before, log.disabled = log.disabled, quiet or log.disabled
    try:
        yield
    finally:
        log.disabled = before
