"""What users do by accident, handled: a true answer or a true status, never a false claim."""

import math

import numpy as np
import pytest
import torch
from cases import (
    LEAVING,
    METHODS_TO_RUN,
    Counter,
    Scripted,
    constant,
    contraction,
    every_method,
    exploding,
    inf_at,
    nan_at,
    no_fixed_point,
    overflowing,
    parallel_columns,
    raising_at,
    stationary,
    zero_columns,
)

from andersonn_core import (
    IDR,
    Anderson,
    Auto,
    Broyden,
    Event,
    Picard,
    ShortRecurrence,
    Status,
    solve,
)
from andersonn_core.methods.base import MethodState
from andersonn_core.problems import Rotation


@pytest.mark.parametrize("least_squares", ["gram", "qr", "residuals"])
@pytest.mark.parametrize("restart", ["full", "never"])
@pytest.mark.parametrize("window", [0, 1, 2, 10, 11, 100])
@pytest.mark.parametrize("max_iter", [1, 2, 3])
def test_every_window_works_within_the_first_evaluations(window, max_iter, restart, least_squares):
    case = contraction(n=10)
    counter = Counter(case.f)
    method = Anderson(window=window, restart=restart, least_squares=least_squares)
    result = solve(counter, case.z0, method, max_iter=max_iter)
    assert counter.calls == result.num_evals == max_iter
    assert result.status.tolist() == [int(Status.MAX_ITER)] * 4
    residual = (case.f(result.z) - result.z).norm(dim=1)
    assert bool((residual <= (case.f(case.z0) - case.z0).norm(dim=1)).all())


@every_method
def test_one_evaluation_returns_the_start_with_its_residual(method):
    case = contraction()
    result = solve(case.f, case.z0, method, max_iter=1)
    assert torch.equal(result.z, case.z0)
    value = case.f(case.z0)
    expected = (value - case.z0).norm(dim=1) / value.norm(dim=1)
    torch.testing.assert_close(result.relative_residual, expected)
    assert bool(result.history.depth.isnan().all())


@every_method
def test_two_evaluations_may_converge_on_the_last(method):
    case = constant()
    result = solve(case.f, case.z0, method, max_iter=2)
    assert result.num_evals == 2
    assert bool(result.converged.all())
    torch.testing.assert_close(result.z, case.z_star)


@every_method
def test_with_rtol_zero_only_a_residual_of_zero_converges(method):
    case = contraction()
    result = solve(case.f, case.z0, method, rtol=0.0, max_iter=250)
    for sample, status in enumerate(result.status.tolist()):
        exact = float(result.relative_residual[sample]) == 0.0
        assert status == (Status.CONVERGED if exact else Status.MAX_ITER)  # never STALLED
    assert float(result.relative_residual.max()) < 1e-11
    reached = solve(constant().f, constant().z0, method, rtol=0.0)
    assert bool(reached.converged.all()) and reached.num_evals == 2


@every_method
@pytest.mark.parametrize("rtol", [0.0, 1e-6])
def test_an_exact_fixed_point_as_the_start_takes_one_evaluation(method, rtol):
    case = stationary()
    result = solve(case.f, case.z0, method, rtol=rtol)
    assert result.num_evals == 1
    assert bool(result.converged.all())
    assert torch.equal(result.z, case.z0)
    zero = solve(lambda z: 0.5 * z, torch.zeros(2, 3), method, rtol=rtol)  # residual 0, f(z) 0
    assert zero.num_evals == 1 and bool(zero.converged.all())


@every_method
@pytest.mark.parametrize("shape", [(0, 3), (0,), (0, 2, 3)], ids=str)
@pytest.mark.parametrize("profile", [False, True])
def test_an_empty_batch_gives_an_empty_result_without_an_evaluation(method, shape, profile):
    counter = Counter()
    result = solve(counter, torch.zeros(shape), method, profile=profile, compact=True)
    assert counter.calls == result.num_evals == 0
    assert result.z.shape == shape
    assert result.status.shape == result.converged.shape == result.sample_evals.shape == (0,)
    assert result.history.relative_residual.shape == (0, 0)
    assert len(result.to_frame()) == 0
    assert result.check() is result
    assert result.seconds == 0.0
    assert result.history.seconds.shape == (0,)
    assert result.card.to_json()


@every_method
def test_samples_without_elements_are_at_their_fixed_point(method):
    result = solve(lambda z: z.clone(), torch.zeros(3, 0), method)
    assert result.status.tolist() == [0, 0, 0]
    assert result.num_evals == 1


@every_method
@pytest.mark.parametrize("make", [zero_columns, parallel_columns, no_fixed_point])
def test_zero_and_parallel_difference_columns_leave_finite_numbers(method, make):
    case = make()
    result = solve(case.f, case.z0, method, max_iter=80)
    assert bool(torch.isfinite(result.z).all())
    assert bool(torch.isfinite(result.history.residual).all())
    if case.z_star is not None:
        assert bool(result.converged.all())
        torch.testing.assert_close(result.z, case.z_star, rtol=1e-4, atol=0.0)
    else:
        assert not bool(result.converged.any())


def test_dropped_columns_are_counted():
    case = zero_columns()
    result = solve(case.f, case.z0, Anderson(restart="never"))
    drops = (result.history.event & Event.DROP) != 0
    assert result.diagnostics["drops"] == int(drops.sum()) > 0


@every_method
def test_near_parallel_columns_in_float32_stay_finite(method):
    # one slow direction dominates: after some steps all differences are parallel to rounding
    spectrum = torch.linspace(0.0, 0.3, 50)
    spectrum[0] = 0.999
    offset = torch.ones(1, 50)
    result = solve(lambda z: spectrum * z + offset, torch.zeros(1, 50), method, max_iter=400)
    assert bool(torch.isfinite(result.history.residual).all())
    if method.name != "picard":
        assert bool(result.converged.all())


@every_method
@pytest.mark.parametrize("case", LEAVING)
def test_leaving_the_numbers_is_never_called_converged(method, case):
    problem = LEAVING[case]()
    result = solve(problem.f, problem.z0, method)
    clean = Scripted(problem.f.f, lambda k, v: v) if isinstance(problem.f, Scripted) else problem.f
    value = clean(result.z)
    relative = (value - result.z).double().norm(dim=1) / value.double().norm(dim=1)
    for sample, status in enumerate(result.status.tolist()):
        assert status in (Status.CONVERGED, Status.DIVERGED, Status.NONFINITE)
        assert bool(torch.isfinite(result.z[sample]).all())
        if status == Status.CONVERGED:
            assert float(relative[sample]) <= 1e-6 or float(value[sample].norm()) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("power", [2, 3])
def test_an_overflow_is_diverged_or_nonfinite_with_the_best_iterate(dtype, power):
    z0 = torch.tensor([[2.0, 3.0], [0.5, 0.2]], dtype=dtype)
    result = solve(lambda z: z**power, z0, Picard(), max_iter=40)
    assert result.status[0] in (Status.DIVERGED, Status.NONFINITE)
    assert bool(torch.isfinite(result.z).all())
    assert float(result.relative_residual[0]) > 0.1
    assert bool(result.converged[1])  # 0 is a fixed point, underflow reaches it exactly


def test_a_norm_that_overflows_while_its_entries_do_not_is_divergence():
    f = Scripted(lambda z: z + 1, lambda k, v: v * 1e30 if k == 3 else v)
    result = solve(f, torch.ones(1, 100), Picard())
    assert result.status.item() == Status.DIVERGED
    assert result.num_evals == 3
    assert bool(torch.isfinite(result.z).all())


@every_method
def test_growth_beyond_a_million_times_the_start_is_divergence(method):
    case = exploding()
    result = solve(case.f, case.z0, Picard())
    assert result.status.item() == Status.DIVERGED
    residual = result.history.residual[:, 0]
    assert float(residual[-1]) > 1e6 * float(residual[0]) >= float(residual[-2])
    solved = solve(case.f, case.z0, method)
    assert solved.status.item() in (Status.DIVERGED, Status.CONVERGED)


@every_method
@pytest.mark.parametrize("make", [nan_at, inf_at])
@pytest.mark.parametrize("evaluation", [1, 2, 3, 8])
def test_a_sample_that_leaves_the_numbers_returns_its_best_earlier_iterate(
    method, make, evaluation
):
    case = make(evaluation)
    result = solve(case.f, case.z0, method)
    assert result.status.tolist() == [int(Status.NONFINITE), 0, 0, 0]
    assert int(result.sample_evals[0]) == evaluation
    clean = contraction()
    value = clean.f(result.z)
    relative = (value - result.z).norm(dim=1) / value.norm(dim=1)
    if evaluation == 1:
        assert torch.equal(result.z[0], case.z0[0])
        assert not math.isfinite(float(result.relative_residual[0]))
    else:
        earlier = result.history.relative_residual[: evaluation - 1, 0]
        assert float(result.relative_residual[0]) == float(earlier.min())
        torch.testing.assert_close(result.relative_residual, relative, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("window", "patience"), [(0, 50), (5, 50), (10, 50), (20, 100)])
def test_stalled_means_no_gain_of_one_percent_in_fifty_evaluations_or_five_windows(
    window, patience
):
    problem = Rotation(size=1, dtype="float64").build()
    method = Anderson(
        window=window, delay=10_000
    )  # it never extrapolates: the residual is constant
    result = solve(problem.f, problem.z0, method, max_iter=200)
    assert result.status.item() == Status.STALLED
    # ||f(z)|| changes on the circle: the best relative residual is reached within its six points
    assert patience < result.num_evals <= patience + 6
    residual = result.history.residual[:, 0]
    torch.testing.assert_close(residual, residual[:1].expand_as(residual))


@every_method
@pytest.mark.parametrize("power", [-36, -24, -18, -14, 14, 20, 30])
def test_states_whose_squares_leave_float32_are_judged_by_their_true_residual(method, power):
    scale = 10.0**power

    def f(z):
        return scale * torch.cos(z / scale)

    result = solve(f, torch.full((1, 50), 0.1 * scale), method)
    value = f(result.z).double()
    relative = float((value - result.z.double()).norm() / value.norm())
    assert result.converged.item() == (relative <= 1e-6 * (1 + 1e-5))
    assert float(result.relative_residual) == pytest.approx(relative, rel=1e-4, abs=1e-12)
    if method.name == "picard":
        assert result.converged.item()


@every_method
def test_a_whole_batch_of_nan_ends_at_once(method):
    result = solve(lambda z: z * torch.nan, torch.ones(3, 2), method)
    assert result.num_evals == 1
    assert result.status.tolist() == [int(Status.NONFINITE)] * 3
    assert torch.equal(result.z, torch.ones(3, 2))


def test_rtol_zero_with_an_infinite_value_warns_of_nothing():
    case = inf_at(3)
    result = solve(case.f, case.z0, Picard(), rtol=0.0, max_iter=5)
    assert int(result.status[0]) == Status.NONFINITE


@every_method
@pytest.mark.parametrize("evaluation", [1, 2, 6])
def test_a_map_that_raises_keeps_its_exception_and_gains_the_partial_result(method, evaluation):
    case = raising_at(evaluation)
    with pytest.raises(Exception, match=f"evaluation {evaluation} failed") as caught:
        solve(case.f, case.z0, method)
    assert type(caught.value).__name__ == "MapError"
    partial = caught.value.partial_result
    done = evaluation - 1
    assert partial.num_evals == len(partial.history.residual) == done
    assert partial.status.tolist() == [int(Status.CANCELLED)] * 4
    assert partial.sample_evals.tolist() == [done] * 4
    if not done:
        assert torch.equal(partial.z, case.z0)
    else:
        best = partial.history.relative_residual.amin(0)
        assert torch.equal(partial.relative_residual, best)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, StopIteration, MemoryError])
def test_any_exception_passes_through(error):
    def f(z):
        raise error("no")

    with pytest.raises(error) as caught:
        solve(f, torch.ones(2, 2))
    assert caught.value.partial_result.num_evals == 0


def test_a_map_in_place_is_never_given_a_false_claim():
    def torch_map(z):
        return z.mul_(0.5).add_(1.0)

    def numpy_map(z):
        np.multiply(z, 0.5, out=z)
        z += 1
        return z

    for f, z0 in ((torch_map, torch.full((2, 3), 7.0)), (numpy_map, np.full((2, 3), 7.0))):
        before = z0.copy() if isinstance(z0, np.ndarray) else z0.clone()
        for method in METHODS_TO_RUN:
            try:
                result = solve(f, z0, method)
            except ValueError:
                pass
            else:
                np.testing.assert_allclose(np.asarray(result.z), 2.0, rtol=1e-5)
            np.testing.assert_array_equal(np.asarray(z0), np.asarray(before))


def test_a_map_that_changes_a_part_of_its_argument_is_never_given_a_false_claim():
    def f(state):
        a, b = state
        a *= 0.5
        return a + 1, 0.5 * b + a

    state = (torch.full((1, 2), 7.0), torch.zeros(1, 2))
    try:
        result = solve(f, state)
    except ValueError:
        return
    torch.testing.assert_close(result.z[0], torch.full((1, 2), 2.0), rtol=1e-5, atol=1e-5)


def test_identity_returned_as_the_same_object_is_a_fixed_point():
    result = solve(lambda z: z, torch.ones(2, 3))
    assert bool(result.converged.all()) and result.num_evals == 1


def test_two_fixed_points_are_told_apart_by_where_the_solve_starts():
    case = overflowing()
    result = solve(case.f, case.z0[1:], Picard())
    assert float(result.z.abs().max()) < 1e-3


@pytest.mark.parametrize("size", [1e25, 1e-25], ids=["large", "small"])
@pytest.mark.parametrize(
    "method",
    [
        Picard(), Anderson(), Anderson(restart="never"), Anderson(restart="deflated"),
        Anderson(restart="auto"), Anderson(least_squares="residuals"),
        Anderson(least_squares="qr"), Broyden(), IDR(), ShortRecurrence(), Auto(),
    ],
    ids=repr,
)  # fmt: skip
def test_numbers_whose_squares_leave_float32_are_stepped_plainly_not_lost(method, size):
    """Inner products of 1e25 overflow, those of 1e-25 vanish; f(z) = size - z / 2 contracts."""
    result = solve(lambda z: size - 0.5 * z, torch.zeros(3, 40), method)
    assert result.converged.all() and result.num_evals <= 22  # 0.5^21 < 1e-6
    torch.testing.assert_close(result.z / size, torch.full((3, 40), 2 / 3), rtol=1e-5, atol=0)


def test_an_error_of_the_first_step_is_not_hidden_by_the_partial_result(monkeypatch):
    def failing(*_):
        raise MemoryError("no room for the residual")

    monkeypatch.setattr(MethodState, "measure", failing)
    with pytest.raises(MemoryError, match="no room") as caught:
        solve(lambda z: 0.5 * z + 1, torch.zeros(2, 3), Anderson())
    partial = caught.value.partial_result
    assert partial.num_evals == 0 and partial.z.equal(torch.zeros(2, 3))
    assert (partial.status == Status.CANCELLED).all()
