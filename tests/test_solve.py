"""What a solve returns: the truth about every sample, and how to get it again."""

import gc
import json

import numpy as np
import pytest
import torch
from cases import (
    CONVERGING,
    HISTORY_ROWS,
    METHODS_TO_RUN,
    SMALL,
    Scripted,
    Witness,
    circling,
    contraction,
    every_method,
    exploding,
    nan_at,
    recomputed,
    same,
)

from andersonn_core import (
    METHODS,
    PROBLEMS,
    Anderson,
    Broyden,
    NotConvergedError,
    Picard,
    RunCard,
    SolveSpec,
    Status,
    solve,
)

DTYPES = ("float32", "float64", "bfloat16")

# every method on every problem in every type


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", SMALL)
@every_method
def test_every_method_ends_every_problem_in_a_true_status(method, family, dtype):
    problem = SMALL[family].replace(dtype=dtype).build()
    rtol = {"float32": 1e-5, "float64": 1e-8, "bfloat16": 2e-2}[dtype]
    witness = Witness(problem.f)
    result = solve(witness, problem.z0, method, rtol=rtol, max_iter=120)
    assert result.num_evals == len(witness.points) == len(result.history.residual) <= 120
    assert result.z.dtype == problem.z0.dtype and result.z.shape == problem.z0.shape

    claimed, true = result.relative_residual, recomputed(problem.f, result.z)
    torch.testing.assert_close(claimed, true, rtol=1e-3, atol=0.01 * rtol)
    met = claimed <= rtol
    assert torch.equal(result.converged, met)  # no claim without the residual, none kept back
    rows = torch.stack([recomputed(lambda z, v=v: v, z) for z, v in zip(
        witness.points, witness.values, strict=True)])  # fmt: skip
    for sample, status in enumerate(result.status.tolist()):
        last = int(result.sample_evals[sample])
        if status == Status.MAX_ITER:
            assert last == result.num_evals == 120
        elif status == Status.STALLED:
            assert last > 50
            assert float(rows[last - 50 : last, sample].min()) > 0.98 * float(
                rows[: last - 50, sample].min()
            )
        elif status == Status.DIVERGED:
            assert float(result.history.residual[last - 1, sample]) > 1e6 * float(
                result.history.residual[0, sample]
            )
        elif status == Status.NONFINITE:  # a step may hit a pole of Newton's map
            assert bool(witness.points[last - 1][sample].isfinite().all())
            assert not bool(witness.values[last - 1][sample].isfinite().all())
        else:
            assert status == Status.CONVERGED
            assert float(true[sample]) <= rtol * (1 + 1e-3)


@every_method
@pytest.mark.parametrize("case", CONVERGING)
def test_every_method_solves_every_map_that_has_an_easy_answer(method, case):
    problem = CONVERGING[case]()
    result = solve(problem.f, problem.z0, method)
    assert bool(result.converged.all())
    torch.testing.assert_close(result.z, problem.z_star, rtol=1e-3, atol=1e-4)


def test_the_tables_of_methods_and_problems_are_complete_here():
    # Auto chooses by seconds: tests/test_auto.py runs it on a clock of its own.
    assert {method.name for method in METHODS_TO_RUN} == set(METHODS) - {"auto"}
    assert set(SMALL) == set(PROBLEMS)


# the returned point


@every_method
@pytest.mark.parametrize("max_iter", [1, 2, 7, 40])
def test_the_returned_point_was_evaluated_and_is_the_best_or_the_one_that_converged(
    method, max_iter
):
    problem = SMALL["sinkhorn"].build()
    witness = Witness(problem.f)
    result = solve(witness, problem.z0, method, rtol=1e-4, max_iter=max_iter)
    rows = result.history.relative_residual
    for sample in range(3):
        evaluated = [torch.equal(point[sample], result.z[sample]) for point in witness.points]
        assert any(evaluated)
        row = evaluated.index(True)
        assert float(result.relative_residual[sample]) == float(rows[row, sample])
        if result.status[sample] != Status.CONVERGED:
            assert float(rows[row, sample]) == float(rows[:, sample].nan_to_num(nan=9.0).min())
        else:
            assert row == int(result.sample_evals[sample]) - 1


def test_the_best_point_of_a_diverging_solve_is_returned():
    case = exploding()
    result = solve(case.f, case.z0, Picard())
    assert result.status.item() == Status.DIVERGED
    best = result.history.relative_residual.min()
    assert float(result.relative_residual) == float(best) == float(recomputed(case.f, result.z))


def test_with_an_absolute_tolerance_the_point_that_met_it_is_returned():
    # |g| falls at every step while |g| / |f(z)| grows: the relative best is the first point
    z0 = torch.tensor([[1000.0, 0.0]], dtype=torch.float64)
    shrink = torch.tensor([0.5, 0.0], dtype=torch.float64)
    result = solve(lambda z: z * shrink, z0, Picard(), rtol=0.0, atol=1.0)
    assert result.status.item() == Status.CONVERGED
    assert float((result.z * shrink - result.z).norm()) <= 1.0
    assert float(result.z[0, 0]) == 1000 / 2**9
    assert float(result.error_estimate) == pytest.approx(1000 / 2**9, rel=1e-6)


def test_finished_samples_do_not_move_again():
    problem = SMALL["tanh"].build()
    witness = Witness(problem.f)
    result = solve(witness, problem.z0, Anderson(), rtol=1e-5)
    assert len(set(result.sample_evals.tolist())) > 1
    for sample, last in enumerate(result.sample_evals.tolist()):
        for point in witness.points[last - 1 :]:
            assert torch.equal(point[sample], result.z[sample])


def test_the_start_is_not_changed():
    problem = SMALL["newton"].build()
    before = problem.z0.clone()
    for method in METHODS_TO_RUN:
        result = solve(problem.f, problem.z0, method)
        assert torch.equal(problem.z0, before)
        assert result.z.data_ptr() != problem.z0.data_ptr()


def test_maps_that_reuse_one_output_buffer_get_the_same_answer():
    problem = contraction()
    buffer = torch.empty_like(problem.z0)
    for method in METHODS_TO_RUN:
        expected = solve(problem.f, problem.z0, method)
        result = solve(lambda z: buffer.copy_(problem.f(z)), problem.z0, method)
        assert torch.equal(result.z, expected.z)
        assert result.num_evals == expected.num_evals


# samples are alone


@every_method
@pytest.mark.parametrize("family", ["newton", "sinkhorn", "poisson", "affine", "tanh"])
def test_permuting_the_batch_permutes_the_result(method, family):
    problem = SMALL[family].replace(batch_size=6, dtype="float64").build()
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    straight = solve(problem.f, problem.z0, method, max_iter=60)
    permuted = solve(problem.f.select(order), problem.z0[order], method, max_iter=60)
    torch.testing.assert_close(permuted.z, straight.z[order], rtol=1e-5, atol=1e-5)
    assert torch.equal(permuted.status, straight.status[order])
    assert float((permuted.sample_evals - straight.sample_evals[order]).abs().max()) <= 1


@pytest.mark.parametrize("method", [Picard(), Anderson(), Anderson(restart="never"), Broyden()])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sample_alone_takes_the_same_way_bit_for_bit_on_an_elementwise_map(method, dtype):
    # size 32: each row begins on a cache line; elsewhere sums are rounded by their alignment
    problem = SMALL["newton"].replace(batch_size=5, size=32, dtype=dtype).build()
    together = solve(problem.f, problem.z0, method, max_iter=60)
    for sample in range(5):
        index = torch.tensor([sample])
        alone = solve(problem.f.select(index), problem.z0[index], method, max_iter=60)
        assert torch.equal(alone.z[0], together.z[sample])
        assert int(alone.status) == int(together.status[sample])
        num = alone.num_evals
        assert num == int(together.sample_evals[sample])
        for name in HISTORY_ROWS:
            same(getattr(together.history, name)[:num, sample], getattr(alone.history, name)[:, 0])


@pytest.mark.parametrize("size", [7, 101])
def test_a_sample_alone_ends_like_in_the_batch_by_qr_and_at_any_length(size):
    problem = SMALL["newton"].replace(batch_size=3, size=size, dtype="float64").build()
    for method in METHODS_TO_RUN:
        together = solve(problem.f, problem.z0, method, max_iter=60)
        for sample in range(3):
            index = torch.tensor([sample])
            alone = solve(problem.f.select(index), problem.z0[index], method, max_iter=60)
            torch.testing.assert_close(alone.z[0], together.z[sample], rtol=1e-6, atol=0.0)
            assert int(alone.status) == int(together.status[sample])
            assert abs(alone.num_evals - int(together.sample_evals[sample])) <= 1


@every_method
@pytest.mark.parametrize("evaluation", [1, 4, 9])
def test_a_sample_that_turns_nan_leaves_the_others_bit_identical(method, evaluation):
    spoiled, healthy = nan_at(evaluation, sample=1), contraction()
    bad = solve(spoiled.f, spoiled.z0, method)
    good = solve(healthy.f, healthy.z0, method)
    assert bad.status.tolist() == [0, int(Status.NONFINITE), 0, 0]
    assert int(bad.sample_evals[1]) == evaluation
    others = torch.tensor([0, 2, 3])
    assert torch.equal(bad.z[others], good.z[others])
    assert torch.equal(bad.sample_evals[others], good.sample_evals[others])
    for name in HISTORY_ROWS:
        num = min(bad.num_evals, good.num_evals)
        same(getattr(bad.history, name)[:num, others], getattr(good.history, name)[:num, others])
    if evaluation > 1:
        earlier = good.history.relative_residual[: evaluation - 1, 1]
        assert float(bad.relative_residual[1]) == float(earlier.min())
        assert float(recomputed(healthy.f, bad.z)[1]) == pytest.approx(float(earlier.min()))
    else:
        assert torch.equal(bad.z[1], healthy.z0[1])


# gradients


@every_method
def test_a_solve_builds_no_graph(method):
    weight = torch.full((3,), 0.5, requires_grad=True)
    z0 = torch.ones(2, 3, requires_grad=True)
    graphs = []

    def f(z):
        value = weight * z + 1
        graphs.append(value.requires_grad or z.requires_grad or torch.is_grad_enabled())
        return value

    result = solve(f, z0, method)
    assert not any(graphs)
    assert not result.z.requires_grad and result.z.grad_fn is None
    assert torch.is_grad_enabled()
    assert z0.grad is None


def test_a_map_that_enables_gradients_itself_leaves_no_graph_in_the_result():
    weight = torch.full((3,), 0.5, requires_grad=True)

    def f(z):
        with torch.enable_grad():
            return weight * z + 1

    for method in METHODS_TO_RUN:
        result = solve(f, torch.ones(2, 3), method)
        assert not result.z.requires_grad
        assert bool(result.converged.all())


def test_a_solve_inside_inference_mode_works():
    with torch.inference_mode():
        result = solve(torch.cos, torch.ones(2, 3))
    assert bool(result.converged.all())


# verdicts in words


def test_check_returns_the_result_when_all_is_well():
    problem = SMALL["tanh"].build()
    result = solve(problem.f, problem.z0)
    assert result.check() is result


def test_check_says_how_many_failed_why_and_which_knob_to_move():
    problem = SMALL["poisson"].build()
    result = solve(problem.f, problem.z0, max_iter=10)
    with pytest.raises(NotConvergedError) as caught:
        result.check()
    message = str(caught.value)
    assert "0 of 3 samples converged in 10 evaluations" in message
    assert f"{float(result.relative_residual.max()):.3g}" in message
    assert "3 x MAX_ITER" in message and "max_iter" in message and "rtol" in message
    assert "CONVERGED:" not in message


def test_check_counts_each_kind_of_failure():
    case = circling()
    f = Scripted(case.f, lambda k, v: torch.where(torch.arange(4)[:, None] == 3, torch.nan, v))
    result = solve(f, case.z0, Picard())
    with pytest.raises(NotConvergedError, match="2 of 4") as caught:
        result.check()
    assert "1 x STALLED" in str(caught.value) and "1 x NONFINITE" in str(caught.value)


def test_every_status_has_one_sentence_of_advice():
    knobs = {"rtol", "max_iter", "window", "mixing", "dtype", "z0"}
    for status in Status:
        assert status.advice.endswith(".")
        if status not in (Status.CONVERGED, Status.CANCELLED):
            assert any(name in status.advice for name in knobs)


# the record of the run


@pytest.mark.parametrize("family", ["digits_deq", "newton", "rotation"])
def test_a_spec_runs_like_the_call_that_it_describes(family):
    spec = SolveSpec(problem=SMALL[family], method=Anderson(window=3), rtol=1e-4, max_iter=60)
    problem = SMALL[family].build()
    run = spec.run()
    called = solve(problem.f, problem.z0, Anderson(window=3), rtol=1e-4, max_iter=60)
    assert torch.equal(run.z, called.z)
    assert torch.equal(run.status, called.status)
    assert run.card.spec_id == spec.spec_id
    assert SolveSpec.from_dict(run.card.spec) == spec


def test_a_spec_passes_on_step_and_should_stop_to_the_driver():
    steps = []
    spec = SolveSpec(problem=SMALL["poisson"])
    result = spec.run(on_step=steps.append, should_stop=lambda: len(steps) >= 4)
    assert result.num_evals == len(steps) == 4


@pytest.mark.parametrize("make", [contraction, exploding, lambda: nan_at(1), circling])
def test_every_result_has_a_card_that_is_valid_json(make):
    case = make()
    card = solve(case.f, case.z0, Picard()).card
    record = json.loads(card.to_json())
    assert record["spec"]["problem"] is None and record["spec"]["method"]["name"] == "picard"
    assert record["summary"]["num_evals"] > 0
    assert RunCard.from_json(card.to_json()) == card


def test_solving_twice_gives_the_same_bits():
    for family in ("digits_deq", "tanh", "sinkhorn"):
        problem = SMALL[family].build()
        first, second = (solve(problem.f, problem.z0, max_iter=60) for _ in range(2))
        assert torch.equal(first.z, second.z)
        for name in HISTORY_ROWS:
            same(getattr(first.history, name), getattr(second.history, name))


def test_a_solve_draws_no_random_numbers():
    problem = SMALL["tanh"].build()
    torch.manual_seed(0)
    np_state, before = np.random.get_state()[1].copy(), torch.get_rng_state()
    solve(problem.f, problem.z0)
    assert torch.equal(torch.get_rng_state(), before)
    assert bool((np.random.get_state()[1] == np_state).all())


def test_a_finished_solve_keeps_no_workspace_alive():
    def live_elements():
        gc.collect()
        tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
        return sum(x.numel() for x in tensors)

    problem = SMALL["poisson"].replace(size=64).build()
    before = live_elements()
    result = solve(problem.f, problem.z0, Anderson(window=20), max_iter=40)
    held = live_elements() - before
    assert held < 2 * result.z.numel() + 40 * 3 * 12
