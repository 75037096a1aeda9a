"""kill -9 in the middle of a sweep: after resuming, every trial is there exactly once.

benchmarks/sweep_kills.py does the same many times, and each kill in a sweep of its own.
"""

import pytest

from tests.kill_cases import (
    check_whole,
    cluster,
    driver,
    family,
    kill,
    rows_in,
    the_sweep,
    until,
    wait_for_rows,
    workers_of,
)

pytestmark = pytest.mark.slow
ORPHANS_END = 20.0  # seconds after which no worker of a killed driver is left


def resume(store, executor):
    assert len(the_sweep().run(executor, store, progress=False)) == 200
    check_whole(store)


def test_a_killed_worker_and_then_a_killed_driver(tmp_path):
    store = tmp_path / "s.sqlite"
    with driver(store, "processes", tmp_path / "log", workers=1) as process:
        before = wait_for_rows(store, process)
        (worker,) = workers_of(process)
        kill(worker.pid)
        wait_for_rows(store, process, before + 10)
        started = family(process.pid)  # the new worker, and what watches over it
        assert worker not in started and len(workers_of(process)) == 1
        kill(process.pid)
        process.wait()
        before = rows_in(store)
        until(lambda: not any(each.is_running() for each in started), "orphans to end", ORPHANS_END)
        assert rows_in(store) == before
    resume(store, "serial")


def test_a_killed_worker_and_then_a_killed_scheduler(tmp_path):
    store, log = tmp_path / "s.sqlite", tmp_path / "log"
    with cluster(tmp_path, workers=1) as (address, scheduler, nanny):
        with driver(store, address, log) as process:
            before = wait_for_rows(store, process)
            (worker,) = workers_of(nanny)
            kill(worker.pid)
            wait_for_rows(store, process, before + 10)
            kill(scheduler.pid)
            assert process.wait(60) == 2, log.read_text()
            words = log.read_text()
            assert "Traceback" not in words and "Error: the Dask scheduler is gone" in words, words
            kept = rows_in(store)
    with cluster(tmp_path, workers=1) as (address, _, _):
        resume(store, address)
    assert kept < 200
