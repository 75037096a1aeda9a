"""What a sweep is: its trials in order, their places, its axes, and what is refused."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import qmc

from andersonn_core import PROBLEMS, Anderson, Between, KnobError, Picard, Sweep, TrainSpec
from andersonn_core.sweeps.axes import axis_from_text
from andersonn_core.sweeps.plan import place_columns
from tests.sweep_cases import AXES, QUICK, quick_sweep

ROOT = Path(__file__).resolve().parents[1]


def test_trials_are_the_product_of_axes_seeds_and_repeats_in_order():
    sweep = quick_sweep(repeats=3)
    wanted = itertools.product(range(1, 6), [0.5, 1.0], [1, 4], range(2), range(3))
    trials = list(sweep.plan.trials())
    assert [number for number, _, _ in trials] == list(range(120)) and sweep.total == 120
    for (window, mixing, batch, seed, repeat), (_, trial, spec) in zip(wanted, trials, strict=True):
        assert (spec.method.window, spec.method.mixing) == (window, mixing)
        assert (spec.problem.batch_size, trial.seed, trial.repeat) == (batch, seed, repeat)
        assert trial.spec().problem.seed == seed
        assert trial.spec().spec_id == trial.spec_id == spec.spec_id


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.data(),
)
def test_a_trials_number_gives_its_place_back(lengths, seeds, repeats, data):
    names = ["method.window", "problem.batch_size", "max_iter"]
    axes = {name: range(1, 1 + length) for name, length in zip(names, lengths, strict=False)}
    plan = Sweep(QUICK, axes, repeats, range(seeds)).plan
    specs = [spec for _, _, spec in plan.trials()]
    chosen = data.draw(st.lists(st.integers(0, plan.total - 1), min_size=1, max_size=5))
    columns = place_columns(plan.record(), chosen)
    values = {"method.window": lambda spec: spec.method.window,
              "problem.batch_size": lambda spec: spec.problem.batch_size,
              "max_iter": lambda spec: spec.max_iter}  # fmt: skip
    for name in axes:
        assert list(columns[name]) == [values[name](specs[number]) for number in chosen]


def test_defaults_are_one_repeat_of_seed_0():
    ((number, trial, spec),) = Sweep(QUICK).plan.trials()
    assert (number, trial.seed, trial.repeat) == (0, 0, 0) and spec == QUICK


def test_intervals_are_scipys_sobol_points_and_every_whole_number_has_an_equal_part():
    axes = {"method.mixing": Between(0.2, 1.0), "method.window": Between(1, 4)}
    plan = Sweep(QUICK, axes, samples=64, sample_seed=7).plan
    points = qmc.Sobol(2, rng=7).random_base2(6)
    specs = [spec for _, _, spec in plan.trials()]
    np.testing.assert_allclose([s.method.mixing for s in specs], 0.2 + 0.8 * points[:, 0])
    windows = np.array([spec.method.window for spec in specs])
    assert [int((windows == window).sum()) for window in range(1, 5)] == [16] * 4


def test_a_sampled_sweep_is_the_same_in_every_process():
    """The order of a set of names is another in each."""
    code = (
        "from andersonn_core import Between; from tests.sweep_cases import quick_sweep;"
        "axes = {'method.mixing': Between(0.2, 1.0), 'rtol': Between(1e-6, 1e-3, log=True),"
        "'method.window': Between(1, 4)}; print(quick_sweep(axes=axes).sweep_id)"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True, text=True, check=True, cwd=ROOT,
        ).stdout
        for seed in range(3)
    }  # fmt: skip
    assert len(told) == 1


def test_a_log_interval_has_as_many_samples_in_each_decade():
    plan = Sweep(QUICK, {"rtol": Between(1e-6, 1e-2, log=True)}, samples=64).plan
    decades = np.floor(np.log10([spec.rtol for _, _, spec in plan.trials()]))
    assert [int((decades == decade).sum()) for decade in range(-6, -2)] == [16] * 4


def test_random_samples_are_those_of_their_seed():
    axes = {"method.mixing": Between(0.2, 1.0)}
    plans = [Sweep(QUICK, axes, samples=5, sampler="random", sample_seed=s).plan for s in (1, 1, 2)]
    first, again, other = [[s.method.mixing for _, _, s in plan.trials()] for plan in plans]
    assert first == again != other and all(0.2 <= value < 1.0 for value in first)
    np.testing.assert_allclose(first, 0.2 + 0.8 * np.random.default_rng(1).random(5))


def test_samples_are_run_at_each_point_of_the_grid():
    axes = {"method.window": [1, 2], "method.mixing": Between(0.2, 1.0), "problem.batch_size": [1]}
    plan = Sweep(QUICK, axes, samples=4).plan
    assert plan.total == 8 and list(place_columns(plan.record(), range(8))) == [
        "method.window", "problem.batch_size", "method.mixing",
    ]  # fmt: skip


def test_a_knob_that_a_swept_method_lacks_makes_no_trial_of_its_own():
    axes = {"method": [Picard(), Anderson()], "method.window": [1, 2, 3]}
    keys = [trial.key for _, trial, _ in Sweep(QUICK, axes).plan.trials()]
    assert len(keys) == 6 and len(set(keys)) == 4


def test_whole_specs_are_given_as_specs_names_or_records():
    axes = [[Picard(), Anderson(window=3)], ["picard", {"name": "anderson", "window": 3}]]
    first, second = [Sweep(QUICK, {"method": each}) for each in axes]
    assert first.sweep_id == second.sweep_id


def test_the_sweep_id_is_of_what_is_run():
    same = QUICK.replace(**{"method.window": 7, "problem.seed": 5})  # both are overwritten
    assert Sweep(same, AXES, seeds=range(2)).sweep_id == quick_sweep().sweep_id
    turned = dict(reversed(AXES.items()))  # numbers mean other trials then
    others = [quick_sweep(axes=turned), quick_sweep(repeats=2), quick_sweep(seeds=[1, 0])]
    assert len({each.sweep_id for each in (quick_sweep(), *others)}) == 4


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("1:16", range(1, 16)),
        ("1:16:5", range(1, 16, 5)),
        ("0.5,0.8, 1", ["0.5", "0.8", "1"]),
        ("0.2~1.0", Between(0.2, 1.0)),
        ("1e-4~1e-1 log", Between(1e-4, 1e-1, log=True)),
        ("-1:2", range(-1, 2)),
    ],
)
def test_an_axis_can_be_typed(text, axis):
    assert axis_from_text(text) == axis


def test_typed_values_are_the_values():
    typed = Sweep(
        QUICK, {"method.window": "1:3", "method.mixing": ["0.5", 1], "compact": "true,false"}
    )
    meant = Sweep(
        QUICK, {"method.window": [1, 2], "method.mixing": [0.5, 1.0], "compact": [True, False]}
    )
    assert typed.sweep_id == meant.sweep_id


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"axes": {"method.wimdow": [1]}}, "did you mean 'method.window'"),
        ({"axes": {"widget": [1]}}, "the axes are"),
        ({"axes": {"method.window": []}}, "'method.window' is empty"),
        ({"axes": {"method.window": range(5, 5)}}, "is empty"),
        ({"axes": {"method.window": 3}}, "give a list, a range"),
        ({"axes": {"method.window": [1, 2, 1]}}, "1 twice"),
        ({"axes": {"method.mixing": [1, 1.0]}}, "1.0 twice"),
        ({"axes": {"method.window": [5, 101]}}, "0 to 100"),
        ({"axes": {"method.window": [2.5]}}, "Give an integer"),
        ({"axes": {"problem.seed": [1]}}, "give seeds="),
        ({"axes": {"capture": [True, False]}}, "it changes no result"),
        ({"axes": {"method": [QUICK.problem]}}, "method"),
        ({"axes": {"method": ["andersen"]}}, "unknown method 'andersen'"),
        ({"axes": {"method": [3]}}, "is not a spec"),
        ({"axes": {"method.window": Between(3, 1)}}, "low end"),
        ({"axes": {"rtol": Between(0.0, 1e-2, log=True)}}, "begins above 0"),
        ({"axes": {"compact": Between(0, 1)}}, "holds no numbers"),
        ({"axes": {"method.mixing": Between(0.5, 9.0)}}, "Anderson.mixing"),
        ({"axes": {"method.mixing": "0.5~a"}}, "is not an interval"),
        ({"repeats": 0}, "repeats = 0"),
        ({"repeats": True}, "repeats = True"),
        ({"seeds": []}, "give different numbers"),
        ({"seeds": [1, 1]}, "give different numbers"),
        ({"seeds": [-1]}, "-1 is not allowed"),
        ({"seeds": 3}, "give different numbers"),
        ({"samples": 0}, "samples = 0"),
        ({"sampler": "grid"}, "sobol, random"),
    ],
)
def test_what_no_trial_could_be_run_with_is_refused_before_any_work(knobs, words):
    with pytest.raises(KnobError) as caught:
        Sweep(QUICK, **knobs)
    assert words in str(caught.value)


def test_knobs_that_do_not_go_together_are_refused_before_any_work(tmp_path):
    axes = {"patience": [2], "validation": [0.0, 0.1]}
    with pytest.raises(KnobError, match="patience needs a validation part"):
        Sweep(TrainSpec(epochs=1), axes)


def test_a_base_that_is_no_spec_is_refused():
    with pytest.raises(KnobError, match="no SolveSpec and no TrainSpec"):
        Sweep(PROBLEMS["tanh"]())


def test_a_large_grid_wants_to_be_told_yes(tmp_path):
    large = Sweep(QUICK, {"max_iter": range(1, 5002)}, seeds=range(2))
    with pytest.raises(KnobError, match="10,002 trials, more than 10,000.*yes=True"):
        large.run("serial", tmp_path / "s.sqlite")
    assert not (tmp_path / "s.sqlite").exists()
