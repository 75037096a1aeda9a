"""The weights: two back ends, one dense answer, and columns that carry no information."""

import numpy as np
import pytest
import torch

from andersonn_core.kernels import DifferenceWindow, Kept, Progress, rows_for
from andersonn_core.least_squares import (
    ScaledGram,
    condition,
    default_regularization,
    qr_weights,
)

BACK_ENDS = ("gram", "qr")


def draw(batch=4, m=5, n=40, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    dg = torch.randn(batch, m, n, generator=generator, dtype=torch.float64).to(dtype)
    g = torch.randn(batch, n, generator=generator, dtype=torch.float64).to(dtype)
    return dg, g


class Answer:
    """The weights as tensors, whichever back end they come from."""

    def __init__(self, weights, dropped):
        self.gamma = torch.from_numpy(weights.gamma)
        self.used = torch.from_numpy(weights.used)
        self.condition = torch.from_numpy(condition(weights.pivots))
        self.dropped = dropped


def weights(back_end, dg, g, ridge=0.0, valid=None, stored=None):
    """Either back end from the columns themselves, which were stored in the order of `stored`."""
    batch, m, _ = dg.shape
    valid = np.ones((batch, m), dtype=bool) if valid is None else valid
    stored = np.arange(m) if stored is None else stored
    dropped = np.zeros(batch, dtype=bool)
    if back_end == "qr":
        answer = qr_weights(dg, g, valid, stored, ridge)
        return Answer(answer, dropped if answer.dropped is None else answer.dropped)
    gram = ScaledGram.of(batch, m, ridge, torch.finfo(dg.dtype).eps)
    # Such columns are not kept by the window.
    columns = torch.where(torch.isfinite(torch.linalg.vecdot(dg, dg))[:, :, None], dg, 0.0)
    with np.errstate(all="ignore"):
        for slot in np.argsort(stored):
            inner = torch.linalg.vecdot(columns, columns[:, slot, None])
            lost = gram.store(slot, inner.double().numpy(), valid[:, slot], stored)
            dropped |= False if lost is None else lost
        rhs = torch.linalg.vecdot(columns, g[:, None, :]).double().numpy()
        return Answer(gram.solve(rhs), dropped)


def left_over(dg, g, gamma):  # (B,)
    return (g.double() - (gamma[:, None, :] @ dg.double())[:, 0]).norm(dim=1)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("m", [1, 2, 5, 10])
def test_without_a_ridge_the_weights_are_those_of_a_dense_least_squares_solver(back_end, m):
    dg, g = draw(m=m)
    ours = weights(back_end, dg, g)
    for b in range(len(dg)):
        theirs = np.linalg.lstsq(dg[b].T.numpy(), g[b].numpy(), rcond=None)[0]
        np.testing.assert_allclose(ours.gamma[b].numpy(), theirs, rtol=1e-10, atol=1e-12)
    assert bool(ours.used.all())
    assert ours.dropped.tolist() == [0] * 4


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("ridge", [1e-12, 1e-6, 1e-2, 1.0])
def test_the_ridge_is_added_to_the_gram_matrix_of_unit_columns(back_end, ridge):
    dg, g = draw()
    dg = dg * torch.logspace(-6, 6, 5, dtype=torch.float64)[None, :, None]
    norms = dg.norm(dim=2)
    unit = dg / norms[:, :, None]
    matrix = unit @ unit.mT + ridge * torch.eye(5, dtype=torch.float64)
    y = torch.linalg.solve(matrix, (unit @ g[:, :, None]))[:, :, 0]
    ours = weights(back_end, dg, g, ridge).gamma * norms
    torch.testing.assert_close(ours, y, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ridge", [0.0, 1e-10, 1e-3])
@pytest.mark.parametrize("seed", range(5))
def test_the_back_ends_agree_to_1e_minus_8_in_float64(ridge, seed):
    dg, g = draw(m=8, n=100, seed=seed)
    dg[:, 1:] += 3 * dg[:, :1]  # correlated columns, condition of the Gram about 1e2
    gram, qr = (weights(name, dg, g, ridge).gamma for name in BACK_ENDS)
    torch.testing.assert_close(gram, qr, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_the_weights_do_not_change_when_all_residuals_are_scaled(back_end, scale):
    dg, g = draw(dtype=torch.float32)
    ridge = default_regularization(torch.float32)
    expected = weights(back_end, dg, g, ridge).gamma
    ours = weights(back_end, dg * scale, g * scale, ridge).gamma
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_the_weight_of_a_column_scales_inversely_with_the_column_even_with_a_ridge(back_end):
    dg, g = draw()
    factors = torch.tensor([1e-6, 1e-3, 1.0, 1e3, 1e6], dtype=torch.float64)
    plain = weights(back_end, dg, g, 1e-3).gamma
    ours = weights(back_end, dg * factors[None, :, None], g, 1e-3).gamma
    torch.testing.assert_close(ours * factors, plain, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_more_ridge_means_smaller_weights_and_a_larger_remainder(back_end):
    dg, g = draw()
    dg = dg / dg.norm(dim=2, keepdim=True)
    norms, lefts = [], []
    for ridge in (0.0, 1e-8, 1e-4, 1e-2, 0.1, 1.0):
        gamma = weights(back_end, dg, g, ridge).gamma
        norms.append(gamma.norm(dim=1))
        lefts.append(left_over(dg, g, gamma))
    assert bool((torch.stack(norms).diff(dim=0) <= 1e-14).all())
    assert bool((torch.stack(lefts).diff(dim=0) >= -1e-14).all())
    assert bool((norms[-1] < 0.8 * norms[0]).all())


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_a_zero_column_gets_no_weight_and_is_counted(back_end):
    dg, g = draw()
    dg[1, 2] = 0.0
    ours = weights(back_end, dg, g)
    assert ours.dropped.tolist() == [0, 1, 0, 0]
    assert float(ours.gamma[1, 2]) == 0.0 and not bool(ours.used[1, 2])
    others = torch.tensor([0, 1, 3, 4])
    alone = weights(back_end, dg[1:2, others], g[1:2]).gamma
    torch.testing.assert_close(ours.gamma[1:2, others], alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_dependent_columns_the_oldest_is_dropped(back_end, dtype):
    dg, g = draw(dtype=dtype)
    dg[0, 3] = 2 * dg[0, 1]
    stored = np.array([7, 5, 6, 9, 8])  # slot 1 is the oldest
    ours = weights(back_end, dg, g, stored=stored)
    assert ours.dropped.tolist() == [1, 0, 0, 0]
    assert ours.used[0].tolist() == [True, False, True, True, True]
    best = left_over(dg[:1, [0, 2, 3, 4]], g[:1], weights("qr", dg[:1, [0, 2, 3, 4]], g[:1]).gamma)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert float(left_over(dg, g, ours.gamma)[0]) == pytest.approx(float(best[0]), rel=tolerance)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_all_columns_equal_leave_one(back_end):
    dg, g = draw(batch=1)
    dg = dg[:, :1].expand(1, 5, 40).contiguous()
    ours = weights(back_end, dg, g)
    assert ours.used.tolist() == [[False, False, False, False, True]]
    assert float(ours.gamma[0, 4]) == pytest.approx(float((dg[0, 0] @ g[0]) / dg[0, 0].norm() ** 2))


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_more_columns_than_elements_leave_nothing_over(back_end):
    dg, g = draw(m=6, n=3)
    ours = weights(back_end, dg, g)
    assert bool(torch.isfinite(ours.gamma).all())
    assert float(left_over(dg, g, ours.gamma).max()) < 1e-6


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("seed", range(10))
def test_near_parallel_float32_columns_keep_finite_weights_with_the_default_ridge(back_end, seed):
    base, g = draw(m=1, n=1000, dtype=torch.float32, seed=seed)
    noise, _ = draw(m=6, n=1000, dtype=torch.float32, seed=seed + 100)
    dg = base + 1e-4 * noise
    ours = weights(back_end, dg, g, default_regularization(torch.float32))
    assert bool(torch.isfinite(ours.gamma).all())
    left = left_over(dg, g, ours.gamma)
    assert bool((left <= g.double().norm(dim=1) * (1 + 1e-4)).all())
    assert bool((ours.condition >= 1).all())


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["column", "residual"])
def test_numbers_that_are_not_finite_stay_in_their_sample(back_end, value, where):
    dg, g = draw(batch=5)
    expected = weights(back_end, dg, g, 1e-12).gamma
    if where == "column":
        dg[2, 3] = value
    else:
        g[2] = value
    ours = weights(back_end, dg, g, 1e-12)
    others = torch.tensor([0, 1, 3, 4])
    assert torch.equal(ours.gamma[others], expected[others])
    if where == "column":
        assert not bool(ours.used[2, 3])
        assert float(ours.gamma[2, 3]) == 0.0


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_columns_that_are_not_valid_take_no_part_whatever_they_hold(back_end):
    dg, g = draw(m=5)
    expected = weights(back_end, dg[:, :3].contiguous(), g, 1e-12).gamma
    dg[:, 3], dg[:, 4] = float("nan"), 1e30
    valid = np.tile([True, True, True, False, False], (4, 1))
    ours = weights(back_end, dg, g, 1e-12, valid=valid)
    torch.testing.assert_close(ours.gamma[:, :3], expected, rtol=1e-12, atol=1e-13)
    assert bool((ours.gamma[:, 3:] == 0).all())
    assert ours.dropped.tolist() == [0] * 4  # they were never there


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_a_sample_without_columns_has_no_weights(back_end):
    dg, g = draw()
    valid = np.ones((4, 5), dtype=bool)
    valid[1] = False
    ours = weights(back_end, dg, g, 1e-12, valid=valid)
    assert ours.gamma[1].tolist() == [0.0] * 5
    assert float(ours.condition[1]) == 1.0


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_the_condition_is_a_lower_bound_of_the_scaled_gram_matrix_s_own(back_end):
    for seed in range(5):
        dg, g = draw(m=6, seed=seed)
        dg[:, 1:] += 10 * dg[:, :1]
        unit = dg / dg.norm(dim=2, keepdim=True)
        exact = torch.linalg.cond(unit @ unit.mT)
        ours = weights(back_end, dg, g).condition
        assert bool((ours <= exact * (1 + 1e-8)).all())
        assert bool((ours >= 1).all())


def test_the_default_ridge_is_ten_roundings_of_the_gram_s_type():
    assert default_regularization(torch.float32) == 10 * 2.0**-23
    assert default_regularization(torch.float64) == 10 * 2.0**-52


# the factor, a column at a time


def test_a_column_that_overwrites_another_gives_what_a_fresh_factor_gives():
    """A ring of 4 columns over 11 evaluations, in which samples forget and pause on their own."""
    dg, g = draw(batch=6, m=11, seed=1)
    gram = ScaledGram.of(6, 4, 1e-9, 2.0**-52)
    ring, stored = torch.zeros(6, 4, 40, dtype=torch.float64), np.full(4, -1)
    used = np.zeros((6, 4), dtype=bool)
    for now in range(11):
        slot = now % 4
        storing = np.arange(6) != now % 5
        ring[:, slot], stored[slot], used[:, slot] = dg[:, now], now, storing
        if now == 6:
            gram.forget(np.arange(6) == 2)
            used[2, np.arange(4) != slot] = False
        gram.store(slot, torch.linalg.vecdot(ring, ring[:, slot, None]).numpy(), storing, stored)
        fresh = weights("gram", ring, g, 1e-9, valid=used).gamma
        rhs = torch.linalg.vecdot(ring, g[:, None, :]).numpy()
        solved = gram.solve(rhs)
        np.testing.assert_array_equal(solved.used, used)
        np.testing.assert_allclose(solved.gamma, fresh.numpy(), rtol=1e-9, atol=1e-12)
        inner = gram.inverse @ gram.matrix @ gram.inverse.transpose(0, 2, 1)
        np.testing.assert_allclose(inner, used[:, :, None] * np.eye(4), atol=1e-12)


# the ring of differences


def window_of(batch, n, size, mixing=1.0, dtype=torch.float64):
    z = torch.zeros(batch, n, dtype=dtype)
    return DifferenceWindow.like(z, size, mixing, rows_for(z))


@pytest.mark.parametrize("n", [7, 9000])  # short rows and long ones
@pytest.mark.parametrize("mixing", [1.0, 0.5])
def test_the_ring_holds_the_newest_differences_and_knows_their_inner_products(n, mixing):
    generator = torch.Generator().manual_seed(0)
    window = window_of(3, n, 4, mixing)
    points = torch.randn(12, 2, 3, n, generator=generator, dtype=torch.float64)
    for now in range(1, 12):
        (last_z, last_g), (z, g) = points[now - 1], points[now]
        row, rhs, lengths = window.append(z, g, last_z, last_g, now)
        if now == 6:
            window.keep_newest(np.array([False, True, False]))
        else:
            kept = range(max(1, now - 3), now + 1)
            exact = torch.stack([((g - last_g) * (points[k, 1] - points[k - 1, 1])).sum(1)
                                 for k in kept], dim=1)  # fmt: skip
            slots = [(k - 1) % 4 for k in kept]
            np.testing.assert_allclose(row[0, slots], exact[0].numpy(), rtol=1e-10, atol=1e-9)
        torch.testing.assert_close(window.dg[(now - 1) % 4], g - last_g)
        torch.testing.assert_close(window.du[(now - 1) % 4], z - last_z + mixing * (g - last_g))
        expected = torch.linalg.vecdot(window.dg, g).T
        age = (window.slot - np.arange(4)) % 4
        shown = age < window.count[:, None]
        np.testing.assert_allclose(rhs[shown], expected.numpy()[shown], rtol=1e-10, atol=1e-9)
        assert (lengths is None) == bool((now - 1) % 4)
    assert sorted(window.stored.tolist()) == [8, 9, 10, 11]


@pytest.mark.parametrize("n", [7, 9000])
@pytest.mark.parametrize("mixing", [1.0, 0.5])
def test_a_step_subtracts_the_weighted_differences_from_the_plain_step(n, mixing):
    generator = torch.Generator().manual_seed(0)
    window = window_of(3, n, 4, mixing)
    for now in range(1, 4):  # a slot stays empty
        z, last_z, g, last_g = torch.randn(4, 3, n, generator=generator, dtype=torch.float64)
        window.append(z, g, last_z, last_g, now)
    gamma = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    gamma[:, 3] = 0.0
    out = torch.empty_like(z)
    window.step(z, z + g, g, gamma.numpy(), out)
    expected = z + mixing * g - (gamma[:, None, :] @ window.du.transpose(0, 1))[:, 0]
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_a_selected_window_holds_the_columns_of_its_samples():
    generator = torch.Generator().manual_seed(0)
    window = window_of(4, 5, 2, dtype=torch.float32)
    for now in range(3):
        window.append(*torch.randn(4, 4, 5, generator=generator), now)
    indices = torch.tensor([3, 1])
    chosen = window.select(indices)
    for name in ("du", "dg"):
        assert torch.equal(getattr(chosen, name), getattr(window, name)[:, indices])
    assert chosen.slot == window.slot and chosen.stored.tolist() == window.stored.tolist()


# the best iterate


def test_the_best_iterate_is_copied_only_when_a_worse_one_follows():
    progress, kept = Progress.of(2), Kept()
    previous = torch.zeros(2, 1)
    scores = [[3.0, 3.0], [2.0, 4.0], [1.0, 5.0], [2.0, float("nan")], [0.5, 1.0]]
    copies = []
    for k, score in enumerate(scores):
        current = torch.full((2, 1), float(k))
        progress.add(np.array(score))
        copies.append(progress.evicted.tolist())
        if progress.evicted.any():
            kept.save(progress.evicted, previous)
        assert (kept.values is None) == (k < 1)
        previous = current
    assert copies == [[False, False], [False, True], [False, False], [True, False], [False, False]]
    assert progress.best[-1].tolist() == [0.5, 1.0]
    assert progress.newest.tolist() == [True, True]
    kept.fill(previous, np.array([True, False]))
    assert previous.flatten().tolist() == [2.0, 4.0]


def test_a_sample_that_does_not_run_keeps_its_best_and_is_never_stuck():
    progress = Progress.of(2)
    progress.add(np.array([2.0, 2.0]))
    for _ in range(3):
        progress.add(np.array([1.0, 1.0]), np.array([True, False]))
    assert progress.best[-1].tolist() == [1.0, 2.0]
    assert progress.newest.tolist() == [False, True]
    assert progress.stuck(0.9, 2).tolist() == [True, False]
    assert progress.stuck(0.9, 3) is None  # the first of them did improve by half
    assert progress.stuck(0.9, 4) is None  # there were not so many
