"""The page's controls: generated, guarded, always valid."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from andersonn_core import (
    IDR,
    PROBLEMS,
    Anderson,
    Broyden,
    Picard,
    ShortRecurrence,
    SolveSpec,
    Status,
    crossover,
)
from andersonn_core.driver import SolveKnobs
from andersonn_core.specs import KnobError
from lab.also import ALSO, NOTHING
from lab.controls import HISTORY_KNOBS, PRESETS, Controls, values_of
from lab.knobs import FIXED, KNOBS, devices, knobs_of
from lab.words import how_drawn

HOSTILE = [
    1e9, -1, math.nan, math.inf, -math.inf, True, "5", "<script>", b"1", [], {}, object(), 10**30,
    0.5,
]  # fmt: skip


def revisions(controls: Controls) -> list[int]:
    seen: list[int] = []
    controls.param.watch(lambda event: seen.append(event.new), "revision")
    return seen


def test_every_knob_of_every_spec_has_a_parameter_and_its_declared_default():
    specs = (*PROBLEMS.values(), Anderson, SolveKnobs)
    declared = {name for spec in specs for name in spec.knobs()}
    assert set(KNOBS) == declared - set(FIXED)
    controls = Controls()
    for problem in PROBLEMS:
        controls.reset(problem)
        for name, knob in knobs_of(problem).items():
            assert getattr(controls, name) == knob.default
            assert controls.param[name].doc == knob.doc
            if knob.kind in ("integer", "number"):
                assert controls.param[name].bounds == (knob.minimum, knob.maximum)
                assert controls.param[name].softbounds == knob.typical
        specs = controls.specs()
        assert specs["picard"].method == Picard()
        untouched = specs["anderson"].replace(**dict.fromkeys(FIXED, False))
        assert untouched == SolveSpec(problem=PROBLEMS[problem](), method=Anderson())


def test_knobs_of_one_name_are_of_one_kind_in_all_problems():
    for spec in PROBLEMS.values():
        for name, knob in spec.knobs().items():
            assert knob.kind == KNOBS[name].kind


@pytest.mark.parametrize("name", ["problem", "also", *KNOBS])
def test_a_hostile_value_is_refused_with_a_sentence_and_changes_nothing(name):
    controls = Controls()
    for problem in PROBLEMS:
        controls.reset(problem)
        before, revision = controls.specs(), controls.revision
        for value in HOSTILE:
            try:
                setattr(controls, name, value)
            except KnobError as error:
                assert controls.notice == str(error) != ""
                assert controls.specs() == before
                assert controls.revision == revision
            else:  # 0.5 or True may be right for this knob
                assert controls.notice == ""
                controls.specs()
                controls.reset(problem)
                revision = controls.revision


def test_an_accepted_value_takes_the_notice_away():
    controls = Controls()
    with pytest.raises(ValueError, match="window"):
        controls.window = 1000
    assert "window" in controls.notice
    controls.window = 7
    assert controls.notice == ""
    assert controls.specs()["anderson"].method.window == 7


def test_sizes_that_are_too_large_together_are_refused_before_anything_is_built():
    controls = Controls()
    controls.reset("tanh")
    controls.size = 4096
    with pytest.raises(KnobError, match=r"batch_size = 4096 and size = 4096"):
        controls.batch_size = 4096
    assert controls.batch_size == 16
    with pytest.raises(KnobError, match="MiB"):
        controls.max_iter = 10_000_000
    controls.size = 8
    controls.batch_size = 4096


def test_apply_judges_sizes_together_and_keeps_the_rest():
    controls = Controls()
    controls.reset("tanh")
    controls.size = 4096
    assert controls.apply({"batch_size": 4096, "size": 8}) == {}
    wrong = {"batch_size": 4096, "size": 4096, "windw": 3, "epsilon": 1.0}
    refused = controls.apply(wrong | {"mixing": 0.5})
    assert set(refused) == {"batch_size", "size", "windw", "epsilon"}
    assert "'window'" in refused["windw"]
    assert "has no epsilon" in refused["epsilon"]
    assert (controls.mixing, controls.size) == (0.5, 8)
    assert all(sentence in controls.notice for sentence in refused.values())


def test_each_change_counts_once():
    controls = Controls()
    seen = revisions(controls)
    controls.window = 3
    controls.problem = "poisson"
    controls.apply({"problem": "tanh", "size": 64, "window": 4})
    controls.preset("forward wins")
    controls.reset("affine")
    controls.window = int(controls.window)
    assert seen == [1, 2, 3, 4, 5]


def test_a_knob_that_two_problems_declare_alike_keeps_its_value():
    controls = Controls()
    controls.reset("poisson")
    controls.apply({"batch_size": 3, "dtype": "float64", "size": 32, "window": 9})
    controls.problem = "bratu"
    assert (controls.batch_size, controls.dtype, controls.window) == (3, "float64", 9)
    assert controls.size == 64  # declared otherwise: from 2 on
    controls.problem = "digits_deq"
    assert controls.batch_size == 64


def test_unavailable_controls_say_why():
    controls = Controls()
    controls.reset("poisson")
    reasons = controls.unavailable()
    assert reasons["seed"] == PROBLEMS["poisson"].unused["seed"]
    assert "no gain" in reasons["gain"]
    assert ("device" in reasons) == (len(devices()) == 1)
    assert "fallback" not in reasons
    controls.window = 0
    assert "history" in controls.unavailable()["fallback"]
    assert set(reasons).isdisjoint(
        set(knobs_of("poisson")) - {"device", "history", "kept", "randomize_seed"}
    )


def test_kept_directions_are_a_knob_only_where_they_are_kept():
    controls = Controls()
    for restart, unavailable in (("full", True), ("never", True), ("deflated", False)):
        controls.restart = restart
        assert ("slow directions" in controls.unavailable().get("kept", "")) == unavailable
    controls.apply({"restart": "auto", "kept": 3})
    assert "kept" not in controls.unavailable()
    assert controls.specs()["anderson"].method.kept == 3
    controls.apply({"window": 0})
    assert "history" in controls.unavailable()["kept"]


def test_every_knob_of_a_history_is_without_effect_where_there_is_none():
    random = {"randomize", "randomize_seed"}  # it may draw the mixing
    assert set(HISTORY_KNOBS) == set(Anderson.knobs()) - {"window", "mixing"} - random


KNOBS_SET = {"window": 7, "mixing": 0.5, "restart": "deflated", "kept": 3}


@pytest.mark.parametrize(
    ("also", "method"),
    [
        ("restart", Anderson(**KNOBS_SET | {"restart": "full"})),
        ("short_recurrence", ShortRecurrence(mixing=0.5)),
        ("idr", IDR(shadow=7, mixing=0.5)),
        ("broyden", Broyden(window=7, mixing=0.5)),
    ],
)
def test_the_third_run_has_anderson_s_knobs_as_far_as_it_has_them(also, method):
    controls = Controls()
    assert controls.apply(KNOBS_SET | {"also": also}) == {}
    specs = controls.specs()
    assert list(specs) == ["picard", "anderson", also]
    assert specs[also] == specs["anderson"].replace(method=method)
    controls.also = NOTHING
    assert list(controls.specs()) == ["picard", "anderson"]


@pytest.mark.parametrize(("window", "shadow"), [(0, 1), (20, 20), (100, 50)])
def test_a_shadow_space_is_as_large_as_the_window_within_its_own_range(window, shadow):
    controls = Controls()
    controls.reset("rotation")
    controls.apply({"also": "idr", "window": window})
    assert controls.specs()["idr"].method.shadow == shadow


def test_a_full_restart_beside_a_full_restart_is_said_and_not_run():
    controls = Controls()
    controls.also = "restart"
    assert list(controls.specs()) == ["picard", "anderson"]
    assert "one curve" in controls.unavailable()["also"]
    controls.restart = "never"
    assert "restart" in controls.specs()
    assert "also" not in controls.unavailable()


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_sequence_of_assignments_leaves_valid_specs_that_the_values_describe(data):
    controls = Controls()
    for _ in range(data.draw(st.integers(1, 5))):
        name = data.draw(st.sampled_from(["problem", "also", *KNOBS]))
        choices = st.sampled_from([*PROBLEMS, *ALSO, "float64", "never", "auto", "qr", "circle"])
        value = data.draw(st.one_of(st.integers(-2, 5000), st.floats(), st.booleans(), choices))
        try:
            setattr(controls, name, value)
        except KnobError:
            pass
        for spec in controls.specs().values():
            twin = Controls()
            twin.reset(controls.problem)
            assert twin.apply(values_of(spec)) == {}
            assert spec in twin.specs().values()


def solved(name: str):
    controls = Controls()
    controls.preset(name)
    assert controls.notice == ""
    assert {knob: getattr(controls, knob) for knob in PRESETS[name]} == PRESETS[name]
    results = {method: spec.run() for method, spec in controls.specs().items()}
    return results["picard"], results["anderson"]


def test_preset_real_digits_anderson_needs_at_most_half_of_the_evaluations():
    forward, anderson = solved("real: digits")
    assert forward.converged.all() and anderson.converged.all()
    assert 2 * anderson.sample_evals.median() <= forward.sample_evals.median()


def test_preset_anderson_wins_in_evaluations_tenfold():
    forward, anderson = solved("Anderson wins")
    assert forward.converged.all() and anderson.converged.all()
    assert 10 * anderson.num_evals < forward.num_evals


def test_preset_forward_wins_in_evaluations_too():
    forward, anderson = solved("forward wins")
    assert forward.converged.all()
    assert forward.sample_evals.median() < anderson.sample_evals.median()
    assert crossover(forward, anderson).kind == "none"


def test_preset_watch_it_diverge_forward_does_and_anderson_converges():
    forward, anderson = solved("watch it diverge")
    assert (forward.status == Status.DIVERGED).all()
    assert anderson.converged.all()
    tail = forward.history.relative_residual[-20:]
    assert bool((tail.max() / tail.min() < 1.1) & (tail.min() > 0.1))
    drawn = how_drawn({"picard": forward, "anderson": anderson}, "affine")
    assert drawn == (
        "One sample. Where a run diverges its line turns flat: f(z) - z and f(z) grow together."
    )


def test_preset_stiff_poisson_only_anderson_converges():
    forward, anderson = solved("stiff: Poisson")
    assert (forward.status == Status.MAX_ITER).all()
    assert anderson.converged.all() and anderson.num_evals < 150


def test_preset_the_stubborn_digit_never_settles_without_the_fallback():
    forward, anderson = solved("the stubborn digit")
    assert forward.converged.all()
    assert int((~anderson.converged).sum()) == 1
    controls = Controls()
    controls.preset("the stubborn digit")
    controls.fallback = True
    assert controls.specs()["anderson"].run().converged.all()


def test_preset_keep_slow_directions_saves_a_quarter_of_a_full_restart_s_evaluations():
    controls = Controls()
    controls.preset("keep slow directions")
    specs = controls.specs()
    assert specs["anderson"].method == Anderson(window=10, restart="deflated")
    kept, full = (specs[name].run() for name in ("anderson", "restart"))
    assert kept.converged.all() and full.converged.all()
    assert kept.num_evals < 0.75 * full.num_evals
