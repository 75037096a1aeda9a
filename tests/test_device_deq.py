"""Equilibrium layers on the device's loop, forward and backward, as they run on a GPU.

Here the CPU is the device: its kernels are torch's operations.
"""

import sys

import pytest
import torch
from deq_cases import EXACT, Named, Pair, dense, inputs
from device_cases import Operations

from andersonn_core import DEQ, GRADIENTS, Anderson, Broyden, polynomial
from andersonn_core.deq import KeptIterates
from andersonn_core.deq import layer as layer_module
from andersonn_core.device.driver import DeviceDriver
from andersonn_core.driver import Driver, Task

door = sys.modules["andersonn_core.solve"]  # the package's own `solve` is the function


@pytest.fixture
def ahead(monkeypatch):
    """Solves on the CPU are launched ahead; who drove each."""
    made = []

    def driver_for(task: Task):
        made.append(real(task))
        return made[-1]

    real = door.driver_for
    monkeypatch.setattr(door, "LAUNCHED_AHEAD", frozenset({"cpu"}))
    for module in (door, layer_module):
        monkeypatch.setattr(module, "driver_for", driver_for)
    return made


def gradients(gradient, cell, **knobs):
    """The output and all gradients of one forward and backward pass."""
    method = Anderson(restart="never") if gradient == "shine" else Anderson()
    deq, x = DEQ(cell, method, gradient=gradient, **(EXACT | knobs)), inputs()
    out = deq(x)
    parts = out.values() if isinstance(out, dict) else out if isinstance(out, tuple) else (out,)
    sum((part**3).sum() for part in parts).backward()
    found = [x.grad, *(parameter.grad for parameter in cell.parameters())]
    return [part.detach() for part in parts], found, deq


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("cell", [dense, Pair, Named])
def test_gradients_are_those_of_the_host_s_loop(gradient, cell, request):
    expected = gradients(gradient, cell())
    made = request.getfixturevalue("ahead")
    found = gradients(gradient, cell())
    kinds = {"shine": [Driver, DeviceDriver], "implicit": [DeviceDriver, DeviceDriver]}
    assert [type(each) for each in made] == kinds.get(gradient, [DeviceDriver])
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    for ours, theirs in ((found[2].last_forward, expected[2].last_forward),
                         (found[2].last_adjoint, expected[2].last_adjoint)):  # fmt: skip
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.num_evals == theirs.num_evals and ours.converged.all()


def test_gradients_are_the_derivatives_of_the_output(ahead):
    cell, x = dense(2), inputs(1)
    deq = DEQ(cell, Anderson(window=2), **EXACT)
    assert torch.autograd.gradcheck(lambda x, w: with_weight(deq, x, w), (x, cell.state.weight))
    assert torch.autograd.gradgradcheck(lambda x: deq(x), (x,))
    assert {type(each) for each in ahead} == {DeviceDriver}


def with_weight(deq, x, weight):
    return torch.func.functional_call(deq, {"cell.state.weight": weight}, (x,))


def waits(cell, evaluations):
    """How often the host waits for a value in one forward and backward pass of so many each."""
    deq, x = DEQ(cell, rtol=0.0, max_iter=evaluations), inputs()
    deq.warns = False
    with Operations() as seen:
        deq(x).sum().backward()
    assert deq.last_forward.num_evals == deq.last_adjoint.num_evals == evaluations
    return len(seen.waiting)


def test_the_host_waits_no_more_often_in_longer_solves(ahead):
    cell = dense(64, scale=0.99)
    few = waits(cell, 10)
    assert few == waits(cell, 40)  # all of them before or after the solves
    assert {type(each) for each in ahead} == {DeviceDriver}


def test_what_needs_the_host_in_every_step_gets_it(ahead):
    cell, x = dense(), inputs()
    DEQ(cell, compact=True)(x)
    DEQ(cell, Broyden())(x)
    kept = KeptIterates((1, 3))
    deq = DEQ(cell)
    deq.on_step = kept
    deq(x)
    assert [type(each) for each in ahead] == [Driver] * 3 and sorted(kept.states) == [1, 3]
    for each, word in zip(ahead, ("compact", "broyden", "iterates"), strict=True):
        assert each.notes[0].startswith("every step waits for the host: ")
        assert word in each.notes[0].lower()
    matrix = torch.diag(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    z0 = torch.zeros(1, 3, dtype=torch.float64)
    grid = torch.zeros(1)
    values = polynomial.residual_polynomial(
        lambda z: z @ matrix + 1, z0, Anderson(), grid, max_iter=3
    )
    assert len(values) == 3


def test_warm_starts_and_training_steps_go_on_ahead(ahead):
    torch.manual_seed(0)
    cell = dense()
    deq = DEQ(cell, Anderson(), rtol=1e-8, warm_start=True)
    optimizer = torch.optim.SGD(deq.parameters(), lr=0.05)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = (deq(inputs()) - 0.3).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert deq.tally.forward_unconverged == deq.tally.adjoint_unconverged == 0
    assert {type(each) for each in ahead} == {DeviceDriver}
