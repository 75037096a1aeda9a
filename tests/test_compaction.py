"""Compaction: finished samples are evaluated no more, and nothing else changes."""

import numpy as np
import pytest
import torch
from cases import SMALL, contraction, every_method

from andersonn_core import Anderson, Picard, Status, solve


class Counting:
    """A selectable map that notes how many samples each call evaluates, and at which points."""

    def __init__(self, f, calls=None, indices=None):
        self.f, self.calls, self.indices = f, [] if calls is None else calls, indices

    def __call__(self, z):
        self.calls.append(z.clone())
        return self.f(z)

    def select(self, indices):
        return Counting(self.f.select(indices), self.calls, indices)

    @property
    def rows(self):
        return [len(z) for z in self.calls]


class Slopes:
    """f(z) = slope z + offset, sample by sample: how fast each converges is its slope."""

    def __init__(self, slope, offset, error=0.0):
        self.slope, self.offset, self.error = slope, offset, error

    def __call__(self, z):
        return (self.slope * z + self.offset) * (1 + self.error)

    def select(self, indices):
        return Slopes(self.slope[indices], self.offset[indices])


def spread(batch=16, n=8, error=0.0):
    """Samples from fast to slow."""
    slope = torch.linspace(0.0, 0.9, batch, dtype=torch.float64)[:, None]
    offset = torch.linspace(1.0, 2.0, batch * n, dtype=torch.float64).reshape(batch, n)
    return Slopes(slope, offset, error), torch.zeros_like(offset)


@every_method
@pytest.mark.parametrize("family", ["tanh", "newton", "sinkhorn", "affine", "bratu"])
def test_compaction_changes_neither_answers_nor_statuses(family, method):
    problem = SMALL[family].replace(batch_size=12, dtype="float64").build()
    plain = solve(problem.f, problem.z0, method, max_iter=150)
    compact = solve(problem.f, problem.z0, method, max_iter=150, compact=True)
    assert torch.equal(compact.status, plain.status)
    torch.testing.assert_close(compact.z, plain.z, rtol=1e-5, atol=1e-6)
    assert float((compact.sample_evals - plain.sample_evals).abs().max()) <= 1
    value = problem.f(compact.z)
    relative = (value - compact.z).flatten(1).norm(dim=1) / value.flatten(1).norm(dim=1)
    torch.testing.assert_close(compact.relative_residual, relative, rtol=1e-5, atol=1e-12)


def test_compaction_on_digits_changes_no_prediction():
    problem = SMALL["digits_deq"].replace(batch_size=12).build()
    plain = solve(problem.f, problem.z0, rtol=1e-4)
    compact = solve(problem.f, problem.z0, rtol=1e-4, compact=True)
    assert torch.equal(compact.status, plain.status)
    assert torch.equal(problem.predict(compact.z).argmax(1), problem.predict(plain.z).argmax(1))


@every_method
def test_on_an_elementwise_map_every_row_but_the_confirming_one_is_the_same_bit_for_bit(method):
    f, z0 = spread()
    plain = solve(f, z0, method)
    compact = solve(f, z0, method, compact=True)
    if method.name == "picard":
        assert compact.diagnostics["compactions"] > 0
    confirmed = compact.diagnostics["compactions"] > 0
    assert compact.num_evals == plain.num_evals + confirmed
    num = plain.num_evals
    for name in ("relative_residual", "residual", "depth", "weight_norm"):
        torch.testing.assert_close(
            getattr(compact.history, name)[:num], getattr(plain.history, name),
            rtol=0, atol=0, equal_nan=True,
        )  # fmt: skip
    assert torch.equal(compact.z, plain.z)
    assert torch.equal(compact.sample_evals, plain.sample_evals)


def test_only_unfinished_samples_are_evaluated_once_fewer_than_half_run():
    f, z0 = spread()
    counting = Counting(f)
    result = solve(counting, z0, Picard(), compact=True)
    assert counting.rows[0] == counting.rows[-1] == 16
    last = result.sample_evals
    for k, rows in enumerate(counting.rows[:-1]):  # k evaluations came before
        running = int((last > k).sum())
        assert rows >= running  # nobody who runs is left out
        assert 2 * running >= rows  # and never more than twice as many are evaluated
    assert sum(counting.rows) < 0.7 * 16 * result.num_evals
    assert result.diagnostics["compactions"] == len(set(counting.rows)) - 1 > 2


def test_the_last_evaluation_confirms_the_whole_batch_at_the_returned_points():
    f, z0 = spread()
    counting = Counting(f)
    result = solve(counting, z0, Picard(), compact=True)
    assert bool(result.converged.all())
    assert result.num_evals == len(counting.calls) == len(result.history.residual)
    assert torch.equal(counting.calls[-1], result.z)
    confirmed = result.history.relative_residual[-1]
    value = f(result.z)
    torch.testing.assert_close(
        confirmed, (value - result.z).norm(dim=1) / value.norm(dim=1), rtol=1e-12, atol=0.0
    )
    assert torch.equal(result.relative_residual, confirmed)
    assert bool((confirmed <= 1e-6).all())


def test_the_confirming_evaluation_is_no_step_of_any_sample():
    f, z0 = spread()
    result = solve(f, z0, Picard(), compact=True)
    assert bool(result.history.depth[-1].isnan().all())
    assert not bool(result.history.running[-1].any())
    assert int(result.sample_evals.max()) == result.num_evals - 1
    frame = result.to_frame()
    confirming = frame[frame["evaluation"] == result.num_evals]
    assert confirming["relative_residual"].tolist() == result.relative_residual.tolist()
    assert len(frame) == int(result.sample_evals.sum()) + 16


@every_method
def test_the_confirming_evaluation_stays_within_max_iter(method):
    f, z0 = spread()
    free = solve(f, z0, method, compact=True).num_evals
    for max_iter in [*range(1, 12), *range(free - 2, free + 3)]:
        counting = Counting(f)
        result = solve(counting, z0, method, max_iter=max_iter, compact=True)
        assert len(counting.calls) == result.num_evals <= max_iter
        if result.diagnostics["compactions"]:
            assert counting.rows[-1] == 16
        value = f(result.z)
        relative = (value - result.z).norm(dim=1) / value.norm(dim=1)
        torch.testing.assert_close(result.relative_residual, relative, rtol=1e-9, atol=1e-13)
        assert torch.equal(result.converged, relative <= 1e-6)
        unfinished = result.status != Status.CONVERGED
        assert result.status[unfinished].tolist() == [int(Status.MAX_ITER)] * int(unfinished.sum())


@every_method
def test_a_claim_that_the_whole_batch_does_not_confirm_is_taken_back(method):
    # evaluated together, samples round differently by 3e-6: more than the tolerance for slow ones
    f, z0 = spread(batch=8, error=3e-6)
    result = solve(f, z0, method, rtol=1e-6, compact=True, max_iter=300)
    value = f(result.z)
    relative = (value - result.z).norm(dim=1) / value.norm(dim=1)
    torch.testing.assert_close(result.relative_residual, relative, rtol=1e-6, atol=1e-13)
    assert torch.equal(result.converged, relative <= 1e-6)
    assert result.num_evals <= 300


@pytest.mark.parametrize("knobs", [{"batch_dims": 0}, {}], ids=str)
def test_without_a_batch_or_without_select_nothing_is_left_out(knobs):
    f, z0 = spread()
    calls = []

    def unselectable(z):
        calls.append(len(z))
        return f(z)

    result = solve(unselectable if not knobs else f, z0, Picard(), compact=True, **knobs)
    plain = solve(f, z0, Picard(), **knobs)
    assert torch.equal(result.z, plain.z)
    assert result.num_evals == plain.num_evals
    assert result.diagnostics["compactions"] == 0
    assert knobs or calls == [16] * result.num_evals


def test_without_the_knob_all_samples_are_evaluated_to_the_end():
    f, z0 = spread()
    counting = Counting(f)
    result = solve(counting, z0, Picard())
    assert counting.rows == [16] * result.num_evals
    assert result.diagnostics["compactions"] == 0


def test_on_step_sees_the_whole_batch_after_compaction():
    f, z0 = spread()
    steps, points = [], []

    def on_step(step):
        steps.append(step)
        points.append(step.z().clone())

    result = solve(f, z0, Picard(), compact=True, on_step=on_step)
    plain_points = []
    solve(f, z0, Picard(), on_step=lambda step: plain_points.append(step.z().clone()))
    assert all(point.shape == z0.shape for point in points)
    for point, expected in zip(points, plain_points, strict=False):
        assert torch.equal(point, expected)
    assert [step.relative_residual.shape for step in steps] == [(16,)] * len(steps)
    assert [s.evaluation for s in steps] == list(range(1, len(steps) + 1))
    assert len(steps) in (result.num_evals, result.num_evals - 1)


def test_a_cancelled_compact_solve_returns_everybody_s_best():
    f, z0 = spread()
    counting = Counting(f)
    plain = solve(f, z0, Picard(), max_iter=60)
    result = solve(
        counting, z0, Picard(), compact=True, should_stop=lambda: len(counting.calls) >= 60
    )
    assert result.num_evals == 60 and counting.rows[-1] < 16
    done = plain.sample_evals < 60
    assert result.status[done].tolist() == plain.status[done].tolist()
    assert result.status[~done & ~plain.converged].tolist() == [int(Status.CANCELLED)] * int(
        (~done & ~plain.converged).sum()
    )
    assert torch.equal(result.z, plain.z)


def test_a_map_that_raises_after_compaction_leaves_everybody_s_best():
    f, z0 = spread()

    class Raising(Counting):
        def __call__(self, z):
            if len(self.calls) == 50:
                raise OSError("the map went away")
            return super().__call__(z)

        def select(self, indices):
            return Raising(self.f.select(indices), self.calls, indices)

    raising = Raising(f)
    with pytest.raises(OSError, match="went away") as caught:
        solve(raising, z0, Picard(), compact=True)
    assert raising.rows[-1] < 16
    partial, plain = caught.value.partial_result, solve(f, z0, Picard(), max_iter=50)
    assert partial.num_evals == 50
    assert torch.equal(partial.z, plain.z)


def test_a_sample_that_turns_nan_does_not_keep_the_batch_large():
    f, z0 = spread()
    f.slope = f.slope.clone()
    f.slope[3] = torch.nan
    counting = Counting(f)
    result = solve(counting, z0, Anderson(), compact=True)
    assert result.status.tolist() == [0, 0, 0, int(Status.NONFINITE)] + [0] * 12
    assert int(result.sample_evals[3]) == 1
    assert torch.equal(result.z[3], z0[3])


@pytest.mark.parametrize("kind", ["tuple", "numpy"])
def test_selected_maps_of_tuples_and_arrays_work(kind):
    f, z0 = spread()

    class OfTuples:
        def __init__(self, f):
            self.f = f

        def __call__(self, state):
            value = self.f(torch.cat(state, dim=1))
            return value[:, :3], value[:, 3:]

        def select(self, indices):
            return OfTuples(self.f.select(indices))

    class OfArrays:
        def __init__(self, slope, offset):
            self.slope, self.offset = slope, offset

        def __call__(self, z):
            assert isinstance(z, np.ndarray)
            return self.slope * z + self.offset

        def select(self, indices):
            return OfArrays(self.slope[indices], self.offset[indices])

    expected = solve(f, z0, Picard(), compact=True)
    if kind == "tuple":
        result = solve(OfTuples(f), (z0[:, :3], z0[:, 3:]), Picard(), compact=True)
        found = torch.cat(result.z, dim=1)
    else:
        arrays = OfArrays(f.slope.numpy(), f.offset.numpy())
        result = solve(arrays, z0.numpy(), Picard(), compact=True)
        found = torch.from_numpy(result.z)
    assert result.diagnostics["compactions"] > 0
    assert torch.equal(found, expected.z)


def test_one_hard_sample_among_easy_ones_costs_little():
    # 63 easy samples and a hard one: peers evaluate all 64 until the last is done
    slope = torch.full((64, 1), 0.1, dtype=torch.float64)
    slope[17] = 0.9
    f = Slopes(slope, torch.ones(64, 32, dtype=torch.float64))
    counting = Counting(f)
    result = solve(counting, torch.zeros(64, 32).double(), Picard(), compact=True)
    assert bool(result.converged.all())
    needed = int(result.sample_evals.sum())
    assert sum(counting.rows) <= needed + 64 + 64
    assert 64 * result.num_evals > 10 * sum(counting.rows)


@pytest.mark.parametrize(
    "method", [Picard(), Anderson(), Anderson(window=10, restart="deflated")], ids=str
)
def test_compaction_costs_at_most_a_fifth_more_than_the_samples_need(method):
    slope = torch.linspace(0.0, 0.05, 256, dtype=torch.float64).repeat(64, 1)
    slope[17] = torch.linspace(-0.5, 0.99 if method.name == "anderson" else 0.95, 256)
    f = Slopes(slope, torch.linspace(1, 2, 64 * 256, dtype=torch.float64).view(64, 256))
    z0, knobs = torch.zeros(64, 256).double(), {"rtol": 1e-6, "max_iter": 1000}
    counting = Counting(f)
    whole = solve(f, z0, method, **knobs)
    result = solve(counting, z0, method, compact=True, **knobs)
    assert bool(result.converged.all())
    assert sum(counting.rows) <= 1.2 * int(whole.sample_evals.sum())
    assert 64 * whole.num_evals > 5 * sum(counting.rows)  # what evaluating all of them takes
    assert int((result.sample_evals - whole.sample_evals).abs().max()) <= 1
    assert torch.allclose(result.z, whole.z, rtol=1e-6, atol=0.0)


def test_a_batch_of_one_is_never_compacted():
    case = contraction(batch=1)
    result = solve(case.f, case.z0, compact=True)
    assert result.diagnostics["compactions"] == 0
