"""The predicted speed-up, on invented histories and clocks: no real seconds are measured."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import forward, geometric, head, synthetic, trial

from andersonn_core import SolveResult, crossover, predict
from andersonn_core.prediction import HANDFUL

TRIALS, LEAST = 50, 44  # of 50 intervals of 95 % fewer than 44 hold the truth once in 260 times


def pair(slow=0.9, fast=0.7, mixing=1.0, rows=150, **rest):
    """Straight lines: forward iteration's own step takes a tenth of its map."""
    one = forward(geometric(slow, rows), map_seconds=2.0, method_seconds=0.2, **rest)
    new = synthetic(geometric(fast, rows), map_seconds=2.0, method_seconds=mixing, **rest)
    return one, new


def at(batch, seconds, mixing, factor=0.7, method=synthetic):
    """A solve of a batch whose samples are alike."""
    residual = np.repeat(geometric(factor, 60)[:, None], batch, axis=1)
    result = method(residual, map_seconds=seconds, method_seconds=mixing)
    result.card.spec["problem"]["batch_size"] = batch
    return result


@pytest.mark.parametrize("seen", [0.1, 0.25, 1.0])
def test_straight_lines_are_predicted_exactly(seen):
    one, new = pair()
    found = predict(one, new, 1e-12, seen)
    counts = [math.log(1e-12) / math.log(factor) + 1 for factor in (0.9, 0.7)]
    assert found.forward.evaluations == pytest.approx(counts[0])
    assert found.anderson.evaluations == pytest.approx(counts[1], abs=1)
    ratio = found.forward.evaluations / found.anderson.evaluations
    assert found.speedup == pytest.approx(ratio / (1 + (3.0 - 2.2) / 2.2))
    seconds = found.map_seconds, found.mixing_seconds, found.plain_seconds
    assert seconds == pytest.approx((2.0, 1.0, 0.2))


def test_it_is_what_the_crossover_measures_afterwards():
    one, new = pair(slow=0.95, fast=0.9, rows=400)
    found, measured = predict(one, new, 1e-8), crossover(one, new).speedup(1e-8)
    assert found.speedup == pytest.approx(float(measured), rel=0.01)
    assert found.low < float(measured) < found.high


def test_scaled_residuals_and_scaled_seconds_change_nothing():
    one, new = trial(np.random.default_rng(3))
    found = predict(one, new, 1e-6)
    scaled = predict(*(rescaled(result, residual=1e-3) for result in (one, new)), 1e-9)
    slower = predict(*(rescaled(result, seconds=1e3) for result in (one, new)), 1e-6)
    for name in ("speedup", "low", "high"):
        expected = pytest.approx(getattr(found, name), rel=1e-9)
        assert getattr(scaled, name) == expected == getattr(slower, name)
    assert slower.mixing_seconds == pytest.approx(1e3 * found.mixing_seconds)


def rescaled(result: SolveResult, residual: float = 1.0, seconds: float = 1.0) -> SolveResult:
    history = result.history
    return replace(
        result,
        history=replace(
            history,
            relative_residual=residual * history.relative_residual,
            map_seconds=seconds * history.map_seconds,
            method_seconds=seconds * history.method_seconds,
        ),
    )


def test_the_interval_holds_the_truth_of_invented_problems():
    draw, held = np.random.default_rng(0), 0
    for _ in range(TRIALS):
        one, new = trial(draw)
        found, truth = predict(one, new, 1e-6), float(crossover(one, new).speedup(1e-6))
        held += found.low <= truth <= found.high
        assert found.low < found.speedup < found.high
    assert held >= LEAST


def test_a_noisier_residual_makes_a_wider_interval():
    def width(spread):
        steps = 0.2 * (1 + spread * np.random.default_rng(0).standard_normal(200))
        new = synthetic(np.exp(-np.cumsum(steps)), method_seconds=1.0)
        found = predict(forward(geometric(0.9, 200)), new, 1e-20)
        return math.log(found.high / found.low)

    assert width(0.0) < width(0.2) < width(0.5)


@pytest.mark.parametrize(
    ("mixing", "kind"), [(0.5, "pays"), (5.0, "not resolved"), (30.0, "does not pay")]
)
def test_where_the_intervals_of_both_times_overlap_nothing_is_resolved(mixing, kind):
    found = predict(*pair(mixing=mixing), 1e-12)
    assert found.kind == kind
    assert (found.low > 1, found.high < 1) == (kind == "pays", kind == "does not pay")
    assert f"{found.speedup:.1f}"[:3] in found.sentence


@pytest.mark.parametrize("aggregate", ["median", "p95", "all"])
def test_nothing_beyond_what_is_said_to_be_seen_is_read(aggregate):
    draw = np.random.default_rng(0)
    residual = np.exp(-np.cumsum(draw.uniform(0, 0.4, (90, 5)), axis=0))
    one, new = forward(residual**0.7), synthetic(residual, method_seconds=draw.uniform(0, 1, 90))
    found = predict(one, new, 1e-12, 0.3, aggregate)
    assert found.seen == (27, 27)
    assert found == predict(*(forged(result, 27) for result in (one, new)), 1e-12, 0.3, aggregate)
    assert found == predict(head(one, 27), head(new, 27), 1e-12, 1.0, aggregate)
    assert found != predict(*(forged(result, 26) for result in (one, new)), 1e-12, 0.3, aggregate)


def forged(result: SolveResult, rows: int) -> SolveResult:
    """Another ending: other residuals, seconds and stops from some row on."""
    history = result.history
    columns = {
        name: value.clone() for name, value in vars(history).items() if torch.is_tensor(value)
    }
    for name in ("relative_residual", "map_seconds", "method_seconds"):
        columns[name][rows:] *= 0.01
    columns["running"][rows + 1 :] = False
    return replace(
        result,
        history=replace(history, **columns),
        status=torch.zeros_like(result.status),
        relative_residual=0 * result.relative_residual,
    )


def test_another_batch_size_is_exact_where_seconds_are_affine_in_it():
    sizes = (4, 16, 32)
    ones = [at(size, 3 + 0.5 * size, 0.1 + 0.01 * size, 0.9, forward) for size in sizes]
    news = [at(size, 3 + 0.5 * size, 1 + 0.25 * size) for size in sizes]
    for size in (2, 8, 100):
        found = predict(ones, news, 1e-9, seen=1.0, batch_size=size)
        assert found.map_seconds == pytest.approx(3 + 0.5 * size)
        assert found.mixing_seconds == pytest.approx(1 + 0.25 * size)
        assert found.plain_seconds == pytest.approx(0.1 + 0.01 * size)
    measured = predict(ones[1], news[1], 1e-9, seen=1.0)
    assert predict(ones, news, 1e-9, seen=1.0, batch_size=16) == measured
    assert found.high / found.low > 1.3 * measured.high / measured.low  # other samples


def test_seconds_neither_shrink_with_the_batch_nor_begin_below_zero():
    def found(map_seconds, method_seconds, size):
        laws = list(zip((2, 4), map_seconds, method_seconds, strict=True))
        ones = [at(batch, in_map, 0.1, 0.9, forward) for batch, in_map, _ in laws]
        return predict(ones, [at(*law) for law in laws], 1e-6, batch_size=size)

    falling = found((3.0, 1.0), (1.0, 1.0), 100)
    assert 1.0 < falling.map_seconds < 3.0 and falling.mixing_seconds == pytest.approx(1.0)
    steep = found((1.0, 5.0), (1.0, 2.0), 1)
    assert 0.5 < steep.map_seconds < 1.25 and steep.mixing_seconds == pytest.approx(0.5)


def test_the_evaluations_at_another_batch_size_are_those_of_the_nearest():
    ones = [at(size, 1.0 + size, 0.1, 0.9, forward) for size in (2, 32)]
    news = [at(size, 1.0 + size, 1.0, factor) for size, factor in ((2, 0.5), (32, 0.8))]
    for size, near in ((4, news[0]), (16, news[1])):
        found = predict(ones, news, 1e-20, batch_size=size)
        assert found.anderson == predict(at(near.status.numel(), 1.0, 0.1, 0.9, forward), near,
                                         1e-20).anderson  # fmt: skip


def test_of_repeated_runs_the_medians_count():
    runs = [pair(mixing=mixing, fast=fast) for mixing, fast in ((1.2, 0.8), (1.0, 0.5), (9, 0.7))]
    found = predict([one for one, _ in runs], [new for _, new in runs], 1e-12)
    assert (found.map_seconds, found.mixing_seconds) == (2.0, 1.2)
    assert found.anderson == predict(*runs[2], 1e-12).anderson


def test_a_machine_that_is_slow_during_one_of_the_runs_changes_nothing():
    one, new = trial(np.random.default_rng(1))
    found = predict(one, new, 1e-6)
    slow = predict(one, rescaled(new, seconds=3.0), 1e-6)
    assert (slow.speedup, slow.low, slow.high) == pytest.approx(
        (found.speedup, found.low, found.high)
    )


def test_a_tolerance_tighter_than_that_of_the_solves_can_be_predicted():
    residual = np.stack([geometric(0.8, 100), geometric(0.8, 100), geometric(0.95, 100)], axis=1)
    one, new = forward(np.sqrt(residual), rtol=1e-4), synthetic(residual, rtol=1e-4)
    found = predict(one, new, 1e-6, seen=1.0)  # the median sample stopped, the last one goes on
    assert found.anderson.evaluations == pytest.approx(math.log(1e-6) / math.log(0.8) + 1)
    assert found.seen[1] == math.ceil(math.log(1e-4) / math.log(0.8)) + 1 < new.num_evals
    slowest = predict(one, new, 1e-6, seen=1.0, aggregate="all")
    assert slowest.anderson.evaluations == pytest.approx(math.log(1e-6) / math.log(0.95) + 1)


def test_a_tolerance_that_was_met_while_looking_is_known_exactly():
    one, new = pair(slow=0.9, fast=0.1)
    found = predict(one, new, 2e-5)
    assert (found.anderson.evaluations, found.anderson.low, found.anderson.high) == (6, 6, 6)
    assert found.forward.low < found.forward.evaluations < found.forward.high


def test_a_residual_that_does_not_fall_is_never_expected_to_arrive():
    flat = forward(np.ones(100), map_seconds=1.0)
    falling = synthetic(geometric(0.5, 100), map_seconds=1.0, method_seconds=1.0)
    only = predict(flat, falling, 1e-20)
    assert only.speedup == only.high == math.inf and only.low < 1
    assert only.kind == "not resolved" and "does not fall so far" in only.sentence
    assert predict(flat, falling, 1e-3).kind == "pays"
    never = predict(forward(geometric(0.5, 100)), synthetic(np.ones(100)), 1e-20)
    assert never.speedup == never.low == 0
    neither = predict(flat, synthetic(np.ones(100)), 1e-6)
    assert math.isnan(neither.speedup) and neither.kind == "not resolved"
    assert neither.sentence == ("No residual falls so far: nothing says when 1e-6 will be reached.")


def test_too_few_evaluations_say_so():
    one, new = pair(rows=HANDFUL - 1)
    found = predict(one, new, 1e-12)
    assert found.too_few and math.isnan(found.speedup) and found.kind == "not resolved"
    assert found.sentence == (
        "Too few evaluations for a prediction: 5 of forward iteration, 5 of Anderson; "
        "6 of each are needed."
    )
    assert predict(one, pair()[1], 1e-12).too_few and predict(pair()[0], new, 1e-12).too_few
    assert not predict(pair()[0], new, 0.5).too_few  # the tolerance is met in five
    assert predict(*pair(rows=20), 1e-12, seen=0.01).seen == (HANDFUL, HANDFUL)


def test_residuals_that_begin_infinite_are_left_out():
    residual = np.concatenate([[np.inf, np.nan], geometric(0.7, 60)])
    found = predict(forward(geometric(0.9, 60)), synthetic(residual), 1e-12, seen=0.5)
    expected = math.log(1e-12) / math.log(0.7) + 3
    assert found.anderson.evaluations == pytest.approx(expected)


def test_a_clock_that_is_too_coarse_to_see_anything_is_no_error():
    one, new = (result(geometric(0.9, 60), map_seconds=0.0) for result in (forward, synthetic))
    assert predict(one, new, 1e-6).speedup == pytest.approx(1)
    ticks = np.where(np.arange(60) % 10 == 9, 16.0, 0.0)  # as Windows counts a thread's time
    one, new = forward(geometric(0.9, 60), map_seconds=ticks), synthetic(geometric(0.8, 60), ticks)
    assert predict(one, new, 1e-6, seen=1.0).map_seconds == pytest.approx(1.6, rel=0.1)


def test_its_words_have_at_most_three_digits():
    for seed in range(20):
        sentence = predict(*trial(np.random.default_rng(seed)), 1e-6).sentence
        for number in re.findall(r"[\d.]+", sentence.replace("1e-6", "").replace("95 %", "")):
            assert len(number.strip(".").replace(".", "").strip("0")) <= 3, sentence
    assert predict(*pair(rows=40000, slow=0.9997), 1e-6).sentence == (
        "Anderson will pay: 844x as fast to 1e-6 (95 %: 727x to 987x), "
        "40 evaluations instead of 46000, each 1.4x as dear."
    )


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"rtol": 0.0}, "rtol = 0: a tolerance to predict for lies between 0 and 1"),
        ({"rtol": math.nan}, "rtol = nan"),
        ({"seen": 0.0}, "seen = 0: the part of the rows"),
        ({"seen": 1.5}, "seen = 1.5"),
        ({"aggregate": "mean"}, "aggregate = 'mean': it must be one of median, p95, all"),
        ({"batch_size": 0}, "batch_size = 0: it must be at least 1"),
        ({"batch_size": 7}, "batch_size = 7: all runs have 1; give runs of two sizes"),
    ],
)
def test_what_cannot_be_predicted_is_refused(knobs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        predict(*pair(), **{"rtol": 1e-6} | knobs)


def test_runs_of_several_batch_sizes_need_the_one_that_is_meant():
    ones = [at(size, 1.0, 0.1, 0.9, forward) for size in (2, 4)]
    news = [at(size, 1.0, 1.0) for size in (2, 4)]
    with pytest.raises(ValueError, match="batch_size = None: the runs have 2, 4; say for which"):
        predict(ones, news, 1e-6)
    with pytest.raises(ValueError, match="clock is"):
        predict(ones[0], synthetic(np.ones((9, 2)), clock="wall time"), 1e-6)
