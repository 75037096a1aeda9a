"""Each defect of the peers' fixed-point solvers, as a test that ours does not have it.

The numbers in the names' comments are the rows of section 0 of the study of the peers: torchdeq,
locuslab/deq and jaxopt. What each of them does is said in the past tense at its test;
test_peers_exhibits.py asks those that are installed, notebooks/08_failure_museum.py shows the most
instructive ones. Maps that write into their argument or into one buffer are in test_edge_cases.py
and test_solve.py, padded traces in test_history.py.
"""

import math

import pytest
import torch
from cases import (
    answered,
    contraction,
    creeping,
    growing,
    nan_at,
    raising_at,
    recomputed,
    roots,
    stationary,
    waves,
)

from andersonn_core import Anderson, Broyden, KnobError, Picard, SolveSpec, Status, solve
from andersonn_core.methods import METHODS
from andersonn_core.problems import Affine, Bratu, Poisson

METHODS_TO_RUN = [Picard(), Anderson(), Anderson(window=1), Broyden()]


def stiff_linear_map(dtype=torch.float64, scale=1.0):
    """Defect 1's map: spectral radius 0.95, 64 numbers."""
    name = str(dtype).removeprefix("torch.")
    problem = Affine(size=64, spectral_radius=0.95, dtype=name).build()
    return lambda z: scale * problem.f(z / scale), scale * problem.z0


# 1: a ridge of 1e-4 was added to the Gram matrix of the residuals as they come, so that small
# residuals were averaged instead of accelerated: not converged in 400 where Picard needed 378


@pytest.mark.parametrize("ridge", [None, 1e-4, 1e-6, 1e-8, 1e-10])
@pytest.mark.parametrize("scale", [1e-8, 1e-2, 1.0, 1e4])
def test_1_the_ridge_never_stops_the_acceleration_of_small_residuals(ridge, scale):
    f, z0 = stiff_linear_map(scale=scale)
    forward = solve(f, z0, Picard(), rtol=1e-8, max_iter=1000)
    anderson = solve(f, z0, Anderson(window=6, regularization=ridge), rtol=1e-8, max_iter=1000)
    assert bool(forward.converged.all()) and bool(anderson.converged.all())
    assert anderson.num_evals <= 0.5 * forward.num_evals


@pytest.mark.parametrize("scale", [1e-8, 1e-2, 1.0, 1e4])
def test_1_nor_in_float32(scale):
    f, z0 = stiff_linear_map(torch.float32, scale)
    forward = solve(f, z0, Picard(), rtol=1e-4, max_iter=1000)
    anderson = solve(f, z0, Anderson(window=6), rtol=1e-4, max_iter=1000)
    assert bool(anderson.converged.all())
    assert anderson.num_evals <= 0.5 * forward.num_evals


def test_1_every_relative_ridge_up_to_a_ten_thousandth_takes_about_the_same_count():
    f, z0 = stiff_linear_map()
    counts = [
        solve(f, z0, Anderson(window=6, regularization=ridge), rtol=1e-8).num_evals
        for ridge in (1e-4, 1e-6, 1e-8, 1e-10, 1e-12)
    ]
    assert max(counts) <= 1.5 * min(counts)


@pytest.mark.parametrize("least_squares", ["gram", "qr", "residuals"])
def test_1_a_stiff_map_takes_the_same_count_in_every_unit(least_squares):
    # after 400 evaluations the absolute ridge was behind forward iteration, in one unit of three
    method = Anderson(least_squares=least_squares)
    runs = []
    for unit in (1e-3, 1.0, 1e3):
        case = creeping(unit)
        runs.append(solve(case.f, case.z0, method, rtol=1e-6).check())
        slow = solve(case.f, case.z0, Picard(), rtol=1e-6, max_iter=400)
        assert float(slow.relative_residual) > 100 * float(runs[-1].relative_residual)
    assert max(run.num_evals for run in runs) - min(run.num_evals for run in runs) <= 2


# The cure, no ridge at all: at an exact fixed point the Gram matrix was singular, and the whole
# batch died of it


@pytest.mark.parametrize("rtol", [0.0, 1e-6])
@pytest.mark.parametrize("restart", ["full", "never"])
@pytest.mark.parametrize("least_squares", ["gram", "qr", "residuals"])
def test_1_without_a_ridge_an_exact_answer_is_no_singular_matrix(least_squares, restart, rtol):
    method = Anderson(least_squares=least_squares, restart=restart, regularization=0.0)
    case = answered()
    result = solve(case.f, case.z0, method, rtol=rtol)
    assert bool(result.converged.all()) and int(result.sample_evals[0]) == 2
    torch.testing.assert_close(result.z, case.z_star)
    case = stationary()
    assert solve(case.f, case.z0, method, rtol=rtol).check().num_evals == 1


# 4: unknown options were accepted: stop_mode='rel' left 'abs', f_anderson_m=3 was ignored


@pytest.mark.parametrize("name", ["stop_mode", "f_anderson_m", "m", "lam", "beta", "tol", "eps"])
def test_4_an_option_that_does_not_exist_is_an_error_everywhere(name):
    calls = []
    with pytest.raises(TypeError, match=name):
        solve(calls.append, torch.ones(1, 2), **{name: 3})
    for method in METHODS.values():
        with pytest.raises(KnobError, match=name):
            method(**{name: 3})
    with pytest.raises(KnobError, match=name):
        SolveSpec(problem=Affine(), **{name: 3})
    assert not calls


# 5: of three points of a trajectory that were asked for, one came back: the solve had ended early


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=lambda m: m.name)
def test_5_the_trajectory_has_every_evaluated_point_however_early_the_solve_ends(method):
    case, points = contraction(), []
    result = solve(case.f, case.z0, method, on_step=lambda step: points.append(step.z().clone()))
    assert bool(result.converged.all()) and len(points) == result.num_evals
    for k, point in enumerate(points):
        running = result.history.running[k]
        shown = result.history.relative_residual[k]
        torch.testing.assert_close(recomputed(case.f, point)[running], shown[running])


# 6: window 1 raised IndexError; max_iter of 1 or 2 returned the start with residual 1e8 and no
# steps; one NaN sample kept the whole batch running to max_iter; finished samples were not frozen


@pytest.mark.parametrize("restart", ["full", "never"])
@pytest.mark.parametrize("window", [0, 1, 2, 6, 16])
@pytest.mark.parametrize("max_iter", [1, 2, 3])
def test_6_small_windows_and_limits_report_the_residual_of_what_they_return(
    max_iter, window, restart
):
    case = contraction()
    method = Anderson(window=window, restart=restart)
    result = solve(case.f, case.z0, method, max_iter=max_iter)
    value = case.f(result.z)
    true = (value - result.z).norm(dim=1) / value.norm(dim=1)
    torch.testing.assert_close(result.relative_residual, true, rtol=1e-10, atol=0.0)
    assert result.num_evals == max_iter
    assert result.sample_evals.tolist() == [max_iter] * 4


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=lambda m: m.name)
def test_6_a_nan_sample_does_not_make_the_others_run_longer(method):
    spoiled, healthy = nan_at(3), contraction()
    bad, good = (solve(case.f, case.z0, method, max_iter=500) for case in (spoiled, healthy))
    assert bad.num_evals <= good.num_evals
    assert bad.sample_evals[1:].tolist() == good.sample_evals[1:].tolist()


def test_6_easy_samples_stop_when_they_are_done():
    # 63 easy samples and a hard one: 17664 sample evaluations were spent, 654 needed
    rates = torch.full((64, 1), 0.05, dtype=torch.float64)
    rates[5] = 0.95

    class Map:
        def __init__(self, rates):
            self.rates = rates

        def __call__(self, z):
            spent.append(len(z))
            return self.rates * z + 1.0

        def select(self, indices):
            return Map(self.rates[indices])

    for compact in (False, True):
        spent = []
        z0 = torch.zeros(64, 4, dtype=torch.float64)
        result = solve(Map(rates), z0, Picard(), rtol=1e-4, max_iter=400, compact=compact)
        assert bool(result.converged.all())
        assert float(result.sample_evals.double().median()) <= 6
        needed = int(result.sample_evals.sum())
        assert sum(spent) == (64 * result.num_evals if not compact else sum(spent))
        assert not compact or sum(spent) <= needed + 2 * 64


# The best point so far was kept by mask * new + ~mask * old, and 0 * NaN is NaN


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=lambda m: m.name)
def test_6_nan_does_not_poison_the_best_point_so_far(method):
    case = roots()
    result = solve(case.f, case.z0, method)
    assert result.status.tolist() == [int(Status.NONFINITE), 0, 0, 0]
    assert int(result.sample_evals[0]) == 2 and result.num_evals <= 22
    assert result.z[0].item() == 0.0 and float(result.relative_residual[0]) == 1.0  # the start
    torch.testing.assert_close(result.z[1:], case.z_star[1:], rtol=1e-5, atol=0.0)


# 6, style: a NaN left the loop of another peer exactly as convergence does


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=lambda m: m.name)
def test_6_nan_is_not_convergence_even_where_nothing_else_remains(method):
    result = solve(lambda z: torch.full_like(z, math.nan), torch.ones(1, 4), method)
    assert result.status.item() == Status.NONFINITE
    assert not result.converged.item()


# The relative test called an overflow converged, |r| / inf = 0; and Broyden's method, whose best
# point was poisoned as above, returned NaN on Bratu's problem


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=lambda m: m.name)
def test_an_overflow_is_no_convergence(method):
    case = growing()
    result = solve(case.f, case.z0, method, max_iter=400)
    expected = Status.DIVERGED if isinstance(method, Picard) else Status.CONVERGED
    assert result.status.item() == expected
    true = recomputed(case.f, result.z.double())
    torch.testing.assert_close(result.relative_residual, true, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", [Poisson, Bratu])
def test_broyden_converges_where_a_peer_s_diverged(family):
    problem = family(size=32).build()
    result = solve(problem.f, problem.z0, Broyden(), rtol=1e-4).check()
    assert float(recomputed(problem.f, result.z)) <= 1.01e-4


# SciPy hands out the last point, another peer the image of the best; neither has the best residual


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=lambda m: m.name)
def test_when_time_is_up_the_best_evaluated_point_is_returned_with_its_own_residual(method):
    case = waves()
    result = solve(case.f, case.z0, method, max_iter=9)
    assert result.status.item() == Status.MAX_ITER
    best = float(result.history.relative_residual.min())
    assert float(result.relative_residual) == best
    assert float(recomputed(case.f, result.z)) == pytest.approx(best, rel=1e-12)


def test_the_last_point_and_the_image_of_the_best_may_be_much_worse():
    case = waves()
    result = solve(case.f, case.z0, Anderson(window=1), max_iter=21)
    best, last = float(result.relative_residual), float(result.history.relative_residual[-1])
    assert last > 50 * best and float(recomputed(case.f, case.f(result.z))) > 4 * best


# 9: a solve that never improved raised UnboundLocalError, one singular sample killed the batch,
# and only 3-D states were allowed


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=lambda m: m.name)
def test_9_a_solve_that_never_improves_returns_its_start(method):
    start = torch.ones(2, 3, dtype=torch.float64)
    calls = []

    def f(z):  # ||f(z) - z|| / ||f(z)|| = (2 + e) / (1 + e) with e = 1/2, 1/4, ...: it only grows
        calls.append(z)
        return -(1 + 0.5 ** len(calls)) * z

    result = solve(f, start, method, max_iter=15)
    assert result.status.tolist() == [int(Status.MAX_ITER)] * 2
    assert torch.equal(result.z, start)
    assert bool((result.history.relative_residual.diff(dim=0) > 0).all())
    assert torch.equal(result.relative_residual, result.history.relative_residual[0])


@pytest.mark.parametrize("least_squares", ["gram", "qr", "residuals"])
def test_9_a_sample_with_a_singular_least_squares_problem_does_not_kill_the_batch(least_squares):
    # sample 0 moves by the same step for ever, so that all its residual differences are zero
    case = contraction(batch=3)

    def f(z):
        value = case.f(z)
        value[0] = z[0] + 1.0
        return value

    method = Anderson(least_squares=least_squares, regularization=0.0)
    result = solve(f, case.z0, method, max_iter=60)
    alone = solve(case.f, case.z0, method, max_iter=60)
    assert result.status.tolist() == [int(Status.MAX_ITER), 0, 0]
    assert torch.equal(result.z[1:], alone.z[1:])
    assert bool(torch.isfinite(result.z).all())


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4), (2, 3, 4, 5)], ids=str)
def test_9_states_may_have_any_rank(shape):
    result = solve(torch.cos, torch.zeros(shape))
    assert result.z.shape == shape and bool(result.converged.all())


def test_9_a_solver_can_be_used_again_after_a_failure():
    case = contraction()
    method = Anderson()
    first = solve(case.f, case.z0, method)
    broken = raising_at(4)
    with pytest.raises(Exception, match="evaluation 4 failed"):
        solve(broken.f, broken.z0, method)
    assert torch.equal(solve(case.f, case.z0, method).z, first.z)


# 14: the regularized path built its matrices on the CPU and failed on a GPU, where the other path
# took no singular problem


@pytest.mark.gpu
@pytest.mark.parametrize("least_squares", ["gram", "qr", "residuals"])
@pytest.mark.parametrize("ridge", [None, 1e-3])
def test_14_everything_stays_on_the_map_s_device(least_squares, ridge):
    method = Anderson(least_squares=least_squares, regularization=ridge)
    results = []
    for device in ("cpu", "cuda"):
        problem = Poisson(size=16, batch_size=4, dtype="float64", device=device).build()
        results.append(solve(problem.f, problem.z0, method, rtol=1e-8, compact=True))
        assert results[-1].z.device.type == device
    cpu, gpu = results
    torch.testing.assert_close(gpu.z.cpu(), cpu.z, rtol=1e-6, atol=1e-9)
    assert torch.equal(gpu.status, cpu.status)
    assert abs(gpu.num_evals - cpu.num_evals) <= 2
    # 20: a peer timed GPU work with the host's clock and without waiting
    assert gpu.history.clock == "CUDA events" and cpu.history.clock == "thread CPU time"
    assert bool((gpu.history.map_seconds > 0).all())


@pytest.mark.gpu
@pytest.mark.parametrize("least_squares", ["gram", "qr", "residuals"])
def test_14_a_singular_problem_is_solved_on_the_gpu_too(least_squares):
    case = answered(device="cuda")
    method = Anderson(least_squares=least_squares, regularization=0.0)
    result = solve(case.f, case.z0, method, rtol=0.0)
    assert bool(result.converged.all()) and int(result.sample_evals[0]) == 2
    torch.testing.assert_close(result.z, case.z_star)
