"""Notebook 02's exercise: it can be solved, and wrong answers get a hint."""

import pytest
import torch
from test_notebooks import ROOT, load_solutions

CROSSOVER = load_solutions("crossover_02")


def eigenvectors_of(matrix):
    return torch.linalg.eigh(matrix).eigenvectors


def fastest(dz, dg):
    inverse = torch.linalg.inv(torch.linalg.qr(dz.T).R)
    return inverse @ torch.linalg.svd(dg.T @ inverse, full_matrices=False).Vh[0]


WRONG = {
    "the other end": (fastest, "the fastest"),
    "small dg": (lambda dz, dg: eigenvectors_of(dg @ dg.T)[:, 0], "dg is as small"),
    "large dz": (lambda dz, dg: eigenvectors_of(dz @ dz.T)[:, -1], "dz is as large"),
    "one row": (lambda dz, dg: torch.eye(len(dz), dtype=dz.dtype)[0], "one row alone"),
    "all alike": (lambda dz, dg: torch.ones_like(dz[:, 0]), "the ratio is"),
    "the direction": (lambda dz, dg: CROSSOVER.solution(dz, dg) @ dz, "weights are wanted"),
    "a number": (lambda dz, dg: 1.0, "this is float"),
    "nan": (lambda dz, dg: dz[:, 0] * float("nan"), "the ratio is nan"),
}


@pytest.mark.parametrize("scale", [1.0, -1e-9])
def test_the_solution_passes_its_check_whatever_its_length_and_sign(scale):
    verdict = CROSSOVER.check(lambda dz, dg: scale * CROSSOVER.solution(dz, dg))
    assert verdict.passed and "Right" in str(verdict)


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_answer_fails_with_a_hint(mistake):
    answer, hint = WRONG[mistake]
    verdict = CROSSOVER.check(answer)
    assert not verdict.passed and str(verdict).startswith("Not yet.") and hint in str(verdict)


def test_the_check_is_not_fooled_by_an_answer_that_writes_into_its_arguments():
    def vandal(dz, dg):
        dg.zero_()
        return torch.ones_like(dz[:, 0])

    assert not CROSSOVER.check(vandal).passed


def test_no_combination_is_slower_than_the_solution():
    torch.manual_seed(0)
    dz, dg = torch.randn(2, 4, 9, dtype=torch.float64)
    best = CROSSOVER.ratio(CROSSOVER.solution(dz, dg), dz, dg)
    others = [CROSSOVER.ratio(y, dz, dg) for y in torch.randn(2000, 4, dtype=torch.float64)]
    squares = torch.linalg.inv(dg @ dg.T) @ dz @ dz.T  # of a generalized eigenproblem
    assert best < min(others)
    assert best == pytest.approx(torch.linalg.eigvals(squares).real.max().item() ** -0.5)


def test_the_solution_is_not_in_the_notebook():
    text = (ROOT / "notebooks" / "02_crossover.py").read_text()
    exercise = text[text.index("## 12.") :]
    assert "linalg" not in exercise and "source_hidden" in exercise
