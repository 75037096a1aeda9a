"""Dropout that keeps a map a map, and what becomes of a solve with the ordinary one."""

import copy
import pickle

import pytest
import torch
from torch import nn

from andersonn_core import Anderson, KnobError, Picard, solve
from andersonn_core.cells import DenseCell
from andersonn_core.deq.dropout import VariationalDropout, new_solve


class Dropped(nn.Module):
    """A dense cell that drops parts of its state."""

    def __init__(self, dropout):
        super().__init__()
        self.cell, self.dropout = DenseCell(3, 32), dropout

    def forward(self, z, x):
        return self.cell(self.dropout(z), x)


def made(dropout):
    torch.manual_seed(0)
    return Dropped(dropout), torch.randn(8, 3), torch.zeros(8, 32)


def test_the_mask_is_one_function_until_a_new_solve():
    cell, x, _ = made(VariationalDropout(0.5))
    z = torch.randn(8, 32)
    first = cell(z, x)
    with torch.no_grad():
        assert torch.equal(cell(z, x), first)
    new_solve(cell)
    assert not torch.equal(cell(z, x), first)


@pytest.mark.parametrize("method", [Picard(), Anderson()], ids=lambda method: method.name)
def test_a_solve_converges_with_fixed_masks_and_never_with_fresh_ones(method):
    for dropout, converges in ((VariationalDropout(0.2), True), (nn.Dropout(0.2), False)):
        cell, x, z0 = made(dropout)
        result = solve(lambda z, c=cell, x=x: c(z, x), z0, method, rtol=1e-3, max_iter=200)
        assert bool(result.converged.all()) == converges
        assert converges or float(result.relative_residual.min()) > 0.05
        if converges:
            value = cell(result.z, x).detach()
            assert bool(((value - result.z).norm(dim=1) <= 1.001e-3 * value.norm(dim=1)).all())


def test_a_mask_is_zero_or_the_inverse_of_what_is_kept_per_sample_and_channel():
    torch.manual_seed(0)
    dropout = VariationalDropout(0.25)
    y = dropout(torch.ones(64, 32, 3, 2, dtype=torch.float64))
    assert y.dtype == torch.float64
    assert set(y.unique().tolist()) == {0.0, 1 / 0.75}
    assert torch.equal(y, y[:, :, :1, :1].expand_as(y))
    kept = float((y[:, :, 0, 0] > 0).double().mean())
    assert abs(kept - 0.75) < 4 * (0.25 * 0.75 / y[:, :, 0, 0].numel()) ** 0.5
    assert len({tuple(row) for row in y[:, :, 0, 0].tolist()}) == 64


@pytest.mark.parametrize(
    ("dims", "shape"), [((0,), (4, 1, 1)), ((0, -1), (4, 1, 6)), ((1,), (1, 5, 1)), ((), (1, 1, 1))]
)
def test_dims_say_where_elements_fall_apart(dims, shape):
    torch.manual_seed(1)
    dropout = VariationalDropout(0.5, dims)
    y = dropout(torch.ones(4, 5, 6))
    smaller = y[tuple(slice(0, size) for size in shape)]
    assert torch.equal(y, smaller.expand(4, 5, 6))


def test_the_same_seed_draws_the_same_masks():
    outputs = []
    for _ in range(2):
        cell, x, z = made(VariationalDropout(0.5))
        torch.manual_seed(7)
        outputs.append(cell(z + 1, x))
    assert torch.equal(*outputs)


def test_it_is_the_identity_in_evaluation_and_for_p_zero():
    z = torch.randn(3, 4)
    assert VariationalDropout(0.5).eval()(z) is z
    assert VariationalDropout(0.0)(z) is z


def test_gradients_pass_through_the_mask():
    dropout = VariationalDropout(0.5)
    z = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        dropout(z)
    assert torch.autograd.gradcheck(dropout, (z,))


@pytest.mark.parametrize("shape", [(2, 4), (3, 5), (3, 4, 1)])
def test_another_shape_within_a_solve_is_refused_with_the_remedy(shape):
    dropout = VariationalDropout(0.5)
    dropout(torch.ones(3, 4))
    with pytest.raises(RuntimeError, match=r"\(3, 4\).*new_solve\(\)"):
        dropout(torch.ones(shape))
    dropout.new_solve()
    assert dropout(torch.ones(shape)).shape == shape


def test_the_mask_is_in_no_state_dict_and_survives_copies():
    dropout = VariationalDropout(0.5)
    z = torch.randn(3, 4)
    y = dropout(z)
    assert not dropout.state_dict() and not list(dropout.buffers())
    for twin in (copy.deepcopy(dropout), pickle.loads(pickle.dumps(dropout))):
        assert torch.equal(twin(z), y)
        twin.new_solve()
    assert torch.equal(dropout(z), y)


def test_a_mask_follows_the_type_of_the_state():
    dropout = VariationalDropout(0.5)
    y = dropout(torch.ones(3, 4))
    assert torch.equal(dropout(torch.ones(3, 4, dtype=torch.bfloat16)).float(), y)


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0, float("nan")])
def test_an_impossible_probability_is_refused(p):
    with pytest.raises(KnobError, match="VariationalDropout.p"):
        VariationalDropout(p)


@pytest.mark.parametrize("dims", [(0, 0), (0, 1.0), (0, True)])
def test_impossible_dimensions_are_refused(dims):
    with pytest.raises(KnobError, match="VariationalDropout.dims"):
        VariationalDropout(0.5, dims)


def test_dimensions_that_the_state_does_not_have_are_refused():
    with pytest.raises(KnobError, match=r"dims = \(0, 2\).*\(3, 4\)"):
        VariationalDropout(0.5, (0, 2))(torch.ones(3, 4))


def test_print_shows_the_knobs():
    assert repr(VariationalDropout(0.25)) == "VariationalDropout(p=0.25, dims=(0, 1))"


@pytest.mark.gpu
def test_a_mask_is_made_where_the_state_is():
    dropout = VariationalDropout(0.5)
    y = dropout(torch.ones(3, 4, device="cuda"))
    assert y.is_cuda and set(y.unique().tolist()) <= {0.0, 2.0}
    assert torch.equal(dropout(torch.ones(3, 4)), y.cpu())
