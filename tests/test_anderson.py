"""Anderson acceleration, against independent knowledge."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from cases import contraction, expansion, iterates, scaled, secant, tanh_layer
from plain import as_numpy_map, plain_anderson

from andersonn_core import Anderson, Broyden, Event, Picard, Status, solve
from andersonn_core.problems import Affine, Poisson, Rotation

BACK_ENDS = ("gram", "qr", "residuals")


# against an implementation that shares nothing with ours


@pytest.mark.parametrize("least_squares", BACK_ENDS)
@pytest.mark.parametrize("restart", ["full", "never"])
@pytest.mark.parametrize("mixing", [1.0, 0.5])
@pytest.mark.parametrize("window", [1, 2, 3, 5])
@pytest.mark.parametrize("family", ["affine", "tanh"])
def test_the_iterates_are_those_of_a_plain_numpy_anderson(
    family, window, mixing, restart, least_squares
):
    problem = contraction(batch=1, n=30) if family == "affine" else tanh_layer()
    method = Anderson(
        window=window, mixing=mixing, restart=restart, least_squares=least_squares,
        regularization=0.0, fallback=False,
    )  # fmt: skip
    num = 14
    ours, result = iterates(problem.f, problem.z0, method, rtol=0.0, max_iter=num)
    plain = plain_anderson(
        as_numpy_map(problem.f), problem.z0[0].numpy(), window, restart, mixing, num
    )
    theirs = np.stack(plain.points)
    assert np.abs(ours[:, 0].numpy() - theirs).max() <= 1e-8 * np.abs(theirs).max()
    assert result.history.depth[:-1, 0].tolist() == plain.depths[:-1]


@pytest.mark.parametrize("restart", ["full", "never"])
def test_the_default_ridge_moves_the_iterates_by_less_than_a_millionth(restart):
    problem = tanh_layer()
    ours, _ = iterates(problem.f, problem.z0, Anderson(restart=restart), rtol=0.0, max_iter=14)
    plain = plain_anderson(as_numpy_map(problem.f), problem.z0[0].numpy(), 5, restart, 1.0, 14)
    theirs = np.stack(plain.points)
    assert np.abs(ours[:, 0].numpy() - theirs).max() <= 1e-6 * np.abs(theirs).max()


def test_in_one_dimension_window_one_is_the_secant_method():
    case = secant()
    points, _ = iterates(case.f, case.z0, Anderson(window=1, regularization=0.0), rtol=1e-14)
    points = points.flatten().tolist()
    for a, b, c in zip(points[1:], points[2:-1], points[3:], strict=False):
        root = b - (math.cos(b) - b) * (b - a) / ((math.cos(b) - b) - (math.cos(a) - a))
        assert c == pytest.approx(root, rel=1e-9)
    assert points[-1] == pytest.approx(float(case.z_star), rel=1e-14)


def test_window_one_in_the_plane_turns_starting_points_into_the_known_rates():
    # M = [[2/3, 1/4], [0, 1/3]]: forward iteration contracts by 2/3; AA(1) by 0 to 0.41, by angle
    matrix = torch.tensor([[2 / 3, 1 / 4], [0.0, 1 / 3]], dtype=torch.float64)
    angles = torch.linspace(0, math.pi, 24, dtype=torch.float64)
    z0 = torch.stack((angles.cos(), angles.sin()), dim=1)

    def f(z):
        return z @ matrix.T

    method = Anderson(window=1, restart="never", regularization=0.0, fallback=False)
    num = 16
    points, _ = iterates(f, z0, method, rtol=0.0, atol=1e-300, max_iter=num)
    rates = points.norm(dim=2)[-1] ** (1 / (num - 1))
    assert float(rates.max()) < 0.45
    forward, _ = iterates(f, z0, Picard(), rtol=0.0, atol=1e-300, max_iter=100)
    assert float((forward[-1].norm(dim=1) ** (1 / 99)).median()) == pytest.approx(2 / 3, abs=0.01)


# windows


@pytest.mark.parametrize("mixing", [1.0, 0.7])
def test_window_zero_is_forward_iteration(mixing):
    problem = tanh_layer(batch=3)
    anderson = solve(problem.f, problem.z0, Anderson(window=0, mixing=mixing))
    forward = solve(problem.f, problem.z0, Picard(mixing=mixing))
    broyden = solve(problem.f, problem.z0, Broyden(window=0, mixing=mixing))
    assert anderson.num_evals == forward.num_evals == broyden.num_evals
    torch.testing.assert_close(anderson.z, forward.z, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(broyden.z, forward.z, rtol=1e-13, atol=1e-13)
    assert bool((anderson.history.depth[:-1].nan_to_num(0) == 0).all())


@pytest.mark.parametrize("restart", ["full", "never"])
@pytest.mark.parametrize("least_squares", BACK_ENDS)
def test_a_window_larger_than_the_state_equals_one_of_its_size(restart, least_squares):
    problem = contraction(n=4)
    results = [
        solve(problem.f, problem.z0,
              Anderson(window=window, restart=restart, least_squares=least_squares))
        for window in (4, 5, 50)
    ]  # fmt: skip
    for result in results:
        assert bool(result.converged.all())
        assert torch.equal(result.z, results[0].z)
        assert torch.equal(result.sample_evals, results[0].sample_evals)


@pytest.mark.parametrize("least_squares", BACK_ENDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 12])
def test_a_linear_map_of_radius_one_and_a_half_is_solved_exactly_by_iterate_n_plus_one(
    n, seed, least_squares
):
    problem = Affine(
        size=n, spectrum="disc", spectral_radius=1.5, dtype="float64", seed=seed
    ).build()
    method = Anderson(window=n, regularization=0.0, least_squares=least_squares)
    points, result = iterates(problem.f, problem.z0, method)
    assert bool(result.converged.all())
    assert result.num_evals <= n + 2
    exact = torch.linalg.vector_norm(problem.z_star)
    assert float((points[: n + 2][-1] - problem.z_star).norm() / exact) < 1e-6
    forward = solve(problem.f, problem.z0, Picard())
    assert forward.status.item() == Status.DIVERGED


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_forward_iteration_never_finds_the_center_of_a_rotation_and_anderson_does(planes):
    problem = Rotation(size=planes, dtype="float64").build()
    forward = solve(problem.f, problem.z0, Picard(), max_iter=1000)
    assert not bool(forward.converged.any())
    anderson = solve(problem.f, problem.z0, Anderson(window=2 * planes))
    assert bool(anderson.converged.all())
    assert anderson.num_evals <= 2 * planes + 2
    torch.testing.assert_close(anderson.z, problem.z_star, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("window", [1, 2, 3, 6, 16])
@pytest.mark.parametrize("restart", ["full", "never"])
def test_every_window_solves_a_contraction(window, restart):
    problem = contraction(n=24)
    result = solve(problem.f, problem.z0, Anderson(window=window, restart=restart))
    assert bool(result.converged.all())
    forward = solve(problem.f, problem.z0, Picard())
    assert bool((result.sample_evals < forward.sample_evals).all())


# invariances


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("least_squares", BACK_ENDS)
def test_counts_do_not_change_when_the_map_is_scaled(dtype, least_squares):
    problem = Poisson(size=16, dtype=dtype).build()
    method = Anderson(least_squares=least_squares)
    expected = solve(problem.f, problem.z0, method).num_evals
    for power in (-8, -4, 4, 8):
        case = scaled(problem, 10.0**power)
        result = solve(case.f, case.z0, method)
        assert bool(result.converged.all())
        assert abs(result.num_evals - expected) <= 1, f"scale 1e{power}"


@pytest.mark.parametrize("method", [Picard(), Anderson(), Anderson(restart="never"), Broyden()])
@pytest.mark.parametrize("power", [-24, -8, 8, 24])
def test_scaling_by_a_power_of_two_changes_no_bit_of_the_weights(method, power):
    problem = contraction(dtype=torch.float32)
    expected = solve(problem.f, problem.z0, method)
    case = scaled(problem, 2.0**power)
    result = solve(case.f, case.z0, method)
    assert torch.equal(result.z, 2.0**power * expected.z)
    assert torch.equal(result.sample_evals, expected.sample_evals)
    for column in ("relative_residual", "weight_norm", "condition", "depth"):
        torch.testing.assert_close(
            getattr(result.history, column), getattr(expected.history, column),
            rtol=0, atol=0, equal_nan=True,
        )  # fmt: skip


@pytest.mark.parametrize("method", [Anderson(), Broyden()], ids=["anderson", "broyden"])
def test_turning_the_coordinates_turns_the_iterates(method):
    problem = tanh_layer()
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64))
    straight, _ = iterates(problem.f, problem.z0, method, rtol=0.0, max_iter=15)
    turned, _ = iterates(
        lambda z: problem.f(z @ q.T) @ q, problem.z0 @ q, method, rtol=0.0, max_iter=15
    )
    assert float((straight @ q - turned).abs().max()) < 1e-6


@pytest.mark.parametrize("mixing", [0.3, 0.7, 1.0, 1.4])
@pytest.mark.parametrize("method", [Picard, Anderson, Broyden])
def test_mixing_changes_the_way_and_not_the_answer(method, mixing):
    problem = contraction()
    result = solve(problem.f, problem.z0, method(mixing=mixing), rtol=1e-10, max_iter=2000)
    assert bool(result.converged.all())
    torch.testing.assert_close(result.z, problem.z_star, rtol=1e-7, atol=1e-7)


def test_all_back_ends_give_the_same_answers_in_float64():
    problem = tanh_layer(batch=5)
    results = [
        solve(problem.f, problem.z0, Anderson(least_squares=name), rtol=1e-10) for name in BACK_ENDS
    ]
    for result in results:
        torch.testing.assert_close(result.z, results[0].z, rtol=1e-8, atol=1e-8)
        assert bool(result.converged.all())
        assert float((result.sample_evals - results[0].sample_evals).abs().max()) <= 2


# traces: which differences each step uses


def trace(method, num=16, problem=None):
    """Depth of each step of one sample that does not converge meanwhile, and its events."""
    problem = problem or tanh_layer()
    result = solve(problem.f, problem.z0, method, rtol=0.0, max_iter=num + 1)
    history = result.history
    assert bool(history.depth[-1].isnan())  # no step follows the last evaluation
    return history.depth[:-1, 0].int().tolist(), history.event[:-1, 0].tolist()


def test_restart_full_uses_the_full_window_once_and_then_only_the_newest_difference():
    depths, events = trace(Anderson(window=5))
    assert depths == [0, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5]
    assert [k for k, event in enumerate(events) if event & Event.RESTART] == [6, 11]
    assert all(event in (Event.NONE, Event.RESTART) for event in events)


def test_restart_never_slides_the_window():
    depths, events = trace(Anderson(window=5, restart="never"))
    assert depths == [0, 1, 2, 3, 4] + [5] * 11
    assert set(events) == {Event.NONE}


def test_window_one_with_restart_uses_one_difference_at_every_step():
    depths, _ = trace(Anderson(window=1))
    assert depths == [0] + [1] * 15


@pytest.mark.parametrize("period", [2, 3, 4])
def test_period_extrapolates_every_pth_step_and_steps_plainly_between(period):
    problem = tanh_layer()
    depths, _ = trace(Anderson(window=5, period=period, restart="never"))
    assert depths == [
        min(k, 5) if k and k % period == 0 else 0 for k in range(len(depths))
    ]  # differences are collected at every step
    points, _ = iterates(
        problem.f, problem.z0, Anderson(window=5, period=period), rtol=0.0, max_iter=16
    )
    for k, (point, following) in enumerate(pairwise(points)):
        plain = float((following - problem.f(point)).abs().max()) < 1e-14
        assert plain == (k == 0 or k % period != 0)


@pytest.mark.parametrize("delay", [1, 3, 6])
def test_delay_starts_the_history_after_so_many_plain_steps(delay):
    problem = tanh_layer()
    depths, _ = trace(Anderson(window=5, delay=delay, restart="never"), num=14)
    assert depths == [0] * (delay + 1) + [min(k, 5) for k in range(1, 14 - delay)]
    points, _ = iterates(problem.f, problem.z0, Anderson(delay=delay), rtol=0.0, max_iter=12)
    later, _ = iterates(problem.f, points[delay], Anderson(), rtol=0.0, max_iter=12 - delay)
    assert torch.equal(points[delay:], later)


def test_the_gain_is_the_least_squares_residual_and_the_weights_are_counted_in_the_one_norm():
    problem = tanh_layer()
    num = 12
    points, result = iterates(
        problem.f, problem.z0, Anderson(regularization=0.0), rtol=0.0, max_iter=num
    )
    z = points[:, 0].numpy()
    g = np.stack([as_numpy_map(problem.f)(point) - point for point in z])
    for k in range(1, num - 1):
        depth = int(result.history.depth[k, 0])
        dg = (g[k - depth + 1 : k + 1] - g[k - depth : k]).T
        gamma, *_ = np.linalg.lstsq(dg, g[k], rcond=None)
        left = np.linalg.norm(g[k] - dg @ gamma) / np.linalg.norm(g[k])
        assert float(result.history.gain[k, 0]) == pytest.approx(left, abs=1e-6)
        assert float(result.history.weight_norm[k, 0]) == pytest.approx(
            np.abs(gamma).sum(), rel=1e-5
        )
        scaled_columns = dg / np.linalg.norm(dg, axis=0)
        condition = np.linalg.cond(scaled_columns) ** 2
        assert 1 <= float(result.history.condition[k, 0]) <= condition * (1 + 1e-6)


def test_a_larger_ridge_takes_smaller_steps_at_the_first_extrapolation_with_many_columns():
    problem = tanh_layer()
    norms = []
    for regularization in (0.0, 1e-8, 1e-4, 1e-2, 1.0):
        method = Anderson(window=10, period=10, regularization=regularization, fallback=False)
        result = solve(problem.f, problem.z0, method, rtol=0.0, max_iter=12)
        assert float(result.history.depth[10, 0]) == 10
        norms.append(float(result.history.weight_norm[10, 0]))
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < norms[0]


# what else a solve tells


@pytest.mark.parametrize("slope", [0.5, -0.5, 0.9])
@pytest.mark.parametrize("method", [Picard(), Anderson(window=1)], ids=["picard", "anderson"])
def test_the_error_estimate_is_the_error_on_a_line(method, slope):
    z0 = torch.tensor([[1.0], [5.0]], dtype=torch.float64)
    result = solve(lambda z: slope * z + 1, z0, method, rtol=1e-5)
    error = (result.z - 1 / (1 - slope)).abs()[:, 0]
    if method.name == "picard" and slope < 0:  # it sees only |slope|: 1 / (1 - |slope|) is more
        assert bool((result.error_estimate >= error).all())
    else:
        torch.testing.assert_close(result.error_estimate, error, rtol=1e-4, atol=1e-13)


def test_the_error_estimate_is_within_a_factor_of_ten_on_poisson():
    problem = Poisson(size=16, dtype="float64").build()
    for method in (Picard(), Anderson()):
        result = solve(problem.f, problem.z0, method, max_iter=2000)
        error = float((result.z - problem.z_star).norm())
        assert 0.1 * error < float(result.error_estimate) < 10 * error


def test_cubic_answers_are_found_where_the_map_itself_expands():
    case = expansion(n=3)
    result = solve(case.f, case.z0, Anderson(window=3))
    torch.testing.assert_close(result.z, case.z_star, rtol=1e-6, atol=1e-6)
