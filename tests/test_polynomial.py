"""Facts about the residual polynomial, against least squares written out."""

import numpy as np
import pytest
import torch

from andersonn_core import PROBLEMS, Anderson, Picard, solve
from andersonn_core.polynomial import half_plane, jacobian, mirrored, residual_polynomial

SPECTRUM = torch.tensor([0.9, 0.5, -0.3, 0.1, -0.8, 0.65], dtype=torch.float64)
GRID = torch.tensor([1.0, 0.0, 0.5 + 0.3j, -0.7 - 0.2j, 1.2j, -1.1], dtype=torch.complex128)


def diagonal(z: torch.Tensor) -> torch.Tensor:
    return z * SPECTRUM + 1.0


Z0 = torch.zeros(1, len(SPECTRUM), dtype=torch.float64)
FREE = Anderson(window=20, restart="never", regularization=0.0, fallback=False)


def optimal(k: int, points: np.ndarray) -> np.ndarray:
    """p(1) = 1 of degree k with the smallest ||p(J) g0||, g0 = 1: least squares on lambda^j - 1."""
    spectrum = SPECTRUM.numpy()
    basis = np.stack([spectrum**j - 1 for j in range(1, k + 1)], axis=1)
    weights = np.linalg.lstsq(basis, -np.ones(len(spectrum)), rcond=None)[0]
    return 1 + sum(weight * (points**j - 1) for j, weight in enumerate(weights, 1))


def test_forward_iteration_has_the_powers_of_lambda():
    values = residual_polynomial(diagonal, Z0, Picard(), GRID, max_iter=8)
    for k, row in enumerate(values):
        torch.testing.assert_close(row, GRID**k)


def test_damped_forward_iteration_has_the_powers_of_its_own_factor():
    values = residual_polynomial(diagonal, Z0, Picard(mixing=0.5), GRID, max_iter=8)
    torch.testing.assert_close(values[5], (0.5 + 0.5 * GRID) ** 5)


@pytest.mark.parametrize("method", [FREE, Anderson(window=2), Anderson(window=3, mixing=0.6)])
def test_every_polynomial_is_one_at_one(method):
    values = residual_polynomial(diagonal, Z0, method, GRID, max_iter=6)
    torch.testing.assert_close(values[:, 0], torch.ones(len(values), dtype=torch.complex128))


def test_a_window_that_forgets_nothing_has_the_factor_of_forward_iteration_times_the_optimal_one():
    values = residual_polynomial(diagonal, Z0, FREE, GRID, max_iter=5)
    for k in range(2, 5):
        expected = GRID.numpy() * optimal(k - 1, GRID.numpy())
        np.testing.assert_allclose(values[k].numpy(), expected, atol=1e-8)


def test_the_polynomial_applied_to_the_map_gives_the_residual():
    method = Anderson(window=3)
    values = residual_polynomial(diagonal, Z0, method, SPECTRUM + 0j, max_iter=10)
    result = solve(diagonal, Z0, method, rtol=1e-14, max_iter=10)
    norms = torch.linalg.vector_norm(values.real, dim=1)  # g_0 = 1 in every coordinate
    torch.testing.assert_close(norms, result.history.residual[:, 0], rtol=1e-6, atol=1e-12)


def test_with_a_full_window_the_polynomial_vanishes_on_the_spectrum():
    values = residual_polynomial(diagonal, Z0, FREE, SPECTRUM + 0j, max_iter=8)
    assert values[len(SPECTRUM) + 1].abs().max() < 1e-8


def test_passengers_change_nothing():
    method = Anderson(window=4)
    seen = []

    def watched(z):
        seen.append(z.clone())
        return diagonal(z)

    residual_polynomial(watched, Z0, method, half_plane((-1.5, 1.5, 1.2), 31, 17).flatten(), 20)
    alone, seen[:] = list(seen), []
    solve(watched, Z0, method, rtol=1e-14, max_iter=20)
    assert len(alone) == len(seen)
    for one, other in zip(alone, seen, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_real_map_gives_conjugate_values_so_that_half_the_plane_is_enough():
    upper = half_plane((-1.2, 1.2, 1.0), 9, 5)
    values = residual_polynomial(diagonal, Z0, Anderson(window=2), upper.flatten(), 6)
    lower = residual_polynomial(diagonal, Z0, Anderson(window=2), upper.conj().flatten(), 6)
    torch.testing.assert_close(values.conj().resolve_conj(), lower)
    whole = mirrored(values.abs().reshape(-1, 5, 9))
    assert whole.shape == (6, 9, 9)
    torch.testing.assert_close(whole, whole.flip(1))


SLOW = torch.tensor([0.95, 0.98, 0.99, 0.995], dtype=torch.float64)
NEXT_TO_ONE = 1 - torch.logspace(-0.5, -3, 4000, dtype=torch.float64)


def outer_roots(restart: str, k: int) -> np.ndarray:
    """The roots of p_k from 0.9 on, for a map with four slow eigenvalues."""
    spectrum = torch.cat([torch.linspace(-0.8, 0.8, 81, dtype=torch.float64), SLOW])
    values = residual_polynomial(
        lambda z: z * spectrum + 1, torch.zeros(1, 85, dtype=torch.float64),
        Anderson(window=10, restart=restart), NEXT_TO_ONE + 0j, max_iter=k + 1,
    )[k].real  # fmt: skip
    roots = NEXT_TO_ONE[1:][values[1:] * values[:-1] < 0]
    return roots[roots > 0.9].numpy()


def test_deflation_keeps_a_root_on_every_slow_eigenvalue_and_a_restart_does_not():
    for k in (38, 44, 48):
        np.testing.assert_allclose(outer_roots("deflated", k), SLOW, rtol=0, atol=1e-4)
        assert abs(outer_roots("full", k) - 0.995).min() > 3e-4  # frozen beside it
    drift = [outer_roots("never", k).max() for k in (20, 30, 40, 50)]
    assert drift == sorted(drift) and drift[0] < 0.995 < drift[-1]  # past it, without rest


def test_the_eigenvalues_of_the_differenced_jacobian_are_those_the_problem_knows():
    problem = PROBLEMS["affine"](size=12, spectrum="disc", dtype="float64").build()
    found = torch.linalg.eigvals(jacobian(problem.f, problem.z0))
    distance = (found[:, None] - problem.spectrum[None]).abs().min(0).values
    assert distance.max() < 1e-6


@pytest.mark.parametrize("z0", [torch.zeros(2, 6, dtype=torch.float64), torch.zeros(1, 6)])
def test_another_batch_or_type_is_refused(z0):
    with pytest.raises(ValueError, match="one sample in float64"):
        residual_polynomial(diagonal, z0, Picard(), GRID)
