from __future__ import annotations

import math

import pytest
import torch
from cases import SMALL

from andersonn_core.problems import (
    PROBLEMS,
    Affine,
    Bratu,
    DigitsDEQ,
    Newton,
    Poisson,
    Problem,
    Rotation,
    SelectableMap,
    Sinkhorn,
    Tanh,
    digits_deq,
)

DTYPES = ("float32", "float64", "bfloat16")
FAMILIES = list(PROBLEMS)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def iterate(problem: Problem, steps: int) -> torch.Tensor:
    z = problem.z0
    for _ in range(steps):
        z = problem.f(z)
    return z


def relative_residual(problem: Problem, z: torch.Tensor) -> torch.Tensor:
    f_z = problem.f(z).double().flatten(1)
    return (f_z - z.double().flatten(1)).norm(dim=1) / f_z.norm(dim=1)


def test_the_table_lists_every_family_by_its_name_in_the_page_s_order():
    assert FAMILIES == [
        "digits_deq", "poisson", "bratu", "convection", "tanh", "affine", "chandrasekhar", "lasso",
        "value_iteration", "pagerank", "rotation", "sinkhorn", "newton",
    ]  # fmt: skip
    for name, family in PROBLEMS.items():
        assert family.name == name
        assert family.label and family.summary.endswith(".")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_maps_keep_shape_dtype_and_device_and_do_not_change_their_argument(name, dtype):
    spec = SMALL[name].replace(dtype=dtype)
    problem = spec.build()
    z = problem.f(problem.z0)
    kept = z.clone()
    f_z = problem.f(z)
    assert isinstance(problem.f, SelectableMap)
    assert problem.batch_size == spec.batch_size
    assert problem.z0[0].numel() == spec.num_elements
    assert (f_z.shape, f_z.dtype, f_z.device) == (problem.z0.shape, spec.torch_dtype, z.device)
    assert f_z.isfinite().all() and not f_z.requires_grad
    assert torch.equal(z, kept)


@pytest.mark.parametrize("name", FAMILIES)
def test_torch_s_default_type_changes_no_problem(name):
    ordinary = SMALL[name].build()
    digits_deq._network.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        other = SMALL[name].build()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(other.z0, ordinary.z0)
    assert torch.equal(iterate(other, 2), iterate(ordinary, 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "digits_deq"])
def test_z_star_is_a_fixed_point_to_rounding(name, dtype):
    problem = SMALL[name].replace(dtype=dtype).build()
    assert problem.z_star is not None
    assert problem.z_star.dtype == problem.z0.dtype
    rounding = max(torch.finfo(problem.z0.dtype).eps, 1e-14)
    assert relative_residual(problem, problem.z_star).max() <= 4 * rounding
    assert problem.z_star.flatten(1).norm(dim=1).min() > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_default_problems_build_with_a_start_that_is_no_answer(name):
    problem = PROBLEMS[name]().build()
    assert problem.name == name
    assert relative_residual(problem, problem.z0).min() > 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_selected_map_gives_the_samples_bit_for_bit(name, dtype):
    problem = SMALL[name].replace(dtype=dtype, batch_size=7).build()
    z = iterate(problem, 2)
    f_z = problem.f(z)
    groups = [[0, 1], [2, 5], [6, 3, 0, 1], list(range(7))]
    # on a CPU, convolutions of a single float32 image use a kernel of their own
    groups += [[0], [6]] if name != "digits_deq" else []
    for group in groups:
        indices = torch.tensor(group)
        assert torch.equal(problem.f.select(indices)(z[indices]), f_z[indices])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 3, 50, 65])
@pytest.mark.parametrize("family", [Affine, Tanh])
def test_products_with_a_shared_matrix_do_not_see_the_batch_at_any_length(family, size, dtype):
    problem = family(size=size, dtype=dtype, batch_size=17).build()
    z = iterate(problem, 3)
    f_z = problem.f(z)
    for indices in torch.tensor([[3, 7], [1, 16], [15, 2]]):
        assert torch.equal(problem.f.select(indices)(z[indices]), f_z[indices])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sample_is_the_same_in_every_batch(name):
    small, large = (SMALL[name].replace(batch_size=size).build() for size in (2, 5))
    assert torch.equal(small.z0, large.z0[:2])
    assert torch.equal(small.f(small.z0), large.f(large.z0)[:2])


@pytest.mark.parametrize("name", [name for name in FAMILIES if "seed" not in PROBLEMS[name].unused])
def test_the_seed_changes_the_problem_and_nothing_else_does(name):
    spec = SMALL[name]
    first, again, other = (s.build() for s in (spec, spec, spec.replace(seed=1)))
    torch.manual_seed(123)
    values = [problem.f(problem.z0) for problem in (first, again, other)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


@pytest.mark.parametrize(
    "spec",
    [
        Affine(dtype="float64"),
        Affine(dtype="float64", spectrum="alternating", spectral_radius=0.9),
        Affine(dtype="float64", nonnormality=0.5),
        Affine(dtype="float64", spectral_radius=1.5),
        Rotation(dtype="float64", scale=0.9),
        Poisson(dtype="float64", size=8, batch_size=3),
        Bratu(dtype="float64", size=8),
        Bratu(dtype="float64", size=8, lambda_=1.0, batch_size=3),
        Sinkhorn(dtype="float64", size=24),
        Sinkhorn(dtype="float64", size=24, batch_size=3),
    ],
    ids=repr,
)
def test_contraction_is_the_rate_of_forward_iteration_near_the_answer(spec):
    problem = spec.build()
    direction = torch.ones_like(problem.z0)
    for _ in range(400):  # the power method on the Jacobian, by central differences
        direction = direction / direction.flatten(1).norm(dim=1).max()
        low, high = (problem.f(problem.z_star + h * direction) for h in (-1e-3, 1e-3))
        new = (high - low) / 2e-3
        rate = new.flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1)
        direction = new
    # a pair of eigenvalues +-rho (Jacobi's, "alternating") keeps its factor too
    assert float(rate.max()) == pytest.approx(problem.contraction, rel=1e-4)


@pytest.mark.parametrize("spectrum", ["real", "alternating", "disc", "circle"])
@pytest.mark.parametrize("size", [1, 2, 7, 20])
def test_affine_has_the_eigenvalues_that_it_promises(spectrum, size):
    spec = Affine(size=size, spectrum=spectrum, spectral_radius=0.8, dtype="float64")
    problem = spec.build()
    eye = torch.eye(size, dtype=torch.float64)
    jacobian = torch.stack([problem.f(row[None])[0] - problem.f.offset[0] for row in eye], dim=1)
    found = torch.linalg.eigvals(jacobian)
    distance = (problem.spectrum[:, None] - found[None, :]).abs()
    assert distance.amin(dim=1).max() < 1e-10 and distance.amin(dim=0).max() < 1e-10
    assert float(found.abs().max()) == pytest.approx(0.8)
    assert problem.contraction == pytest.approx(0.8)


@pytest.mark.parametrize("spectrum", ["real", "alternating", "disc", "circle"])
@pytest.mark.parametrize("radius", [0.0, 0.999, 1.0, 1.5, 2.0, 3.0])
def test_affine_has_a_fixed_point_at_every_radius(spectrum, radius):
    spec = Affine(spectrum=spectrum, spectral_radius=radius, dtype="float64", batch_size=2)
    problem = spec.build()
    assert (1 - problem.spectrum).abs().min() >= 0.99e-3
    assert relative_residual(problem, problem.z_star).max() < 1e-12


def test_nonnormality_keeps_the_eigenvalues_and_lets_errors_grow_first():
    plain, skewed = (
        Affine(spectrum="disc", dtype="float64", nonnormality=eta).build() for eta in (0.0, 5.0)
    )
    assert torch.equal(plain.spectrum, skewed.spectrum)
    growth = []
    for problem in (plain, skewed):
        size = problem.f.offset.shape[1]
        growth.append(float(torch.linalg.matrix_norm(problem.f.jacobian_t[:size, :size], 2)))
    assert growth[0] == pytest.approx(0.95) and growth[1] > 2


@pytest.mark.parametrize("size", [1, 2, 9])
def test_forward_iteration_circles_the_center_of_a_rotation_for_ever(size):
    problem = Rotation(size=size, angle=37.0, dtype="float64", batch_size=2).build()
    z = problem.z0
    distance = (z - problem.z_star).norm(dim=1)
    for _ in range(50):
        z = problem.f(z)
        assert torch.allclose((z - problem.z_star).norm(dim=1), distance)
    assert relative_residual(problem, z).min() > 0.1
    assert problem.spectrum.numel() == 2 * size
    assert torch.allclose(problem.spectrum.abs(), torch.ones(2 * size, dtype=torch.float64))


def test_poisson_agrees_with_an_independent_dense_solve():
    size = 7
    problem = Poisson(size=size, batch_size=3, dtype="float64").build()
    h = 1 / (size + 1)
    x = torch.arange(1, size + 1, dtype=torch.float64) * h
    second = 2 * torch.eye(size) - torch.diag(torch.ones(size - 1), 1)
    second = (second - torch.diag(torch.ones(size - 1), -1)).double() / h**2
    eye = torch.eye(size, dtype=torch.float64)
    laplacian = torch.kron(second, eye) + torch.kron(eye, second)
    for b in range(3):
        rhs = torch.exp(x)[:, None] * torch.sin((3 + b) * x)[None, :]
        u = torch.linalg.solve(laplacian, rhs.flatten()).reshape(size, size)
        assert torch.allclose(problem.z_star[b], u, rtol=1e-12, atol=1e-15)
    jacobi = torch.eye(size**2, dtype=torch.float64) - laplacian * h**2 / 4
    assert torch.allclose(torch.linalg.eigvalsh(jacobi), problem.spectrum.real.sort().values)
    assert problem.contraction == pytest.approx(math.cos(math.pi * h))
    assert problem.contraction == pytest.approx(float(problem.spectrum.abs().max()))


def test_one_jacobi_step_is_the_mean_of_four_neighbors_and_nothing_wraps_around():
    problem = Poisson(size=3, dtype="float64").build()
    z = torch.zeros_like(problem.z0)
    z[0, 0, 2] = 4.0  # a corner: two neighbors only
    difference = problem.f(z) - problem.f(torch.zeros_like(z))
    expected = torch.tensor([[0.0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.float64)
    assert torch.allclose(difference[0], expected)


@pytest.mark.parametrize("lambda_", [0.5, 6.0, 6.8])
def test_the_bratu_answer_solves_the_difference_equations(lambda_):
    size = 31
    problem = Bratu(size=size, lambda_=lambda_, batch_size=2, dtype="float64").build()
    u = torch.nn.functional.pad(problem.z_star, (1, 1, 1, 1))
    neighbors = u[:, 2:, 1:-1] + u[:, :-2, 1:-1] + u[:, 1:-1, 2:] + u[:, 1:-1, :-2]
    laplacian = (4 * u[:, 1:-1, 1:-1] - neighbors) * (size + 1) ** 2
    source = lambda_ * torch.exp(problem.z_star[0])
    assert torch.allclose(laplacian[0], source, rtol=1e-8)
    assert laplacian[1].max() < laplacian[0].max()  # later samples burn a little less
    assert 0 < problem.z_star.min() and problem.contraction < 1


def test_bratu_without_a_solution_has_no_answer():
    problem = Bratu(size=2, lambda_=6.8, dtype="float64").build()
    assert problem.z_star is None and problem.contraction is None
    assert not iterate(problem, 300).isfinite().all()


def test_newton_doubles_its_digits():
    problem = Newton(dtype="float64", batch_size=2).build()
    exact = problem.f.radicand.pow(1 / 3)
    assert torch.allclose(problem.z_star, exact, rtol=1e-15)
    errors = []
    z = problem.z_star * 1.01
    for _ in range(3):
        errors.append(float((z / problem.z_star - 1).abs().max()))
        z = problem.f(z)
    assert errors[1] < 2 * errors[0] ** 2 and errors[2] < 2 * errors[1] ** 2
    assert float((z / problem.z_star - 1).abs().max()) < 1e-14
    assert problem.contraction == 0


def test_the_sinkhorn_plan_has_both_marginals_and_no_negative_mass():
    problem = Sinkhorn(dtype="float64", batch_size=2, size=32).build()
    plan = problem.picture(problem.z_star)
    assert plan.shape == (2, 32, 32) and plan.min() >= 0
    assert torch.allclose(plan.sum(dim=2), problem.f.log_source.exp(), rtol=1e-9)
    assert torch.allclose(plan.sum(dim=1), problem.f.log_target.exp(), rtol=1e-9)
    early = problem.picture(problem.z0)
    assert not torch.allclose(early.sum(dim=2), problem.f.log_source.exp(), rtol=1e-2)


def test_the_sinkhorn_map_has_one_fixed_point_whatever_constant_is_added():
    problem = SMALL["sinkhorn"].replace(dtype="float64").build()
    z = iterate(problem, 3)
    assert torch.allclose(problem.f(z + 5.0), problem.f(z), atol=1e-12)
    assert problem.z_star.mean(dim=1).abs().max() < 1e-12


@pytest.mark.parametrize("family", [Poisson, Bratu, Sinkhorn])
def test_pictures_are_one_image_per_sample(family):
    problem = family(size=9, batch_size=4).build()
    assert problem.picture(problem.z0).shape == (4, 9, 9)


def test_digits_carry_what_they_show_and_are_read_right():
    problem = DigitsDEQ(batch_size=32).build()
    assert problem.inputs.shape == (32, 8, 8) and problem.labels.shape == (32,)
    probabilities = problem.predict(iterate(problem, 60))
    assert probabilities.shape == (32, 10)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(32))
    right = probabilities.argmax(dim=1) == problem.labels
    assert right.double().mean() > 0.9


def test_the_digits_seed_deals_the_same_held_out_digits_in_another_order():
    natural, shuffled = (DigitsDEQ(batch_size=360, seed=seed).build() for seed in (0, 5))
    assert not torch.equal(natural.labels, shuffled.labels)
    assert torch.equal(natural.labels.bincount(), shuffled.labels.bincount())
    rows = [{tuple(image.flatten().tolist()) for image in p.inputs} for p in (natural, shuffled)]
    assert rows[0] == rows[1]


def test_building_a_problem_twice_shares_the_network_but_changes_nothing():
    first = DigitsDEQ(batch_size=2).build()
    before = first.f(first.z0)
    DigitsDEQ(batch_size=2, dtype="bfloat16").build()
    assert first.f.cell is DigitsDEQ(batch_size=5).build().f.cell
    assert torch.equal(first.f(first.z0), before)
