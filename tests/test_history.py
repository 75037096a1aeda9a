"""What a history holds: one row per evaluation, true residuals, seconds that add up."""

import pytest
import torch
from cases import HISTORY_ROWS, METHODS_TO_RUN, SMALL, Witness, every_method, same

from andersonn_core import Event, solve


@every_method
def test_history_has_one_row_per_evaluation_and_nothing_after_a_sample_stopped(method):
    problem = SMALL["newton"].build()
    result = solve(problem.f, problem.z0, method, rtol=1e-5, max_iter=40)
    history, num = result.history, result.num_evals
    ran = torch.arange(1, num + 1)[:, None] <= result.sample_evals[None, :]
    assert torch.equal(history.running, ran)
    for name in HISTORY_ROWS:
        column = getattr(history, name)
        assert column.shape == (num, 3) and column.dtype == torch.float64
        assert bool(column[~ran].isnan().all())
    assert bool(history.relative_residual[ran].isfinite().all())
    assert history.event.shape == (num, 3) and history.event.dtype == torch.int16
    assert bool((history.event[~ran] == 0).all())
    for seconds in (history.map_seconds, history.method_seconds, history.wall_seconds):
        assert seconds.shape == (num,)
        assert bool((seconds >= 0).all())
    assert bool((history.wall_seconds.diff() >= 0).all())


@every_method
def test_relative_residuals_are_those_of_the_evaluated_points(method):
    problem = SMALL["tanh"].replace(dtype="float64").build()
    witness = Witness(problem.f)
    result = solve(witness, problem.z0, method, rtol=1e-6)
    for row, (z, value) in enumerate(zip(witness.points, witness.values, strict=True)):
        ran = result.history.running[row]
        expected = (value - z).norm(dim=1)
        torch.testing.assert_close(result.history.residual[row][ran], expected[ran])
        relative = expected / value.norm(dim=1)
        torch.testing.assert_close(result.history.relative_residual[row][ran], relative[ran])


@every_method
def test_the_parts_of_a_profiled_step_add_up_to_the_method_s_seconds(method):
    problem = SMALL["poisson"].build()
    result = solve(problem.f, problem.z0, method, max_iter=30, profile=True)
    parts = result.history.part_seconds
    assert set(parts) == {"gram", "solve", "mix", "bookkeeping"}
    total = torch.stack(list(parts.values())).sum(0)
    torch.testing.assert_close(total, result.history.method_seconds, rtol=1e-12, atol=1e-15)
    assert all(bool((seconds >= 0).all()) for seconds in parts.values())
    assert float(parts["mix"].sum()) > 0


def test_without_profiling_there_are_no_parts_and_the_numbers_are_the_same():
    problem = SMALL["tanh"].build()
    plain = solve(problem.f, problem.z0)
    profiled = solve(problem.f, problem.z0, profile=True)
    assert plain.history.part_seconds == {}
    assert torch.equal(plain.z, profiled.z)
    for name in HISTORY_ROWS:
        same(getattr(plain.history, name), getattr(profiled.history, name))


def test_a_residual_is_known_after_all_map_time_so_far_and_the_method_time_before_it():
    problem = SMALL["tanh"].build()
    history = solve(problem.f, problem.z0).history
    maps, steps = history.map_seconds, history.method_seconds
    expected = [float(maps[: k + 1].sum() + steps[:k].sum()) for k in range(len(maps))]
    assert history.seconds.tolist() == pytest.approx(expected)
    assert history.clock == "thread CPU time"


def test_with_several_torch_threads_the_clock_is_wall_time():
    problem = SMALL["newton"].build()
    torch.set_num_threads(2)  # the fixture of conftest.py sets it back
    assert solve(problem.f, problem.z0).history.clock == "wall time"


def test_the_frame_has_one_row_per_evaluation_and_running_sample():
    problem = SMALL["tanh"].build()
    result = solve(problem.f, problem.z0, profile=True)
    frame = result.to_frame()
    assert len(frame) == int(result.sample_evals.sum())
    for sample, evals in enumerate(result.sample_evals.tolist()):
        rows = frame[frame["sample"] == sample]
        assert rows["evaluation"].tolist() == list(range(1, evals + 1))
        column = result.history.relative_residual[:evals, sample]
        assert rows["relative_residual"].tolist() == column.tolist()
    assert {"seconds", "map_seconds", "method_seconds", "gram_seconds"} <= set(frame.columns)
    assert set(HISTORY_ROWS) | {"event"} <= set(frame.columns)
    assert bool(frame["relative_residual"].notna().all())


def test_diagnostics_count_the_events_of_the_history():
    problem = SMALL["poisson"].build()
    result = solve(problem.f, problem.z0)
    restarts = ((result.history.event & Event.RESTART) != 0).sum()
    assert result.diagnostics["restarts"] == int(restarts) > 0
    assert result.diagnostics["fallbacks"] == result.diagnostics["rejects"] == 0


def test_bfloat16_states_are_measured_and_mixed_in_float32():
    generator = torch.Generator().manual_seed(0)
    offset = torch.randn(2, 5000, generator=generator).bfloat16()

    def f(z):
        return 0.5 * z + offset

    for method in METHODS_TO_RUN:
        witness = Witness(f)
        result = solve(witness, torch.zeros_like(offset), method, rtol=1e-2)
        assert result.z.dtype == torch.bfloat16
        assert result.history.residual.dtype == torch.float64
        for row, (z, value) in enumerate(zip(witness.points, witness.values, strict=True)):
            exact = (value.double() - z.double()).norm(dim=1)
            ran = result.history.running[row]
            torch.testing.assert_close(
                result.history.residual[row][ran], exact[ran], rtol=1e-5, atol=0.0
            )
        assert bool(result.converged.all())
