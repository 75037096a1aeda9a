"""The weights: two back ends, one dense answer, and columns that carry no information."""

import numpy as np
import pytest
import torch

from andersonn_core.kernels import BestIterate, DifferenceWindow
from andersonn_core.least_squares import default_regularization, gram_weights, qr_weights

BACK_ENDS = ("gram", "qr")


def draw(batch=4, m=5, n=40, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    dg = torch.randn(batch, m, n, generator=generator, dtype=torch.float64).to(dtype)
    g = torch.randn(batch, n, generator=generator, dtype=torch.float64).to(dtype)
    return dg, g


def weights(back_end, dg, g, ridge=0.0, valid=None, stamp=None):
    """Either back end from the columns themselves."""
    batch, m, _ = dg.shape
    valid = torch.ones(batch, m, dtype=torch.bool) if valid is None else valid
    stamp = torch.arange(m).expand(batch, m) if stamp is None else stamp
    if back_end == "qr":
        return qr_weights(dg, g, valid, stamp, ridge)
    gram = (dg @ dg.mT).double()
    rhs = (dg @ g[:, :, None])[:, :, 0].double()
    return gram_weights(gram, rhs, valid, stamp, ridge, dg.dtype)


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
    stamp = torch.tensor([7, 5, 6, 9, 8]).expand(4, 5)  # slot 1 is the oldest
    ours = weights(back_end, dg, g, stamp=stamp)
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
    valid = torch.tensor([True, True, True, False, False]).expand(4, 5)
    ours = weights(back_end, dg, g, 1e-12, valid=valid)
    torch.testing.assert_close(ours.gamma[:, :3], expected, rtol=1e-12, atol=1e-13)
    assert bool((ours.gamma[:, 3:] == 0).all())
    assert ours.dropped.tolist() == [0] * 4  # they were never there


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_a_sample_without_columns_has_no_weights(back_end):
    dg, g = draw()
    valid = torch.ones(4, 5, dtype=torch.bool)
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


# the ring of differences


def test_the_gram_matrix_is_that_of_the_stored_columns_after_any_history():
    generator = torch.Generator().manual_seed(0)
    window = DifferenceWindow.like(torch.zeros(3, 7, dtype=torch.float64), 4)
    everyone = torch.tensor([True, True, True])
    for now in range(11):
        dz, dg = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
        samples = everyone.clone()
        samples[now % 3] = now % 2 == 0
        window.append(dz, dg, samples, now)
        if now == 6:
            window.clear(torch.tensor([False, True, False]))
        both = window.valid[:, :, None] & window.valid[:, None, :]
        exact = torch.where(both, window.dg @ window.dg.mT, 0.0)
        torch.testing.assert_close(
            torch.where(both, window.gram, 0.0), exact, rtol=1e-13, atol=1e-13
        )


def test_the_ring_keeps_the_newest_columns():
    window = DifferenceWindow.like(torch.zeros(1, 1), 3)
    for now in range(5):
        value = torch.full((1, 1), float(now))
        window.append(value, -value, torch.tensor([True]), now)
    assert sorted(window.dz.flatten().tolist()) == [2, 3, 4]
    assert sorted(window.stamp.flatten().tolist()) == [2, 3, 4]
    assert bool(window.valid.all())


def test_a_selected_window_holds_the_columns_of_its_samples():
    generator = torch.Generator().manual_seed(0)
    window = DifferenceWindow.like(torch.zeros(4, 5), 2)
    for now in range(3):
        dz, dg = torch.randn(2, 4, 5, generator=generator)
        window.append(dz, dg, torch.ones(4, dtype=torch.bool), now)
    indices = torch.tensor([3, 1])
    chosen = window.select(indices)
    for name in ("dz", "dg", "gram", "valid", "stamp"):
        assert torch.equal(getattr(chosen, name), getattr(window, name)[indices])


# the best iterate


def test_the_best_iterate_is_copied_only_when_a_worse_one_follows():
    best = BestIterate.like(torch.zeros(2, 1))
    running = np.ones(2, dtype=bool)
    previous = torch.zeros(2, 1)
    scores = [[3.0, 3.0], [2.0, 4.0], [1.0, 5.0], [2.0, float("nan")], [0.5, 1.0]]
    copies = []
    for k, score in enumerate(scores):
        current = torch.full((2, 1), float(k))
        evicted = best.update(np.array(score), running)
        copies.append(evicted.tolist())
        if evicted.any():
            samples = torch.from_numpy(np.flatnonzero(evicted))
            best.save(samples, previous[samples])
        previous = current
    assert copies == [[False, False], [False, True], [False, False], [True, False], [False, False]]
    assert best.score.tolist() == [0.5, 1.0]
    assert best.values(previous).flatten().tolist() == [4.0, 4.0]
