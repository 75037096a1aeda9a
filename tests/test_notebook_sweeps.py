"""Notebook 04's exercises: they can be solved, and wrong answers get a hint."""

import math

import pytest
from test_notebooks import ROOT, load_solutions

from andersonn_core import PROBLEMS, Sweep

SWEEPS = load_solutions("sweeps_04")


def table_of(frame, with_failed=False):
    kept = frame if with_failed else frame[frame["status"] == "CONVERGED"]
    return kept.pivot(index="seed", columns="method.window", values="num_evals")


def summed(ratio):
    return ratio.median(), ratio.quantile(0.1), ratio.quantile(0.9)


def as_they_lie(frame, one, other):
    solved = frame[frame["status"] == "CONVERGED"]
    first, second = (solved[solved["method.window"] == m]["num_evals"] for m in (one, other))
    return summed((second.reset_index(drop=True) / first.reset_index(drop=True)).dropna())


def with_failed(frame, one, other):
    table = table_of(frame, with_failed=True)
    return summed(table[other] / table[one])


def of_medians(frame, one, other):
    table = table_of(frame)
    return tuple(b / a for a, b in zip(summed(table[one]), summed(table[other]), strict=True))


WRONG_COMPARISONS = {
    "the inverse": (lambda f, one, other: SWEEPS.solution_compare(f, other, one), "one / other"),
    "diverged counts": (with_failed, "ends early"),
    "quotients of quantiles": (of_medians, "divide on each seed"),
    "rows as they lie": (as_they_lie, "different digits"),
    "one number": (lambda *_: 1.2, "Three numbers"),
    "nothing": (lambda *_: None, "Three numbers"),
    "the mean": (lambda *_: (1.0, 1.0, 1.0), "are not the ratio's"),
}

WRONG_COUNTS = {
    "the mean": (lambda part, sure: math.ceil(1 / part), "mean number of samples"),
    "one too many": (lambda part, sure: SWEEPS.solution_count(part, sure) + 1, "fewer than"),
    "one too few": (lambda part, sure: SWEEPS.solution_count(part, sure) - 1, "is only"),
    "no whole number": (lambda part, sure: math.log(1 - sure) / math.log(1 - part), "whole number"),
    "grows with part": (lambda part, sure: math.ceil(sure / part), "only"),
}

PLATE = SWEEPS.PLATE
WRONG_SWEEPS = {
    "its frame": (lambda: PLATE.run(), "Return the Sweep itself"),
    "too many trials": (lambda: Sweep(PLATE, {"method.window": range(1, 11)}, repeats=5), "50"),
    "another plate": (
        lambda: Sweep(PLATE.replace(problem=PROBLEMS["poisson"](size=8))), "stay as they are",
    ),
    "a softer goal": (lambda: Sweep(PLATE, {"rtol": [1e-2]}), "stay as they are"),
    "a long window": (lambda: Sweep(PLATE, {"method.window": [5, 30]}), "A window of 30"),
    "an automatic window": (lambda: Sweep(PLATE, {"method.window": ["auto"]}), "of auto"),
    "no axes": (lambda: Sweep(PLATE), "Which knob"),
    "the wrong knobs": (lambda: Sweep(PLATE, {"method.mixing": [0.7, 1.0]}), "Which knob"),
    "the wrong values": (lambda: Sweep(PLATE, {"method.restart": ["never"]}), "The best of 1"),
    "hopeless": (
        lambda: Sweep(PLATE, {"method.window": [1], "method.mixing": [0.01]}), "No trial converged",
    ),
}  # fmt: skip


def test_the_solutions_pass_their_checks():
    for check, solution in (
        (SWEEPS.check_compare, SWEEPS.solution_compare),
        (SWEEPS.check_count, SWEEPS.solution_count),
        (SWEEPS.check_sweep, SWEEPS.solution_sweep),
    ):
        verdict = check(solution)
        assert verdict.passed and "Right" in str(verdict)


@pytest.mark.parametrize("mistake", WRONG_COMPARISONS)
def test_a_wrong_comparison_fails_with_a_hint(mistake):
    answer, hint = WRONG_COMPARISONS[mistake]
    verdict = SWEEPS.check_compare(answer)
    assert not verdict.passed and str(verdict).startswith("Not yet.") and hint in str(verdict)


@pytest.mark.parametrize("mistake", WRONG_COUNTS)
def test_a_wrong_count_fails_with_a_hint(mistake):
    answer, hint = WRONG_COUNTS[mistake]
    verdict = SWEEPS.check_count(answer)
    assert not verdict.passed and str(verdict).startswith("Not yet.") and hint in str(verdict)


@pytest.mark.parametrize("mistake", WRONG_SWEEPS)
def test_a_wrong_sweep_fails_with_a_hint(mistake):
    answer, hint = WRONG_SWEEPS[mistake]
    verdict = SWEEPS.check_sweep(answer)
    assert not verdict.passed and str(verdict).startswith("Not yet.") and hint in str(verdict)


@pytest.mark.parametrize("part", [0.5, 0.24, 0.1, 0.013])
@pytest.mark.parametrize("sure", [0.5, 0.75, 0.9, 0.99])
def test_the_count_is_the_first_whose_chance_suffices(part, sure):
    n, misses = 0, 1.0
    while misses > 1 - sure:
        n, misses = n + 1, misses * (1 - part)
    assert SWEEPS.solution_count(part, sure) == n


def test_the_solutions_are_not_in_the_notebook():
    text = (ROOT / "notebooks" / "04_sweeps.py").read_text()
    exercises = text[text.index("## 10.") :]
    assert "source_hidden" in exercises and "log1p" not in exercises
    assert "method.restart" not in text and '.pivot(index="seed"' not in exercises
