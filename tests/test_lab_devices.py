"""CPU against GPU: one subprocess, killed when late."""

import json
import queue
import sys
import time

import torch

from andersonn_core import PROBLEMS, Anderson, Picard, SolveSpec
from andersonn_core.record.timings import Timing, measure, plan, timings
from lab import devices
from lab.devices import DeviceTimings, TimingNews

PATIENCE = 60.0


def spec(**knobs) -> SolveSpec:
    return SolveSpec(problem=PROBLEMS["tanh"](size=8, **knobs), method=Anderson(), profile=True)


def collect(timer: DeviceTimings, ticks: "queue.Queue", news: list[TimingNews]) -> None:
    end = time.monotonic() + PATIENCE
    while not (news and news[-1].done):
        assert time.monotonic() < end
        try:
            ticks.get(timeout=0.05)()
        except queue.Empty:
            pass


def made(script: str | None = None, seconds: float = PATIENCE):
    ticks, news = queue.Queue(), []
    rest = ["-m", "lab.devices"] if script is None else ["-c", script]
    timer = DeviceTimings(news.append, ticks.put, [sys.executable, *rest], seconds, patience=0.1)
    return timer, ticks, news


def timing(**changes) -> dict:
    row = dict(device="GPU of a test", gpu=True, method="anderson", batch_size=4, map_seconds=1e-3,
               method_seconds=2e-3, evaluations=24, clock="CUDA events", map_low=9e-4,
               map_high=2e-3, method_low=1e-3, method_high=3e-3)  # fmt: skip
    return row | changes


def test_the_plan_grows_the_batch_as_far_as_the_problem_goes():
    specs = plan(spec())
    sizes = [each.problem.batch_size for each in specs if each.problem.device == "cpu"]
    assert sizes == [1, 4, 16, 64, 256, 1024]
    digits = SolveSpec(problem=PROBLEMS["digits_deq"](), method=Picard())
    assert max(each.problem.batch_size for each in plan(digits)) == 256  # of 360 held-out digits
    assert len({each.problem.device for each in specs}) == 1 + torch.cuda.device_count()


def test_a_timing_is_the_median_of_the_rows():
    row = measure(plan(spec())[1])
    assert (row.batch_size, row.method, row.gpu) == (4, "anderson", False)
    assert 0 < row.map_low <= row.map_seconds <= row.map_high
    assert 0 < row.method_low <= row.method_seconds <= row.method_high
    assert row.evaluations > 1
    assert row.device.endswith("1 thread") and row.clock == "thread CPU time"


def test_what_does_not_fit_is_left_out(monkeypatch):
    monkeypatch.setattr("andersonn_core.memory.available_bytes", lambda device: 12_000)
    kept = list(timings(plan(spec())))
    assert [row.batch_size for row in kept] == [1, 4]


def test_timings_come_from_a_child_row_by_row():
    timer, ticks, news = made()
    timer.start([spec().replace(method=Picard()), spec()])
    collect(timer, ticks, news)
    assert news[-1].sentence == ""
    counts = [len(each.rows) for each in news]
    assert counts == sorted(counts) and counts[-1] == 12 * (1 + torch.cuda.device_count())
    assert {row.method for row in news[-1].rows} == {"picard", "anderson"}


def test_a_child_that_hangs_is_killed_and_its_rows_stand():
    row = json.dumps(timing())
    script = f"import time; print('''{row}''', flush=True); time.sleep(1000)"
    timer, ticks, news = made(script, seconds=1.0)
    timer.start([spec()])
    collect(timer, ticks, news)
    assert news[-1] == TimingNews((Timing(**timing()),), True, devices.TOO_LONG)


def test_a_child_that_dies_says_one_sentence():
    timer, ticks, news = made("raise SystemExit(3)")
    timer.start([spec()])
    collect(timer, ticks, news)
    assert news == [TimingNews((), True, devices.BROKEN)]


def test_only_the_newest_request_is_heard():
    timer, ticks, news = made("import time; time.sleep(1000)")
    timer.start([spec()])
    while timer._child is None:
        time.sleep(0.01)
    timer.command = [sys.executable, "-c", f"print('''{json.dumps(timing())}''')"]
    timer.start([spec()])
    collect(timer, ticks, news)
    assert [len(each.rows) for each in news] == [1, 1]
    timer.close()


def test_while_somebody_times_others_are_told_to_wait():
    busy, _, _ = made("import time; time.sleep(1000)")
    busy.start([spec()])
    while busy._child is None:
        time.sleep(0.01)
    other, ticks, news = made()
    other.start([spec()])
    collect(other, ticks, news)
    assert news == [TimingNews((), True, devices.OCCUPIED)]
    busy.close()
