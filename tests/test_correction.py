"""Losses on the iterates of a solve: which iterates, which weights, which gradient."""

import pytest
import torch

from andersonn_core import Anderson, KnobError, Picard, solve
from andersonn_core.cells import DenseCell
from andersonn_core.deq.correction import KeptIterates, correction_loss, intermediate_states


def case():
    torch.manual_seed(0)
    cell, x = DenseCell(3, 6).double(), torch.randn(4, 3).double()
    return cell, x, cell.initial_state(x)


def test_states_of_forward_iteration_are_its_powers():
    cell, x, z0 = case()
    states, result = intermediate_states(cell, x, z0, Picard(), at=(1, 3, 4), rtol=0.0, max_iter=5)
    z, expected = z0, {}
    for k in range(1, 6):
        z = cell(z.detach(), x)
        expected[k] = z
    assert list(states) == [1, 3, 4] and result.num_evals == 5
    for k, state in states.items():
        torch.testing.assert_close(state, expected[k], rtol=0, atol=0)


def test_the_gradient_of_a_state_is_the_jacobian_free_one():
    cell, x, z0 = case()
    states, _ = intermediate_states(cell, x, z0, Anderson(), at=(3,), rtol=0.0, max_iter=3)
    kept = KeptIterates((3,))
    solve(lambda z: cell(z, x), z0, Anderson(), rtol=0.0, max_iter=3, on_step=kept)
    z = kept.states[3]
    assert not z.requires_grad
    ours = torch.autograd.grad(states[3].square().sum(), cell.parameters())
    theirs = torch.autograd.grad(cell(z, x).square().sum(), cell.parameters())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_solve_that_ends_earlier_leaves_later_states_out():
    cell, x, z0 = case()
    states, result = intermediate_states(cell, x, z0, Anderson(), at=(2, 500), rtol=1e-2)
    assert list(states) == [2] and result.converged.all() and not result.z.requires_grad


def test_states_of_several_tensors_keep_their_structure():
    def cell(z, x):
        return {"a": torch.tanh(z["b"] + x), "b": 0.5 * z["a"]}

    start = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}
    states, _ = intermediate_states(cell, torch.ones(2, 3), start, Picard(), at=(2,), max_iter=4)
    assert list(states[2]) == ["a", "b"]
    torch.testing.assert_close(states[2]["b"], 0.5 * torch.tanh(torch.ones(2, 3)))


def test_it_costs_one_evaluation_for_each_state():
    cell, x, z0 = case()
    calls = []

    def counted(z, x):
        calls.append(torch.is_grad_enabled())
        return cell(z, x)

    _, result = intermediate_states(counted, x, z0, Picard(), at=(1, 2), rtol=0.0, max_iter=7)
    assert calls == [False] * 7 + [True] * 2 and result.num_evals == 7


def test_weights_end_with_one_and_grow_as_they_say():
    states = [torch.tensor(10.0**k) for k in range(4)]

    def total(**knobs):
        return float(correction_loss(lambda z: z, states, **knobs))

    assert total(weights="constant") == 1111
    assert total(weights="linear") == pytest.approx((1 + 20 + 300 + 4000) / 4)
    assert total(gamma=0.5) == pytest.approx(1 / 8 + 10 / 4 + 100 / 2 + 1000)
    assert total(gamma=1.0) == total(weights="constant")
    assert float(correction_loss(lambda z: z, states[3:])) == 1000


@pytest.mark.parametrize("weights", ["constant", "linear", "exponential"])
@pytest.mark.parametrize("shape", [(), (5,)])
def test_a_loss_keeps_its_shape_dtype_and_device(weights, shape):
    states = [torch.ones(5, dtype=torch.float64, device=where) for where in ("meta", "meta")]
    value = correction_loss(lambda z: z.sum() if not shape else z, states, weights=weights)
    assert value.shape == shape and value.dtype == torch.float64 and value.device.type == "meta"


def test_its_gradient_is_the_weighted_sum():
    cell, x, z0 = case()
    states, _ = intermediate_states(cell, x, z0, Picard(), at=(1, 2), rtol=0.0, max_iter=2)
    loss = correction_loss(lambda z: z.square().mean(), states.values(), gamma=0.25)
    ours = torch.autograd.grad(loss, cell.parameters(), retain_graph=True)
    parts = [torch.autograd.grad(z.square().mean(), cell.parameters()) for z in states.values()]
    for mine, first, second in zip(ours, *parts, strict=True):
        torch.testing.assert_close(mine, 0.25 * first + second)


@pytest.mark.parametrize("at", [(0,), (-1, 2), (1.5,), (True,), ("2",)])
def test_impossible_evaluations_are_refused(at):
    with pytest.raises(KnobError, match="at = "):
        KeptIterates(at)


@pytest.mark.parametrize(
    ("knobs", "word"),
    [({"weights": "const"}, "constant"), ({"gamma": 0.0}, "gamma"), ({"gama": 1.0}, "gamma")],
)
def test_impossible_knobs_of_the_loss_are_refused(knobs, word):
    with pytest.raises(KnobError, match=word):
        correction_loss(torch.sum, [torch.ones(1)], **knobs)


def test_no_state_is_refused():
    with pytest.raises(KnobError, match="equilibrium"):
        correction_loss(torch.sum, [])
