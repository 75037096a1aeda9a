"""Each kernel of the step on the device against float64 sums by NumPy, at every edge of its shape.

Those of deflated restarts are in test_device_folding.py. This process tests torch's operations.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from device_cases import (
    DEVICE,
    FUSED,
    close,
    draw,
    drive,
    exact,
    feed,
    kernels_under_test,
    maps,
    rules_for,
    state_for,
)

from andersonn_core import Anderson
from andersonn_core.device import TorchKernels
from andersonn_core.device.check import failure
from andersonn_core.kernels import Progress
from andersonn_core.least_squares import ScaledGram, condition
from andersonn_core.referee import DIVERGENCE, Referee
from andersonn_core.results import RUNNING, Event, Status

ROOT = Path(__file__).resolve().parents[1]
TESTED = "kernels", "folding"  # this file and the one on deflated restarts

# B, n, m: more blocks than one with a rest, less than a block, one element, one column, one sample
EDGES = [(3, 37, 4), (2, 5, 3), (2, 1, 1), (1, 48, 1), (1, 100, 5)]
TYPES = [
    (torch.float32, torch.float32, 1e-5),
    (torch.float32, torch.bfloat16, 1e-2),
    (torch.float64, torch.float64, 1e-13),
]
edges = pytest.mark.parametrize(("batch", "n", "m"), EDGES)
types = pytest.mark.parametrize(("dtype", "ring", "error"), TYPES, ids=["f4", "bf", "f8"])


@pytest.fixture
def kernels(monkeypatch):
    yield from kernels_under_test(monkeypatch)


def random_step(kernels, batch, n, m, dtype, ring, seed, mixing=0.7):
    """A state in the middle of a solve, and three rows of points."""
    points = [draw(batch, n, dtype=dtype, seed=seed + k).to(DEVICE) for k in range(4)]
    state = state_for(kernels, points[0], ring, window=m, mixing=mixing)
    state.g.copy_(points.pop())
    for k, columns in enumerate((state.du, state.dg)):
        columns.copy_(draw(m, batch, n, seed=seed + 4 + k))
    state.scale.copy_(draw(batch, m, seed=seed + 6).abs() + 0.1)
    state.evals += m  # the newest difference's slot is the last
    return state, points


@edges
@types
@pytest.mark.parametrize("first", [False, True], ids=["", "first"])
def test_one_pass_makes_the_differences_and_all_sums(
    kernels, batch, n, m, dtype, ring, error, first
):
    state, points = random_step(kernels, batch, n, m, dtype, ring, seed=n + m)
    slot, mixing = m - 1, state.rules.mixing
    if m > 2:  # a column that is not used is not read
        state.scale[:, 0], state.dg[0] = 0.0, torch.nan
    state.products.fill_(torch.nan)
    state.squares.fill_(torch.nan)
    state.dg[slot], state.du[slot] = torch.nan, torch.nan
    z, last_z, f_z, last_g, columns = exact(*points, state.g, state.dg)
    kernels.advance(state, *points, first)
    g, dz = f_z - z, z - last_z
    close(state.g, g, error, 10)
    squares = [(g**2).sum(1), (f_z**2).sum(1), 0 * (dz**2).sum(1) if first else (dz**2).sum(1)]
    for k, true in enumerate(squares):
        close(state.squares.sum(1)[:, k], true, error, 1 + true)
    assert not state.squares[:, :, 3].any()
    if first:
        return
    dg = g - last_g
    close(state.dg[slot], dg, error, 10)
    close(state.du[slot], dz + mixing * dg, error, 10)
    columns[slot] = dg
    used = exact(state.scale)[0].T > 0  # (m, B)
    sizes = np.where(used, np.linalg.norm(np.nan_to_num(columns), axis=2), 0)
    for row, vector in enumerate((dg, g)):
        true = np.where(used, np.einsum("mbn,bn->mb", np.nan_to_num(columns), vector), 0).T
        size = (sizes * np.linalg.norm(vector, axis=1)).T
        close(state.products.double().sum(1)[:, row], true, 2 * error, size + 1e-30)


@edges
@types
@pytest.mark.parametrize("mixing", [1.0, 0.7])
def test_the_mix_is_the_step_and_reads_no_column_without_weight(
    kernels, batch, n, m, dtype, ring, error, mixing
):
    state, (z, last_z, f_z) = random_step(kernels, batch, n, m, dtype, ring, 50 + n, mixing)
    state.gamma.copy_(draw(batch, m, seed=9))
    state.gamma[:, 0], state.du[0] = 0.0, torch.nan
    state.g.copy_(f_z - z)
    out, best = torch.full_like(z, torch.nan), state.best.clone()
    kernels.mix(state, z, last_z, f_z, out)
    here, there, du, gamma = exact(z, f_z, state.du, state.gamma)
    correction = np.einsum("mbn,bm->bn", np.nan_to_num(du), gamma)
    close(out, here + mixing * (there - here) - correction, error, 10 * (1 + m))
    assert torch.equal(state.best, best)


def test_samples_that_do_not_run_keep_everything(kernels):
    state, points = random_step(kernels, 3, 37, 2, torch.float32, torch.float32, seed=1)
    state.status[1] = Status.CONVERGED
    state.newest[1] = True
    state.products.fill_(torch.nan)
    state.squares.fill_(torch.nan)
    before = [tensor.clone() for tensor in own(state)]
    kernels.advance(state, *points, False)
    assert not state.products[1].any() and not state.squares[1].any()
    state.evicted[:] = True
    kernels.solve(state, False)
    assert not state.evicted[1] and not state.gamma[1].any()
    for tensor, old in zip(own(state), before, strict=True):
        dim = list(tensor.shape).index(3)
        mine = tensor.select(dim, 1), old.select(dim, 1)
        torch.testing.assert_close(*mine, rtol=0, atol=0, equal_nan=True)
    out = torch.full_like(points[0], torch.nan)
    kernels.mix(state, *points, out)
    assert torch.equal(out[1], points[0][1]) and not torch.equal(out[0], points[0][0])
    assert out.isfinite().all()


def own(state):
    """What belongs to the samples, batch dimension of length 3."""
    records = state.records.numbers, state.records.event
    small = state.matrix, state.scale, state.count, state.status, state.evals, state.limit
    return [state.g, state.dg, state.du, state.best, state.best_score, *small, *records]


def test_the_best_iterate_is_saved_before_its_memory_is_overwritten(kernels):
    state, (z, last_z, f_z) = random_step(kernels, 3, 37, 2, torch.float32, torch.float32, seed=2)
    state.evicted[0] = state.evicted[2] = True
    state.status[2] = Status.MAX_ITER
    expected, kept = last_z.clone(), state.best[1].clone()
    kernels.mix(state, z, last_z, f_z, last_z)
    assert torch.equal(state.best[::2], expected[::2]) and torch.equal(state.best[1], kept)
    assert torch.equal(last_z[2], z[2])


def test_one_sample_that_is_not_finite_stops_alone(kernels):
    state, points = random_step(kernels, 3, 37, 2, torch.float32, torch.float32, seed=3)
    points[2][1, 5] = torch.inf
    points[0][2], points[2][2] = 0.0, state.g[2]  # the same residual again: a column of zeros
    kernels.advance(state, *points, False)
    assert state.squares.sum(1)[:, 3].tolist() == [0, 1, 0]
    kernels.solve(state, False)
    assert state.status.tolist() == [RUNNING, Status.NONFINITE, RUNNING]
    event = state.records.event[state.evals[0] - 1]
    assert [int(each) for each in event & int(Event.DROP)] == [0, 0, int(Event.DROP)]
    out = torch.full_like(points[0], torch.nan)
    kernels.mix(state, *points, out)
    assert out.isfinite().all() and torch.equal(out[1], points[0][1])


def test_a_difference_too_large_for_the_ring_is_counted_and_left_out(kernels):
    largest = torch.finfo(torch.bfloat16).max  # float32 has numbers a little beyond it
    for ring, lost in ((torch.bfloat16, 2), (torch.float32, 0)):
        state, points = random_step(kernels, 3, 37, 2, torch.float32, ring, seed=4, mixing=1.0)
        z, last_z, f_z = points
        z[1, 5] = last_z[1, 5] = state.g[1, 5] = 0.0
        f_z[1, 5] = 1.003 * largest
        kernels.advance(state, *points, False)
        assert state.squares.sum(1)[:, 4].tolist() == [0, lost, 0]  # of dg and of du
        kernels.solve(state, False)
        event = state.records.event[state.evals[0] - 1]
        assert (event & int(Event.OVERFLOW) != 0).tolist() == [False, lost > 0, False]
        assert (event & int(Event.DROP) != 0).tolist() == [False, True, False]  # its square is inf
        assert (state.status == RUNNING).all()
        assert (state.scale[1] > 0).tolist() == [True, False]
        out = torch.full_like(z, torch.nan)
        kernels.mix(state, *points, out)
        assert out[0].isfinite().all() and out[2].isfinite().all()


# the small work, against the host's


@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("dependent", [False, True])
def test_rows_give_the_weights_of_the_host_step_by_step(kernels, m, sliding, dependent):
    batch, n, ridge, least = 3, 24, 1e-5, 1e-3
    z = torch.zeros(batch, n, dtype=torch.float64, device=DEVICE)
    knobs = {"window": m, "sliding": sliding, "ridge": ridge, "precision": least}
    state, gram = state_for(kernels, z, **knobs), ScaledGram.of(batch, m, ridge, least)
    columns, count, steps = np.zeros((m, batch, n)), np.zeros(batch, int), m + 3
    generator = np.random.default_rng(m)
    state.evals += 1
    for k in range(steps):
        slot, spent = k % m, count >= m
        if not sliding:
            gram.restart(spent)
            count[spent] = 0
        columns[slot], g = generator.standard_normal((2, batch, n))
        if dependent and k in (1, 4):
            columns[slot, 0], columns[slot, 1] = 3 * columns[slot - 1, 0], 0.0
        row, rhs = (
            np.einsum("mbn,bn->bm", columns, vector, order="C") for vector in (columns[slot], g)
        )
        residual = np.linalg.norm(g, axis=1)
        stored = np.array([k - (k - j) % m for j in range(m)])
        lost = gram.store(slot, row, None, stored)
        weights = gram.solve(rhs)
        count += 1
        feed(state, row, rhs, residual)
        state.gamma.fill_(torch.nan)
        kernels.solve(state, False)
        # A column that takes a dropped one's place comes last in the host's factor: other pivots.
        in_order = not (sliding and dependent)
        assert_same(state, k + 1, weights, residual, lost, not sliding and spent, in_order)
        emptied = (count >= m)[:, None] & (not sliding)
        used = np.where(emptied, 0, gram.scale)
        np.testing.assert_allclose(exact(state.scale)[0], used, rtol=1e-12)
        assert state.count.tolist() == count.tolist()


def assert_same(state, evaluation, weights, residual, lost, spent, exact_order):
    batch = len(residual)
    np.testing.assert_allclose(exact(state.gamma)[0], weights.gamma, rtol=1e-11, atol=1e-12)
    place = evaluation % state.records.event.shape[0]
    seen = {name: exact(state.records[name][place])[0] for name in ("gain", "weight_norm")}
    np.testing.assert_allclose(seen["gain"], weights.gain(residual), atol=1e-7)
    np.testing.assert_allclose(seen["weight_norm"], np.abs(weights.gamma).sum(1), rtol=1e-11)
    bound, depth = exact(state.records["condition"][place], state.records["depth"][place])
    if exact_order:
        np.testing.assert_allclose(bound, condition(weights.pivots), rtol=1e-9)
    assert depth.tolist() == weights.used.sum(1).tolist()
    lost = np.zeros(batch, bool) if lost is None else lost
    event = int(Event.DROP) * lost + int(Event.RESTART) * (np.zeros(batch, bool) | spent)
    assert state.records.event[place].tolist() == event.tolist()


def test_samples_stop_when_and_as_the_referee_says(kernels):
    """Residuals that shrink, stand still, jump, overflow and break; too few of them for a stall."""
    steps = 50
    wiggle = np.random.default_rng(0).uniform(0.995, 1.0, (steps, 1))
    residual = wiggle * np.ones(8)  # stands still
    residual[:, 1] = 0.7 ** np.arange(steps)  # converges
    residual[9, 2], residual[3, 3] = 2e6, np.nan  # diverges; breaks
    residual[:, 4] = 0.97 ** np.arange(steps)  # goes on to the end
    residual[4, 5] = np.inf  # its square overflows though its entries are finite
    residual[:, 6] = 0.9 ** np.minimum(np.arange(steps), 20)  # stands still late
    residual[20:, 7] = 1.1e-5  # ends by the absolute part
    scale, broken = 1 + residual, np.isnan(residual)
    rtol, atol = 1e-5, 2e-6
    referee, progress = Referee(8, rtol, atol, 1), Progress.of(8)
    z = torch.zeros(8, 24, dtype=torch.float64, device=DEVICE)
    knobs = {"window": 1, "rtol": rtol, "atol": atol, "max_iter": steps}
    state = state_for(kernels, z, divergence=DIVERGENCE, **knobs)
    for k in range(steps):
        running, last, fine = referee.running(), k + 1 == steps, ~broken[k]
        with np.errstate(all="ignore"):
            progress.add(residual[k] / scale[k], running)
        judged = slice(None), k + 1, last, residual[k], scale[k], progress
        progress.settle(running & referee.judge(*judged, lambda fine=fine: fine))
        none = 0 * wiggle[k] + 0 * fine
        sums = np.stack([residual[k] ** 2, scale[k] ** 2, none, broken[k], none], 1)
        state.squares[:, 0] = torch.from_numpy(sums)
        kernels.solve(state, True)
        assert state.status.tolist() == referee.status.tolist(), k
        assert state.newest.tolist() == progress.newest.tolist(), k
        assert state.evicted.tolist() == progress.evicted.tolist(), k
        np.testing.assert_allclose(exact(state.best_score)[0], progress.best[-1], rtol=1e-14)
    assert set(state.status.tolist()) == set(range(4))


STEPPED = [
    ("tanh", "never", 3), ("broken", "full", 3), ("tanh", "full", 0), ("broken", "deflated", 3),
]  # fmt: skip


@pytest.mark.parametrize(("name", "restart", "window"), STEPPED)
def test_some_steps_are_those_of_the_reference(kernels, name, restart, window):
    f, z0 = maps[name]()
    method = Anderson(window=window, restart=restart, mixing=0.7)
    rules = rules_for(z0, method, rtol=1e-9, max_iter=6)
    expected = drive(TorchKernels(), f, z0, rules).state
    found = drive(kernels, *moved(*maps[name]()), rules).state
    for field in ("status", "evals", "count", "evicted", "newest"):
        assert getattr(found, field).tolist() == getattr(expected, field).tolist(), field
    numbers = found.records.numbers.cpu()
    torch.testing.assert_close(
        numbers, expected.records.numbers, rtol=1e-6, atol=1e-7, equal_nan=True
    )
    assert found.records.event.tolist() == expected.records.event.tolist()
    assert expected.stretch.isfinite().any() == (window > 0)
    for mine, theirs in ((found.best, expected.best), (found.stretch, expected.stretch)):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-6, atol=1e-9, equal_nan=True)


def test_a_small_solve_shows_whether_kernels_can_be_trusted(kernels):
    assert failure(kernels, DEVICE) == failure(kernels, DEVICE, folds=True) == ""

    class Wrong(TorchKernels):
        def mix(self, state, z, last_z, f_z, out):
            super().mix(state, z, last_z, f_z, out)
            out.mul_(1.1)

    class Failing(TorchKernels):
        def solve(self, state, plain):
            raise RuntimeError("no such instruction")

    assert "off by" in failure(Wrong(), DEVICE)
    assert "RuntimeError: no such instruction" in failure(Failing(), DEVICE)


def moved(f, z0):
    """The same map and start on the device under test."""
    return (lambda z: f(z.cpu()).to(DEVICE)), z0.to(DEVICE)


# the fused kernels


def run_fused(device, **environment):
    """Run these tests in another process, where the fused kernels are those under test."""
    files = [str(Path(__file__).with_name(f"test_device_{name}.py")) for name in TESTED]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"ANDERSON_LAB_FUSED_ON": device, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


if FUSED is None:

    @pytest.mark.slow
    @pytest.mark.skipif(find_spec("triton") is None, reason="needs triton: pip install triton")
    def test_the_fused_kernels_pass_all_of_this_in_tritons_interpreter():
        run_fused("cpu", TRITON_INTERPRET="1")

    @pytest.mark.gpu
    @pytest.mark.skipif(find_spec("triton") is None, reason="needs triton: pip install triton")
    def test_the_fused_kernels_pass_all_of_this_on_a_gpu():
        run_fused("cuda")
