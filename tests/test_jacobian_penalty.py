"""The Hutchinson penalty: unbiased, exact where it should be, differentiable."""

import pytest
import torch
from torch import nn

from andersonn_core import KnobError
from andersonn_core.cells import ConvCell, DenseCell
from andersonn_core.deq.jacobian import jacobian_penalty


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def true_penalty(f, z):  # (B, n) -> (B,) ||J||_F^2 / n
    jacobian = torch.autograd.functional.jacobian(lambda z: f(z).sum(0), z)  # (n, B, n)
    return jacobian.square().sum((0, 2)) / z.shape[1]


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_the_mean_over_many_probes_is_the_frobenius_norm(distribution):
    torch.manual_seed(0)
    cell, x, z = DenseCell(3, 6).double(), torch.randn(4, 3).double(), torch.randn(4, 6).double()
    many = 20_000
    drawn = jacobian_penalty(
        lambda z: cell(z, x.repeat(many, 1)), z.repeat(many, 1), samples=2,
        distribution=distribution, generator=seeded(),
    ).detach().reshape(many, 4)  # fmt: skip
    mean, deviation = drawn.mean(0), drawn.std(0) / many**0.5
    assert bool(((mean - true_penalty(lambda z: cell(z, x), z)).abs() < 4 * deviation).all())
    assert bool((deviation < 0.01 * mean).all())


def test_rademacher_probes_are_exact_on_a_diagonal_jacobian():
    z = torch.linspace(-1, 1, 12).double().reshape(3, 4)
    penalty = jacobian_penalty(torch.tanh, z, distribution="rademacher")
    torch.testing.assert_close(penalty, true_penalty(torch.tanh, z))
    gaussian = jacobian_penalty(torch.tanh, z, generator=seeded())
    assert float((gaussian - penalty).detach().abs().max()) > 1e-3


def test_its_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    x, z = torch.randn(2, 3).double(), torch.randn(2, 4).double()

    def penalty(w, x):
        return jacobian_penalty(lambda z: torch.tanh(z @ w.T + x @ w[:3]), z, generator=seeded())

    w = torch.randn(4, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(penalty, (w, x.requires_grad_()))


def test_gradients_reach_the_parameters_and_not_the_state():
    torch.manual_seed(0)
    cell, x = ConvCell(4, 4, 2), torch.randn(2, 4, 4, 4)
    nn.utils.parametrizations.weight_norm(cell.conv1)
    z = torch.randn(2, 4, 4, 4, requires_grad=True)
    jacobian_penalty(lambda z: cell(z, x), z).sum().backward()
    grads = {name: parameter.grad for name, parameter in cell.named_parameters()}
    reached = {name for name, grad in grads.items() if grad is not None and bool(grad.any())}
    assert {"conv2.weight", "norm1.weight", "conv1.parametrizations.weight.original1"} <= reached
    assert z.grad is None


def test_descending_it_makes_the_map_contract():
    torch.manual_seed(0)
    cell, x = DenseCell(3, 8), torch.randn(16, 3)
    optimizer = torch.optim.SGD(cell.parameters(), lr=1.0)
    z = torch.zeros(16, 8)
    before = float(cell.state.weight.detach().norm())
    for _ in range(20):
        optimizer.zero_grad()
        jacobian_penalty(lambda z: cell(z, x), z, generator=seeded(1)).mean().backward()
        optimizer.step()
    assert float(cell.state.weight.detach().norm()) < 0.5 * before


def test_a_state_of_several_tensors_is_the_flat_one():
    a = torch.randn(5, 5, generator=seeded()).double()
    z = torch.randn(3, 5, generator=seeded(1)).double()

    def parts(state):
        new = torch.tanh(torch.cat(state, dim=1) @ a)
        return new[:, :2], new[:, 2:]

    ours = jacobian_penalty(parts, (z[:, :2], z[:, 2:]), generator=seeded(2))
    theirs = jacobian_penalty(lambda z: torch.tanh(z @ a), z, generator=seeded(2))
    torch.testing.assert_close(ours, theirs)


def test_it_has_no_tape_under_no_grad_and_repeats_by_its_seed():
    with torch.no_grad():
        first, again = (
            jacobian_penalty(torch.tanh, torch.ones(2, 3), generator=seeded(5)) for _ in range(2)
        )
    assert not first.requires_grad and torch.equal(first, again)
    torch.manual_seed(0)
    free = jacobian_penalty(torch.tanh, torch.ones(2, 3))
    torch.manual_seed(0)
    assert torch.equal(free, jacobian_penalty(torch.tanh, torch.ones(2, 3)))


@pytest.mark.parametrize(
    ("knobs", "word"), [({"samples": 0}, "samples"), ({"distribution": "normal"}, "gaussian")]
)
def test_impossible_knobs_are_refused(knobs, word):
    with pytest.raises(KnobError, match=word):
        jacobian_penalty(torch.tanh, torch.ones(1, 2), **knobs)
