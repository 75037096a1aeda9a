"""What is kept of the history: slow directions, orthogonal pairs, shadow spaces; a test chooses."""

import numpy as np
import pytest
import torch
from cases import Case, contraction, iterates

from andersonn_core import IDR, Anderson, Event, ShortRecurrence, solve
from andersonn_core.least_squares import ScaledGram
from andersonn_core.methods.choosing import Mode
from andersonn_core.methods.deflation import newest_directions, slow_directions
from andersonn_core.problems import Affine, Bratu, Lasso, Poisson, Tanh


def full_memory(f, z0, tol, most=300):
    """Evaluations of Anderson with all differences, by dense least squares in NumPy."""
    z, last, dz, dg = z0.copy(), None, [], []
    for count in range(1, most + 1):
        f_z = f(z)
        g = f_z - z
        if np.linalg.norm(g) <= tol * np.linalg.norm(f_z):
            return count
        if last is not None:
            dz.append(z - last[0])
            dg.append(g - last[1])
        last = z, g
        z = z + g
        if dz:
            size = np.linalg.norm(dg, axis=1)
            columns = (np.array(dg) / size[:, None]).T
            gamma = np.linalg.lstsq(columns, g, rcond=1e-14)[0] / size
            z = z - gamma @ (np.array(dz) + np.array(dg))
    raise AssertionError("no convergence")


def evaluations(problem, method, rtol, most=800):
    result = solve(problem.f, problem.z0, method, rtol=rtol, max_iter=most)
    assert bool(result.converged.all())
    return result.num_evals


def after(problem, method, num):
    """The method's state after `num` steps, and what it saw."""
    z = problem.z0
    state = method.init(z)
    for _ in range(num):
        value = problem.f(z)
        state.measure(z, value)
        z = method.step(state, z, value)
    return state


SYMMETRIC = [
    Poisson(size=24, dtype="float64"),
    Affine(size=120, spectrum="alternating", spectral_radius=0.99, dtype="float64"),
]
NONSYMMETRIC = [
    Affine(size=120, spectrum="disc", spectral_radius=0.98, dtype="float64"),
    Affine(size=60, spectrum="disc", spectral_radius=0.95, nonnormality=2.0, dtype="float64"),
]


# deflated restarting


def small_affine(n=40):
    return Affine(size=n, spectrum="disc", spectral_radius=0.97, dtype="float64").build()


@pytest.mark.parametrize("least_squares", ["gram", "residuals"])
def test_every_kept_column_is_a_difference_of_the_affine_map(least_squares):
    problem = small_affine()
    method = Anderson(window=6, restart="deflated", least_squares=least_squares, mixing=0.7)
    state = after(problem, method, 25)
    identity = torch.eye(40, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda z: problem.f(z[None])[0])(problem.z0[0])
    if least_squares == "gram":
        dg, du = state.window.dg[:, 0], state.window.du[:, 0]
    else:
        newest = state.window.slot
        dg = state.window.g[newest, 0] - state.window.g[:, 0]
        du = state.window.p[newest, 0] - state.window.p[:, 0]
    dz = du - 0.7 * dg
    used = state.gram.used[0]
    assert used.sum() >= 4
    torch.testing.assert_close(dg[used], -dz[used] @ (identity - jacobian).T, rtol=0, atol=1e-12)


def test_the_slow_directions_are_those_of_the_generalized_eigenproblem():
    problem = small_affine()
    state = after(problem, Anderson(window=8, restart="never"), 9)
    first = np.array([0])
    moves = state.window.moves(torch.from_numpy(first))
    weights, fine = slow_directions(state.gram.differences(first), moves, 1.0, 3)
    assert fine.all()
    dg = state.window.dg[:, 0].numpy()
    dz = state.window.du[:, 0].numpy() - dg
    kept_g, kept_z = weights[0] @ dg, weights[0] @ dz
    np.testing.assert_allclose(kept_g @ kept_g.T, np.eye(3), atol=1e-9)
    half = np.linalg.inv(np.linalg.cholesky(dg @ dg.T))
    values = np.linalg.eigvalsh(half @ (dz @ dz.T) @ half.T)
    lengths = np.linalg.norm(kept_z, axis=1) ** 2
    np.testing.assert_allclose(np.sort(lengths), values[-3:], rtol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("least_squares", ["gram", "residuals"])
def test_the_products_of_kept_columns_follow_from_those_of_the_columns(least_squares, dtype):
    problem = Affine(size=40, spectrum="disc", spectral_radius=0.97, dtype=dtype).build()
    method = Anderson(window=6, restart="deflated", least_squares=least_squares)
    state = after(problem, method, 8)  # the newest and three that were kept just now
    assert state.diagnostics.event[0] & Event.DEFLATE
    used = torch.from_numpy(state.gram.used[0])
    assert int(used.sum()) == 4 + (least_squares == "residuals")
    kept = state.window.columns[used, 0].double().numpy()
    if least_squares == "gram":
        found = state.gram.inner()[0][used][:, used]
    else:
        found = state.gram.products[0][used][:, used]
    size = np.linalg.norm(kept, axis=1)
    rounding = 100 * torch.finfo(problem.z0.dtype).eps
    np.testing.assert_allclose(found / np.outer(size, size), kept @ kept.T / np.outer(size, size),
                               rtol=0, atol=rounding)  # fmt: skip


def test_directions_that_rounding_made_are_not_kept():
    """Steps far apart, residual differences nearly the same: what tells these apart is slow."""
    generator = torch.Generator().manual_seed(0)
    base, other = torch.randn(2, 1, 30, generator=generator, dtype=torch.float64)
    for apart, trusted in ((1e-2, True), (1e-9, False)):
        gram = ScaledGram.of(1, 3, 1e-15, 1e-16)
        columns = np.concatenate([(base + apart * k * other).numpy() for k in (0, 1)])
        for slot, column in enumerate(columns):
            row = np.zeros((1, 3))
            row[0, :2] = columns @ column
            gram.store(slot, row, None, np.arange(3))
        moves = np.eye(3)[None, *np.tril_indices(3)]
        assert slow_directions(gram, moves, 1.0, 1)[1].tolist() == [trusted]


def test_the_newest_directions_are_the_last_ones_of_gram_schmidt():
    problem = small_affine()
    state = after(problem, Anderson(window=5, restart="never"), 9)  # the ring has gone round
    (weights,), fine = newest_directions(state.gram, state.window.stored, 2)
    assert fine.all()
    order = np.argsort(state.window.stored)
    dg = state.window.dg[order, 0].numpy()
    q = np.linalg.qr(dg.T)[0].T[-2:]
    made = weights @ state.window.dg[:, 0].numpy()
    np.testing.assert_allclose(np.abs(made @ q.T), np.eye(2), atol=1e-7)


@pytest.mark.parametrize(
    ("spec", "most"), [(Poisson(dtype="float64"), 200), (Bratu(dtype="float64"), 140)]
)
def test_deflation_needs_far_fewer_evaluations_than_a_plain_restart(spec, most):
    problem = spec.build()
    deflated = evaluations(problem, Anderson(window=10, restart="deflated"), 1e-10)
    assert deflated <= most
    assert deflated < 0.75 * evaluations(problem, Anderson(window=10), 1e-10)


def test_after_a_deflated_restart_the_kept_directions_and_the_newest_difference_are_used():
    problem = Affine(size=60, spectrum="disc", spectral_radius=0.99, dtype="float64").build()
    method = Anderson(window=8, restart="deflated", kept=3)
    result = solve(problem.f, problem.z0, method, rtol=0.0, max_iter=20)
    depth = result.history.depth[:-1, 0].tolist()
    assert depth == [0, 1, 2, 3, 4, 5, 6, 7, 8, 4, 5, 6, 7, 8, 4, 5, 6, 7, 8]
    flags = result.history.event[:, 0]
    assert (flags & Event.DEFLATE).nonzero().flatten().tolist() == [9, 14]
    assert result.diagnostics["deflations"] == result.diagnostics["restarts"] == 2


def test_a_growing_residual_drops_everything_that_was_kept():
    def f(z):  # a kink: the slope changes where z passes 1
        return torch.where(z < 1, 0.9 * z + 0.2, 0.2 * z + 0.9)

    z0 = torch.linspace(-3, 0, 30, dtype=torch.float64)[None]
    result = solve(f, z0, Anderson(window=4, restart="deflated"), rtol=1e-12)
    grown = result.history.residual[1:] > 1.1 * result.history.residual[:-1]
    restarted = (result.history.event[1:] & Event.RESTART) != 0
    deflated = (result.history.event[1:] & Event.DEFLATE) != 0
    running = result.history.running[1:] & ~torch.isnan(result.history.depth[1:])
    assert bool(result.converged.all()) and bool((grown & running).any())
    assert bool((restarted & ~deflated)[grown & running].all())


def test_fewer_directions_than_are_to_be_kept_make_a_plain_restart_that_is_counted():
    z0 = torch.zeros(1, 12, dtype=torch.float64)
    slope = torch.tensor([0.9, 0.5] * 6, dtype=torch.float64)  # two eigenvalues, two directions

    result = solve(lambda z: slope * z + 1, z0, Anderson(window=6, restart="deflated"), rtol=0.0,
                   max_iter=40)  # fmt: skip
    assert result.diagnostics["deflations"] < result.diagnostics["restarts"] + 1
    assert float(result.relative_residual) < 1e-14


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("restart", ["deflated", "auto"])
def test_windows_too_small_to_keep_anything_restart_as_full_does(window, restart):
    case = contraction()
    kept = solve(case.f, case.z0, Anderson(window=window, restart=restart), rtol=1e-10)
    assert bool(kept.converged.all())
    if window == 1:
        full = solve(case.f, case.z0, Anderson(window=window), rtol=1e-10)
        assert kept.num_evals == full.num_evals and torch.equal(kept.z, full.z)


# short recurrence


@pytest.mark.parametrize("spec", SYMMETRIC, ids=lambda spec: spec.name)
@pytest.mark.parametrize("tol", [1e-6, 1e-10])
def test_two_pairs_do_the_work_of_all_on_symmetric_affine_maps(spec, tol):
    problem = spec.build()
    shape = problem.z0.shape

    def flat(z):
        return problem.f(torch.from_numpy(z).reshape(shape)).flatten().numpy()

    best = full_memory(flat, problem.z0.flatten().numpy(), tol)
    assert evaluations(problem, ShortRecurrence(), tol) <= 1.03 * best + 1
    for method in (Anderson(window=10), Anderson(window=10, restart="never")):
        assert evaluations(problem, method, tol) > 1.05 * best


def test_the_pairs_iterates_are_those_of_the_full_memory():
    spec = Affine(size=60, spectrum="alternating", spectral_radius=0.9, dtype="float64")
    problem = spec.build()
    ours, _ = iterates(problem.f, problem.z0, ShortRecurrence(), rtol=0.0, max_iter=20)
    method = Anderson(window=30, restart="never", regularization=0.0, fallback=False)
    theirs, _ = iterates(problem.f, problem.z0, method, rtol=0.0, max_iter=20)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


def test_the_pairs_are_orthogonal_in_the_residuals():
    state = after(small_affine(), ShortRecurrence(pairs=3), 12)
    q = state.window.dg[:, 0][torch.from_numpy(state.gram.used[0])]
    products = q @ q.T / (q.norm(dim=1)[:, None] * q.norm(dim=1))
    assert len(q) == 4  # three to be kept and the newest
    torch.testing.assert_close(products, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-9)


# induced dimension reduction


@pytest.mark.parametrize("s", [1, 2, 4, 8])
def test_idr_ends_within_n_plus_n_over_s_evaluations(s):
    spec = Affine(size=24, spectrum="disc", spectral_radius=0.8, dtype="float64")
    problem = spec.build()
    # one more for the start and one for the least-squares steps that fill the window
    assert evaluations(problem, IDR(shadow=s), 1e-9) <= 24 + 24 // s + 2


@pytest.mark.parametrize("spec", NONSYMMETRIC, ids=["normal", "not normal"])
def test_idr_comes_near_the_full_memory_where_windows_of_its_size_do_not(spec):
    problem = spec.build()
    best = full_memory(lambda z: problem.f(torch.from_numpy(z)[None])[0].numpy(),
                       problem.z0[0].numpy(), 1e-10)  # fmt: skip
    assert evaluations(problem, IDR(shadow=10), 1e-10) <= 1.25 * best
    assert evaluations(problem, Anderson(window=10), 1e-10) > 1.4 * best


def test_the_shadow_s_weights_leave_nothing_in_its_space():
    problem = small_affine()
    method = IDR(shadow=5)
    state = after(problem, method, 12)
    shadow = state.keeper.shadow
    gamma = torch.from_numpy(state.diagnostics.gamma)
    g, dg = state.last_g, state.window.dg.transpose(0, 1)  # the step exchanged g and last_g
    left = g - (gamma[:, None, :] @ dg)[:, 0]
    assert np.abs(shadow.products(left)).max() < 1e-9 * np.abs(shadow.products(g)).max()


# choosing


def chosen(problem, **knobs):
    method = Anderson(window=10, restart="auto")
    result = solve(problem.f, problem.z0, method, **{"rtol": 1e-10, "max_iter": 400} | knobs)
    return result


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (SYMMETRIC[0].build(), "affine and symmetric"),
        (SYMMETRIC[1].build(), "affine and symmetric"),
        (NONSYMMETRIC[0].build(), "not symmetric"),
        (NONSYMMETRIC[1].build(), "not symmetric"),
        (Bratu(size=24, dtype="float64").build(), "slow directions"),
        (Tanh(size=64, gain=1.3, batch_size=1, dtype="float64").build(), "slow directions"),
        (Lasso(dtype="float64").build(), "old differences mislead"),
    ],
    ids=["poisson", "symmetric", "normal", "not normal", "bratu", "tanh", "lasso"],
)  # fmt: skip
def test_a_probe_tells_what_to_keep(problem, words):
    result = chosen(problem)
    assert bool(result.converged.all())
    assert words in result.notes[0] and "1 of 1 samples" in result.notes[0]
    assert result.notes[0].startswith("evaluation 12,")
    probes = (result.history.event[:, 0] & Event.PROBE).nonzero().flatten().tolist()
    assert probes[0] == 11 and len(probes) == result.diagnostics["probes"] <= 2


def test_single_precision_hides_curvature_so_that_slow_directions_are_kept():
    result = chosen(Poisson().build(), rtol=1e-6)
    assert "slow directions" in result.notes[0]
    assert result.num_evals <= 105


def test_two_pairs_need_twice_the_evaluations_of_slow_directions_in_single_precision():
    problem = Poisson(size=128).build()
    slow = evaluations(problem, Anderson(window=10, restart="deflated"), 1e-6)
    assert evaluations(problem, ShortRecurrence(), 1e-6) > 2 * slow


def test_columns_that_are_dependent_in_the_order_of_age_are_said_to_be():
    state = after(small_affine(), Anderson(window=5, restart="never"), 9)
    state.gram.matrix[0, 0, 1] = state.gram.matrix[0, 1, 0] = 2.0  # no Gram matrix
    _, fine = newest_directions(state.gram, state.window.stored, 2)
    assert not fine.any()


def test_steps_around_a_probe_are_those_without_it():
    problem = Bratu(size=32, dtype="float64").build()
    knobs = {"rtol": 0.0, "max_iter": 16}
    with_probe, _ = iterates(problem.f, problem.z0, Anderson(window=10, restart="auto"), **knobs)
    without, _ = iterates(problem.f, problem.z0, Anderson(window=10, restart="deflated"), **knobs)
    steps = torch.cat([with_probe[:11], with_probe[12:]])
    torch.testing.assert_close(steps, without[:15], rtol=1e-12, atol=1e-12)


class Mixed:
    """An affine sample, a curved one, a fast one (every eigenvalue small), another affine one."""

    slope = torch.linspace(-0.9, 0.97, 30, dtype=torch.float64)

    def __init__(self, curved=(0.0, 0.4, 0.0, 0.0), size=(1.0, 1.0, 0.2, 1.0)):
        self.curved, self.size = (
            torch.tensor(row, dtype=torch.float64)[:, None] for row in (curved, size)
        )

    def __call__(self, z):
        return self.size * self.slope * z + 1 + self.curved * torch.sin(z)

    def select(self, indices):
        return Mixed(self.curved[indices, 0].tolist(), self.size[indices, 0].tolist())


@pytest.mark.parametrize("compact", [False, True])
def test_each_sample_is_tested_by_itself(compact):
    z0 = torch.zeros(4, 30, dtype=torch.float64)
    method = Anderson(window=8, restart="auto")
    together = solve(Mixed(), z0, method, rtol=1e-12, compact=compact)
    assert any("2 of 4 samples: the map is affine" in note for note in together.notes)
    probed = ((together.history.event & Event.PROBE) != 0).any(0)
    assert probed.tolist() == [True, True, False, True]
    for b in range(4):
        indices = torch.tensor([b])
        alone = solve(Mixed().select(indices), z0[indices], method, rtol=1e-12)
        assert int(together.sample_evals[b]) == alone.num_evals
        assert torch.equal(together.z[b], alone.z[0])


def test_a_fast_sample_takes_a_step_while_others_are_probed():
    method = Anderson(window=8, restart="auto")
    fast = Mixed().select(torch.tensor([2]))
    z0 = torch.zeros(4, 30, dtype=torch.float64)
    alone = solve(fast, z0[:1], Anderson(window=8, restart="never"), rtol=1e-12)
    points, together = iterates(Mixed(), z0, method, rtol=1e-12)
    assert not bool((points[9, 2] == points[10, 2]).all())
    assert int(together.sample_evals[2]) <= alone.num_evals + 1


def test_what_was_taken_for_affine_and_is_not_is_given_up():
    """Affine around the start, with a wall farther out, behind the probe."""
    slope = torch.linspace(-0.9, 0.99, 60, dtype=torch.float64)

    def f(z):
        return slope * z + 1 - 0.4 * (z - 60).clamp(min=0)

    case = Case(f, torch.zeros(1, 60, dtype=torch.float64))
    result = chosen(case)
    assert "affine and symmetric" in result.notes[0]
    assert "the residual grew" in result.notes[1]
    assert bool(result.converged.all()) and result.diagnostics["deflations"] > 0
    slow = solve(f, case.z0, Anderson(window=10, restart="deflated"), rtol=1e-10)
    assert result.num_evals <= 1.25 * slow.num_evals


def test_modes_that_rely_on_an_affine_map_come_last():
    assert [mode for mode in Mode if mode >= Mode.ORTHOGONAL] == [Mode.ORTHOGONAL, Mode.INDUCED]
