"""Forward iteration and Broyden's method, against independent knowledge."""

import pytest
import torch
from cases import iterates, tanh_layer

from andersonn_core import Broyden, Event, Picard, solve
from andersonn_core.problems import Affine, Poisson


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_picard_equals_a_for_loop_bit_for_bit(dtype):
    problem = Poisson(size=8, batch_size=2, dtype=str(dtype).removeprefix("torch.")).build()
    num = 40
    points, result = iterates(problem.f, problem.z0, Picard(), rtol=0.0, max_iter=num)
    z = problem.z0
    for k in range(result.num_evals):
        assert torch.equal(points[k], z)
        z = problem.f(z)


@pytest.mark.parametrize("mixing", [0.25, 0.5, 1.5])
def test_damped_picard_equals_a_damped_for_loop(mixing):
    problem = tanh_layer(batch=2)
    points, _ = iterates(problem.f, problem.z0, Picard(mixing=mixing), rtol=0.0, max_iter=30)
    z = problem.z0
    for point in points:
        torch.testing.assert_close(point, z, rtol=1e-13, atol=1e-13)
        z = (1 - mixing) * z + mixing * problem.f(z)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_broyden_is_exact_on_a_linear_map_in_2n_plus_2_evaluations(n, seed):
    problem = Affine(
        size=n, spectrum="disc", spectral_radius=0.95, dtype="float64", seed=seed
    ).build()
    result = solve(problem.f, problem.z0, Broyden(window=2 * n + 2), rtol=1e-8)
    assert bool(result.converged.all())
    assert result.num_evals <= 2 * n + 2  # Gay, SIAM J. Numer. Anal. 16, 1979


def test_broyden_converges_superlinearly():
    problem = tanh_layer(n=10)
    result = solve(problem.f, problem.z0, Broyden(window=60), rtol=1e-13)
    residual = result.history.residual[:, 0]
    ratios = residual[1:] / residual[:-1]
    num = len(ratios)
    early, late = ratios[: num // 2], ratios[-num // 4 :]
    assert bool(result.converged.all())
    assert float(late.log().mean()) < 2 * float(early.log().mean()) < 0


def test_broyden_drops_all_updates_when_its_memory_is_full():
    problem = tanh_layer()
    result = solve(problem.f, problem.z0, Broyden(window=4), rtol=0.0, max_iter=14)
    ranks = result.history.depth[:-1, 0].int().tolist()
    assert ranks == [0, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]
    restarts = result.history.event[:-1, 0] & Event.RESTART
    assert restarts.nonzero().flatten().tolist() == [5, 9]
