"""kill -9 in the middle of a sweep: after resuming, every trial is there exactly once."""

import pytest

from tests.kill_cases import (
    PATIENCE,
    check_whole,
    cluster,
    driver,
    kill,
    rows_in,
    the_sweep,
    until,
    wait_for_rows,
    workers_of,
)

pytestmark = pytest.mark.slow
ORPHANS_END = 20.0  # seconds after which no worker of a killed driver is left


def resume(store, executor="serial"):
    frame = the_sweep().run(executor, store, progress=False)
    assert len(frame) == 200
    check_whole(store)


def test_a_killed_driver(tmp_path):
    store = tmp_path / "s.sqlite"
    with driver(store, "processes", tmp_path / "log") as process:
        wait_for_rows(store, process)
        workers = workers_of(process)
        assert len(workers) == 2
        kill(process.pid)
        process.wait()
        before = rows_in(store)
        until(lambda: not any(each.is_running() for each in workers), "orphans to end", ORPHANS_END)
    assert rows_in(store) == before >= 10
    resume(store)


def test_a_killed_worker_of_processes(tmp_path):
    store, log = tmp_path / "s.sqlite", tmp_path / "log"
    with driver(store, "processes", log) as process:
        wait_for_rows(store, process)
        kill(workers_of(process)[0].pid)
        assert process.wait(PATIENCE) == 0, log.read_text()
    check_whole(store)


def test_a_killed_worker_of_dask(tmp_path):
    store, log = tmp_path / "s.sqlite", tmp_path / "log"
    with cluster(tmp_path) as (address, _, workers), driver(store, address, log) as process:
        wait_for_rows(store, process)
        kill(workers_of(workers)[0].pid)
        assert process.wait(PATIENCE) == 0, log.read_text()
    check_whole(store)


def test_a_killed_scheduler(tmp_path):
    store, log = tmp_path / "s.sqlite", tmp_path / "log"
    with cluster(tmp_path) as (address, scheduler, _), driver(store, address, log) as process:
        wait_for_rows(store, process)
        kill(scheduler.pid)
        assert process.wait(60) == 2, log.read_text()
        words = log.read_text()
        assert "Traceback" not in words and "Error: the Dask scheduler is gone" in words, words
    assert 10 <= rows_in(store) < 200
    with cluster(tmp_path) as (address, _, _):
        resume(store, address)
