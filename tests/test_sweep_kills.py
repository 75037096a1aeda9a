"""kill -9 in the middle of a sweep: after resuming, every trial is there exactly once.

benchmarks/sweep_kills.py does the same many times, and each kill in a sweep of its own.
"""

import os
import signal

import pytest

from andersonn_core.store import Store
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
from tests.sweep_cases import quick_sweep, quietly

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
    with cluster(tmp_path, count=1) as (address, scheduler, nanny):
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
    with cluster(tmp_path, count=1) as (address, _, _):
        resume(store, address)
    assert kept < 200


def test_ctrl_c_ends_a_sweep_with_what_is_done_and_fails_no_trial(tmp_path):
    """A terminal sends it to the workers, too."""
    store, log = tmp_path / "s.sqlite", tmp_path / "log"
    with driver(store, "processes", log, workers=1) as process:
        wait_for_rows(store, process)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130, log.read_text()
    assert "Traceback" not in log.read_text() and "of 200 trials" in log.read_text()
    with Store(store, read_only=True) as opened:
        rows = opened.members(1)
    assert 10 <= len(rows) < 200 and set(rows["status"]) == {"MAX_ITER"}


def test_a_pool_whose_worker_died_while_it_rested_is_replaced(tmp_path):
    assert len(quietly(quick_sweep(), tmp_path / "a.sqlite", "processes", workers=1)) == 40
    for worker in (
        each for each in family(os.getpid()) if "popen_loky" in " ".join(each.cmdline())
    ):
        worker.kill()
    frame = quietly(quick_sweep(), tmp_path / "b.sqlite", "processes", workers=1)
    assert len(frame) == 40 and set(frame["status"]) == {"CONVERGED"}
