"""A GPU that fails in the middle: told in words, with what to do, and nothing else ends with it.

No GPU is needed: a map raises what torch raises when one has failed.
"""

import json
import queue
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lab_cases import Document, run_until, specs
from test_lab_crossover import Desk, plan
from test_lab_crossover import page_of as crossover_page
from test_lab_crossover import settle as settle_cells
from test_lab_crossover import small as small  # a fixture
from test_lab_page import page_of
from test_lab_train import few_digits as few_digits
from test_lab_train import server as server
from test_lab_train import trained, wait

from andersonn_core import PROBLEMS, Anderson, Picard, SolveSpec, TrainSpec, solve
from andersonn_core.device.driver import DeviceDriver
from andersonn_core.driver import Driver, SolveKnobs, Task
from andersonn_core.faults import is_device_failure, is_out_of_memory
from andersonn_core.layout import StateLayout
from andersonn_core.problems import Problem
from andersonn_core.runcard import RunCard
from andersonn_core.training import Trainer, TrainingError
from lab import devices
from lab import grid as grids
from lab.pool import Pool
from lab.runner import Runner
from lab.tasks import sentence, spec_task
from lab.training import lane as lanes
from lab.training import probe, words
from lab.training.race import Race

ASSERTED = "CUDA error: device-side assert triggered"
ADVICE = "\nCUDA kernel errors might be asynchronously reported at some other API call."


def failure() -> Exception:
    return torch.AcceleratorError(ASSERTED + ADVICE)


def fails_at(evaluation: int, error: Exception):
    """A map of which one evaluation fails, and all that follow."""
    calls = []

    def f(z):
        calls.append(1)
        if len(calls) >= evaluation:
            raise error
        return z / 2 + 1

    return f


@pytest.mark.parametrize(
    ("error", "failed", "memory"),
    [
        (torch.AcceleratorError("an illegal memory access was encountered"), True, False),
        (RuntimeError(ASSERTED), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling ..."), True, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True, False),
        (
            RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
            True,
            False,
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), False, True),
        (torch.AcceleratorError("CUDA error: out of memory"), False, True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), False, True),
        (RuntimeError("shapes do not match"), False, False),
        (ValueError(ASSERTED), False, False),
    ],
)
def test_a_failed_device_is_told_from_too_little_memory_and_from_all_else(error, failed, memory):
    assert (is_device_failure(error), is_out_of_memory(error)) == (failed, memory)


def test_the_sentence_says_what_to_do_and_holds_nothing_of_torchs_advice():
    told = sentence(failure())
    assert f"({ASSERTED})" in told and "asynchronously" not in told
    assert "Choose cpu as the device" in told and told.endswith(".")


# -- solves ---------------------------------------------------------------------------------------


def drivers(f):
    """Both loops on one map, on the CPU."""
    z0 = torch.zeros(2, 3)
    card = RunCard.capture({}, None, None, z0.device)
    layout = StateLayout.of(z0, 1)
    return [
        kind(Task(f, z0, layout, Anderson(), SolveKnobs(), card)) for kind in (Driver, DeviceDriver)
    ]


@pytest.mark.parametrize("which", [0, 1], ids=["host", "device"])
def test_the_first_error_is_told_also_where_the_device_gives_nothing_back(which, monkeypatch):
    error = failure()
    driver = drivers(fails_at(3, error))[which]

    def nothing():
        raise torch.AcceleratorError("CUDA error: the context is destroyed")

    monkeypatch.setattr(driver, "_result", nothing)
    with pytest.raises(torch.AcceleratorError) as caught:
        driver.run()
    assert caught.value is error and not hasattr(error, "partial_result")


def test_where_the_device_still_answers_there_is_a_partial_result():
    with pytest.raises(torch.AcceleratorError) as caught:
        solve(fails_at(3, failure()), torch.zeros(2, 3))
    assert caught.value.partial_result.num_evals == 2


# -- the Convergence page -------------------------------------------------------------------------


def test_a_run_says_so_its_neighbor_and_later_runs_go_on(lab, document):
    neighbor_document = Document()
    neighbor = Runner(neighbor_document.publish, neighbor_document.add_next_tick_callback)
    theirs = neighbor.submit(specs(seed=7))
    problem = Problem(name="fails", f=fails_at(3, failure()), z0=torch.zeros(2, 3))
    updates = document.run_until_ended(lab.submit_map(problem, {"picard": Picard()}), methods=1)
    assert updates[-1].error == sentence(failure())
    assert updates[-1].result.num_evals == 2
    after = document.run_until_ended(lab.submit(specs()))
    assert all(each.error is None for each in after)
    assert all(each.error is None for each in neighbor_document.run_until_ended(theirs))
    neighbor.close()


def test_the_page_says_so_and_the_next_run_stands_as_ever(monkeypatch):
    view, settle = page_of()
    real = spec_task
    broken = {"now": True}

    def task(spec):
        def run(*_):
            raise failure()

        made = real(spec)
        return type(made)(made.build, run) if broken["now"] else made

    monkeypatch.setattr("lab.runner.spec_task", task)
    live = view.live
    view.controls.window = 3
    settle(beyond=live)
    assert "Choose cpu as the device" in view.answer.verdict.object
    assert view.answer.start_over.visible
    broken["now"], live = False, view.live
    view.controls.window = 4
    settle(beyond=live)
    assert not view.live.errors and "4 past steps" in view.answer.headline.object


@pytest.mark.parametrize("card", ["answer", "picture"])
def test_a_card_that_asks_a_device_that_failed_since_leaves_the_page_standing(monkeypatch, card):
    view, settle = page_of(problem="digits_deq", rtol=1e-2, max_iter=20)
    real = getattr(view, card).show

    def show(live, *rest):
        if not live.errors:
            raise failure()
        real(live, *rest)

    monkeypatch.setattr(getattr(view, card), "show", show)
    live = view.live
    view.controls.window = 3
    settle(beyond=live)
    run_until(lambda: view.live.errors, queue.Queue())
    assert "The GPU failed" in view.answer.verdict.object


def test_a_card_that_fails_otherwise_is_not_called_a_failed_gpu(monkeypatch):
    view, _ = page_of()
    with pytest.raises(RuntimeError, match="shapes"), view._unless_the_device_failed():
        raise RuntimeError("shapes do not match")
    assert not view.live.errors


# -- the Crossover page ---------------------------------------------------------------------------


def failing(spec):
    """Cells of a window of one fail, as they would on a GPU that stopped answering."""
    task = spec_task(spec)

    def run(*_):
        raise failure()

    bad = isinstance(spec.method, Anderson) and spec.method.window == 1
    return type(task)(task.build, run, task.key) if bad else task


def test_cells_that_fail_say_so_and_the_others_are_computed(small, monkeypatch):
    monkeypatch.setattr(grids, "spec_task", failing)
    cells = Desk().run(plan())
    for setting, cell in cells.items():
        assert cell.error == (sentence(failure()) if setting.window == 1 else "")


def test_the_crossover_page_says_why_its_present_setting_could_not_be_solved(small, monkeypatch):
    monkeypatch.setattr(grids, "spec_task", failing)
    view, calls = crossover_page(window=1)
    settle_cells(view, calls)
    assert "Choose cpu as the device" in view.answer.verdict.object
    assert "could not be computed" in view.maps.progress.object
    view.controls.window = 2
    run_until(lambda: view.maps.here is not None and view.maps.here.setting.window == 2, calls)
    assert "error" not in view.answer.verdict.object
    view.close()


def test_repeats_that_fail_end_the_plan_in_words_and_keep_its_cells(small, monkeypatch):
    def repeat(*_):
        raise failure()

    monkeypatch.setattr(grids.Grid, "_repeat", repeat)
    desk = Desk(Pool())
    cells = desk.run(plan())
    assert cells and desk.news[-1].error == sentence(failure())


# -- trainings ------------------------------------------------------------------------------------


def test_a_training_says_so_keeps_its_checkpoint_and_goes_on_from_there(tmp_path, monkeypatch):
    images = lanes.images()
    spec = TrainSpec(batch_size=16, epochs=1, max_iter=10)
    trainer = Trainer(spec, images=images, folder=tmp_path)
    trainer.step()

    def fails(*_rows):
        raise failure()

    monkeypatch.setattr(trainer, "_learn", fails)
    monkeypatch.setattr(trainer, "result", fails)  # the weights are lost with the device
    with pytest.raises(TrainingError) as caught:
        trainer.step()
    told = str(caught.value)
    assert "The device cpu failed at step 2" in told and ASSERTED in told
    assert "resume=True" in told and "The checkpoint of step 0" in told
    assert caught.value.partial_result is None and isinstance(caught.value.__cause__, RuntimeError)
    again = Trainer(spec, images=images, folder=tmp_path, resume=True)
    assert again.run().reason == "finished"


def test_a_training_whose_method_fails_says_so_and_the_other_goes_on(server, monkeypatch):
    monkeypatch.setattr(Race, "_probe", lambda *_args, **_options: None)
    real = Trainer._learn

    def learn(self, rows):
        if self.spec.method.name == "picard":
            raise failure()
        return real(self, rows)

    monkeypatch.setattr(Trainer, "_learn", learn)
    race = trained(server)
    assert race.state == "finished" and race.lanes["anderson"].progress == 1
    (told,) = words.failures(race)
    assert told.startswith("Forward iteration: The device cpu failed") and ASSERTED in told


def test_a_look_at_the_networks_that_fails_ends_the_training_in_words(server, monkeypatch):
    def point(*_args):
        raise failure()

    monkeypatch.setattr(probe, "point", point)
    race = trained(server)
    wait(lambda: not race.active)
    assert race.state == "failed"
    (told,) = words.failures(race)
    assert "The GPU failed" in told and ASSERTED in told and "open this link again" in told


# -- the child that times devices -----------------------------------------------------------------

CHILD = """
import sys, torch
from lab import devices
real, calls = devices.timings, []
def timings(specs):
    calls.append(1)
    if len(calls) == {fails}:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")
    return real(specs)
devices.timings = timings
devices.plan = lambda spec: [spec.replace(max_iter=5, rtol=0.0)] * 3
sys.exit(devices.serve_request())
"""


def test_a_child_whose_device_fails_tells_so_by_its_exit_code_and_keeps_what_it_measured():
    request = [SolveSpec(problem=PROBLEMS["tanh"](size=8), method=Anderson()).to_dict()]
    command = [sys.executable, "-c", CHILD.format(fails=2)]
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True,
        cwd=Path(devices.__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == devices.DEVICE_FAILED, done.stderr
    assert len(done.stdout.splitlines()) == 1  # the third solve is on the device that failed


def test_other_devices_are_still_timed(monkeypatch, capsys):
    spec = SolveSpec(problem=PROBLEMS["tanh"](size=8), method=Anderson(), max_iter=5)
    elsewhere = spec.replace(**{"problem.device": "cuda:0"})
    real = devices.timings

    def timings(specs):
        if specs[0].problem.device != "cpu":
            raise failure()
        return real(specs)

    monkeypatch.setattr(devices, "timings", timings)
    monkeypatch.setattr(devices, "plan", lambda one: [elsewhere, spec, elsewhere, spec])
    monkeypatch.setattr(devices.os, "nice", lambda _: 0)
    monkeypatch.setattr(devices.json, "load", lambda _: [spec.to_dict()])
    assert devices.serve_request() == devices.DEVICE_FAILED
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_owner_of_the_child_says_what_happened():
    ticks, news = queue.Queue(), []
    command = [sys.executable, "-c", f"raise SystemExit({devices.DEVICE_FAILED})"]
    timer = devices.DeviceTimings(news.append, ticks.put, command)
    timer.start([SolveSpec(problem=PROBLEMS["tanh"](size=8), method=Anderson())])
    run_until(lambda: news and news[-1].done, ticks)
    assert news == [devices.TimingNews((), True, devices.FAILED)]
