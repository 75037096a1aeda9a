"""Spectral radius and 2-norm against NumPy's, and the predicted rate against a solve's."""

import math

import numpy as np
import pytest
import torch
from synthetic import forward

from andersonn_core import KnobError, Picard, solve
from andersonn_core.cells import DenseCell
from andersonn_core.deq.products import JacobianProducts
from andersonn_core.deq.spectrum import observed_rate, spectrum
from andersonn_core.problems import DigitsDEQ
from andersonn_core.weights import load_digits_network

EXACT = dict(rtol=1e-10, atol=1e-10)


def affine(*matrices, dtype=torch.float64):
    """f(z) = A z + 1 with a matrix for each sample, and a point."""
    a = torch.stack([torch.as_tensor(matrix, dtype=torch.float64) for matrix in matrices])
    a = a.to(dtype)
    return (lambda z: torch.einsum("bij,bj->bi", a, z) + 1), torch.ones(a.shape[:2], dtype=dtype)


def gaussian(n, seed, scale=1.0):
    draw = np.random.default_rng(seed)
    return scale * draw.standard_normal((n, n)) / math.sqrt(n)


def rotation(radius, angle):
    cosine, sine = math.cos(angle), math.sin(angle)
    return radius * np.array([[cosine, -sine], [sine, cosine]])


def radius_of(matrix):
    return np.abs(np.linalg.eigvals(np.asarray(matrix))).max()


def test_random_maps_with_complex_pairs_agree_with_numpy_sample_by_sample():
    matrices = [gaussian(12, seed, scale=0.3 + 0.2 * seed) for seed in range(5)]
    assert sum(np.iscomplexobj(np.linalg.eigvals(m)) for m in matrices) == 5
    f, z = affine(*matrices)
    found = spectrum(f, z, rtol=0.0)
    radii = torch.tensor([radius_of(m) for m in matrices])
    norms = torch.tensor([np.linalg.norm(m, 2) for m in matrices])
    torch.testing.assert_close(found.spectral_radius, radii, **EXACT)
    torch.testing.assert_close(found.norm, norms, **EXACT)
    for ours, matrix in zip(found.ritz_values.numpy(), matrices, strict=True):
        theirs = np.linalg.eigvals(matrix)
        assert np.allclose(np.sort_complex(ours.round(9)), np.sort_complex(theirs.round(9)))
        assert np.all(np.diff(np.abs(ours)) <= 1e-12)


@pytest.mark.parametrize("angle", [0.3, 1.2, 1.5, 2.9])
def test_a_turning_map_has_its_true_radius_where_a_rayleigh_quotient_sees_its_cosine(angle):
    f, z = affine(rotation(0.9, angle))
    found = spectrum(f, z)
    assert found.spectral_radius.item() == pytest.approx(0.9, abs=1e-12)
    assert found.norm.item() == pytest.approx(0.9, abs=1e-12)
    assert found.converged.item()
    v = torch.ones(1, 2).double()
    for _ in range(100):
        v = f(v) - 1
        v = v / v.norm()
    quotient = float((v * (f(v) - 1)).sum())
    assert quotient == pytest.approx(0.9 * math.cos(angle), abs=1e-9)


def test_a_defective_matrix_says_how_little_its_eigenvalue_is_known():
    jordan = np.diag([0.5] * 6) + np.diag([1.0] * 5, 1)
    f, z = affine(jordan, 0.5 * np.eye(6))
    found = spectrum(f, z)
    error = (found.spectral_radius - 0.5).abs()
    assert error[0] <= 10 * found.radius_error[0] and found.radius_error[0] > 1e-5
    assert error[1] < 1e-14 and found.radius_error[1] < 1e-14
    norms = torch.tensor([np.linalg.norm(jordan, 2), 0.5]).double()
    torch.testing.assert_close(found.norm, norms, **EXACT)


def test_subspaces_that_end_early_are_complete():
    low = np.outer(np.arange(1, 8), np.ones(7)) / 40  # rank 1, eigenvalue 28 / 40
    nilpotent = np.diag([1.0] * 6, 1)
    f, z = affine(low, nilpotent, np.zeros((7, 7)), np.diag([0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1]))
    found = spectrum(f, z, steps=50)
    expected = torch.tensor([0.7, 0.0, 0.0, 0.9], dtype=torch.float64)
    assert found.ritz_values.shape == (4, 7)
    error = (found.spectral_radius - expected).abs()
    assert bool((error <= 10 * found.radius_error + 1e-14).all())
    assert float(error[[0, 2, 3]].max()) < 1e-13
    used = (~found.ritz_values.isnan()).sum(1)
    assert used[2] == 1 and used[3] == 2 and used[0] <= 3
    norms = [np.linalg.norm(low, 2), 1.0, 0.0, 0.9]
    torch.testing.assert_close(found.norm, torch.tensor(norms, dtype=torch.float64), **EXACT)
    assert found.converged.tolist() == [True, False, True, True]


def test_a_spectrum_scales_with_its_map():
    matrices = [gaussian(12, seed) for seed in range(3)]
    plain, tiny = (spectrum(*affine(*(s * m for m in matrices))) for s in (1.0, 2.0**-60))
    for name in ("spectral_radius", "radius_error", "norm", "norm_error"):
        torch.testing.assert_close(getattr(plain, name), 2.0**60 * getattr(tiny, name))
    assert plain.num_products == tiny.num_products


def test_a_sample_is_the_same_alone_and_beside_others():
    matrices = [np.diag(np.linspace(0, top, 80)) + gaussian(80, 3, 0.1) for top in (0.5, 0.99, 1.5)]
    together = spectrum(*affine(*matrices))
    for sample, matrix in enumerate(matrices):
        alone = spectrum(*affine(matrix))
        for name in ("spectral_radius", "radius_error", "norm", "norm_error"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(together, name)[sample])


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_sample_harms_no_neighbor(broken):
    matrices = [gaussian(6, seed) for seed in range(3)]
    f, z = affine(*matrices)
    z = 0.1 * z
    whole = spectrum(lambda z: f(z).sqrt(), z)
    z[1, 2] = broken
    found = spectrum(lambda z: f(z).sqrt(), z)
    for name in ("spectral_radius", "radius_error", "norm", "norm_error", "ritz_values"):
        ours, theirs = getattr(found, name), getattr(whole, name)
        torch.testing.assert_close(ours[[0, 2]], theirs[[0, 2]])
        assert bool(ours[1].isnan().all())
    assert found.converged.tolist() == [True, False, True]
    assert found.rate(0.5).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(("dtype", "room"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_low_precision_costs_no_more_than_its_rounding(dtype, room):
    matrices = [gaussian(40, seed) for seed in range(3)]
    f, z = affine(*matrices, dtype=dtype)
    found = spectrum(f, z, rtol=0.0)
    exact = torch.tensor([radius_of(m) for m in matrices])
    assert found.spectral_radius.dtype == torch.float64
    torch.testing.assert_close(found.spectral_radius, exact, rtol=room, atol=0)


@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_a_state_of_several_tensors_is_the_flat_one(kind):
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(10, 10, generator=draw, dtype=torch.float64) / 4

    def flat(z):
        return torch.tanh(z @ a.T)

    def parts(state):
        u, v = state if kind == "tuple" else (state["u"], state["v"])
        new = flat(torch.cat((u, v.reshape(-1, 6)), dim=1))
        u, v = new[:, :4], new[:, 4:].reshape(-1, 2, 3)
        return (u, v) if kind == "tuple" else {"v": v, "u": u}

    z = torch.randn(3, 10, generator=draw, dtype=torch.float64)
    state = z[:, :4], z[:, 4:].reshape(3, 2, 3)
    ours = spectrum(parts, state if kind == "tuple" else dict(zip("uv", state, strict=True)))
    theirs = spectrum(flat, z)
    torch.testing.assert_close(ours.spectral_radius, theirs.spectral_radius)
    torch.testing.assert_close(ours.norm, theirs.norm)


def test_products_are_those_of_the_jacobian():
    cell = DenseCell(3, 5).double()
    z, x = torch.randn(2, 5).double(), torch.randn(2, 3).double()
    products = JacobianProducts(lambda z: cell(z, x), z)
    v = torch.randn(2, 5).double()
    for sample in range(2):
        j = torch.autograd.functional.jacobian(
            lambda one, s=sample: cell(one[None], x[s : s + 1])[0], z[sample]
        )
        torch.testing.assert_close(products.forward(v)[sample], j @ v[sample])
        torch.testing.assert_close(products.transposed(v)[sample], j.T @ v[sample])


def test_a_map_that_ignores_its_state_has_no_spectrum_but_zero():
    bias = torch.ones(4, requires_grad=True)
    found = spectrum(lambda z: bias.expand(2, 4) * 1, torch.zeros(2, 4))
    assert found.spectral_radius.tolist() == found.norm.tolist() == [0, 0]
    assert found.converged.all()


def test_costs_are_counted_and_the_map_is_called_once():
    calls = []
    f, z = affine(*(gaussian(30, seed) for seed in range(2)))

    def counted(z):
        calls.append(1)
        return f(z)

    found = spectrum(counted, z, rtol=0.0, steps=10)
    assert len(calls) == found.num_evals == 1
    assert found.num_products == 10 + 2 * 10
    assert spectrum(f, z, norm=False, rtol=0.0, steps=10).num_products == 10
    assert spectrum(f, z, rtol=0.0, steps=500).num_products <= 3 * 30
    assert not found.converged.any()


def test_estimated_errors_are_near_the_true_ones():
    matrices = [gaussian(200, seed) for seed in range(20)]
    f, z = affine(*matrices)
    exact = torch.tensor([radius_of(m) for m in matrices])
    norms = torch.tensor([np.linalg.norm(m, 2) for m in matrices])
    for steps in (16, 48):
        found = spectrum(f, z, steps=steps, rtol=0.0)
        for value, error, true in (
            (found.spectral_radius, found.radius_error, exact),
            (found.norm, found.norm_error, norms),
        ):
            assert ((value - true).abs() <= error).double().mean() >= 0.9
        assert bool((found.norm <= norms + 1e-9).all())


def test_the_spectrum_of_a_constant_batch_without_samples_is_empty():
    f, _ = affine(np.eye(3))
    assert spectrum(lambda z: 2 * z, torch.zeros(0, 3)).spectral_radius.shape == (0,)


# rates


def test_mixing_moves_the_predicted_rate_as_it_moves_the_eigenvalues():
    values = [0.9, -0.8]
    found = spectrum(*affine(np.diag(values), rotation(0.9, 2.0)))
    assert found.rate().tolist() == pytest.approx(found.spectral_radius.tolist(), abs=1e-12)
    for mixing in (0.3, 0.5, 1.0, 1.3):
        turned = abs(1 - mixing + mixing * 0.9 * np.exp(2j))
        line = max(abs(1 - mixing + mixing * value) for value in values)
        assert found.rate(mixing).tolist() == pytest.approx([line, turned], abs=1e-12)


def test_the_observed_rate_is_the_geometric_mean_of_the_last_ratios_of_each_sample():
    residual = np.array([[1.0, 8.0], [0.5, 4.0], [0.05, 2.0], [0.01, np.nan]])
    history = forward(residual).history
    assert observed_rate(history, 1).tolist() == pytest.approx([0.2, 0.5])
    assert observed_rate(history, 2).tolist() == pytest.approx([math.sqrt(0.02), 0.5])
    assert observed_rate(history, 99).tolist() == pytest.approx([0.01 ** (1 / 3), 0.5])
    assert observed_rate(forward([[1.0]]).history).isnan().all()
    with pytest.raises(KnobError, match="last = 0"):
        observed_rate(history, 0)


@pytest.mark.parametrize("mixing", [1.0, 0.5])
def test_predicted_and_observed_rate_agree_on_an_affine_map(mixing):
    f, z = affine(0.95 * rotation(1, 0.7), np.diag([0.9, 0.2]))
    result = solve(f, z, Picard(mixing=mixing), rtol=1e-9, max_iter=2000)
    predicted = spectrum(f, result.z).rate(mixing)
    torch.testing.assert_close(observed_rate(result.history, 40), predicted, rtol=1e-3, atol=0)


def test_predicted_and_observed_rate_agree_on_the_trained_network():
    problem = DigitsDEQ(batch_size=2, training_seed=3, dtype="float64").build()
    result = solve(problem.f, problem.z0, Picard(), rtol=1e-7, max_iter=1000).check()
    cell = load_digits_network(3).double().cell
    found = spectrum(lambda z: cell(z, problem.f.x), result.z)
    assert found.converged.all() and bool((found.norm > 1).all())
    difference = observed_rate(result.history, 20) - found.rate()
    assert float(difference.abs().max()) < 0.02
    assert bool((found.spectral_radius < 0.95).all() & (found.spectral_radius > 0.85).all())


# refusals


@pytest.mark.parametrize(
    ("knobs", "word"),
    [
        ({"steps": 0}, "steps"),
        ({"rtol": -1.0}, "rtol"),
        ({"seeed": 1}, "seed"),
        ({"norm": 1}, "norm"),
    ],
)
def test_impossible_knobs_are_refused_before_the_map_is_called(knobs, word):
    calls = []
    with pytest.raises(KnobError, match=word):
        spectrum(lambda z: calls.append(1), torch.ones(1, 2), **knobs)
    assert not calls


def test_what_has_no_jacobian_is_refused_with_the_remedy():
    z = torch.ones(1, 2)
    with pytest.raises(ValueError, match="no_grad"), torch.no_grad():
        spectrum(lambda z: (2 * z).detach(), z)
    with pytest.raises(ValueError, match="shape"):
        spectrum(lambda z: z[:, :1], z)
    with pytest.raises(KnobError, match=r"torch\.Tensor"):
        spectrum(np.cos, np.ones((1, 2)))


def test_it_works_under_no_grad_and_leaves_no_gradient_behind():
    cell, x = DenseCell(3, 5), torch.randn(2, 3)
    z = torch.zeros(2, 5)
    with torch.no_grad():
        spectrum(lambda z: cell(z, x), z)
    assert all(parameter.grad is None for parameter in cell.parameters())
    assert not z.requires_grad


@pytest.mark.gpu
def test_a_gpu_sees_the_same_spectrum():
    cell, x, z = DenseCell(3, 20), torch.randn(4, 3), torch.randn(4, 20)
    here = spectrum(lambda z: cell(z, x), z, rtol=0.0)
    cell.cuda()
    there = spectrum(lambda z: cell(z, x.cuda()), z.cuda(), rtol=0.0)
    torch.testing.assert_close(there.spectral_radius, here.spectral_radius, rtol=1e-4, atol=0)
    torch.testing.assert_close(there.norm, here.norm, rtol=1e-4, atol=0)
