import json
import math

import numpy as np
import pytest
import torch
from synthetic import forward, geometric, synthetic

from andersonn_core import Anderson, Broyden, Picard, SolveSpec, Status, crossover
from andersonn_core.problems import Affine, Newton, Rotation
from andersonn_core.words import interval_text, ratio_text, residual_text, seconds_text

# Forward iteration halves, at one second a step; Anderson divides by 64, at two seconds a step from
# its second evaluation on. Residuals: forward 1, 1/2, 1/4 ... at 1, 2, 3 ...; Anderson 1, 1/2 (the
# common plain step), 1/128, 1/8192 ... at 1, 3, 5, 7 ... seconds.
HALVES = geometric(0.5, 30)
SIXTY_FOURTHS = np.concatenate([[1.0], geometric(1 / 64, 8, first=0.5)])


def slow() -> object:
    return forward(HALVES)


def fast() -> object:
    return synthetic(SIXTY_FOURTHS, method_seconds=1.0)


def test_the_crossover_of_two_geometric_curves_is_where_the_algebra_puts_it():
    # At 5 s forward iteration holds 1/16 and Anderson reaches 1/128: ahead, and ever after.
    point = crossover(slow(), fast())
    assert point.kind == "at"
    assert (point.seconds, point.evaluations, point.residual) == (5.0, 3.0, 1 / 16)


def test_by_evaluations_anderson_may_be_ahead_from_the_first_evaluation_that_differs():
    assert crossover(slow(), fast()).by_evaluations.kind == "from the start"


def test_by_evaluations_the_crossover_is_counted_in_evaluations():
    late = synthetic([1.0, 0.9, 0.8, 0.01, 1e-12])
    point = crossover(slow(), late).by_evaluations
    assert (point.kind, point.evaluations, point.residual) == ("at", 4.0, 0.125)


@pytest.mark.parametrize("seed", range(20))
def test_the_crossover_tolerance_is_the_crossover_point(seed):
    """The loosest tolerance below which S > 1 for every tighter one: the residual of the point."""
    generator = np.random.default_rng(seed)
    common = [1.0, 0.7]
    first = np.minimum.accumulate(np.exp(-generator.gamma(1.0, 0.2, 40).cumsum())) * 0.7
    second = np.minimum.accumulate(np.exp(-generator.gamma(1.0, 0.6, 40).cumsum())) * 0.7
    one = forward([*common, *first], map_seconds=generator.uniform(0.5, 1.5, 42))
    other = synthetic([*common, *second], method_seconds=generator.uniform(0.2, 2.0, 42))
    point = crossover(one, other)
    assert point.kind == "at"
    tolerances = np.geomspace(max(first[-1], second[-1]) * 1.0001, 1.0, 20_001)
    losing = tolerances[point.speedup(tolerances) <= 1]
    step = tolerances[1] / tolerances[0]
    assert losing.min() / step <= point.residual <= losing.min() * step


def test_a_stopped_method_holds_its_level():
    # Anderson stops at 1/8192 after 7 s; forward iteration is below that from 15 s on.
    short = synthetic(SIXTY_FOURTHS[:4], method_seconds=1.0)
    point = crossover(slow(), short)
    assert point.kind == "none"
    assert "leads for a while but stays at 1.2e-4" in point.sentence
    # Forward iteration stops at 1/16 after 5 s: Anderson passes it and never looks back.
    assert crossover(forward(HALVES[:5]), fast()).seconds == 5.0


def test_levels_below_the_tolerance_do_not_count():
    # Both meet 1e-3; that forward iteration lands deeper below it is luck.
    one = forward([1.0, 0.5, 0.4, 0.3, 0.2, 1e-9], rtol=1e-3)
    other = synthetic([1.0, 0.5, 0.1, 9e-4], rtol=1e-3)
    point = crossover(one, other)
    assert point.kind == "from the start"
    assert point.target == 9e-4
    assert point.speedup(9e-4) == 1.5
    assert point.payback == 2.0
    assert math.isnan(point.speedup(1e-6))


def test_the_first_evaluations_that_both_have_in_common_do_not_count():
    # Only they favor forward iteration: Anderson's second evaluation comes later, its third not.
    one = forward([1.0, 0.5, 0.4], map_seconds=[1.0, 1.0, 2.0])
    other = synthetic([1.0, 0.5, 0.1], map_seconds=[1.0, 1.5, 1.0])
    assert crossover(one, other).kind == "from the start"


def test_only_the_challenger_converges_when_forward_iteration_diverges():
    diverged = forward(geometric(2.0, 20), rtol=1e-3, status=Status.DIVERGED)
    point = crossover(diverged, synthetic([1.0, 0.1, 1e-4], rtol=1e-3))
    assert point.kind == "only the challenger converges"
    assert point.sentence == "Only Anderson converges: forward iteration diverges."
    assert math.isnan(point.seconds)
    assert point.payback == math.inf
    assert point.speedup(1e-4) == math.inf
    assert point.compute_saved(1e-4) == 1.0


def test_where_a_stopped_forward_iteration_was_passed_is_still_known():
    stopped = forward(HALVES[:10], rtol=1e-6)
    point = crossover(stopped, synthetic(SIXTY_FOURTHS, method_seconds=1.0, rtol=1e-6))
    assert point.kind == "only the challenger converges"
    assert point.by_seconds.seconds == 5.0
    assert "forward iteration is still at 2e-3 after 10 evaluations" in point.sentence
    assert point.sentence.endswith("Anderson is ahead after 5 s.")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status.STALLED, "stalls at 0.25"),
        (Status.NONFINITE, "runs into NaN or infinity"),
    ],
)
def test_the_sentence_says_how_forward_iteration_failed(status, words):
    failed = forward([1.0, 0.5, 0.25], rtol=1e-3, status=status)
    assert words in crossover(failed, synthetic([1.0, 0.5, 1e-4], rtol=1e-3)).sentence


def test_no_crossover_names_the_cost_of_mixing():
    costly = synthetic(geometric(0.4, 30), method_seconds=2.9, rtol=1e-8)
    point = crossover(forward(HALVES, rtol=1e-8), costly)
    assert point.kind == "none"
    expected = "No crossover: forward iteration wins here, mixing costs 2.9x the map."
    assert point.sentence == expected
    assert math.isnan(point.seconds) and math.isnan(point.residual)


def test_equal_iterates_are_not_resolved():
    point = crossover(slow(), synthetic(HALVES, method_seconds=0.1))
    assert point.kind == "not resolved"
    assert "the same iterates" in point.sentence


def test_a_cancelled_run_is_not_resolved():
    part = synthetic(SIXTY_FOURTHS[:3], status=Status.CANCELLED)
    point = crossover(slow(), part)
    assert point.kind == "not resolved"
    assert point.sentence == "The crossover is not resolved: a run was stopped before its end."


def test_the_penalty_paid_is_the_largest_lead_before_and_the_payback_the_lead_at_the_end():
    one = forward(HALVES, rtol=1e-6)
    other = synthetic(SIXTY_FOURTHS, method_seconds=1.0, rtol=1e-6)
    point = crossover(one, other)
    # Forward iteration reaches 1/4 at 3 s, Anderson at 5 s; 1e-6 at 21 s and at 11 s.
    assert point.penalty_paid == 2.0
    assert point.payback == 21.0 - 11.0
    assert point.speedup(point.target) == 21.0 / 11.0
    assert point.compute_saved(point.target) == pytest.approx(1 - 11 / 21)
    assert "It reaches the tolerance 1.9x sooner." in point.sentence


def test_the_mixing_penalty_is_split_into_its_parts():
    parts = {"gram": 0.5, "solve": 0.25, "mix": 0.5, "bookkeeping": 0.25}
    point = crossover(slow(), synthetic(SIXTY_FOURTHS, method_seconds=1.5, parts=parts))
    assert point.mixing_penalty == pytest.approx(1.5)
    assert point.penalty_parts == pytest.approx(parts)
    assert sum(point.penalty_parts.values()) == pytest.approx(point.mixing_penalty)


def batch_of(curves: list[np.ndarray]) -> np.ndarray:
    """Columns of one length, each holding its last value."""
    evals = max(len(curve) for curve in curves)
    return np.stack([np.pad(curve, (0, evals - len(curve)), mode="edge") for curve in curves], 1)


def test_samples_are_counted_one_by_one():
    stubborn = np.array([1.0, 0.5, 0.4, 0.4, 0.4])
    one = forward(batch_of([HALVES] * 4))
    other = synthetic(batch_of([SIXTY_FOURTHS] * 3 + [stubborn]), method_seconds=1.0)
    point = crossover(one, other)
    assert (point.samples_ahead, point.samples_behind, point.num_samples) == (3, 1, 4)
    np.testing.assert_allclose(point.sample_seconds, [5.0, 5.0, 5.0, np.nan])
    expected = (
        "Anderson is ahead after 5 s in the median, in the end for 3 of 4; never for the last. "
        "Neither reaches the tolerance."
    )
    assert point.sentence == expected


def test_aggregates_look_at_half_at_most_and_at_all_of_the_samples():
    stubborn = np.array([1.0, 0.5, 0.4, 0.4, 0.4])
    one = forward(batch_of([HALVES] * 40))
    other = synthetic(batch_of([SIXTY_FOURTHS] * 39 + [stubborn]), method_seconds=1.0)
    kinds = {name: crossover(one, other, name).kind for name in ("median", "p95", "all")}
    assert kinds == {"median": "at", "p95": "at", "all": "none"}


def test_the_median_is_the_level_that_half_of_the_samples_have_reached():
    # Three of four samples of forward iteration never move: its median does not either.
    still = np.ones(30)
    one = forward(batch_of([HALVES, still, still, still]))
    assert crossover(one, synthetic(batch_of([SIXTY_FOURTHS] * 4))).kind == "from the start"


def test_nonfinite_residuals_do_not_undo_the_best_so_far():
    blown = [*SIXTY_FOURTHS, math.inf, math.nan]
    assert crossover(slow(), synthetic(blown, method_seconds=1.0)).seconds == 5.0


def test_repeated_runs_give_intervals_and_one_run_gives_none():
    ones = [forward(HALVES) for _ in range(3)]
    others = [synthetic(SIXTY_FOURTHS, method_seconds=cost) for cost in (0.9, 1.0, 1.1)]
    point = crossover(ones, others)
    # At 4.8, 5.0 and 5.2 s.
    low, high = point.point.seconds_interval
    assert point.seconds == pytest.approx((4.8 * 5.0 * 5.2) ** (1 / 3))
    assert low < point.seconds < high
    assert point.point.evaluations_interval == pytest.approx((3.0, 3.0))
    assert "(95 %: 4.52 to 5.52 s)" in point.sentence
    assert all(math.isnan(end) for end in crossover(ones[0], others[0]).point.seconds_interval)


def test_repeats_that_contradict_one_another_are_not_resolved():
    ones = [forward(HALVES, rtol=1e-8)] * 2
    curve = geometric(0.4, 30)
    others = [synthetic(curve, method_seconds=cost, rtol=1e-8) for cost in (0.1, 2.9)]
    point = crossover(ones, others)
    assert point.kind == "not resolved"
    assert point.sentence == "The crossover is not resolved: Anderson ends ahead in 1 of 2 runs."


def test_the_interval_covers_the_true_crossover_in_95_percent_of_simulations():
    # Anderson's third evaluation crosses; its time is 3 maps + 2 steps with 10 % noise each.
    generator, trials, repeats, covered = np.random.default_rng(0), 200, 3, 0
    ones = [forward(HALVES)] * repeats
    sigma, truth = 0.1, 5.0
    for _ in range(trials):
        noise = np.exp(generator.normal(0, sigma, repeats))
        others = [
            synthetic(SIXTY_FOURTHS, map_seconds=level, method_seconds=level) for level in noise
        ]
        low, high = crossover(ones, others).by_seconds.seconds_interval
        covered += low <= truth <= high
    assert 0.92 <= covered / trials <= 0.98


def test_a_clock_too_coarse_to_see_the_runs_gives_no_penalty_and_no_error():
    one, other = forward(HALVES, map_seconds=0.0), synthetic(SIXTY_FOURTHS, map_seconds=0.0)
    for point in (crossover(one, other), crossover([one] * 2, [other] * 2)):
        assert math.isnan(point.mixing_penalty)
        assert math.isnan(point.speedup(1e-3))
        assert point.by_evaluations.kind == "from the start"


@pytest.mark.parametrize("aggregate", ["mean", "95", ""])
def test_an_unknown_aggregate_is_refused_with_the_list(aggregate):
    with pytest.raises(ValueError, match="must be one of median, p95, all"):
        crossover(slow(), fast(), aggregate)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (synthetic(np.ones((3, 2))), "batch size is 1 and 2"),
        (synthetic(SIXTY_FOURTHS, clock="CUDA events"), "clock is thread CPU time and CUDA events"),
        (synthetic(SIXTY_FOURTHS, seed=1), "seed is 0 and 1"),
    ],
)
def test_results_that_cannot_be_compared_are_refused(other, words):
    with pytest.raises(ValueError, match=words):
        crossover(slow(), other)


def test_results_of_different_problems_are_refused():
    results = [SolveSpec(problem=Affine(size=size)).run() for size in (4, 5)]
    with pytest.raises(ValueError, match=r"problem\.size is 4 and 5"):
        crossover(*results)


def test_empty_results_and_unpaired_repeats_are_refused():
    with pytest.raises(ValueError, match="no evaluations or no samples"):
        crossover(slow(), synthetic(np.ones((0, 1))))
    with pytest.raises(ValueError, match="no evaluations or no samples"):
        crossover(forward(np.ones((3, 0))), synthetic(np.ones((3, 0))))
    with pytest.raises(ValueError, match="in pairs: got 1 and 2"):
        crossover([slow()], [fast(), fast()])
    with pytest.raises(ValueError, match="in pairs: got 0 and 0"):
        crossover([], [])


def test_repeats_may_differ_in_their_seed_pair_by_pair():
    ones = [forward(HALVES, seed=seed) for seed in (0, 1)]
    others = [synthetic(SIXTY_FOURTHS, method_seconds=1.0, seed=seed) for seed in (0, 1)]
    assert crossover(ones, others).kind == "at"
    with pytest.raises(ValueError, match="seed is 0 and 1"):
        crossover(ones, others[::-1])


@pytest.mark.parametrize("other", [fast(), synthetic(HALVES), synthetic([1.0, 0.5])])
def test_the_record_is_valid_json(other):
    record = json.loads(json.dumps(crossover(slow(), other).to_dict(), allow_nan=False))
    assert {"kind", "seconds", "seconds_interval", "speedup", "sentence"} <= set(record)


def test_on_real_solves_every_kind_of_verdict_is_the_known_one():
    kinds = {}
    for problem in (Rotation(), Newton(batch_size=4), Affine(size=10)):
        one, other = (
            SolveSpec(problem=problem, method=method).run()
            for method in (Picard(), Anderson(window=0 if isinstance(problem, Affine) else 5))
        )
        kinds[problem.name] = crossover(one, other).kind
    expected = ["only the challenger converges", "none", "not resolved"]
    assert list(kinds.values()) == expected


def test_the_challenger_is_called_by_its_name():
    result = synthetic(SIXTY_FOURTHS, method_seconds=1.0, method=Broyden())
    assert crossover(slow(), result).sentence.startswith("Broyden is ahead after 5 s")


def test_a_large_batch_is_compared_sample_by_sample():
    residual = torch.rand(200, 256).cumprod(0).numpy()
    one, other = forward(residual**0.5), synthetic(residual)
    point = crossover(one, other)
    assert point.samples_ahead == point.num_samples == 256


def test_numbers_are_said_with_at_most_three_digits_and_a_unit():
    assert seconds_text(0.0213434) == "21.3 ms"
    assert seconds_text(2.5) == "2.5 s"
    assert seconds_text(12345.6) == "12346 s"
    assert seconds_text(0.9999) == "1 s"
    assert seconds_text(math.nan) == "unknown"
    assert interval_text(0.020, 0.0234) == "20 to 23.4 ms"
    assert interval_text(0.9, 1.2) == "0.9 to 1.2 s"
    assert [ratio_text(value) for value in (0.46, 2.0, 12.3, 123.4)] == [
        "0.46x",
        "2.0x",
        "12x",
        "123x",
    ]
    assert [residual_text(value) for value in (0.62, 0.0031, 1e-5, 0.0)] == [
        "0.62",
        "3.1e-3",
        "1e-5",
        "0",
    ]
