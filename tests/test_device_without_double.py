"""Float32 states on a device without float64, as Apple's GPUs are: small systems go to the CPU."""

import pytest
import torch
from narrow_device import PRETENDED, Elsewhere, Machine, elsewhere

from andersonn_core import (
    DEQ,
    GRADIENTS,
    IDR,
    Anderson,
    Auto,
    Broyden,
    Picard,
    ShortRecurrence,
    Status,
    layout,
    solve,
)  # fmt: skip
from andersonn_core.device import kernels_for

METHODS = [
    Picard(), Picard(mixing=0.7), Anderson(), Anderson(mixing=0.8, restart="never"),
    Anderson(restart="deflated"), Anderson(restart="auto"), Anderson(least_squares="residuals"),
    Anderson(least_squares="qr"), Anderson(window="auto", mixing="auto"),
    Anderson(history="bfloat16"), Broyden(), IDR(), ShortRecurrence(), Auto(),
]  # fmt: skip


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine that has the device."""
    monkeypatch.setattr(layout, "WITHOUT_DOUBLE", frozenset({PRETENDED.type}))
    with Machine():
        yield


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHT, OFFSET = torch.linalg.qr(draw(40, 40))[0] * 0.9, draw(3, 40, seed=1)


class Tanh:
    """Tanh(z W + b), here or there, of all samples or some."""

    def __init__(self, weight, offset):
        self.weight, self.offset = weight, offset

    def __call__(self, z):
        return torch.tanh(z @ self.weight + self.offset)

    def select(self, indices):
        return Tanh(self.weight, self.offset[indices])


HERE, THERE = Tanh(WEIGHT, OFFSET), Tanh(elsewhere(WEIGHT), elsewhere(OFFSET))


def start():
    return elsewhere(torch.zeros(3, 40))


def test_the_device_refuses_what_an_apple_gpu_refuses():
    assert start().device == PRETENDED
    with pytest.raises(TypeError, match="no float64"):
        start().double()
    with pytest.raises(TypeError, match="no float64"):
        torch.zeros(3, dtype=torch.float64, device=PRETENDED)
    with pytest.raises(RuntimeError, match="same device"):
        start() + torch.zeros(3, 40)
    assert type((start() + 1).cpu()) is torch.Tensor


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_solves_are_the_cpu_s(method):
    expected = solve(HERE, torch.zeros(3, 40), method, rtol=1e-5)
    found = solve(THERE, start(), method, rtol=1e-5)
    assert isinstance(found.z, Elsewhere) and found.converged.all()
    assert abs(found.num_evals - expected.num_evals) <= 1  # other sums round otherwise
    torch.testing.assert_close(found.z.cpu(), expected.z, rtol=1e-3, atol=1e-4)
    residual = HERE(found.z.inner) - found.z.inner
    true = residual.norm(dim=1) / HERE(found.z.inner).norm(dim=1)
    torch.testing.assert_close(found.relative_residual.float(), true, rtol=0.05, atol=1e-7)


def test_compaction_and_parts_work_there():
    result = solve(THERE, start(), Anderson(), rtol=1e-5, compact=True, profile=True)
    assert result.converged.all() and result.history.part_seconds
    assert result.history.clock == "wall time"


def test_what_breaks_there_breaks_alone():
    calls = [0]

    def breaking(z):
        values = THERE(z)
        calls[0] += 1
        values[1, 3] = torch.nan if calls[0] > 3 else 0.0
        return values

    assert solve(breaking, start(), Anderson()).status.tolist() == [
        Status.CONVERGED, Status.NONFINITE, Status.CONVERGED,
    ]  # fmt: skip
    large = elsewhere(torch.full((1, 40), 1e25))  # squares overflow in float32
    assert solve(lambda z: -0.5 * z + large, start(), Anderson()).converged.all()


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_are_the_cpu_s(gradient):
    def gradients(move):
        weight, inputs = (move(draw(*shape)) for shape in ((8, 8), (4, 8)))
        weight = (0.2 * weight).requires_grad_()
        method = Anderson(restart="never") if gradient == "shine" else Anderson()
        deq = DEQ(lambda z, x: torch.tanh(z @ weight + x), method, gradient=gradient, rtol=1e-6)
        deq(inputs, torch.zeros_like(inputs)).square().sum().backward()
        return weight.grad.cpu(), deq.last_forward

    (expected, _), (found, solved) = gradients(torch.clone), gradients(elsewhere)
    assert isinstance(solved.z, Elsewhere) and solved.converged.all()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_spectrum_is_the_cpu_s():
    def spectrum(move):
        weight, x = move(WEIGHT), move(OFFSET)
        return DEQ(lambda z, x: torch.tanh(z @ weight + x)).spectrum(x, torch.zeros_like(x))

    found, expected = spectrum(elsewhere), spectrum(torch.clone)
    torch.testing.assert_close(
        found.spectral_radius, expected.spectral_radius, rtol=1e-3, atol=1e-4
    )


def test_there_are_no_kernels_for_it_and_the_reason_is_said():
    choice = kernels_for(torch.device("mps"), torch.float32, 5)
    assert choice.kernels is None
    assert "mps has no float64: the small systems are solved on the host" in choice.reason
