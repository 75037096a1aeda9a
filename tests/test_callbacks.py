"""What streams out of a solve and what stops it: on_step, should_stop, exceptions."""

import pytest
import torch
from cases import SMALL, Witness, contraction, every_method, raising_at, recomputed, same

from andersonn_core import Status, solve


@every_method
def test_on_step_hears_every_evaluation_once_and_in_order(method):
    problem = SMALL["newton"].build()
    witness, steps, points = Witness(problem.f), [], []

    def on_step(step):
        steps.append(step)
        points.append(step.z().clone())
        assert len(witness.points) == step.evaluation  # told before the next evaluation

    result = solve(witness, problem.z0, method, on_step=on_step, rtol=1e-5)
    assert [step.evaluation for step in steps] == list(range(1, result.num_evals + 1))
    same(torch.stack([s.relative_residual for s in steps]), result.history.relative_residual)
    same(torch.stack([s.depth for s in steps]), result.history.depth)
    assert torch.equal(torch.stack([s.event for s in steps]), result.history.event)
    assert [s.seconds for s in steps] == pytest.approx(result.history.seconds.tolist())
    assert all(map(torch.equal, points, witness.points))
    assert torch.equal(steps[-1].status, result.status)
    for step in steps:
        running = step.evaluation < result.sample_evals
        expected = torch.where(running, -1, result.status)
        assert step.status.tolist() == expected.tolist()
    assert all(step.relative_residual.device.type == "cpu" for step in steps)


def test_the_iterate_of_a_step_stays_what_it_was_and_can_be_had_only_in_time():
    problem = SMALL["tanh"].build()
    witness, steps, points = Witness(problem.f), [], []
    solve(witness, problem.z0, on_step=lambda step: (steps.append(step), points.append(step.z())))
    assert all(map(torch.equal, points, witness.points))
    with pytest.raises(RuntimeError, match="only while on_step runs"):
        steps[0].z()


def test_the_time_that_on_step_takes_is_nobody_s():
    problem = SMALL["newton"].build()
    burned = []

    def burn(step):
        total, tick = 0.0, torch.ones(200, 200)
        for _ in range(20):
            total += float((tick @ tick).sum())
        burned.append(total)

    quiet = solve(problem.f, problem.z0)
    busy = solve(problem.f, problem.z0, on_step=burn)
    assert len(burned) == busy.num_evals == quiet.num_evals
    assert float(busy.history.seconds[-1]) == pytest.approx(
        float((busy.history.map_seconds + busy.history.method_seconds)[:-1].sum()
              + busy.history.map_seconds[-1])
    )  # fmt: skip
    assert busy.seconds < float(busy.history.wall_seconds[-1])


@every_method
@pytest.mark.parametrize("after", [0, 1, 5])
def test_should_stop_cancels_before_the_next_evaluation_and_keeps_the_best(method, after):
    problem = SMALL["newton"].build()
    witness = Witness(problem.f)
    result = solve(
        witness, problem.z0, method, rtol=1e-6, should_stop=lambda: len(witness.points) >= after
    )
    assert result.num_evals == len(witness.points) == len(result.history.residual) == after
    assert result.status.tolist() == [int(Status.CANCELLED)] * 3
    assert not bool(result.converged.any())
    if after == 0:
        assert torch.equal(result.z, problem.z0)
    else:
        torch.testing.assert_close(
            result.relative_residual, result.history.relative_residual.amin(0), rtol=0, atol=0
        )
        torch.testing.assert_close(
            recomputed(problem.f, result.z), result.relative_residual, rtol=1e-4, atol=1e-7
        )


def test_a_sample_that_converged_before_the_cancellation_stays_converged():
    problem = SMALL["tanh"].build()
    full = solve(problem.f, problem.z0)
    first, last = int(full.sample_evals.min()), int(full.sample_evals.max())
    assert first < last
    evals = []
    result = solve(problem.f, problem.z0, on_step=evals.append,
                   should_stop=lambda: len(evals) >= last - 1)  # fmt: skip
    expected = torch.where(full.sample_evals < last, 0, int(Status.CANCELLED))
    assert result.status.tolist() == expected.tolist()


def test_an_exception_of_on_step_passes_through_with_the_partial_result():
    problem = SMALL["tanh"].build()

    def on_step(step):
        if step.evaluation == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        solve(problem.f, problem.z0, on_step=on_step)
    assert caught.value.partial_result.num_evals == 3


def test_an_exception_of_the_map_carries_the_partial_result():
    case = raising_at(6)
    whole = contraction()
    expected = solve(whole.f, whole.z0, max_iter=5)
    with pytest.raises(Exception, match="evaluation 6 failed") as caught:
        solve(case.f, case.z0)
    assert type(caught.value).__name__ == "MapError"
    partial = caught.value.partial_result
    assert partial.num_evals == len(partial.history.residual) == 5
    assert partial.status.tolist() == [int(Status.CANCELLED)] * 4
    assert torch.equal(partial.z, expected.z)
