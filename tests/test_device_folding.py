"""The kernels of a deflated restart against NumPy and SciPy in float64, and their place in a solve.

As test_device_kernels.py, which runs the fused ones through this file, too.
"""

import numpy as np
import pytest
import scipy.linalg
import torch
from device_cases import DEVICE, close, draw, exact, feed, kernels_under_test, spread, state_for

from andersonn_core.device.interface import make_room
from andersonn_core.least_squares import ScaledGram
from andersonn_core.results import RUNNING, Event, Status

RESTART, DEFLATE = int(Event.RESTART), int(Event.DEFLATE)
# B, n, m, k: blocks with a rest and all but one kept; less than a block; one sample, one kept; an
# odd window; nine columns in a block of sixteen
EDGES = [(4, 37, 4, 3), (4, 5, 3, 1), (1, 48, 2, 1), (4, 100, 5, 2), (1, 40, 9, 4)]
TYPES = [
    (torch.float32, torch.float32, 1e-5),
    (torch.float32, torch.bfloat16, 1e-2),
    (torch.float64, torch.float64, 1e-13),
]
edges = pytest.mark.parametrize(("batch", "n", "m", "kept"), EDGES)
types = pytest.mark.parametrize(("dtype", "ring", "error"), TYPES, ids=["f4", "bf", "f8"])
GOES_ON, STOPPED, DAMAGED = 1, 2, 3  # samples beside the first; of a batch of one it is alone


@pytest.fixture
def kernels(monkeypatch):
    yield from kernels_under_test(monkeypatch)


def full_window(kernels, batch, n, m, kept, dtype=torch.float64, ring=None, mixing=0.7):
    """A state before a restart of the first sample and the last, its matrices those of its rings.

    The second has room left, the third has stopped; the newest difference lies in slot m - 2.
    """
    z = torch.zeros(batch, n, dtype=dtype, device=DEVICE)
    rules = {"window": m, "kept": kept, "mixing": mixing, "ridge": 1e-6}
    state = state_for(kernels, z, ring, **rules)
    for k, columns in enumerate((state.du, state.dg)):
        columns.copy_(draw(m, batch, n, seed=n + m + k))
    gram = torch.einsum("ibn,jbn->bij", *[state.dg.double()] * 2)
    state.scale.copy_(1 / gram.diagonal(dim1=1, dim2=2).sqrt())
    state.matrix.copy_(state.scale[:, :, None] * gram * state.scale[:, None])
    state.matrix += state.rules.ridge * torch.eye(m, device=DEVICE)
    state.count += m
    state.evals += 2 * m
    if batch > 1:
        state.count[GOES_ON] -= 1
        state.status[STOPPED] = Status.CONVERGED
    return state


def unused(state, sample, slot):
    """One column that is not used: no kernel may let it into a sum."""
    eye = torch.eye(state.rules.window, dtype=torch.float64, device=DEVICE)
    state.matrix[sample, slot], state.matrix[sample, :, slot] = eye[slot], eye[slot]
    state.scale[sample, slot] = 0.0
    state.du[slot, sample] = state.dg[slot, sample] = torch.nan


def restarting(batch):
    return [0] if batch == 1 else [0, DAMAGED]


def others(batch):
    return [] if batch == 1 else [GOES_ON, STOPPED]


def iterate_products(state):
    """DZ dZ^T (B, m, m) of the columns in use, and the products of their lengths."""
    du, dg, scale = exact(state.du, state.dg, state.scale)
    dz = np.where(scale.T[..., None] > 0, du - state.rules.mixing * dg, 0.0)
    lengths = np.linalg.norm(np.abs(du) + np.abs(dg), axis=2).T
    return np.einsum("ibn,jbn->bij", dz, dz), lengths[:, :, None] * lengths[:, None]


@edges
@types
def test_iterate_products_are_summed_for_full_windows_only(
    kernels, batch, n, m, kept, dtype, ring, error
):
    state = full_window(kernels, batch, n, m, kept, dtype, ring)
    if m > 2:
        unused(state, batch - 1, 1)
    state.folding.sums.fill_(torch.nan)
    kernels.iterate_products(state)
    true, size = iterate_products(state)
    error = min(error, 1e-5)  # of what the ring holds, which is rounded already
    for sample in restarting(batch):
        found = state.folding.sums[sample].double().sum(0)
        close(found, true[sample], error, np.nan_to_num(size[sample], nan=1.0))
    assert state.folding.sums[others(batch)].isnan().all()


@edges
@types
def test_directions_are_the_largest_solutions_of_the_eigenproblem(
    kernels, batch, n, m, kept, dtype, ring, error
):
    """Lambda y = theta A y, with A before it was scaled; SciPy knows the largest theta."""
    state = full_window(kernels, batch, n, m, kept, dtype, ring)
    if kept < m - 1:
        unused(state, batch - 1, m - 1)
    sums, folding = state.folding.sums, state.folding
    sums.copy_(spread(sums.shape[1], torch.from_numpy(iterate_products(state)[0]).to(dtype)))
    lengths, matrix, scale = exact(sums.double().sum(1), state.matrix, state.scale)
    before = [state.matrix.clone(), state.scale.clone(), state.count.clone()]
    folding.weights.fill_(torch.nan)
    folding.event.fill_(-1)
    kernels.directions(state)
    weights, event = exact(folding.weights, folding.event)
    newest = (m - 2 - np.arange(kept)[::-1]) % m  # the newest one's is last
    for sample in restarting(batch):
        used = np.flatnonzero(scale[sample])
        gram = matrix[sample][np.ix_(used, used)] / np.outer(
            scale[sample, used], scale[sample, used]
        )
        left, mine = lengths[sample][np.ix_(used, used)], weights[sample][:, used]
        theta = scipy.linalg.eigh(left, gram, eigvals_only=True)[::-1][:kept]
        rounding = 10 * torch.finfo(dtype).eps
        np.testing.assert_allclose(np.abs(weights[sample]).sum(1), 1, rtol=rounding)
        np.testing.assert_allclose(np.abs(mine).sum(1), 1, rtol=rounding)
        size = np.abs(theta[0] * gram).max()
        np.testing.assert_allclose(left @ mine.T, gram @ mine.T * theta, atol=rounding * size)
        host = host_problem(state, matrix[sample : sample + 1], scale[sample : sample + 1])
        assert host.fold(np.array([0]), newest, weights[sample : sample + 1]).all()
        close(state.matrix[sample], host.matrix[0], 1e-11)
        np.testing.assert_allclose(exact(state.scale[sample])[0], host.scale[0], rtol=1e-11)
        assert state.count[sample] == kept and event[sample] == RESTART + DEFLATE
    for old, new in zip(before, (state.matrix, state.scale, state.count), strict=True):
        assert torch.equal(old[others(batch)], new[others(batch)])
    assert not event[others(batch)].any() and np.isnan(weights[others(batch)]).all()


def host_problem(state, matrix, scale):
    """The host's, of one sample."""
    host = ScaledGram.of(1, state.rules.window, state.rules.ridge, state.rules.precision)
    host.matrix[:], host.scale[:] = matrix, scale
    return host


LOST = "few columns", "not finite", "rounding"


@pytest.mark.parametrize("damage", LOST)
def test_a_window_without_directions_is_emptied(kernels, damage):
    state = full_window(kernels, 4, 24, 4, 2)
    kernels.iterate_products(state)
    if damage == "few columns":
        unused(state, DAMAGED, 0)
        unused(state, DAMAGED, 1)
    elif damage == "not finite":
        state.folding.sums[DAMAGED, 0, 1, 1] = torch.inf
    else:  # the slowest direction is the difference of two columns, alike to some digits
        state.matrix[DAMAGED] = torch.eye(4, dtype=torch.float64)
        state.matrix[DAMAGED, 0, 1] = state.matrix[DAMAGED, 1, 0] = 1 - 1e-13
    kernels.directions(state)
    assert state.folding.event.tolist() == [RESTART + DEFLATE, 0, 0, RESTART]
    assert state.count.tolist() == [2, 3, 4, 0] and not state.scale[DAMAGED].any()
    rings = state.du[:, DAMAGED].clone(), state.dg[:, DAMAGED].clone()
    kernels.fold(state)
    for old, ring in zip(rings, (state.du, state.dg), strict=True):
        torch.testing.assert_close(ring[:, DAMAGED], old, rtol=0, atol=0, equal_nan=True)


def test_combinations_that_vanish_are_not_used(kernels):
    """Squares of 1e-200 are zero: the columns were fine, what was made of them is not."""
    state = full_window(kernels, 4, 24, 4, 2)
    kernels.iterate_products(state)
    state.scale[DAMAGED] = 1e200
    state.folding.sums[DAMAGED] *= 1e-300
    kernels.directions(state)
    assert state.folding.event.tolist() == [RESTART + DEFLATE, 0, 0, RESTART + DEFLATE]
    assert state.count.tolist() == [2, 3, 4, 0] and not state.scale[DAMAGED].any()
    assert state.matrix[DAMAGED].equal(torch.eye(4, dtype=torch.float64, device=DEVICE))


@edges
@types
def test_combinations_replace_the_columns_that_are_overwritten_last(
    kernels, batch, n, m, kept, dtype, ring, error
):
    state = full_window(kernels, batch, n, m, kept, dtype, ring)
    folding = state.folding
    folding.weights.copy_(draw(batch, kept, m, seed=3))
    folding.weights /= folding.weights.abs().sum(2, keepdim=True)
    folding.event[restarting(batch)] = RESTART + DEFLATE
    if m > 2:  # a column without weight is not read
        folding.weights[batch - 1, :, 0] = 0.0
        state.du[0, batch - 1] = state.dg[0, batch - 1] = torch.nan
    before, weights = exact(state.du, state.dg), exact(folding.weights)[0]
    kernels.fold(state)
    newest = (m - 2 - np.arange(kept)[::-1]) % m  # the newest one's is last
    rest = [slot for slot in range(m) if slot not in newest]
    for old, found in zip(before, (state.du, state.dg), strict=True):
        for sample in restarting(batch):
            columns = np.nan_to_num(old[:, sample])
            close(found[newest, sample], weights[sample] @ columns, error, np.abs(columns).max())
        same = torch.from_numpy(old[:, others(batch)]).to(found)
        assert torch.equal(found[:, others(batch)], same)
        untouched = torch.from_numpy(old[rest]).to(found)
        torch.testing.assert_close(found[rest], untouched, rtol=0, atol=0, equal_nan=True)


# what the next step does with it


def next_step(kernels, state, residual):
    """Solve with random products of the newest difference; these (B, m) each."""
    batch, m, n = len(state.g), state.rules.window, 50
    vectors = draw(batch, 2, n, seed=5).numpy()
    columns = draw(batch, m, n, seed=6).numpy()
    slot = int(state.evals[0] - 1) % m
    columns[:, slot] = vectors[:, 0]
    row, rhs = np.einsum("bmn,bkn->kbm", columns, vectors)
    feed(state, np.ascontiguousarray(row), np.ascontiguousarray(rhs), np.array(residual))
    state.gamma.fill_(torch.nan)
    kernels.solve(state, False)
    return slot, row, rhs


def test_the_next_step_is_the_host_s_after_a_fold_and_empties_where_the_residual_grew(kernels):
    batch, m, kept = 4, 5, 2
    state = full_window(kernels, batch, 60, m, kept)
    state.status.fill_(RUNNING)
    state.count[:] = m
    host = ScaledGram.of(batch, m, state.rules.ridge, state.rules.precision)
    host.matrix[:], host.scale[:] = exact(state.matrix, state.scale)
    make_room(kernels, state)
    assert state.folding.event.tolist() == [RESTART + DEFLATE] * batch
    state.folding.last_norm[:] = 2.0
    grown = np.array([False, True, False, False])
    kept_slots = (m - 2 - np.arange(kept)[::-1]) % m
    assert host.fold(np.arange(batch), kept_slots, exact(state.folding.weights)[0]).all()
    host.forget(grown)
    residuals = [2.19, 2.21, 1e-3, 0.5]
    slot, row, rhs = next_step(kernels, state, residuals)
    host.store(slot, row, None, np.array([m - 1, *range(m - 1)]))
    weights = host.solve(rhs)
    np.testing.assert_allclose(exact(state.gamma)[0], weights.gamma, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(exact(state.scale)[0], host.scale, rtol=1e-11)
    np.testing.assert_allclose(exact(state.matrix)[0], host.matrix, rtol=1e-11, atol=1e-13)
    place = int(state.evals[0] - 1) % state.records.event.shape[0]
    both = RESTART + DEFLATE
    assert state.records.event[place].tolist() == [both, RESTART, both, both]
    assert state.records["depth"][place].tolist() == [3.0, 1.0, 3.0, 3.0]
    assert state.count.tolist() == [3, 1, 3, 3]
    assert state.folding.last_norm.tolist() == pytest.approx(residuals)


def test_a_residual_that_grows_empties_a_window_with_room_left_too(kernels):
    state = full_window(kernels, 4, 60, 5, 2)
    state.count[:] = torch.tensor([3, 3, 3, 0])
    state.folding.last_norm[:] = 1.0
    make_room(kernels, state)
    assert not state.folding.event.any()
    next_step(kernels, state, [1.2, 1.05, 1.2, 1.2])
    place = int(state.evals[0] - 1) % state.records.event.shape[0]
    assert state.records.event[place].tolist() == [RESTART, 0, 0, 0]
    assert state.records["depth"][place].tolist()[:2] == [1.0, 5.0]
    assert state.count.tolist() == [1, 4, 3, 1]
    assert state.folding.last_norm.tolist() == pytest.approx([1.2, 1.05, 1.0, 1.2])
