"""What a solve returns: the truth about every sample, one row per evaluation."""

import gc
import json

import numpy as np
import pytest
import torch
from cases import CONVERGING, SMALL, Scripted, circling, contraction, exploding, nan_at, raising_at

from andersonn_core import (
    METHODS,
    PROBLEMS,
    Anderson,
    Broyden,
    Event,
    NotConvergedError,
    Picard,
    RunCard,
    SolveSpec,
    Status,
    solve,
)

METHODS_TO_RUN = [Picard(), Anderson(), Anderson(least_squares="qr", restart="never"), Broyden()]
names = [f"{method.name}{k}" for k, method in enumerate(METHODS_TO_RUN)]
DTYPES = ("float32", "float64", "bfloat16")
HISTORY_ROWS = ("relative_residual", "residual", "gain", "weight_norm", "condition", "depth")


class Witness:
    """A map that remembers every point at which it was evaluated."""

    def __init__(self, f):
        self.f, self.points, self.values = f, [], []

    def __call__(self, z):
        value = self.f(z)
        self.points.append(z.clone())
        self.values.append(value.clone())
        return value


def recomputed(f, z, accumulate=torch.float64):
    """Relative residual of each sample of a batched state, without any code of the package."""
    value = f(z).flatten(1).to(accumulate)
    return (value - z.flatten(1).to(accumulate)).norm(dim=1) / value.norm(dim=1)


def same(ours, theirs):
    """Equal bit for bit, NaN included."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


# every method on every problem in every type


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=names)
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
        else:
            assert status == Status.CONVERGED
            assert float(true[sample]) <= rtol * (1 + 1e-3)


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=names)
@pytest.mark.parametrize("case", CONVERGING)
def test_every_method_solves_every_map_that_has_an_easy_answer(method, case):
    problem = CONVERGING[case]()
    result = solve(problem.f, problem.z0, method)
    assert bool(result.converged.all())
    torch.testing.assert_close(result.z, problem.z_star, rtol=1e-3, atol=1e-4)


def test_the_tables_of_methods_and_problems_are_complete_here():
    assert {method.name for method in METHODS_TO_RUN} == set(METHODS)
    assert set(SMALL) == set(PROBLEMS)


# the returned point


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=names)
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


# history


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=names)
def test_history_has_one_row_per_evaluation_and_nothing_after_a_sample_stopped(method):
    problem = SMALL["newton"].build()
    result = solve(problem.f, problem.z0, method, rtol=1e-5)
    history, num = result.history, result.num_evals
    ran = torch.arange(1, num + 1)[:, None] <= result.sample_evals[None, :]
    assert torch.equal(history.running, ran)
    for name in HISTORY_ROWS:
        column = getattr(history, name)
        assert column.shape == (num, 3) and column.dtype == torch.float64
        assert bool(column[~ran].isnan().all())
    assert bool(history.relative_residual[ran].isfinite().all())
    assert history.event.shape == (num, 3) and history.event.dtype == torch.int8
    assert bool((history.event[~ran] == 0).all())
    for seconds in (history.map_seconds, history.method_seconds, history.wall_seconds):
        assert seconds.shape == (num,)
        assert bool((seconds >= 0).all())
    assert bool((history.wall_seconds.diff() >= 0).all())


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=names)
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


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=names)
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


# samples are alone


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=names)
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


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=names)
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


def test_batch_dims_zero_takes_the_whole_tensor_as_one_sample():
    problem = SMALL["newton"].build()
    whole = solve(problem.f, problem.z0, batch_dims=0)
    flat = solve(
        lambda z: problem.f(z.reshape(problem.z0.shape)).reshape(1, -1),
        problem.z0.reshape(1, -1),
    )
    assert whole.status.shape == whole.sample_evals.shape == (1,)
    assert whole.z.shape == problem.z0.shape
    assert torch.equal(whole.z.reshape(1, -1), flat.z)
    each = solve(problem.f, problem.z0, batch_dims=1)
    assert each.status.shape == (3,)
    assert not torch.equal(each.history.weight_norm[2], whole.history.weight_norm[2].expand(3))


# the user's own structure


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=names)
@pytest.mark.parametrize(
    "shape", [(), (1,), (6,), (2, 3), (3, 2, 1), (1, 2, 3, 1), (2, 1, 3, 1, 1)], ids=str
)
def test_a_state_of_any_rank_equals_the_flat_solve(shape, method):
    offset = torch.linspace(0.1, 1.0, 6, dtype=torch.float64)[: max(1, int(np.prod(shape)))]
    flat = solve(lambda z: torch.cos(z) + offset, torch.zeros_like(offset)[None], method)
    ranked = solve(
        lambda z: torch.cos(z) + offset.reshape(shape), torch.zeros(shape).double(), method,
        batch_dims=0,
    )  # fmt: skip
    assert ranked.z.shape == shape
    assert torch.equal(ranked.z.reshape(1, -1), flat.z)
    assert ranked.num_evals == flat.num_evals
    if shape and shape[0] > 1:
        batched = solve(
            lambda z: torch.cos(z) + offset.reshape(shape), torch.zeros(shape).double(), method
        )
        assert batched.z.shape == shape and batched.status.shape == shape[:1]
        torch.testing.assert_close(batched.z, ranked.z, rtol=1e-5, atol=1e-5)


def coupled(a, b):  # (B, 2), (B, 2, 2) -> same
    return torch.cos(a + b.sum(2)) / 2, torch.sin(b + a[:, :, None]) / 3


START = torch.zeros(3, 2).double(), torch.ones(3, 2, 2).double() * torch.arange(3)[:, None, None]


@pytest.mark.parametrize("kind", ["tensor", "numpy"])
@pytest.mark.parametrize("structure", ["tuple", "dict"])
def test_a_tuple_or_dict_equals_the_flat_solve(structure, kind):
    def flat_map(z):
        a, b = coupled(z[:, :2], z[:, 2:].reshape(3, 2, 2))
        return torch.cat((a, b.reshape(3, 4)), dim=1)

    def to_user(a, b):
        leaves = (a.numpy(), b.numpy()) if kind == "numpy" else (a, b)
        return leaves if structure == "tuple" else {"a": leaves[0], "b": leaves[1]}

    def from_user(state):
        leaves = state if structure == "tuple" else (state["a"], state["b"])
        return tuple(torch.tensor(leaf) if kind == "numpy" else leaf for leaf in leaves)

    flat = solve(flat_map, torch.cat((START[0], START[1].reshape(3, 4)), dim=1))
    result = solve(lambda state: to_user(*coupled(*from_user(state))), to_user(*START))
    assert type(result.z) is (tuple if structure == "tuple" else dict)
    leaves = result.z if structure == "tuple" else tuple(result.z.values())
    assert all(isinstance(x, np.ndarray if kind == "numpy" else torch.Tensor) for x in leaves)
    a, b = from_user(result.z)
    assert a.shape == (3, 2) and b.shape == (3, 2, 2)
    assert torch.equal(torch.cat((a, b.reshape(3, 4)), dim=1), flat.z)
    assert torch.equal(result.sample_evals, flat.sample_evals)


def test_a_dict_may_come_back_in_another_order():
    def f(state):
        return {"y": torch.sin(state["x"]) / 2, "x": torch.cos(state["y"])}

    result = solve(f, {"x": torch.zeros(1, 2), "y": torch.ones(1, 3)[:, :2]})
    assert list(result.z) == ["x", "y"]
    torch.testing.assert_close(result.z["x"], torch.cos(result.z["y"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_arrays_come_out_as_they_went_in(dtype):
    z0 = np.linspace(0, 1, 6, dtype=dtype).reshape(2, 3)
    result = solve(np.cos, z0)
    assert isinstance(result.z, np.ndarray) and result.z.dtype == dtype
    expected = solve(torch.cos, torch.from_numpy(z0))
    np.testing.assert_allclose(result.z, expected.z.numpy(), rtol=1e-6)
    assert result.num_evals == expected.num_evals


@pytest.mark.parametrize(
    "z0",
    [
        np.ones((4, 3))[::-1],
        np.ones((3, 4)).T,
        np.broadcast_to(np.ones(3), (4, 3)),
        np.array(1.0),
    ],
    ids=["reversed", "transposed", "read-only", "scalar"],
)
def test_numpy_arrays_may_be_views_of_any_kind(z0):
    result = solve(np.cos, z0, batch_dims=min(1, z0.ndim))
    assert result.z.shape == z0.shape
    np.testing.assert_allclose(result.z, 0.7390851332151607, rtol=1e-5)


def test_a_numpy_map_may_return_a_view_of_any_kind():
    mirrored = solve(lambda z: np.cos(z[:, ::-1])[:, ::-1], np.ones((4, 3)))
    np.testing.assert_allclose(mirrored.z, 0.7390851332151607, rtol=1e-5)
    constant = solve(lambda z: np.broadcast_to(np.ones(3), (4, 3)), np.zeros((4, 3)))
    assert constant.num_evals == 2 and bool((constant.z == 1).all())


def test_a_transposed_start_equals_its_copy():
    z0 = torch.linspace(0, 1, 12, dtype=torch.float64).reshape(4, 3).T
    view, copied = solve(torch.cos, z0), solve(torch.cos, z0.contiguous())
    assert torch.equal(view.z, copied.z)


# gradients


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=names)
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


# what streams out and stops it


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=names)
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


def test_the_iterate_of_a_step_stays_what_it_was():
    problem = SMALL["tanh"].build()
    witness, steps = Witness(problem.f), []
    solve(witness, problem.z0, on_step=steps.append)
    assert all(torch.equal(s.z(), z) for s, z in zip(steps, witness.points, strict=True))


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


@pytest.mark.parametrize("method", METHODS_TO_RUN, ids=names)
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
