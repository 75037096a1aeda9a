"""The equilibrium layer with what people train with: autocast, compile, processes, files."""

import copy
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from deq_cases import EXACT, Named, dense, gradients, inputs, layer
from deq_two_processes import Model, batch
from deq_two_processes import gradients as gradients_of
from torch import nn
from torch.nn.utils import parametrizations

from andersonn_core import DEQ, Anderson, KnobError
from andersonn_core.cells import ConvCell, DenseCell
from andersonn_core.deq import GRADIENTS, Balance, Tally
from andersonn_core.deq.balance import balance_of

HERE = Path(__file__).parent


def relative(one, other):
    return float((one.double() - other.double()).norm() / other.double().norm())


class Network(nn.Module):
    """Encoder, equilibrium, classifier."""

    def __init__(self, gradient="implicit", **knobs):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(3, 3)
        cell = DenseCell(3, 16)
        self.deq = DEQ(cell, gradient=gradient, method=Anderson(restart="never"), **knobs)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.deq(self.encoder(x)))


# half precision


@pytest.mark.parametrize("name", GRADIENTS)
def test_autocast_trains_as_single_precision_does(name):
    x, found = inputs(16).detach().float(), []
    for enabled in (False, True):
        network = Network(name, rtol=1e-2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = network(x)
            loss = y.float().square().sum()
        assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
        loss.backward()  # outside of autocast, as torch says
        assert bool(network.deq.last_forward.converged.all())
        found.append([parameter.grad for parameter in network.parameters()])
    for half, single in zip(*reversed(found), strict=True):
        assert half.dtype == torch.float32 and relative(half, single) < 0.1


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_layer_in_bfloat16_solves_to_what_bfloat16_resolves(name):
    x, found = inputs(16).detach().float(), []
    for dtype in (torch.float32, torch.bfloat16):
        network = Network(name, rtol=1e-2).to(dtype)
        y = network(x.to(dtype))
        assert network.deq.last_forward.z.dtype == dtype
        assert bool(network.deq.last_forward.converged.all())
        y.float().square().sum().backward()
        found.append([parameter.grad for parameter in network.parameters()])
        if network.deq.last_adjoint is not None:
            assert bool(network.deq.last_adjoint.converged.all())
    for half, single in zip(*reversed(found), strict=True):
        assert half.dtype == torch.bfloat16 and relative(half, single) < 0.15


def test_the_second_derivative_and_a_compacted_adjoint_know_the_autocast_of_the_forward_pass():
    found = []
    for enabled in (False, True):
        network = Network(rtol=1e-2, compact=True)
        x = (inputs(16).detach() * torch.logspace(-2, 1, 16)[:, None]).float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = network(x).float().square().sum()
        (slope,) = gradients(y, x, create_graph=True)
        slope.square().sum().backward()
        found.append(network.deq.cell.state.weight.grad)
    assert relative(*reversed(found)) < 0.1


# torch.compile; aot_eager needs no C++ compiler


def compiled_is_the_same(make):
    torch.compiler.reset()
    with warnings.catch_warnings():  # dynamo looks at .grad of tensors that are no leaves
        warnings.simplefilter("ignore", UserWarning)
        _compiled_is_the_same(make)


def _compiled_is_the_same(make):
    x = inputs(4).detach().float()
    found = []
    for compiled in (False, True):
        network = Network(rtol=1e-4)
        model = make(network) if compiled else network
        for _ in range(2):
            network.zero_grad()
            y = model(x)
            y.square().sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(model(x), y.detach())
        found.append([y.detach(), *(parameter.grad for parameter in network.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_compiled_cell_gives_the_same_equilibrium_and_gradient():
    def make(network):
        network.deq.cell.forward = torch.compile(network.deq.cell.forward, backend="aot_eager")
        return network

    compiled_is_the_same(make)


def test_a_compiled_module_as_the_cell():
    def make(network):
        network.deq.cell = torch.compile(network.deq.cell, backend="aot_eager")
        return network

    compiled_is_the_same(make)


def test_a_compiled_network_breaks_its_graph_at_the_layer_and_gives_the_same():
    compiled_is_the_same(lambda network: torch.compile(network, backend="aot_eager"))


# saved tensors elsewhere


def test_tensors_saved_elsewhere_or_recomputed_give_the_same_gradient():
    cell, x = dense(), inputs()
    deq = layer(cell)
    expected = gradients(deq(x).square().sum(), x, *cell.parameters())
    copied = torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone)
    with copied:
        loss = deq(x).square().sum()
    for one, other in zip(gradients(loss, x, *cell.parameters()), expected, strict=True):
        assert torch.equal(one, other)
    again = torch.utils.checkpoint.checkpoint(deq, x, use_reentrant=False)
    found = gradients(again.square().sum(), x, *cell.parameters())
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


# two processes


@pytest.mark.slow
def test_two_processes_find_the_gradient_of_the_whole_batch(tmp_path):
    """Under torchrun, with gloo; the ranks need different numbers of evaluations."""
    file = tmp_path / "found.pt"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(HERE / "deq_two_processes.py"), str(file),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = torch.load(file)
    first, second = (evals.tolist() for evals in found["evals"])
    assert first != second
    model = Model()
    model(batch()).backward()
    expected = gradients_of(model)
    assert set(expected) | {"unused"} >= set(found["gradients"]) >= set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-7, atol=1e-10)
    assert "find_unused_parameters" in found["refusal"]  # as of any other module
    told = pd.DataFrame(found["balance"])
    assert told["forward_evals"].tolist() == [first[0], second[0]]
    assert told["adjoint_evals"].tolist() == [first[1], second[1]]
    both = told["solve_seconds"] + told["waited_seconds"]  # all ranks end a step together
    np.testing.assert_allclose(both, both[0])
    assert told["slowest"].sum() == told["steps"][0] == 2


# balance


def test_ranks_wait_for_the_slowest_in_every_step():
    steps = np.array([[[9, 8, 1.0], [5, 5, 4.0]], [[4, 3, 3.0], [2, 2, 2.0]]])  # (R, S, columns)
    report = balance_of(steps)
    assert report.frame["solve_seconds"].tolist() == [5.0, 5.0]
    assert report.frame["waited_seconds"].tolist() == [2.0, 2.0]
    assert report.frame["slowest"].tolist() == [1, 1]
    assert report.frame["forward_evals"].tolist() == [7.0, 3.0]
    assert report.waited == 4 / 14
    assert "29 % of their time" in str(report)


def test_what_balance_cannot_tell_is_said():
    with pytest.raises(KnobError, match="at least one DEQ"):
        Balance()
    with pytest.raises(ValueError, match="noted 2, 1 steps"):
        balance_of([np.ones((2, 3)), np.ones((1, 3))])
    deq = layer(dense())
    balance = Balance(deq)
    with pytest.raises(ValueError, match="at least once"):
        balance.report()
    with pytest.raises(RuntimeError, match="once a batch"):
        balance.step()
    deq(inputs()).sum().backward()
    balance.step()
    with pytest.raises(RuntimeError, match="once a batch"):
        balance.step()
    alone = balance.report()
    assert alone.waited == 0.0 and "waited for none" in str(alone)
    assert alone.frame["adjoint_evals"].tolist() == [deq.last_adjoint.num_evals]


# files and copies


def test_the_state_dict_is_the_cells_and_loads_into_another_layer():
    x = inputs()
    deq, other = layer(dense()), layer(dense(scale=0.1))
    deq(x)
    state = deq.state_dict()
    assert list(state) == [f"cell.{name}" for name in deq.cell.state_dict()]
    other.load_state_dict(state)
    assert torch.equal(other(x), deq(x))
    assert not list(DEQ(lambda z, x: z).state_dict())


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_and_files_hold_the_whole_layer(name, how, tmp_path):
    deq, x = layer(Named(), name, method=Anderson(window=3, restart="never"), max_iter=40), inputs()
    z = deq(x)
    z["a"].sum().backward()
    if how == "torch.save":
        torch.save(deq, tmp_path / "layer.pt")
        twin = torch.load(tmp_path / "layer.pt", weights_only=False)
    else:
        twin = copy.deepcopy(deq) if how == "deepcopy" else pickle.loads(pickle.dumps(deq))
    assert twin.knobs == deq.knobs and twin.last_forward is None
    again = twin(x)
    assert torch.equal(again["a"], z["a"]) and torch.equal(again["b"], z["b"])
    again["a"].sum().backward()
    for one, other in zip(twin.cell.parameters(), deq.cell.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad) and one is not other


def test_a_parametrized_layer_is_copied_and_saved_by_its_state_and_not_pickled():
    x = inputs()
    deq = layer(dense())
    parametrizations.weight_norm(deq.cell.state)
    z = deq(x)
    assert torch.equal(copy.deepcopy(deq)(x), z)
    with pytest.raises(RuntimeError, match="parametrized"):  # torch's own refusal
        pickle.dumps(deq)
    other = layer(dense(scale=0.1))
    parametrizations.weight_norm(other.cell.state)
    other.load_state_dict(deq.state_dict())
    assert torch.equal(other(x), z)


def test_a_few_steps_of_training_lower_the_loss():
    torch.manual_seed(0)
    cell = ConvCell(4, 4, 2)
    deq = DEQ(cell, rtol=1e-2)
    x, target = torch.randn(8, 4, 4, 4), torch.randn(8, 4, 4, 4).sigmoid()
    optimizer = torch.optim.Adam(cell.parameters(), 0.01)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (deq(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert deq.tally == Tally(forward=15 * 8, adjoint=15 * 8)


@pytest.mark.gpu
@pytest.mark.parametrize("name", GRADIENTS)
def test_on_a_gpu_the_gradient_is_the_one_of_the_cpu(name):
    found = []
    for device in ("cpu", "cuda"):
        deq = layer(dense().to(device), name, method=Anderson(restart="never"), **EXACT)
        x = inputs().detach().to(device).requires_grad_()
        found.append([g.cpu() for g in gradients(deq(x).square().sum(), x, *deq.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
