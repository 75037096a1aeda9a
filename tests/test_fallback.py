"""The stubborn sample: plain steps from the best iterate where Anderson circles, and only there."""

from functools import cache

import pytest
import torch
from cases import circling, constant
from test_counts import solved_digits

from andersonn_core import Anderson, Event, Picard, Status, solve
from andersonn_core.problems import Affine, Bratu, Poisson, Rotation, Tanh

OFF = Anderson(fallback=False)


def stubborn(batch=1, dtype=torch.float64):
    """A contraction in the plane, f(z) = W relu(z) + b, on which Anderson circles for ever."""
    weight = torch.tensor([[0.88, -0.14], [0.01, 0.66]], dtype=dtype)
    bias = torch.tensor([0.74, 2.08], dtype=dtype)
    return lambda z: torch.relu(z) @ weight.T + bias, torch.zeros(batch, 2, dtype=dtype)


def fired(result):
    """The evaluations (counted from 0) of each sample's fallbacks, as (evaluation, sample)."""
    return ((result.history.event & Event.FALLBACK) != 0).nonzero().tolist()


def points_of(f, z0, method, **knobs):
    points = []
    result = solve(f, z0, method, on_step=lambda step: points.append(step.z().clone()), **knobs)
    return torch.stack(points), result


# where it must help


def test_a_contraction_in_the_plane_on_which_anderson_circles_is_rescued():
    f, z0 = stubborn()
    forward, lost, saved = (
        solve(f, z0, method, max_iter=2000) for method in (Picard(), OFF, Anderson())
    )
    assert forward.status.item() == Status.CONVERGED
    assert lost.status.item() == Status.STALLED
    assert float(lost.relative_residual) > 1e-3
    assert saved.status.item() == Status.CONVERGED
    assert saved.num_evals <= 1.1 * forward.num_evals + 60
    assert len(fired(saved)) == saved.diagnostics["fallbacks"] == 1
    torch.testing.assert_close(saved.z, forward.z, rtol=1e-5, atol=1e-5)


def test_it_waits_fifteen_evaluations_and_then_steps_plainly_from_the_best_iterate():
    f, z0 = stubborn()
    points, result = points_of(f, z0, Anderson())
    unaided, _ = points_of(f, z0, OFF)
    (row, _), *_ = fired(result)
    residuals = result.history.relative_residual[:, 0]
    best = int(residuals[: row + 1].argmin())
    assert row - best >= 15
    assert torch.equal(points[: row + 1], unaided[: row + 1])  # until then nothing is changed
    torch.testing.assert_close(points[row + 1], f(points[best]), rtol=1e-14, atol=1e-14)
    assert bool((result.history.depth[row:-1, 0] == 0).all())
    for before, after in zip(points[row + 1 :], points[row + 2 :], strict=False):
        torch.testing.assert_close(after, f(before), rtol=1e-14, atol=1e-14)


def test_afterwards_anderson_starts_again_with_an_empty_history():
    f, z0 = stubborn()
    result = solve(f, z0, Anderson(), rtol=1e-13)
    (row, _), *_ = fired(result)
    depths = result.history.depth[row:-1, 0].tolist()
    plain = next((k for k, depth in enumerate(depths) if depth), len(depths))
    assert 15 <= plain <= 45 or plain == len(depths)
    assert result.converged.item()
    if plain < len(depths):
        assert depths[plain] == 1.0


def test_without_the_knob_nothing_is_changed():
    f, z0 = stubborn()
    result = solve(f, z0, OFF, max_iter=300)
    assert fired(result) == [] and result.diagnostics["fallbacks"] == 0


def test_a_sample_that_falls_back_leaves_the_others_bit_identical():
    f, _ = stubborn()
    generator = torch.Generator().manual_seed(3)
    z0 = 3 * torch.randn(6, 2, generator=generator, dtype=torch.float64)
    z0[2] = 0.0  # the start that circles
    other = z0.clone()
    other[2] = 1.0
    with_it, without = (solve(f, start, Anderson(), rtol=1e-10) for start in (z0, other))
    assert 2 in {sample for _, sample in fired(with_it)}
    others = torch.tensor([0, 1, 3, 4, 5])
    assert torch.equal(with_it.z[others], without.z[others])
    assert torch.equal(with_it.sample_evals[others], without.sample_evals[others])


def test_where_plain_steps_do_not_help_either_the_solve_ends_in_a_true_status():
    case = circling()
    result = solve(case.f, case.z0, Anderson(), max_iter=400)
    assert result.status[0] in (Status.STALLED, Status.MAX_ITER)
    assert bool(result.converged[1:].all())
    assert len(fired(result)) >= 1
    value = case.f(result.z)
    relative = (value - result.z).norm(dim=1) / value.norm(dim=1)
    torch.testing.assert_close(result.relative_residual, relative, rtol=1e-10, atol=1e-15)


def test_it_fires_ever_more_rarely():
    case = circling()
    result = solve(case.f, case.z0, Anderson(), rtol=0.0, max_iter=500)  # rtol 0: no STALLED
    rows = torch.tensor([row for row, sample in fired(result) if sample == 0])
    assert 2 <= len(rows) <= 7
    gaps = rows.diff()
    assert bool((gaps[1:] >= 1.5 * gaps[:-1]).all())
    assert int(gaps[0]) >= 15 + 30


@cache
def rescued_digits():
    """The held-out digits on which the fallback fires, on their own: map, start, forward's way."""
    problem, _, anderson = solved_digits(0)
    indices = torch.tensor(sorted({sample for _, sample in fired(anderson)}))
    f, z0 = problem.f.select(indices), problem.z0[indices]
    return f, z0, solve(f, z0, Picard(), rtol=1e-4, max_iter=600)


def test_some_real_digits_are_stubborn():
    f, z0, forward = rescued_digits()
    assert 1 <= len(z0) <= 12  # of 360
    alone = solve(f, z0, OFF, rtol=1e-4, max_iter=400)
    assert bool((forward.converged & ~alone.converged).any())


def test_stubborn_digits_are_rescued():
    f, z0, forward = rescued_digits()
    result = solve(f, z0, Anderson(), rtol=1e-4, max_iter=720)
    solvable = forward.converged
    assert bool(result.converged[solvable].all())
    assert bool((result.sample_evals <= 1.1 * forward.sample_evals + 60)[solvable].all())
    assert fired(result)


# where it must not fire


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("family", [Poisson, Bratu])
def test_it_does_not_fire_on_poisson_or_bratu(family, size):
    problem = family(size=size).build()
    result = solve(problem.f, problem.z0, Anderson(window=5), max_iter=500)
    assert fired(result) == []
    assert bool(result.converged.all()) or size == 128  # there 1e-6 is at the rounding of float32


SPECTRA = [
    (spectrum, radius)
    for spectrum in ("real", "alternating", "disc", "circle")
    for radius in (0.5, 0.9, 0.95, 0.99)
    if (spectrum, radius) != ("circle", 0.99)  # where window 5 itself goes in circles, at 5e-2
]


@pytest.mark.parametrize(("spectrum", "radius"), SPECTRA)
@pytest.mark.parametrize("size", [20, 50, 200])
def test_it_does_not_fire_on_linear_maps(radius, size, spectrum):
    problem = Affine(size=size, spectrum=spectrum, spectral_radius=radius, batch_size=3).build()
    result = solve(problem.f, problem.z0, Anderson(window=5), max_iter=250)
    assert fired(result) == []


@pytest.mark.parametrize("spectrum", ["real", "alternating", "disc", "circle"])
@pytest.mark.parametrize(("size", "radius"), [(20, 0.99), (20, 1.1), (50, 1.1), (20, 1.5)])
def test_it_costs_no_linear_map_more_than_a_tenth_and_sixty(radius, size, spectrum):
    problem = Affine(size=size, spectrum=spectrum, spectral_radius=radius, batch_size=4).build()
    alone = solve(problem.f, problem.z0, OFF, max_iter=200)
    helped = solve(problem.f, problem.z0, Anderson(), max_iter=280)
    kept = helped.converged & (helped.sample_evals <= 1.1 * alone.sample_evals + 60)
    assert bool((kept | ~alone.converged).all())


@pytest.mark.parametrize(
    "spec", [Tanh(gain=1.0), Rotation(size=2), Poisson(size=32, dtype="float64")],
    ids=lambda spec: spec.name,
)  # fmt: skip
def test_it_does_not_fire_on_other_smooth_maps(spec):
    problem = spec.build()
    result = solve(problem.f, problem.z0, Anderson())
    assert fired(result) == []


def test_it_does_not_fire_at_the_rounding_of_the_type():
    case = constant()
    for f, z0 in ((case.f, case.z0), (Poisson(size=16).build().f, Poisson(size=16).build().z0)):
        result = solve(f, z0, Anderson(), rtol=0.0, max_iter=300)
        assert fired(result) == []
