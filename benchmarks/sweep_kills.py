"""Kill sweeps of 200 trials with SIGKILL and resume them: `make bench-sweep-kills`.

Each round kills a driver, a worker of `processes`, a worker of Dask, and a Dask scheduler, each in
the middle of a sweep of its own, at a number of rows that is drawn at random; then the sweep is
resumed. Every trial must be there exactly once, and the file sound.
"""

from __future__ import annotations

import random
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tests.kill_cases import (
    PATIENCE,
    check_whole,
    cluster,
    driver,
    family,
    kill,
    the_sweep,
    until,
    wait_for_rows,
    workers_of,
)

MOST = 100  # rows before a kill: of 200 some are left then, however slowly a reader looks


def resume(store: Path, executor: str = "serial") -> None:
    """Run what is missing, and look at all of it."""
    the_sweep().run(executor, store, progress=False)
    check_whole(store)


def of_driver(folder: Path, at: int) -> int:
    """Kill the driver; its workers must end by themselves."""
    store = folder / "s.sqlite"
    with driver(store, "processes", folder / "log") as process:
        killed_at = wait_for_rows(store, process, at)
        started = family(process.pid)
        kill(process.pid)
        process.wait()
        until(lambda: not any(each.is_running() for each in started), "orphans to end", 20.0)
    resume(store)
    return killed_at


def of_worker(folder: Path, at: int) -> int:
    """Kill a worker of `processes`; the sweep goes on."""
    store = folder / "s.sqlite"
    with driver(store, "processes", folder / "log") as process:
        killed_at = wait_for_rows(store, process, at)
        kill(workers_of(process)[0].pid)
        assert process.wait(PATIENCE) == 0, (folder / "log").read_text()
    check_whole(store)
    return killed_at


def of_dask_worker(folder: Path, at: int) -> int:
    """Kill a worker of Dask; the sweep goes on."""
    store = folder / "s.sqlite"
    with cluster(folder) as (address, _, nannies), driver(store, address, folder / "log") as run:
        killed_at = wait_for_rows(store, run, at)
        kill(workers_of(nannies)[0].pid)
        assert run.wait(PATIENCE) == 0, (folder / "log").read_text()
    check_whole(store)
    return killed_at


def of_scheduler(folder: Path, at: int) -> int:
    """Kill the scheduler; the driver says so and ends; a new scheduler goes on."""
    store, log = folder / "s.sqlite", folder / "log"
    with cluster(folder) as (address, scheduler, _), driver(store, address, log) as process:
        killed_at = wait_for_rows(store, process, at)
        kill(scheduler.pid)
        assert process.wait(60) == 2 and "scheduler is gone" in log.read_text(), log.read_text()
    with cluster(folder) as (address, _, _):
        resume(store, address)
    return killed_at


KILLS: dict[str, Callable[[Path, int], int]] = {
    "driver": of_driver,
    "worker of processes": of_worker,
    "worker of Dask": of_dask_worker,
    "scheduler of Dask": of_scheduler,
}


def main() -> int:
    """Kill, resume, count."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    draw, console, wrong = random.Random(0), Console(), 0
    for what, once in KILLS.items():
        at = []
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as name:
                try:
                    at.append(once(Path(name), draw.randint(10, MOST)))
                except (AssertionError, TimeoutError) as error:
                    wrong += 1
                    console.print(f"{what}: {error}", markup=False)
        console.print(f"{what}: {len(at)} of {arguments.rounds} kills, at {at} of 200 rows: every "
                      "trial exactly once, the file sound.", highlight=False)  # fmt: skip
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
