"""Memory of a training step: constant in the number of evaluations, or growing by a tape for each.

All storages that operations make are counted while they are alive, in both passes.
"""

import gc

import pytest
import torch
from torch import nn

from andersonn_core import GRADIENTS
from benchmarks.memory import (
    GROWING,
    PROMISED,
    WIDE,
    LiveBytes,
    distance_from_line,
    measure,
    peak_bytes,
    spread,
)

CONSTANT = [name for name in GRADIENTS if name != GROWING]
STATE = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))


def test_the_meter_counts_what_is_alive_at_once():
    x = torch.ones(1000)  # from before: does not count

    def step():
        y = x + 1
        z = y * 2  # two at once
        del y
        w = z.view(10, 100).add_(1)  # no memory of its own
        return w.sum()

    assert peak_bytes(step) in (8000, 8004)
    layer, chain = nn.Linear(100, 100, bias=False), torch.ones(10, 100)
    layer(chain).sum().backward()  # its gradient has memory now

    def deep(depth):
        z = chain
        for _ in range(depth):
            z = layer(z).tanh()
        z.sum().backward()

    # each layer keeps one activation for the backward pass
    few, many = (peak_bytes(lambda depth=depth: deep(depth)) for depth in (4, 14))
    assert many - few == 10 * chain.nbytes
    with LiveBytes() as meter:
        deep(3)
        gc.collect()
    assert meter.live == 0


@pytest.mark.parametrize("gradient", CONSTANT)
def test_memory_is_flat_from_five_to_a_hundred_evaluations(gradient):
    assert spread(measure(gradient, (5, 100), STATE, WIDE)) <= PROMISED


def test_unrolled_grows_by_a_tape_for_each_evaluation():
    evals = (5, 10, 20, 40)
    slope, off = distance_from_line(evals, measure(GROWING, evals, STATE, WIDE))
    # the two inner activations and their norms, sixteen times the state each, are kept
    assert slope > 2 * (WIDE / 16) * STATE.nbytes
    assert off <= 0.01


@pytest.mark.gpu
@pytest.mark.parametrize("gradient", CONSTANT)
def test_on_a_gpu_the_allocator_says_the_same(gradient):
    from andersonn_core.cells import ConvCell
    from benchmarks.memory import training_step

    peaks, x = [], torch.randn(64, 48, 16, 16, device="cuda")
    cell = ConvCell(48, WIDE).cuda()
    training_step(gradient, 5, x, cell)
    for evals in (5, 100):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        training_step(gradient, evals, x, cell)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert spread(peaks) <= PROMISED
