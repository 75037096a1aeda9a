"""The work of a map is counted operation by operation; on small maps it is known on paper."""

import numpy as np
import pytest
import torch
from cases import SMALL
from torch.nn.functional import conv2d

from andersonn_core import solve
from andersonn_core.work import Counter, count_work

B, N, WORD = 3, 8, 4
Z = torch.linspace(0, 1, B * N).reshape(B, N)
MATRIX, ROW = torch.eye(N), torch.ones(N)
SHARED = MATRIX.expand(B, N, N)
PLACES = torch.tensor([1, 0, 5])
KERNEL = torch.ones(4, 2, 3, 3)

# map: flops, words of 4 bytes read and written
COUNTS = {
    "a product of matrices": (lambda z: z @ MATRIX, 2 * B * N * N, B * N + N * N + B * N),
    "an affine map": (lambda z: torch.addmm(ROW, z, MATRIX), 2 * B * N * N, 2 * B * N + N * N + N),
    "a matrix and a vector": (lambda z: MATRIX @ z[0], 2 * N * N, N * N + 2 * N),
    "a matrix for every sample": (
        lambda z: torch.bmm(z[:, None], SHARED), 2 * B * N * N, B * (N * N + 2 * N),
    ),
    "an elementwise sum": (lambda z: z + ROW, B * N, 2 * B * N + N),
    "an expanded row is read once": (lambda z: z + ROW[:1].expand(B, N), B * N, 2 * B * N + 1),
    "a square reads once": (lambda z: z * z, B * N, 2 * B * N),
    "a fused product": (lambda z: torch.addcmul(ROW, z, ROW.cos()), B * N + N, 2 * B * N + 4 * N),
    "in place": (lambda z: z.clone().mul_(2).add_(z), 2 * B * N, (2 + 2 + 3) * B * N),
    "a target is not read": (lambda z: torch.sub(z, ROW, out=z.new_empty(B, N)), B * N,
                             2 * B * N + N),
    "a fill reads nothing": (lambda z: torch.zeros_like(z).add_(z), B * N, (1 + 3) * B * N),
    "a copy computes nothing": (lambda z: torch.stack((z, z)), 0, B * N + 2 * B * N),
    "views are free": (lambda z: z.T[1:].reshape(1, N - 1, B)[0].neg(), (N - 1) * B,
                       2 * (N - 1) * B),
    "a sum reads all": (lambda z: z.sum(1), B * N, B * N + B),
    "a norm multiplies and adds": (lambda z: torch.linalg.vector_norm(z, dim=1), 2 * B * N,
                                   B * N + B),
    "a gather reads what it takes": (lambda z: z.index_select(1, PLACES), 0,
                                     2 * B * len(PLACES) + 2 * len(PLACES)),  # int64
    "a scatter writes what it holds": (lambda z: z.clone().index_copy_(1, PLACES, z[:, :3]), 0,
                                       2 * B * N + 2 * B * 3 + 2 * 3),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_the_count_is_the_one_on_paper(name):
    f, flops, words = COUNTS[name]
    work = count_work(f, Z)
    assert (work.flops, work.bytes, work.unseen) == (flops, WORD * words, ())
    assert work.intensity == flops / (WORD * words)


def test_a_convolution_multiplies_and_adds_for_every_weight_and_place():
    z = torch.ones(B, 2, 5, 7)
    work = count_work(lambda z: conv2d(z, KERNEL, padding=1), z)
    assert work.flops == 2 * B * 4 * 5 * 7 * 2 * 3 * 3
    assert work.bytes == WORD * (z.numel() + KERNEL.numel() + B * 4 * 5 * 7)


def test_memory_that_is_used_again_counts_once_in_the_footprint():
    work = count_work(lambda z: z.clone().mul_(2).add_(z), Z)
    assert work.footprint == 2 * WORD * B * N
    shared = count_work(COUNTS["a matrix for every sample"][0], Z)
    assert shared.footprint == WORD * (2 * B * N + N * N)


def test_calls_are_the_operations_that_touch_memory():
    assert count_work(lambda z: z.T[1:].neg().exp_(), Z).calls == 2
    assert count_work(lambda z: z, Z).calls == 0


def test_a_backward_pass_inside_of_the_map_counts():
    def slope(z):
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            return torch.autograd.grad((z @ MATRIX).sum(), z)[0]

    forward_and_back = 2 * 2 * B * N * N
    assert forward_and_back <= count_work(slope, Z).flops <= forward_and_back + 4 * B * N


@pytest.mark.parametrize("name", SMALL)
def test_the_lab_s_own_maps_are_counted_in_full_and_sample_by_sample(name):
    one, two = (
        count_work(problem.f, problem.z0)
        for problem in (SMALL[name].replace(batch_size=size).build() for size in (3, 6))
    )
    assert one.unseen == () and one.bytes > 0
    assert two.flops == 2 * one.flops > 0
    assert one.bytes < two.bytes <= 2 * one.bytes
    assert 0 < one.footprint <= one.bytes


@pytest.mark.parametrize(
    ("f", "unseen"),
    [
        (lambda z: torch.from_numpy(np.cos(z.numpy())), "NumPy"),
        (lambda z: z + torch.from_numpy(np.asarray(z)), "NumPy"),
        (lambda z: torch.tensor(z.tolist()), "Tensor.tolist"),
        (lambda z: torch.from_dlpack(np.cos(np.from_dlpack(z))), "DLPack"),
        (lambda z: torch.mm(z, MATRIX.to_sparse()), "sparse tensors"),
        (lambda z: ROW, "a result that no operation of torch has written"),
    ],
    ids=["numpy", "array", "list", "dlpack", "sparse", "elsewhere"],
)
def test_what_leaves_torch_has_no_count_and_says_why(f, unseen):
    work = count_work(f, Z)
    assert (work.flops, work.bytes, work.footprint) == (None, None, None)
    assert work.unseen == (unseen,)
    assert np.isnan(work.intensity)


def test_a_numpy_map_has_no_count():
    assert count_work(np.cos, Z.numpy()).unseen == ("NumPy",)


def test_an_operation_without_a_formula_is_named_and_its_bytes_stand():
    work = count_work(lambda z: torch.fft.fft(z + 0j).real.clone(), Z)
    assert work.flops is None and work.unseen == ("_fft_c2c",)
    assert work.bytes > 0


def test_structures_are_counted_leaf_by_leaf():
    state = {"a": Z, "b": Z[:, :2].clone()}
    work = count_work(lambda z: {"a": z["a"].cos(), "b": z["b"].sin()}, state)
    assert work.flops == B * (N + 2)


def test_counting_changes_nothing():
    before = solve(torch.cos, Z, rtol=1e-6)
    count_work(torch.cos, Z)
    assert torch.equal(solve(torch.cos, Z, rtol=1e-6).z, before.z)


def test_counting_does_not_go_through_torch_s_compiler():
    # Wrapped, the first call would import it: 800 modules, 1.5 s.
    assert not hasattr(Counter.__torch_dispatch__, "__wrapped__")
