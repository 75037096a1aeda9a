"""Facts of the five applications: convection, the H-equation, the lasso, values, PageRank."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from cases import recomputed

from andersonn_core import Anderson, solve
from andersonn_core.problems import (
    Chandrasekhar,
    ConvectionDiffusion,
    Lasso,
    PageRank,
    Poisson,
    Problem,
    ProblemSpec,
    ValueIteration,
)
from andersonn_core.problems.pagerank import LINKS, link_matrix, random_links, who_links

FAMILIES = (ConvectionDiffusion, Chandrasekhar, Lasso, ValueIteration, PageRank)
SPECS = [
    ConvectionDiffusion(size=7, convection=6.0),
    ConvectionDiffusion(size=7, convection=40.0),  # a = 2.5: forward iteration diverges
    Chandrasekhar(size=30),
    Chandrasekhar(size=30, albedo=1.0),
    Chandrasekhar(size=1, albedo=0.5),
    Lasso(size=45, rows=20),
    Lasso(size=30, rows=40, penalty=0.02),
    ValueIteration(size=30),
    PageRank(size=60),
]


def in_float64(spec: ProblemSpec, batch_size: int = 1) -> Problem:
    return spec.replace(dtype="float64", batch_size=batch_size).build()


def slopes(problem: Problem, z: torch.Tensor) -> torch.Tensor:  # -> (n, n)
    """The Jacobian of the first sample's map, by autograd."""
    first = problem.f.select(torch.tensor([0]))
    length = z[0].numel()
    return torch.autograd.functional.jacobian(first, z[:1]).reshape(length, length)


def is_known(problem: Problem) -> None:
    assert problem.z_star is not None
    assert float(recomputed(problem.f, problem.z_star).max()) <= 4e-15


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_the_answer_is_a_fixed_point_to_rounding(spec):
    is_known(in_float64(spec, batch_size=4))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_default_problem_knows_its_answer_and_anderson_finds_it(family):
    problem = in_float64(family())
    is_known(problem)
    result = solve(problem.f, problem.z0, Anderson(window=10), rtol=1e-10, max_iter=600)
    assert bool(result.converged.all())
    torch.testing.assert_close(result.z, problem.z_star, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_contraction_is_the_spectral_radius_at_the_answer(spec):
    problem = in_float64(spec)
    radius = float(torch.linalg.eigvals(slopes(problem, problem.z_star)).abs().max())
    assert problem.contraction == pytest.approx(radius, abs=1e-7)


@pytest.mark.parametrize(
    "spec", [spec for spec in SPECS if spec.name in ("convection", "pagerank")], ids=repr
)
def test_linear_maps_have_the_eigenvalues_that_they_list(spec):
    problem = in_float64(spec)
    # J has an eigenvalue at t if J - t I is singular: exact where eigenvalues are ill conditioned
    jacobian = slopes(problem, problem.z0).to(torch.complex128)
    values = problem.spectrum
    assert len(values) == len(jacobian)
    identity = torch.eye(len(jacobian), dtype=jacobian.dtype)
    smallest = [float(torch.linalg.svdvals(jacobian - value * identity)[-1]) for value in values]
    assert max(smallest) < 1e-12
    torch.testing.assert_close(values.sum(), jacobian.trace(), rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 3, 33])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_samples_have_the_same_bits_whatever_the_others_are(family, size, dtype):
    problem = family(size=max(size, family.knobs()["size"].minimum), dtype=dtype, batch_size=17)
    problem = problem.build()
    f_z = problem.f(problem.f(problem.z0))
    for group in ([5], [3, 7], [1, 16, 0], [15, 2]):
        indices = torch.tensor(group)
        chosen = problem.f.select(indices)
        assert torch.equal(chosen(chosen(problem.z0[indices])), f_z[indices])


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_different_problems(family):
    problem = in_float64(family(size=20), batch_size=3)
    for one, other in itertools.combinations(problem.z_star, 2):
        assert float((one - other).norm()) > 1e-3 * float(one.norm())


# convection and diffusion


def test_without_wind_convection_is_poisson_s_operator():
    convection = ConvectionDiffusion(size=9, convection=0.0, dtype="float64").build()
    poisson = Poisson(size=9, dtype="float64").build()
    f = replace(convection.f, source=poisson.f.source)
    assert torch.equal(f(poisson.z_star), poisson.f(poisson.z_star))
    assert torch.allclose(convection.spectrum, poisson.spectrum, atol=1e-14)
    assert convection.contraction == pytest.approx(poisson.contraction, rel=1e-14)


@pytest.mark.parametrize("wind", [0.0, 5.0, 20.0, 500.0])
def test_the_convection_answer_solves_the_difference_equations(wind):
    size = 12
    problem = ConvectionDiffusion(size=size, convection=wind, batch_size=3, dtype="float64").build()
    h = 1 / (size + 1)
    u = torch.nn.functional.pad(problem.z_star, (1, 1, 1, 1))
    middle = u[:, 1:-1, 1:-1]
    south, north, west, east = (
        u[:, :-2, 1:-1], u[:, 2:, 1:-1], u[:, 1:-1, :-2], u[:, 1:-1, 2:],
    )  # fmt: skip
    laplacian = (south + north + west + east - 4 * middle) / h**2
    flow = (north - south + east - west) / (2 * h)
    x = torch.arange(1, size + 1, dtype=torch.float64) * h
    for b in range(3):
        heat = torch.cos(b * x)[None, :].expand(size, size)
        assert torch.allclose((wind * flow - laplacian)[b], heat, atol=1e-10)


def test_the_wind_carries_the_warmth_downstream():
    field = ConvectionDiffusion(size=15, dtype="float64").build().z_star[0]
    assert float(field[-4:, -4:].mean()) > 2 * float(field[:4, :4].mean())
    assert torch.allclose(field, field.mT)


# Chandrasekhar's H-equation


@pytest.mark.parametrize("albedo", [0.2, 0.9, 1.0])
def test_the_h_function_has_the_mean_that_is_known_exactly(albedo):
    # the sum of the equation over all angles is (c / 4) m^2 - m + 1 = 0
    mean = Chandrasekhar(size=40, albedo=albedo, dtype="float64").build().z_star.mean()
    expected = 2 * (1 - (1 - albedo) ** 0.5) / albedo
    assert float(mean) == pytest.approx(expected, rel=1e-13)


def test_without_scattering_the_h_function_is_one():
    problem = Chandrasekhar(size=10, albedo=0.0, dtype="float64").build()
    assert torch.equal(problem.z_star, torch.ones_like(problem.z_star))
    assert problem.contraction == 0


def test_at_albedo_one_forward_iteration_is_slower_than_any_rate():
    problem = Chandrasekhar(size=40, albedo=1.0, dtype="float64").build()
    assert problem.contraction == pytest.approx(1.0, abs=1e-12)
    z, errors = problem.z0, []
    for step in range(801):
        errors += [float((z - problem.z_star).norm())] * (step in (200, 400, 800))
        z = problem.f(z)
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)  # like one over the steps
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)


# the lasso


@pytest.mark.parametrize("penalty", [0.02, 0.1, 0.5])
def test_the_lasso_answer_meets_the_optimality_conditions(penalty):
    spec = Lasso(size=60, rows=25, penalty=penalty, batch_size=3, dtype="float64")
    problem = spec.build()
    f, z = problem.f, problem.z_star
    step = f.step[:60, :60]
    pull = (f.pull + z @ step - z) / f.threshold  # -A^T (A z - b) / lambda
    assert float(pull.abs().max()) <= 1 + 1e-12
    support = z != 0
    assert torch.allclose(pull[support], z[support].sign(), atol=1e-11)
    assert 0 < int(support.sum(dim=1).min()) <= int(support.sum(dim=1).max()) < 30


def test_the_lasso_map_is_a_gradient_step_and_a_shrinkage():
    spec = Lasso(size=40, rows=15, batch_size=2, dtype="float64")
    f = spec.build().f
    step = f.step[:40, :40]
    eigenvalues = torch.linalg.eigvalsh(step)
    assert eigenvalues[0] == pytest.approx(0.0, abs=1e-14)  # the steepest direction, in one step
    assert torch.allclose(eigenvalues[15:], torch.ones(25).double())  # no measurement sees these
    assert torch.allclose(f.threshold[:, 0], spec.penalty * f.pull.abs().amax(dim=1))
    shrunk = torch.nn.functional.softshrink(f.pull[:1], float(f.threshold[0]))
    assert torch.allclose(f(torch.zeros_like(f.pull))[:1], shrunk)


def test_at_the_full_penalty_every_number_is_zero():
    problem = Lasso(size=30, rows=12, penalty=1.0, dtype="float64").build()
    assert float(problem.z_star.abs().max()) == 0.0
    assert problem.contraction == 0.0


def test_a_lasso_whose_signs_are_not_found_has_no_answer():
    problem = Lasso(penalty=1e-6).build()
    assert problem.z_star is None and problem.contraction is None


# value iteration


def test_values_are_the_best_over_all_policies():
    problem = ValueIteration(size=4, discount=0.9, batch_size=2, dtype="float64").build()
    moves = problem.f.moves_t[:, :4, :4].mT
    states = torch.arange(4)
    for rewards, values in zip(problem.f.rewards, problem.z_star, strict=True):
        best = torch.full((4,), -torch.inf, dtype=torch.float64)
        for policy in itertools.product(range(4), repeat=4):
            chosen = torch.tensor(policy)
            stays = torch.eye(4, dtype=torch.float64) - moves[chosen, states]
            best = torch.maximum(best, torch.linalg.solve(stays, rewards[chosen, states]))
        assert torch.allclose(values, best, rtol=1e-13)


def test_moves_are_probabilities_and_forward_iteration_contracts_in_the_largest_norm():
    problem = ValueIteration(size=50, dtype="float64").build()
    moves = problem.f.moves_t[:, :50, :50].mT
    assert float(moves.min()) >= 0
    assert torch.allclose(moves.sum(dim=2), torch.full((4, 50), 0.98, dtype=torch.float64))
    z = problem.z0
    for _ in range(20):
        f_z = problem.f(z)
        before, after = ((point - problem.z_star).abs().max() for point in (z, f_z))
        assert float(after) <= 0.98 * float(before) * (1 + 1e-12)
        z = f_z


# PageRank


def test_ranks_are_positive_and_sum_to_one_at_every_step():
    problem = PageRank(size=300, batch_size=3, dtype="float64").build()
    z = problem.z0
    for point in (z, problem.f(z), problem.f(problem.f(z)), problem.z_star):
        assert torch.allclose(point.sum(dim=1), torch.ones(3).double(), rtol=1e-13)
        assert float(point.min()) >= 0
    assert torch.equal(problem.z0[0], torch.full_like(z[0], 1 / 300))


def test_the_map_is_the_matrix_of_its_links():
    links = random_links(0, 50)
    problem = PageRank(size=50, batch_size=2, dtype="float64").build()
    matrix = link_matrix(links)
    assert torch.equal(matrix.sum(dim=0), torch.ones(50).double())
    expected = 0.95 * problem.z0 @ matrix.T + problem.f.jumps
    assert torch.allclose(problem.f(problem.z0), expected, rtol=1e-14)


def test_every_link_is_listed_once_at_the_page_it_leads_to():
    links = random_links(3, 200)
    listed = [
        (source, page)
        for page, sources in enumerate(who_links(links).tolist())
        for source in sources
        if source < 200
    ]
    given = [(source, page) for source, row in enumerate(links.tolist()) for page in row]
    assert sorted(listed) == sorted(given) and len(given) == 200 * LINKS


def test_larger_webs_and_grids_go_without_an_answer():
    assert PageRank(size=3000).build().z_star is None
    assert ConvectionDiffusion(size=200).build().z_star is None
    assert ValueIteration(size=600).build().z_star is None
    assert Chandrasekhar(size=600).build().z_star is None
