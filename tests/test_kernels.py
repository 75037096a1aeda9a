"""The compiled loops against the same sums in float64, and what compiling may not disturb."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from andersonn_core import Anderson, Picard, ShortRecurrence, solve
from andersonn_core.kernels import (
    DifferenceWindow,
    Previous,
    ResidualWindow,
    loops,
    rows_for,
)
from andersonn_core.kernels.compiled_rows import CompiledRows
from andersonn_core.least_squares import ScaledGram
from andersonn_core.least_squares import loops as small_loops

ROOT = Path(__file__).resolve().parents[1]
ROUNDING = {torch.float32: 2e-6, torch.float64: 4e-15}
SIZES = [(1, 1), (1, 7), (3, 1), (5, 33), (2, loops.BLOCK + 3)]

dtypes = pytest.mark.parametrize("dtype", ROUNDING, ids=str)
sizes = pytest.mark.parametrize(("batch", "n"), SIZES)
mixings = pytest.mark.parametrize("mixing", [1.0, 0.3])


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def exact(*tensors):
    return [tensor.double().numpy() for tensor in tensors]


def filled(batch, n, m, mixing, dtype, steps):
    """A window of differences after some steps, and the points that it has seen."""
    z, g = draw(2, steps + 1, batch, n, dtype=dtype)
    window = DifferenceWindow.like(z[0], m, mixing, rows_for(z[0]))
    products = [window.append(z[k], g[k], z[k - 1], g[k - 1], k) for k in range(1, steps + 1)]
    return window, z, g, products[-1]


# the passes over the state


@dtypes
@sizes
def test_the_residual_and_both_norms(batch, n, dtype):
    z, f_z, g = draw(3, batch, n, dtype=dtype)
    norms = rows_for(z).residual(z, f_z, g)
    assert torch.equal(g, f_z - z)
    true_g, true_f = exact(g, f_z)
    for found, true in zip(norms, (true_g, true_f), strict=True):
        np.testing.assert_allclose(found, np.linalg.norm(true, axis=1), rtol=ROUNDING[dtype])


@dtypes
@sizes
@mixings
@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("more", [-1, 0, 3])  # a slot stays empty, all are full, the ring is round
def test_a_stored_difference_and_its_inner_products(batch, n, mixing, m, more, dtype):
    steps = max(m + more, 1)
    window, z, g, (row, rhs, lengths) = filled(batch, n, m, mixing, dtype, steps)
    true_z, true_g = exact(z, g)
    used = min(steps, m)
    for age in range(used):
        now, slot = steps - age, (steps - 1 - age) % m
        dg, newest = true_g[now] - true_g[now - 1], true_g[steps] - true_g[steps - 1]
        dz = true_z[now] - true_z[now - 1]
        size = 10 * ROUNDING[dtype] * (1 + n**0.5)
        np.testing.assert_allclose(window.dg[slot].numpy(), dg, atol=size)
        np.testing.assert_allclose(window.du[slot].numpy(), dz + mixing * dg, atol=size)
        np.testing.assert_allclose(row[:, slot], (dg * newest).sum(1), atol=10 * size)
        np.testing.assert_allclose(rhs[:, slot], (dg * true_g[steps]).sum(1), atol=10 * size)
        if age == 0 and slot == 0:
            np.testing.assert_allclose(lengths, np.linalg.norm(dz, axis=1), rtol=1e-5)
    unused = [(steps - 1 - age) % m for age in range(used, m)]
    assert not row[:, unused].any() and not rhs[:, unused].any()
    assert (lengths is None) == ((steps - 1) % m > 0)


@dtypes
@sizes
@mixings
@pytest.mark.parametrize("m", [1, 4, 5])
def test_a_step_and_a_prediction(batch, n, mixing, m, dtype):
    window, z, g, _ = filled(batch, n, m, mixing, dtype, m + 2)
    gamma = draw(batch, m, seed=1).numpy()
    window.keep_newest(np.arange(batch) == 1, 1)  # whose older weights must not be read
    counted = np.where(np.arange(m) == window.slot, gamma, 0.0)
    counted = np.where((np.arange(batch) == 1)[:, None], counted, gamma)
    out = torch.empty_like(z[0])
    window.step(z[-1], z[-1] + g[-1], g[-1], gamma, out)
    left = window.predict(g[-1], gamma)
    true_z, true_g, du, dg = exact(z[-1], g[-1], window.du, window.dg)
    size = 30 * ROUNDING[dtype]
    step = true_z + mixing * true_g - np.einsum("bm,mbn->bn", counted, du)
    np.testing.assert_allclose(out.numpy(), step, atol=size)
    foretold = true_g - np.einsum("bm,mbn->bn", counted, dg)
    np.testing.assert_allclose(left.numpy(), foretold, atol=size)


@dtypes
@sizes
@mixings
def test_the_residual_form_keeps_residuals_and_plain_steps(batch, n, mixing, dtype):
    m, steps = 3, 6
    z, f_z = draw(2, steps, batch, n, dtype=dtype)
    window = ResidualWindow.like(z[0], m, mixing, rows_for(z[0]))
    for now in range(steps):
        g, _ = window.measure(z[now], f_z[now], window.g[0])
        row, rhs, _ = window.append(z[now], g, z[now], g, now)
    alpha = draw(batch, m + 1, seed=1).numpy()
    out = torch.empty_like(z[0])
    window.step(z[-1], f_z[-1], g, alpha, out)
    true_z, true_f = exact(z[-m - 1 :], f_z[-m - 1 :])
    slots = [(steps - m - 1 + k) % (m + 1) for k in range(m + 1)]
    residuals, size = true_f - true_z, 30 * ROUNDING[dtype] * (1 + n**0.5)
    np.testing.assert_allclose(window.g[slots].numpy(), residuals, atol=size)
    np.testing.assert_allclose(row[:, slots], (residuals * residuals[-1]).sum(2).T, atol=10 * size)
    np.testing.assert_array_equal(row, rhs)
    points = true_z + mixing * residuals
    step = np.einsum("bm,mbn->bn", alpha[:, slots], points)
    np.testing.assert_allclose(out.numpy(), step, atol=size)


def test_what_has_gaps_or_another_order_in_memory_gives_the_same_bits():
    z, f_z = draw(2, 4, 6)
    rows, plain, gaps = rows_for(z), torch.empty_like(z), torch.empty_like(z)
    wide = torch.stack([z, z], 2)[:, :, 0]  # every second element
    turned = f_z.T.contiguous().T
    assert np.array_equal(rows.residual(z, f_z, plain), rows.residual(wide, turned, gaps))
    assert torch.equal(plain, gaps)
    flat = f_z[:1].expand(4, 6)  # one row for all samples
    assert np.array_equal(rows.residual(z, flat, gaps), rows.residual(z, flat.clone(), plain))


@dtypes
@mixings
@pytest.mark.parametrize(("batch", "n", "threads"), [(3, 33, 1), (2, 9000, 1), (2, 9000, 2)])
def test_a_difference_that_comes_with_its_residual_is_the_one_stored_later(
    batch, n, threads, mixing, dtype
):
    """Bit by bit, also where differences are given up between the two."""
    torch.set_num_threads(threads)
    m, steps = 3, 7
    z, f_z = draw(2, steps, batch, n, dtype=dtype)
    early, late = (DifferenceWindow.like(z[0], m, mixing, rows_for(z[0])) for _ in range(2))
    last, _ = late.measure(z[0], f_z[0], torch.empty_like(z[0]))
    for now in range(1, steps):
        points = z[now], f_z[now], torch.empty_like(last)
        previous = Previous(z[now - 1], last, early.count)
        one, norms = early.measure(*points[:2], torch.empty_like(last), previous)
        other, expected = late.measure(*points)
        assert torch.equal(one, other) and np.array_equal(norms, expected)
        for window in (early, late):
            window.keep_newest(np.arange(batch) == now % 4, 1)
        found = [window.append(z[now], other, z[now - 1], last, now) for window in (early, late)]
        counted = (early.slot - np.arange(m)) % m < early.count[:, None]
        for own, theirs in zip(found[0][:2], found[1][:2], strict=True):
            assert np.array_equal(own[counted], theirs[counted])
        assert np.array_equal(*(np.array(lengths, float) for *_, lengths in found), equal_nan=True)
        assert torch.equal(early.du, late.du) and torch.equal(early.dg, late.dg)
        assert np.array_equal(early.count, late.count)
        last = other


# samples on their own


@dtypes
@mixings
@pytest.mark.parametrize("form", ["gram", "residuals"])
def test_the_bits_of_a_sample_do_not_depend_on_its_batch(form, mixing, dtype):
    """Also where its neighbours are broken, or stop, or fill their windows at other times."""
    slopes = torch.linspace(-0.9, 0.95, 40, dtype=dtype)
    shift = draw(5, 40, dtype=dtype)
    shift[1] = torch.nan
    method = Anderson(window=3, mixing=mixing, least_squares=form)

    def run(places):
        values = shift[places]
        start = torch.zeros_like(values)
        return solve(lambda z: values + slopes * z.cos(), start, method, rtol=0.0, max_iter=30)

    whole = run([0, 1, 2, 3, 4])
    for places in ([2], [4, 3], [3, 1, 2]):
        part = run(places)
        assert torch.equal(part.z, whole.z[places])
        known = part.history.residual
        expected = whole.history.residual[: len(known), places]
        assert torch.equal(known.nan_to_num(-1), expected.nan_to_num(-1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_breaks_harms_no_other_in_any_loop(bad):
    m, batch = 3, 4
    window, z, g, _ = filled(batch, 11, m, 0.7, torch.float64, m)
    gram = ScaledGram.of(batch, m, 1e-12, 2e-16)
    spoiled = g[-1].clone()
    spoiled[2, 5] = bad
    clean, broken = (
        window_.append(z[-1], value, z[-2], g[-2], m + 1)
        for window_, value in ((window.select(torch.arange(batch)), g[-1]), (window, spoiled))
    )
    others = [0, 1, 3]
    for found, expected in zip(broken, clean, strict=True):
        if expected is not None:
            np.testing.assert_array_equal(found[others], expected[others])
    lost = gram.store(window.slot, broken[0], None, window.stored)
    assert lost.tolist() == [False, False, True, False]
    assert np.isfinite(gram.matrix).all() and np.isfinite(gram.inverse).all()
    assert gram.used[:, window.slot].tolist() == [True, True, False, True]


# the small matrices


@pytest.mark.parametrize("m", [1, 2, 6])
@pytest.mark.parametrize("batch", [1, 3])
def test_small_problems_against_numpy_as_columns_come_and_go(m, batch):
    gram, ridge, rng = ScaledGram.of(batch, m, 1e-9, 2.0**-52), 1e-9, np.random.default_rng(0)
    columns, used = np.zeros((batch, m, 20)), np.zeros((batch, m), bool)
    stored = np.full(m, -1)
    for now in range(3 * m + 2):
        slot, storing = now % m, (np.arange(batch) + now) % 4 > 0
        columns[:, slot] = rng.standard_normal((batch, 20)) * 10.0 ** rng.integers(-8, 8)
        used[:, slot], stored[slot] = storing, now
        row = np.vecdot(columns, columns[:, slot, None])
        assert gram.store(slot, row, storing, stored) is None
        rhs = np.vecdot(columns, rng.standard_normal((batch, 1, 20)))
        solved = gram.solve(rhs)
        for b in range(batch):
            chosen = np.flatnonzero(used[b])
            scale = np.linalg.norm(columns[b, chosen], axis=1)
            unit = columns[b, chosen] / scale[:, None]
            matrix = unit @ unit.T + ridge * np.eye(len(chosen))
            y = np.linalg.solve(matrix, rhs[b, chosen] / scale)
            np.testing.assert_allclose(solved.gamma[b, chosen], y / scale, rtol=1e-8)
            assert not np.delete(solved.gamma[b], chosen).any()
            removed = y @ (rhs[b, chosen] / scale + ridge * y)
            np.testing.assert_allclose(solved.removed[b], removed, rtol=1e-8)


def test_a_dependent_column_costs_the_oldest_of_its_own_sample():
    directions = np.random.default_rng(0).standard_normal((2, 3, 20))
    directions[1, 2] = directions[1, 0]
    gram = ScaledGram.of(2, 3, 0.0, 2.0**-52)
    lost = [
        gram.store(slot, np.vecdot(directions, directions[:, slot, None]), None, np.arange(3))
        for slot in range(3)
    ]
    assert lost[:2] == [None, None] and lost[2].tolist() == [False, True]
    assert gram.used.tolist() == [[True, True, True], [False, True, True]]


# compiling


def test_every_loop_is_compiled_once_for_each_type():
    """Whatever a solve hands over: gaps, filters, compaction, probes, plain steps, one sample."""
    slopes = torch.linspace(-0.9, 0.95, 24)
    methods = (
        Anderson(window=2), Anderson(window=3, mixing=0.5, restart="never", max_condition=10.0),
        Anderson(window=4, restart="deflated"), Anderson(window=4, restart="auto"),
        Anderson(window=3, least_squares="residuals", restart="auto"), Picard(mixing=0.5),
        Anderson(window="auto", mixing="auto"), ShortRecurrence(), Anderson(delay=3, period=2),
    )  # fmt: skip
    for method in methods:
        for dtype in (torch.float32, torch.float64):
            flat = torch.ones(24, dtype=dtype).expand(3, 24)  # every row the same memory
            solve(lambda z: 1 + (slopes.to(z) * z).T.contiguous().T, flat, method, max_iter=40)
    for loop in (loops.residual, loops.enter, loops.append, loops.mix):
        assert len(loop.signatures) <= 2, loop.signatures
    for loop in (small_loops.store, small_loops.factor, small_loops.solve):
        assert len(loop.signatures) == 1, loop.signatures


def python(code, **environment):
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


SOLVE = """
import torch
from andersonn_core import Anderson, solve
result = solve(torch.cos, torch.zeros(3, 4), Anderson(window=2), rtol=1e-6)
assert bool(result.converged.all())
"""


@pytest.mark.slow
def test_numba_comes_with_the_first_solve_and_its_seconds_are_nobody_s(tmp_path):
    """With an empty cache all is compiled, which takes seconds: none of them is in the history."""
    code = f"""
import sys
import andersonn_core
print("numba" in sys.modules)
{SOLVE}
print("numba" in sys.modules)
history = result.history
columns = history.method_seconds, history.map_seconds, history.wall_seconds
print(max(float(column.max()) for column in columns))
"""
    before, after, seconds = python(code, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert (before, after) == ("False", "True") and float(seconds) < 0.5

    def kept():
        return sorted(path.name for path in tmp_path.rglob("*.nbc"))

    assert len(kept()) == 4 + 3  # of one type, and of one kind of small matrices
    python(
        "import runpy; runpy.run_module('andersonn_core.kernels')", NUMBA_CACHE_DIR=str(tmp_path)
    )
    ahead = kept()
    assert len(ahead) == 2 * 4 + 3 + 2
    python(SOLVE.replace("4)", "4).double()"), NUMBA_CACHE_DIR=str(tmp_path))
    assert kept() == ahead


READ_ONLY = """
import tempfile
def refuse(*arguments, **options):  # numba asks by a file whether it may write to a folder
    raise PermissionError("read-only")
tempfile.TemporaryFile = refuse
"""


@pytest.mark.slow
def test_on_a_read_only_disk_a_solve_works_without_a_cache():
    plain = SOLVE.replace("Anderson(window=2)", "Picard()").replace("Anderson", "Picard")
    kept = "from andersonn_core.kernels import loops; print(type(loops.mix._cache).__name__)"
    assert python(f"{READ_ONLY}{plain}{kept}").split() == ["NullCache"]


def test_rows_of_one_thread_are_compiled_and_long_ones_of_several_are_torch_s():
    short, long = torch.zeros(1, 8), torch.zeros(1, 10_000)
    assert isinstance(rows_for(short), CompiledRows) and isinstance(rows_for(long), CompiledRows)
    torch.set_num_threads(2)
    assert isinstance(rows_for(short), CompiledRows)
    assert not isinstance(rows_for(long), CompiledRows)
