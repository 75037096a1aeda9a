"""A sweep's rows: the same from every engine, each trial once, and nothing lost."""

import subprocess
import sys
import textwrap
import threading

import pandas as pd
import pytest
import torch

from andersonn_core import Anderson, Picard, SolveSpec, Sweep, TrainSpec, crossover
from andersonn_core.problems.tanh import Tanh
from andersonn_core.rerun import rerun
from andersonn_core.results import Status
from andersonn_core.runcard import code_version
from andersonn_core.store import FAILED, Store
from andersonn_core.store.curves import result_from_bytes, result_to_bytes
from andersonn_core.sweeps import trial as trial_module
from andersonn_core.sweeps.crossings import NUMBERS
from andersonn_core.sweeps.engines.processes import Processes
from andersonn_core.sweeps.summary import by_point
from tests.sweep_cases import AXES, QUICK, numbers, quick_sweep, quietly


@pytest.fixture
def runs(monkeypatch) -> list[str]:
    """What `run_trial` is asked for in this process."""
    asked: list[str] = []
    run = trial_module.run_trial

    def counted(one):
        asked.append(one.spec_id)
        return run(one)

    monkeypatch.setattr("andersonn_core.sweeps.engines.serial.run_trial", counted)
    return asked


def test_the_frame_has_a_row_for_each_trial_with_the_numbers_of_its_solve(tmp_path):
    sweep = quick_sweep()
    frame = quietly(sweep, tmp_path / "s.sqlite")
    assert list(frame)[:9] == [*AXES, "seed", "repeat", "spec_id", "status", "num_evals", "seconds"]
    assert len(frame) == sweep.total == 40 and frame["number"].tolist() == list(range(40))
    for row, (_, trial, _) in list(zip(frame.to_dict("records"), sweep.plan.trials(), strict=True))[
        ::7
    ]:
        result = trial.spec().run()
        assert row["num_evals"] == result.num_evals and row["spec_id"] == trial.spec_id
        assert row["relative_residual"] == float(result.relative_residual.max())
        assert row["converged"] == int(result.converged.sum()) and row["status"] == "CONVERGED"


def test_every_engine_gives_the_same_rows(tmp_path, dask_cluster):
    frames = [quietly(quick_sweep(repeats=2), tmp_path / f"{index}.sqlite", engine)
              for index, engine in enumerate(["serial", "processes", dask_cluster])]  # fmt: skip
    for other in frames[1:]:
        pd.testing.assert_frame_equal(numbers(frames[0]), numbers(other))


def test_finished_work_is_never_repeated(tmp_path, runs):
    store = tmp_path / "s.sqlite"
    first = quietly(quick_sweep(), store)
    assert len(runs) == 40
    pd.testing.assert_frame_equal(first, quietly(quick_sweep(), store))
    assert len(runs) == 40
    wider = quick_sweep(axes=AXES | {"method.window": range(1, 8)})
    assert len(quietly(wider, store)) == 56 and len(runs) == 56
    assert len(quietly(quick_sweep(repeats=2), store)) == 80 and len(runs) == 96


def test_other_code_is_other_work(tmp_path, runs, monkeypatch):
    store = tmp_path / "s.sqlite"
    first = quietly(quick_sweep(), store)
    for module in ("trial", "plan", "session"):
        monkeypatch.setattr(f"andersonn_core.sweeps.{module}.code_version", lambda: "0.0+other")
    second = quietly(quick_sweep(), store)
    assert len(runs) == 80 and set(first["code"]) == {code_version()} != set(second["code"])
    with Store(store) as opened:
        assert len(opened.members(1)) == 80


def failing(on: int):
    """A map that cannot be built with one batch size."""
    build = Tanh.build

    def build_or_fail(self):
        if self.batch_size == on:
            raise RuntimeError("the map is on fire\nand more")
        return build(self)

    return build_or_fail


def test_a_failed_trial_is_kept_with_its_reason_and_harms_no_neighbor(tmp_path, runs, monkeypatch):
    store = tmp_path / "s.sqlite"
    with monkeypatch.context() as patched:
        patched.setattr(Tanh, "build", failing(on=4))
        trial_module._problems.clear()
        frame = quietly(quick_sweep(), store)
    bad = frame[frame["problem.batch_size"] == 4]
    assert (bad["status"] == FAILED).all() and len(bad) == 20 and len(frame) == 40
    assert set(bad["reason"]) == {"RuntimeError: the map is on fire"}
    assert (
        bad["num_evals"].isna().all()
        and (frame[frame["reason"] == ""]["status"] == "CONVERGED").all()
    )
    trial_module._problems.clear()
    assert (quietly(quick_sweep(), store)["status"] == FAILED).sum() == 20 and len(runs) == 40
    again = quietly(quick_sweep(), store, retry_failed=True)
    assert (again["status"] == "CONVERGED").all() and len(runs) == 60
    with Store(store) as opened:
        assert len(opened.members(1)) == 40


def test_cancelling_keeps_what_is_done_and_the_same_call_goes_on(tmp_path, runs):
    store = tmp_path / "s.sqlite"
    part = quietly(quick_sweep(), store, should_stop=lambda: len(runs) >= 15)
    assert len(part) == 15
    whole = quietly(quick_sweep(), store)
    assert len(whole) == 40 and len(runs) == 40
    kept = whole[whole["number"].isin(part["number"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, part)


def test_an_interrupt_keeps_what_is_done(tmp_path, monkeypatch):
    run, count = trial_module.run_trial, iter(range(100))

    def interrupted(one):
        if next(count) == 7:
            raise KeyboardInterrupt
        return run(one)

    monkeypatch.setattr("andersonn_core.sweeps.engines.serial.run_trial", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quietly(quick_sweep(), tmp_path / "s.sqlite")
    with Store(tmp_path / "s.sqlite") as opened:
        assert len(opened.members(1)) == 7


def test_processes_can_be_cancelled(tmp_path):
    stop = threading.Event()
    told = []

    def tell(now):
        told.append(now)
        if now.done >= 5:
            stop.set()

    slow = Sweep(QUICK.replace(max_iter=500, rtol=0.0), {"method.window": range(1, 11)}, 100)
    part = slow.run("processes", tmp_path / "s.sqlite", progress=tell, should_stop=stop.is_set)
    assert 5 <= len(part) < slow.total == 1000


def test_progress_counts_what_was_there_and_what_failed(tmp_path):
    told = []
    quick = quick_sweep()
    quietly(Sweep(QUICK, AXES), tmp_path / "s.sqlite")
    quick.run("serial", tmp_path / "s.sqlite", progress=told.append)
    first, last = told[0], told[-1]
    assert (first.total, first.done, first.found) == (40, 20, 20) and last.done == 40
    assert last.rate == pytest.approx(20 / last.seconds) and last.seconds_left == 0
    assert "20 were there" in last.sentence and first.sentence == "trials, 20 were there"
    assert [now.done for now in told] == sorted(now.done for now in told)


def test_a_script_without_a_main_guard_works(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        from andersonn_core import PROBLEMS, SolveSpec, Sweep
        base = SolveSpec(problem=PROBLEMS["tanh"](size=16))
        frame = Sweep(base, {"method.window": [1, 2, 3]}).run("processes", workers=2)
        print(len(frame), set(frame["status"]))
        """)
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("3 {'CONVERGED'}\n", 0), done.stderr
    assert (tmp_path / "sweeps.sqlite").exists()


def test_diverged_trials_have_rows(tmp_path):
    base = SolveSpec(problem=QUICK.problem.replace(gain=6.0), method=Picard(), max_iter=30)
    frame = quietly(Sweep(base, {"problem.batch_size": [1, 3]}), tmp_path / "s.sqlite")
    assert len(frame) == 2 and (frame["status"] != "CONVERGED").all()
    assert set(frame["status"]) <= {status.name for status in Status}


def test_crossovers_are_those_of_the_stored_curves(tmp_path):
    axes = {"method": [Picard(), Anderson()], "method.window": [2, 5], "problem.batch_size": [1, 3]}
    frame = quietly(Sweep(QUICK, axes, repeats=2), tmp_path / "s.sqlite")
    plain, new = frame[frame["method"] == "picard"], frame[frame["method"] == "anderson"]
    assert (plain["crossover"] == "").all() and (new["crossover"] != "").all() and len(new) == 8
    by = ["problem.batch_size", "seed", "repeat"]
    with Store(tmp_path / "s.sqlite") as store:
        for row in new.to_dict("records"):
            (same, *_) = plain[
                (plain[by] == pd.Series({name: row[name] for name in by})).all(axis=1)
            ]["row"]
            results = store.results([same, row["row"]])
            found = crossover(results[same], results[row["row"]])
            assert row["crossover"] == found.kind
            assert row["penalty_paid"] == found.penalty_paid
            assert row["mixing_penalty"] == found.mixing_penalty
    assert set(NUMBERS) <= set(frame)


def test_a_stored_curve_gives_the_crossover_of_the_solves_themselves():
    problem = QUICK.problem.replace(batch_size=5, size=64, gain=1.2)
    specs = [
        QUICK.replace(problem=problem, method=method, profile=True)
        for method in (Picard(), Anderson())
    ]
    solved = [spec.run() for spec in specs]
    kept = [result_from_bytes(result_to_bytes(result), result.card) for result in solved]
    first, second = crossover(*solved), crossover(*kept)
    assert first.to_dict() == second.to_dict()
    for result, again in zip(solved, kept, strict=True):
        assert torch.equal(result.status, again.status)
        assert torch.equal(result.relative_residual, again.relative_residual)
        assert torch.equal(result.sample_evals, again.sample_evals)


def test_every_row_has_a_card_that_runs_again(tmp_path):
    frame = quietly(quick_sweep(), tmp_path / "s.sqlite")
    with Store(tmp_path / "s.sqlite") as store:
        for row in frame["row"][::13]:
            card = store.card(row)
            assert card.spec_id == frame.set_index("row")["spec_id"][row]
            assert rerun(card).agrees


def test_trainings_are_swept_too(tmp_path):
    base = TrainSpec(train_images=64, test_images=32, epochs=1, batch_size=32)
    frame = quietly(Sweep(base, {"learning_rate": [1e-3, 1e-2]}, seeds=[3]), tmp_path / "s.sqlite")
    assert (frame["status"] == "FINISHED").all() and (frame["num_evals"] > 0).all()
    alone = base.replace(learning_rate=1e-2, seed=3).run()
    assert frame["accuracy"][1] == alone.test_accuracy and frame["num_evals"][1] == alone.evals
    with Store(tmp_path / "s.sqlite") as store:
        assert store.epochs(frame["row"][1])["epoch"].tolist() == [1]


def test_a_trial_whose_process_dies_fails_alone(tmp_path, monkeypatch):
    """The trial kills its worker each time; the others, which die with it at first, are done."""
    sweep = quick_sweep(
        axes={"method.mixing": [0.75, 1.0], "method.window": range(1, 4)}, seeds=[0]
    )
    monkeypatch.setattr("andersonn_core.sweeps.engines.processes.run_trial", _run_or_die)
    frame = quietly(sweep, tmp_path / "s.sqlite", "processes")
    bad = frame["method.mixing"] == 0.75
    assert len(frame) == 6 and (frame["status"][bad] == FAILED).all()
    assert (frame["status"][~bad] == "CONVERGED").all()
    assert frame["reason"][bad].str.contains("killed, or out of memory").all()


def _run_or_die(one):
    import os
    import signal

    if '"mixing": 0.75' in one.knobs:
        os.kill(os.getpid(), signal.SIGKILL)
    return trial_module.run_trial(one)


def test_workers_use_one_thread_each(tmp_path):
    frame = quietly(quick_sweep(), tmp_path / "s.sqlite", "processes", workers=2)
    with Store(tmp_path / "s.sqlite") as store:
        assert {store.card(row).threads for row in frame["row"]} == {1}


def test_impossible_workers_are_refused():
    with pytest.raises(ValueError, match="workers = 0"):
        Processes(0)


@pytest.mark.parametrize("executor", ["threads", 3, None, "host:8786"])
def test_an_unknown_executor_is_refused_before_any_work(executor, tmp_path):
    with pytest.raises(ValueError, match="the address of a Dask scheduler"):
        quietly(quick_sweep(), tmp_path / "s.sqlite", executor)


def test_points_are_summed_up_as_pandas_does(tmp_path):
    frame = quietly(quick_sweep(repeats=2), tmp_path / "s.sqlite")
    table = by_point(frame, list(AXES))
    point = table.iloc[0]
    mask = (frame[list(AXES)] == point[list(AXES)]).all(axis=1)
    assert len(table) == 20 and point["trials"] == mask.sum() == 4
    assert point["median"] == frame[mask]["num_evals"].median() == table["median"].min()
    assert table["median"].is_monotonic_increasing
