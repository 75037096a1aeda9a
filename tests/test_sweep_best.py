"""The search for the best point: what it finds, what it runs, and what it keeps."""

import math

import pytest

from andersonn_core import PROBLEMS, Anderson, Between, KnobError, Picard, SolveSpec, Sweep
from andersonn_core.store import Store
from tests.sweep_cases import QUICK, quietly

POISSON = SolveSpec(problem=PROBLEMS["poisson"](size=8), method=Anderson(), max_iter=150)
GRID = {"method.window": range(1, 13), "method.mixing": [0.2, 0.4, 0.6, 0.8, 1.0]}


def best(sweep, trials, store, **more):
    return sweep.best(trials, executor="serial", store=store, progress=False, **more)


def test_a_third_of_the_grid_finds_a_point_among_its_best(tmp_path):
    sweep = Sweep(POISSON, GRID)
    grid = quietly(sweep, tmp_path / "grid.sqlite")
    found = best(sweep, 20, tmp_path / "best.sqlite")
    assert len(found.frame) == 20
    assert found.value == found.frame["num_evals"].min() <= grid["num_evals"].quantile(0.1)
    assert found.spec.run().num_evals == found.value
    assert found.point == {"method.window": found.spec.method.window,
                           "method.mixing": found.spec.method.mixing}  # fmt: skip


def test_the_same_seed_asks_for_the_same_points_and_runs_none_of_them_again(tmp_path, monkeypatch):
    sweep = Sweep(POISSON, {"method.window": Between(1, 12), "method.mixing": Between(0.3, 1.0)})
    first = best(sweep, 8, tmp_path / "s.sqlite")
    monkeypatch.setattr("andersonn_core.sweeps.engines.serial.run_trial", None)
    again = best(sweep, 8, tmp_path / "s.sqlite")
    assert again.frame.equals(first.frame) and again.point == first.point
    with pytest.raises(TypeError):  # other points
        best(sweep, 8, tmp_path / "s.sqlite", seed=1)


def test_the_grid_answers_where_it_has_run_already(tmp_path, monkeypatch):
    quietly(Sweep(POISSON, GRID), tmp_path / "s.sqlite")
    monkeypatch.setattr("andersonn_core.sweeps.engines.serial.run_trial", None)
    assert len(best(Sweep(POISSON, GRID), 10, tmp_path / "s.sqlite").frame) == 10


def test_seeds_and_repeats_count_as_their_median(tmp_path):
    sweep = Sweep(POISSON, {"method.window": range(2, 9)}, repeats=2, seeds=range(3))
    found = best(sweep, 6, tmp_path / "s.sqlite")
    assert len(found.frame) == 36
    medians = found.frame.groupby("method.window")["num_evals"].median()
    assert found.value == medians.min() == medians[found.point["method.window"]]


def test_what_does_not_converge_is_never_best(tmp_path):
    wild = QUICK.replace(max_iter=8, rtol=1e-12)
    found = best(Sweep(wild, {"method.window": [1, 2]}), 2, tmp_path / "s.sqlite")
    assert found.value == math.inf
    sweep = Sweep(POISSON.replace(max_iter=60), {"method": [Picard(), Anderson()]})
    found = best(sweep, 6, tmp_path / "s.sqlite")
    assert found.spec.method == Anderson() and math.isfinite(found.value)


def test_a_search_is_one_sweep_of_the_store(tmp_path):
    found = best(Sweep(POISSON, GRID), 7, tmp_path / "s.sqlite")
    with Store(tmp_path / "s.sqlite") as store:
        (listed,) = store.sweeps().to_dict("records")
        assert (listed["total"], listed["done"]) == (7, 7)
        assert len(store.members(listed["sweep"])) == len(found.frame)


def test_a_stopped_search_gives_the_best_so_far(tmp_path):
    told = []
    sweep = Sweep(POISSON, GRID)
    found = sweep.best(
        40, executor="serial", store=tmp_path / "s.sqlite", progress=told.append,
        should_stop=lambda: bool(told) and told[-1].done >= 8,
    )  # fmt: skip
    assert len(found.frame) == 8 and found.value == found.frame["num_evals"].min()
    with pytest.raises(KnobError, match="before its first answer"):
        best(sweep, 4, tmp_path / "new.sqlite", should_stop=lambda: True)


@pytest.mark.parametrize(
    ("axes", "knobs", "words"),
    [
        (GRID, {"objective": "luck"}, "num_evals, seconds"),
        ({}, {}, "give at least one axis"),
        (GRID, {"trials": 0}, "trials = 0"),
    ],
)
def test_an_impossible_search_is_refused(axes, knobs, words, tmp_path):
    trials = knobs.pop("trials", 5)
    with pytest.raises(KnobError, match=words):
        best(Sweep(POISSON, axes), trials, tmp_path / "s.sqlite", **knobs)
    assert not (tmp_path / "s.sqlite").exists()
