"""A sweep of 200 trials whose driver, worker or scheduler is killed, and what must then hold.

For tests/test_sweep_kills.py and benchmarks/sweep_kills.py.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

from andersonn_core.store import Store, StoreError
from andersonn_core.sweeps import Sweep
from andersonn_core.sweeps.file import SweepFile
from andersonn_core.sweeps.frames import sweep_frame
from andersonn_core.yaml_text import parse_yaml

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
PATIENCE = 120.0  # seconds: a worker imports torch first, perhaps on a busy machine
TOTAL = 200
LINES = """
base:
  problem: {name: tanh, size: 32, batch_size: 2}
  method: anderson
  rtol: 0.0
  max_iter: 100
axes: {method.window: 1:11, method.mixing: [0.5, 1.0]}
seeds: 0:10
"""


def the_sweep() -> Sweep:
    """Its 200 trials of some milliseconds."""
    return SweepFile.of(parse_yaml(LINES)).sweep()


@contextmanager
def started(
    *command: str | Path, log: Path, environment: Mapping[str, str] = ENVIRONMENT
) -> Iterator[subprocess.Popen]:
    """A process of ours, which ends with the block, as do its own processes."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(part) for part in (sys.executable, "-m", *command)],
            cwd=log.parent, env=environment, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,  # as of a terminal of its own, for Ctrl-C
        )  # fmt: skip
    try:
        yield process
    finally:
        for each in [*family(process.pid), process]:
            each.kill()
        process.wait()


@contextmanager
def driver(store: Path, executor: str, log: Path, workers: int = 2) -> Iterator[subprocess.Popen]:
    """The command line that runs the sweep, in a process of its own."""
    file = store.with_suffix(".yaml")
    file.write_text(LINES)
    options = ["--executor", executor, "--workers", str(workers), "--store", store]
    with started("andersonn_core", "sweep", file, *options, log=log) as process:
        yield process


@contextmanager
def scheduler(
    folder: Path, environment: Mapping[str, str] = ENVIRONMENT
) -> Iterator[tuple[str, subprocess.Popen]]:
    """A Dask scheduler's address, and its process."""
    told = folder / f"scheduler-{time.monotonic_ns()}.json"
    listen = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", told]
    command, log = ["distributed.cli.dask_scheduler", *listen], folder / "scheduler.log"
    with started(*command, log=log, environment=environment) as process:
        until(lambda: told.exists() and "tcp://" in told.read_text(), "a scheduler's address")
        yield json.loads(told.read_text())["address"], process


@contextmanager
def workers(
    address: str,
    folder: Path,
    environment: Mapping[str, str] = ENVIRONMENT,
    count: int = 1,
    name: str = "workers",
) -> Iterator[subprocess.Popen]:
    """The `dask worker` that started so many workers, each with a nanny."""
    options = ["--nworkers", str(count), "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"]
    command = ["distributed.cli.dask_worker", address, *options]
    with started(*command, log=folder / f"{name}.log", environment=environment) as process:
        yield process


@contextmanager
def cluster(
    folder: Path, count: int = 2
) -> Iterator[tuple[str, subprocess.Popen, subprocess.Popen]]:
    """A scheduler's address, its process, and that of `dask worker`."""
    with scheduler(folder) as (address, process), workers(address, folder, count=count) as nannies:
        yield address, process, nannies


def until(holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait until something holds; TimeoutError that says what was waited for."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}.")
        time.sleep(0.02)


def rows_in(store: Path) -> int:
    """How many rows a reader finds; 0 while the driver has not made the store."""
    if not store.exists():
        return 0
    try:
        with Store(store, read_only=True) as opened:
            return len(opened.members(1))
    except StoreError:
        return 0


def wait_for_rows(store: Path, process: subprocess.Popen, at_least: int = 10) -> int:
    """Wait until the sweep is in its middle; how many rows there are."""
    until(lambda: process.poll() is not None or rows_in(store) >= at_least, f"{at_least} rows")
    found = rows_in(store)
    assert process.poll() is None and found < TOTAL, f"{found} rows, code {process.poll()}"
    return found


def family(pid: int) -> list[psutil.Process]:
    """The processes that a process started, and those that these started."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """The workers of a driver, or of `dask worker`: the processes that run trials."""
    words = ("popen_loky", "spawn_main")
    return [each for each in family(process.pid)
            if any(word in part for part in each.cmdline() for word in words)]  # fmt: skip


def kill(pid: int) -> None:
    """SIGKILL: no handler runs, no buffer is written."""
    os.kill(pid, signal.SIGKILL)


def check_whole(store: Path) -> None:
    """Every trial exactly once, none failed, and the file is sound."""
    sweep = the_sweep()
    with Store(store, read_only=True) as opened:
        opened.check()
        frame = sweep_frame(opened, opened.sweep_number(sweep.sweep_id))
    assert frame["number"].tolist() == list(range(sweep.total)) and sweep.total == TOTAL
    keys = [trial.key for _, trial, _ in sweep.plan.trials()]
    assert [*zip(frame["spec_id"], frame["seed"], frame["repeat"], strict=True)] == keys
    assert set(frame["status"]) == {"MAX_ITER"} and set(frame["num_evals"]) == {100}
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (TOTAL,)
