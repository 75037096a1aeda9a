"""The paired test: exact tails, known intervals, and what chance alone gives."""

import math

import numpy as np
import pytest

from andersonn_core import Anderson, solve
from andersonn_core.paired import paired_test
from andersonn_core.problems import Affine


@pytest.mark.parametrize(
    ("wins", "losses", "p_value"),
    [(5, 0, 2 / 32), (10, 0, 2 / 1024), (8, 2, 2 * (1 + 10 + 45) / 1024), (3, 3, 1.0), (0, 0, 1.0)],
)
def test_the_sign_test_is_a_fair_coin_s_tails(wins, losses, p_value):
    challenger = [1.0] * wins + [4.0] * losses + [2.0]  # the last pair ties
    test = paired_test([2.0] * len(challenger), challenger)
    assert (test.wins, test.losses, test.ties) == (wins, losses, 1)
    assert math.isclose(test.p_value, p_value)
    assert math.isclose(test.ratio, 2.0 ** ((losses - wins) / len(challenger)))


def test_the_interval_is_student_s_for_the_logarithms():
    test = paired_test([1.0, 1.0, 1.0], np.exp([0.1, 0.2, 0.3]))
    half = 4.303 * 0.1 / math.sqrt(3)
    assert math.isclose(test.low, math.exp(0.2 - half)) and math.isclose(
        test.high, math.exp(0.2 + half)
    )


def test_a_single_pair_has_a_ratio_and_no_interval():
    test = paired_test([2.0], [1.0])
    assert test.ratio == 0.5 and math.isnan(test.low) and test.p_value == 1.0


def test_chance_alone_is_called_no_chance_in_at_most_one_of_twenty():
    rng = np.random.default_rng(0)
    verdicts = [
        paired_test(rng.lognormal(size=30), rng.lognormal(size=30)).p_value <= 0.05
        for _ in range(400)
    ]
    assert np.mean(verdicts) <= 0.07


@pytest.mark.parametrize(
    ("one", "other"), [([1.0], [1.0, 2.0]), ([], []), ([0.0], [1.0]), ([1.0], [math.inf])]
)
def test_what_is_no_pair_is_refused(one, other):
    with pytest.raises(ValueError, match="reference and challenger"):
        paired_test(one, other)


def test_skipping_steps_at_random_costs_evaluations_and_it_is_no_chance():
    fixed, random = [], []
    for seed in range(20):
        problem = Affine(size=60, spectral_radius=0.99, seed=seed, dtype="float64").build()
        fixed.append(solve(problem.f, problem.z0, Anderson(), rtol=1e-8, max_iter=1000).num_evals)
        method = Anderson(randomize="skip", randomize_seed=seed)
        random.append(solve(problem.f, problem.z0, method, rtol=1e-8, max_iter=1000).num_evals)
    test = paired_test(fixed, random)
    assert test.ratio > 1.03 and test.p_value < 0.05
    assert test.sentence.endswith(f"is no chance (p = {test.p_value:.2g}).")
