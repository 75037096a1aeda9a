"""How much memory a solve takes, counted tensor by tensor."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from andersonn_core import IDR, Anderson, Auto, Broyden, Picard, ShortRecurrence, solve


class Allocations(TorchDispatchMode):
    """The largest number of state vectors that were alive at once, beside those made before."""

    def __init__(self, n):
        super().__init__()
        self.bytes, self.live, self.peak = 4 * n, {}, 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= self.bytes:
                self._note(tensor.untyped_storage())
        self.peak = max(self.peak, sum(self.live.values()))
        return made

    def _note(self, storage):
        address = storage.data_ptr()
        if address not in self.live:
            self.live[address] = storage.nbytes() / self.bytes
            weakref.finalize(storage, self.live.pop, address, None)


def peak_vectors(method, n=20_000, evaluations=25):
    """Beside the start and what the map returns, which lies in a buffer of the map's own."""
    slope, value = torch.linspace(-0.9, 0.9, n), torch.empty(1, n)
    start = torch.zeros(1, n)

    def f(z):
        return torch.add(torch.mul(z, slope, out=value), 1.0, out=value)

    with Allocations(n) as allocations:
        allocations.live[start.untyped_storage().data_ptr()] = 0.0
        allocations.live[value.untyped_storage().data_ptr()] = 0.0
        result = solve(f, start, method, rtol=0.0, max_iter=evaluations)
    assert result.num_evals == evaluations
    return allocations.peak


@pytest.mark.parametrize("restart", ["full", "never"])
@pytest.mark.parametrize("m", [1, 5, 10])
def test_the_residual_form_holds_2m_plus_3_vectors_beside_the_answer(m, restart):
    method = Anderson(window=m, restart=restart, least_squares="residuals")
    assert peak_vectors(method) <= 2 * m + 3 + 1


FORMS = [
    Anderson(window=m, restart=restart, least_squares=form)
    for m in (1, 2, 5, 10)
    for restart in ("full", "never", "deflated", "auto")
    for form in ("gram", "residuals")
]
OTHERS = [
    Anderson(window="auto"), Anderson(mixing="auto"), Auto(), Broyden(), IDR(), ShortRecurrence(),
]  # fmt: skip


@pytest.mark.parametrize("method", [*FORMS, *OTHERS], ids=repr)
def test_a_solve_holds_no_more_than_was_planned(method):
    assert peak_vectors(method) <= method.memory_vectors(20_000)


def test_forward_iteration_holds_two_iterates_and_a_residual():
    assert peak_vectors(Picard()) <= 3
