"""Notebook 03's exercises: they can be solved, and wrong answers get a hint."""

import pytest
import torch
from test_notebooks import ROOT, load_solutions
from torch.autograd.functional import jvp
from torch.func import vjp

from andersonn_core import Picard, solve

EQUILIBRIUM = load_solutions("equilibrium_03")


def pushed(f, z, x, w):
    return jvp(lambda x: f(z, x), x, w)[1]


def along(f, z, x, t):
    return jvp(lambda z: f(z, x), z, t)[1]


def at_rest(step, start, method=None):
    return solve(step, start, *([method] if method else []), rtol=1e-10, max_iter=300).z


def backward(f, z, x, w):
    (_, pull), b = vjp(lambda z: f(z, x), z), pushed(f, z, x, w)
    return at_rest(lambda u: pull(u)[0] + b, b)


def by_layers(f, z, x, w):
    t = b = pushed(f, z, x, w)
    for _ in range(500):
        t = along(f, z, x, t) + b
    return t


WRONG_TANGENTS = {
    "the push alone": (pushed, "alone"),
    "one step": (lambda *a: along(*a[:3], pushed(*a)) + pushed(*a), "one step"),
    "transposed": (backward, "transposed"),
    "the sign": (
        lambda *a: at_rest(lambda t: pushed(*a) - along(*a[:3], t), torch.zeros_like(a[1])),
        "the sign",
    ),
    "forward iteration": (by_layers, "runs away"),
    "zero": (lambda f, z, x, w: torch.zeros_like(z), "of its length"),
    "nan": (lambda f, z, x, w: z * float("nan"), "of its length"),
    "the input": (lambda f, z, x, w: w, "a state of shape"),
    "nothing": (lambda f, z, x, w: None, "NoneType"),
}


def product(f, z, e, create_graph=True):
    z = z.detach().requires_grad_()
    return torch.autograd.grad(f(z), z, e, create_graph=create_graph)[0]


WRONG_PENALTIES = {
    "no graph": (lambda f, z, e: product(f, z, e, False).square().mean(1), "no gradient"),
    "a cut graph": (lambda f, z, e: product(f, z, e).detach().square().mean(1), "no gradient"),
    "not divided": (lambda f, z, e: product(f, z, e).square().sum(1), "divide it by n"),
    "not transposed": (lambda f, z, e: jvp(f, z, e)[1].square().mean(1), "J e"),
    "the trace": (lambda f, z, e: (product(f, z, e) * e).mean(1), "trace"),
    "one number": (lambda f, z, e: product(f, z, e).square().mean(), "one for each sample"),
    "nan": (lambda f, z, e: product(f, z, e).sum(1) * float("nan"), "off by nan"),
    "half a graph": (
        lambda f, z, e: product(f, z, e).detach().mul(product(f, z, e)).mean(1),
        "their gradient is not",
    ),
}


def test_the_solutions_pass_their_checks():
    for check, solution in (
        (EQUILIBRIUM.check_tangent, EQUILIBRIUM.solution_tangent),
        (EQUILIBRIUM.check_penalty, EQUILIBRIUM.solution_penalty),
    ):
        verdict = check(solution)
        assert verdict.passed and "Right" in str(verdict)


def test_dense_answers_pass_as_well():
    def dense_tangent(f, z, x, w):
        J = torch.func.vmap(torch.func.jacrev(f))(z, x)
        return torch.linalg.solve(torch.eye(z.shape[1]) - J, pushed(f, z, x, w))

    assert EQUILIBRIUM.check_tangent(dense_tangent).passed
    assert EQUILIBRIUM.check_penalty(lambda f, z, e: vjp(f, z)[1](e)[0].square().mean(1)).passed


@pytest.mark.parametrize("mistake", WRONG_TANGENTS)
def test_a_wrong_tangent_fails_with_a_hint(mistake):
    answer, hint = WRONG_TANGENTS[mistake]
    verdict = EQUILIBRIUM.check_tangent(answer)
    assert not verdict.passed and str(verdict).startswith("Not yet.") and hint in str(verdict)


@pytest.mark.parametrize("mistake", WRONG_PENALTIES)
def test_a_wrong_penalty_fails_with_a_hint(mistake):
    answer, hint = WRONG_PENALTIES[mistake]
    verdict = EQUILIBRIUM.check_penalty(answer)
    assert not verdict.passed and str(verdict).startswith("Not yet.") and hint in str(verdict)


def test_forward_iteration_solves_the_tangent_only_where_the_layer_contracts():
    def plain(f, z, x, w):
        b = pushed(f, z, x, w)
        return at_rest(lambda t: along(f, z, x, t) + b, b, Picard())

    assert "a layer that expands" in str(EQUILIBRIUM.check_tangent(plain))


def test_the_checks_are_not_fooled_by_answers_that_write_into_their_arguments():
    def vandal(f, z, x, w):
        for each in (z, x, w):
            each.zero_()
        return z

    assert not EQUILIBRIUM.check_tangent(vandal).passed
    assert EQUILIBRIUM.check_tangent(EQUILIBRIUM.solution_tangent).passed


def test_the_solutions_are_not_in_the_notebook():
    text = (ROOT / "notebooks" / "03_deep_equilibrium.py").read_text()
    exercises = text[text.index("## 11.") :]
    assert "create_graph" not in exercises and "source_hidden" in exercises
    assert exercises.count("jvp(") == 2  # as it is explained, and in the reader's first line
