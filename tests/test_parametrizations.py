"""What weight and spectral norm do inside a solve, and what `held_weights` does about it.

The first facts are torch's: each is a reason not to use `parametrize.cached()` around a solve.
"""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from andersonn_core import Anderson, solve
from andersonn_core.cells import ConvCell, DenseCell
from andersonn_core.deq.parametrized import held_weights

NORMS = {"weight": parametrizations.weight_norm, "spectral": parametrizations.spectral_norm}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
every_cell = pytest.mark.parametrize("kind", ["dense", "conv"])


def made(kind, norm, dtype=torch.float64):
    """A parametrized cell in training mode, an input and a state."""
    torch.manual_seed(0)
    if kind == "dense":
        cell, x, z = DenseCell(3, 6), torch.randn(2, 3), torch.randn(2, 6)
        layers = [cell.state]
    else:
        cell, x, z = ConvCell(4, 4, 2), torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
        layers = [cell.conv1, cell.conv2]
    for layer in layers:
        norm(layer)
    return cell.to(dtype).train(), x.to(dtype), z.to(dtype)


def gradients(cell, value):
    value.square().sum().backward()
    return [parameter.grad for parameter in cell.parameters()]


# torch's own


@every_cell
def test_spectral_norm_in_training_is_another_map_at_each_evaluation(kind):
    cell, x, z = made(kind, parametrizations.spectral_norm)
    with torch.no_grad():
        assert not torch.equal(cell(z, x), cell(z, x))
        cell.eval()
        assert torch.equal(cell(z, x), cell(z, x))


@every_cell
def test_weight_norm_is_the_same_map_at_each_evaluation(kind):
    cell, x, z = made(kind, parametrizations.weight_norm)
    with torch.no_grad():
        assert torch.equal(cell(z, x), cell(z, x))


@every_norm
def test_torchs_cache_loses_the_gradient_if_first_used_without_a_tape(norm):
    cell, x, z = made("dense", norm)
    with parametrize.cached():
        with torch.no_grad():
            cell(z, x)
        value = cell(z, x)
        assert value.requires_grad  # through the other weights: nothing warns
        value.sum().backward()
    parts = dict(cell.state.parametrizations.weight.named_parameters())
    assert parts and all(part.grad is None for part in parts.values())


def test_torchs_cache_gives_a_deep_copy_the_weights_of_its_original():
    cell, x, z = made("dense", parametrizations.weight_norm)
    twin = copy.deepcopy(cell)
    with torch.no_grad():
        twin.state.parametrizations.weight.original0.mul_(2)
        assert not torch.equal(cell(z, x), twin(z, x))
        with parametrize.cached():
            assert torch.equal(cell(z, x), twin(z, x))


def test_torchs_cache_is_shared_by_threads():
    layer = parametrizations.weight_norm(nn.Linear(2, 2))
    seen = []

    def elsewhere():
        with parametrize.cached():
            seen.append(layer.weight)

    with parametrize.cached():
        weight = layer.weight
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert seen[0] is weight


# held weights


@every_norm
@every_cell
def test_a_held_map_is_the_same_bits_at_each_evaluation(kind, norm):
    cell, x, z = made(kind, norm)
    with held_weights(cell):
        with torch.no_grad():
            values = [cell(z, x) for _ in range(3)]
        values.append(cell(z, x))
        assert all(torch.equal(values[0], value) for value in values)


@every_norm
@every_cell
def test_a_held_map_has_the_gradient_of_one_that_is_not(kind, norm):
    cell, x, z = made(kind, norm)
    twin = copy.deepcopy(cell)
    expected = gradients(twin, twin(z, x))
    with held_weights(cell):
        with torch.no_grad():
            cell(z, x)
        value = cell(z, x)
    for ours, theirs in zip(gradients(cell, value), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@every_norm
def test_the_gradient_of_a_held_weight_used_often_is_exact(norm):
    cell, x, z = made("dense", norm)
    cell.eval()  # the power iteration of spectral norm is no differentiable function
    parts = list(cell.parameters())

    def unrolled(*_):
        new = z
        with held_weights(cell):
            for _ in range(3):
                new = cell(new, x)
        return new

    assert torch.autograd.gradcheck(unrolled, parts)


def test_spectral_norm_makes_one_power_iteration_in_a_held_solve():
    cell, x, z = made("dense", parametrizations.spectral_norm)
    once = copy.deepcopy(cell)
    once.state.weight  # noqa: B018  a use is a power iteration
    with held_weights(cell), torch.no_grad():
        for _ in range(5):
            z = cell(z, x)
    for ours, theirs in zip(cell.state_dict().values(), once.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_residual_of_a_held_solve_is_that_of_the_map_it_was_for():
    cell, x, z = made("dense", parametrizations.spectral_norm)
    with torch.no_grad():  # a weight that has just moved far, as in early training
        cell.state.parametrizations.weight.original.add_(torch.randn(6, 6).double())
    with held_weights(cell):
        result = solve(lambda z: cell(z, x), 0 * z, Anderson(), rtol=1e-10).check()
        value = cell(result.z, x).detach()
    residual = (value - result.z).norm(dim=1) / value.norm(dim=1)
    torch.testing.assert_close(residual, result.relative_residual, rtol=1e-4, atol=1e-16)


@every_norm
def test_holding_leaves_no_trace(norm):
    cell, x, z = made("conv", norm)
    cell.eval()
    before = cell(z, x)
    names = list(cell.state_dict())
    with pytest.raises(RuntimeError, match="inside"), held_weights(cell), held_weights(cell):
        assert list(cell.state_dict()) == names
        raise RuntimeError("inside")
    assert list(cell.state_dict()) == names
    with torch.no_grad():
        for parameter in cell.conv1.parametrizations.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert not torch.equal(cell(z, x), before)
    assert torch.equal(copy.deepcopy(cell)(z, x), cell(z, x))


def test_blocks_may_be_nested_and_the_outermost_holds():
    cell, x, z = made("dense", parametrizations.spectral_norm)
    with held_weights(cell):
        weight = cell.state.weight
        with held_weights(cell):
            assert cell.state.weight is weight
        assert cell.state.weight is weight


def test_copies_and_threads_hold_their_own_weights():
    cell, x, z = made("dense", parametrizations.weight_norm)
    twin = copy.deepcopy(cell)
    with torch.no_grad():
        twin.state.parametrizations.weight.original0.mul_(2)
        with held_weights(cell):
            free = twin(z, x)
            with held_weights(twin):
                assert torch.equal(twin(z, x), free)
                assert not torch.equal(twin(z, x), cell(z, x))


def test_a_cell_without_parametrizations_is_left_alone():
    cell = DenseCell(3, 6)
    with held_weights(cell):
        assert cell.state.weight is dict(cell.named_parameters())["state.weight"]


def test_under_no_grad_a_held_weight_has_no_tape():
    cell, x, z = made("dense", parametrizations.weight_norm)
    with torch.no_grad(), held_weights(cell):
        assert not cell.state.weight.requires_grad
