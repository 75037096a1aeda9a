"""States of any shape and structure: a solve is that of the flat rows, and gives back the kind."""

import numpy as np
import pytest
import torch
from cases import SMALL, every_method

from andersonn_core import solve


def test_batch_dims_zero_takes_the_whole_tensor_as_one_sample():
    problem = SMALL["newton"].build()
    whole = solve(problem.f, problem.z0, batch_dims=0)
    flat = solve(
        lambda z: problem.f(z.reshape(problem.z0.shape)).reshape(1, -1),
        problem.z0.reshape(1, -1),
    )
    assert whole.status.shape == whole.sample_evals.shape == (1,)
    assert whole.z.shape == problem.z0.shape
    assert torch.equal(whole.z.reshape(1, -1), flat.z)
    each = solve(problem.f, problem.z0, batch_dims=1)
    assert each.status.shape == (3,)
    assert not torch.equal(each.history.weight_norm[2], whole.history.weight_norm[2].expand(3))


@every_method
@pytest.mark.parametrize(
    "shape", [(), (1,), (6,), (2, 3), (3, 2, 1), (1, 2, 3, 1), (2, 1, 3, 1, 1)], ids=str
)
def test_a_state_of_any_rank_equals_the_flat_solve(shape, method):
    offset = torch.linspace(0.1, 1.0, 6, dtype=torch.float64)[: max(1, int(np.prod(shape)))]
    flat = solve(lambda z: torch.cos(z) + offset, torch.zeros_like(offset)[None], method)
    ranked = solve(
        lambda z: torch.cos(z) + offset.reshape(shape), torch.zeros(shape).double(), method,
        batch_dims=0,
    )  # fmt: skip
    assert ranked.z.shape == shape
    assert torch.equal(ranked.z.reshape(1, -1), flat.z)
    assert ranked.num_evals == flat.num_evals
    if shape and shape[0] > 1:
        batched = solve(
            lambda z: torch.cos(z) + offset.reshape(shape), torch.zeros(shape).double(), method
        )
        assert batched.z.shape == shape and batched.status.shape == shape[:1]
        torch.testing.assert_close(batched.z, ranked.z, rtol=1e-5, atol=1e-5)


def coupled(a, b):  # (B, 2), (B, 2, 2) -> same
    return torch.cos(a + b.sum(2)) / 2, torch.sin(b + a[:, :, None]) / 3


START = torch.zeros(3, 2).double(), torch.ones(3, 2, 2).double() * torch.arange(3)[:, None, None]


@pytest.mark.parametrize("kind", ["tensor", "numpy"])
@pytest.mark.parametrize("structure", ["tuple", "dict"])
def test_a_tuple_or_dict_equals_the_flat_solve(structure, kind):
    def flat_map(z):
        a, b = coupled(z[:, :2], z[:, 2:].reshape(3, 2, 2))
        return torch.cat((a, b.reshape(3, 4)), dim=1)

    def to_user(a, b):
        leaves = (a.numpy(), b.numpy()) if kind == "numpy" else (a, b)
        return leaves if structure == "tuple" else {"a": leaves[0], "b": leaves[1]}

    def from_user(state):
        leaves = state if structure == "tuple" else (state["a"], state["b"])
        return tuple(torch.tensor(leaf) if kind == "numpy" else leaf for leaf in leaves)

    flat = solve(flat_map, torch.cat((START[0], START[1].reshape(3, 4)), dim=1))
    result = solve(lambda state: to_user(*coupled(*from_user(state))), to_user(*START))
    assert type(result.z) is (tuple if structure == "tuple" else dict)
    leaves = result.z if structure == "tuple" else tuple(result.z.values())
    assert all(isinstance(x, np.ndarray if kind == "numpy" else torch.Tensor) for x in leaves)
    a, b = from_user(result.z)
    assert a.shape == (3, 2) and b.shape == (3, 2, 2)
    assert torch.equal(torch.cat((a, b.reshape(3, 4)), dim=1), flat.z)
    assert torch.equal(result.sample_evals, flat.sample_evals)


def test_a_dict_may_come_back_in_another_order():
    def f(state):
        return {"y": torch.sin(state["x"]) / 2, "x": torch.cos(state["y"])}

    result = solve(f, {"x": torch.zeros(1, 2), "y": torch.ones(1, 3)[:, :2]})
    assert list(result.z) == ["x", "y"]
    torch.testing.assert_close(result.z["x"], torch.cos(result.z["y"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_arrays_come_out_as_they_went_in(dtype):
    z0 = np.linspace(0, 1, 6, dtype=dtype).reshape(2, 3)
    result = solve(np.cos, z0)
    assert isinstance(result.z, np.ndarray) and result.z.dtype == dtype
    expected = solve(torch.cos, torch.from_numpy(z0))
    np.testing.assert_allclose(result.z, expected.z.numpy(), rtol=1e-6)
    assert result.num_evals == expected.num_evals


@pytest.mark.parametrize(
    "z0",
    [
        np.ones((4, 3))[::-1],
        np.ones((3, 4)).T,
        np.broadcast_to(np.ones(3), (4, 3)),
        np.array(1.0),
    ],
    ids=["reversed", "transposed", "read-only", "scalar"],
)
def test_numpy_arrays_may_be_views_of_any_kind(z0):
    result = solve(np.cos, z0, batch_dims=min(1, z0.ndim))
    assert result.z.shape == z0.shape
    np.testing.assert_allclose(result.z, 0.7390851332151607, rtol=1e-5)


def test_a_numpy_map_may_return_a_view_of_any_kind():
    mirrored = solve(lambda z: np.cos(z[:, ::-1])[:, ::-1], np.ones((4, 3)))
    np.testing.assert_allclose(mirrored.z, 0.7390851332151607, rtol=1e-5)
    constant = solve(lambda z: np.broadcast_to(np.ones(3), (4, 3)), np.zeros((4, 3)))
    assert constant.num_evals == 2 and bool((constant.z == 1).all())


def test_a_transposed_start_equals_its_copy():
    z0 = torch.linspace(0, 1, 12, dtype=torch.float64).reshape(4, 3).T
    view, copied = solve(torch.cos, z0), solve(torch.cos, z0.contiguous())
    assert torch.equal(view.z, copied.z)
