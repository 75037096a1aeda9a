"""Networks: their sizes, what they depend on, and how a solver is put into a DEQ."""

import copy
import pickle
import random

import pytest
import torch
from torch import Tensor, nn

from andersonn_core import KnobError
from andersonn_core.models import (
    CIFAR10,
    DIGITS,
    MODELS,
    EquilibriumNetwork,
    Network,
    build_model,
)
from andersonn_core.weights import load_digits_network

SHAPES = pytest.mark.parametrize("shape", [DIGITS, CIFAR10], ids=["digits", "cifar10"])
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)


class ForwardIteration(nn.Module):
    """A layer around a cell, as a solver's would be: z <- cell(z, x), so many times."""

    def __init__(self, cell: nn.Module, evaluations: int = 4):
        super().__init__()
        self.cell = cell
        self.evaluations = evaluations

    def forward(self, x: Tensor) -> Tensor:
        z = self.cell.initial_state(x)
        for _ in range(self.evaluations):
            z = self.cell(z, x)
        return z


def built(name: str, shape: tuple[int, int, int], seed: int = 0) -> Network:
    network = build_model(name, shape, seed)
    if isinstance(network, EquilibriumNetwork):
        network.solve_with(ForwardIteration(network.cell))
    return network


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("deq", CIFAR10, 64_842), ("deq", DIGITS, 63_978),
        ("explicit", CIFAR10, 64_234), ("explicit", DIGITS, 63_946),
        ("resnet", CIFAR10, 272_474), ("resnet", DIGITS, 77_754),
    ],
)  # fmt: skip
def test_parameters_are_counted(name, shape, count):
    network = build_model(name, shape)
    assert num_parameters(network) == count
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert num_parameters(built(name, shape)) == count  # a layer around the cell adds none


@SHAPES
def test_the_explicit_network_has_the_deq_s_number_of_parameters_within_2_percent(shape):
    deq, explicit = (num_parameters(build_model(name, shape)) for name in ("deq", "explicit"))
    assert abs(explicit / deq - 1) < 0.02


@SHAPES
@EVERY_MODEL
def test_images_become_ten_logits_and_every_parameter_has_a_gradient(name, shape):
    network = built(name, shape)
    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
    logits = network(images)
    assert logits.shape == (3, 10) and logits.dtype == torch.float32
    assert torch.equal(logits, network.readout(network.body(network.encode(images))))
    logits.logsumexp(dim=1).sum().backward()
    dead = [key for key, each in network.named_parameters() if not each.grad.any()]
    assert not dead


@EVERY_MODEL
def test_a_digit_s_logits_do_not_depend_on_the_digits_beside_it(name):
    network = built(name, DIGITS).train().double()
    images = torch.rand(5, *DIGITS, generator=torch.Generator().manual_seed(2)).double()
    others = torch.cat([images[:1], 1 - images[1:]])
    alone, in_one, in_another = network(images[:1]), network(images)[:1], network(others)[:1]
    assert torch.allclose(alone, in_one, rtol=1e-9) and torch.allclose(alone, in_another, rtol=1e-9)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in network.modules())


def test_batch_norms_of_the_cifar10_deq_are_outside_its_cell():
    network = build_model("deq", CIFAR10).train().double()
    named = dict(network.named_modules())
    norms = [key for key, each in named.items() if isinstance(each, nn.BatchNorm2d)]
    assert norms == ["encoder.1", "head.0"]
    generator = torch.Generator().manual_seed(3)
    z, x = torch.rand(2, 4, 48, 8, 8, generator=generator).double()
    assert torch.allclose(network.cell(z, x)[:1], network.cell(z[:1], x[:1]), rtol=1e-9)
    images = torch.rand(4, *CIFAR10, generator=generator).double()
    alone, together = network.encode(images[:1]), network.encode(images)[:1]
    assert not torch.allclose(alone, together, rtol=1e-2)


def test_the_cell_s_convolutions_begin_small():
    cell = build_model("deq", CIFAR10).cell
    for convolution in (cell.conv1, cell.conv2):
        assert convolution.bias is None
        assert convolution.weight.numel() == 27_648
        assert abs(convolution.weight.std().item() / 0.01 - 1) < 0.02
        assert abs(convolution.weight.mean().item()) < 3 * 0.01 / 27_648**0.5


@SHAPES
@EVERY_MODEL
def test_a_network_is_its_seed_and_no_global_generator_moves(name, shape):
    torch.manual_seed(5)
    random.seed(5)
    before, pythons = torch.random.get_rng_state(), random.getstate()
    first = build_model(name, shape, seed=1).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before) and random.getstate() == pythons
    torch.manual_seed(99)
    again, other = (build_model(name, shape, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_network_is_float32_whatever_the_default_type_is():
    torch.set_default_dtype(torch.float64)
    try:
        network = build_model("deq", DIGITS)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {each.dtype for each in network.parameters()} == {torch.float32}


def test_unknown_names_and_shapes_are_refused_with_what_there_is():
    with pytest.raises(KnobError, match="model = 'resnt' .* one of deq, explicit, resnet"):
        build_model("resnt", DIGITS)
    for name in MODELS:
        with pytest.raises(KnobError, match="1 x 28 x 28 .* 1 x 8 x 8 .* 3 x 32 x 32"):
            build_model(name, (1, 28, 28))
    with pytest.raises(ValueError, match=r"images must be \(B, 1, 8, 8\), got \(2, 3, 32, 32\)"):
        build_model("explicit", DIGITS)(torch.zeros(2, *CIFAR10))


# a solver in a DEQ


def deq() -> EquilibriumNetwork:
    return build_model("deq", DIGITS)


def test_without_a_solver_a_deq_says_what_to_call():
    network, images = deq(), torch.zeros(1, *DIGITS)
    assert network.encode(images).shape == (1, 48, 8, 8)
    with pytest.raises(RuntimeError, match=r"solve_with\(layer\)"):
        network(images)


def test_a_solver_may_be_a_layer_or_any_function_and_be_exchanged():
    network, images = deq(), torch.rand(2, *DIGITS)
    layer = ForwardIteration(network.cell)
    by_layer = network.solve_with(layer)(images)
    assert network.equilibrium is layer
    by_function = network.solve_with(lambda x: layer(x))(images)
    assert torch.equal(by_layer, by_function)
    by_another = network.solve_with(ForwardIteration(network.cell, 8))(images)
    assert not torch.equal(by_layer, by_another)
    assert network.solve_with(None).equilibrium is None


def test_forward_iteration_of_the_trained_network_settles_on_its_prediction():
    network = load_digits_network(0)
    images = torch.rand(4, *DIGITS, generator=torch.Generator().manual_seed(4))
    z = network.solve_with(ForwardIteration(network.cell, 300)).body(network.encode(images))
    residual = network.cell(z, network.encode(images)) - z
    assert residual.norm() < 1e-3 * z.norm()
    assert torch.equal(network(images), network.readout(z))


def test_the_solver_is_no_part_of_the_weights():
    bare, solved = deq(), deq()
    solved.solve_with(ForwardIteration(solved.cell))
    assert list(solved.state_dict()) == list(bare.state_dict())
    assert list(dict(solved.named_parameters())) == list(dict(bare.named_parameters()))
    wrapped = nn.ModuleDict({"student": solved})
    assert list(wrapped.state_dict()) == [f"student.{key}" for key in bare.state_dict()]
    for source, target in ((bare, solved), (solved, bare), (wrapped, wrapped)):
        target.load_state_dict({key: each + 1 for key, each in source.state_dict().items()})
    assert solved.equilibrium.cell is solved.cell
    with pytest.raises(RuntimeError, match='Missing key.* "cell.conv1.weight'):
        solved.load_state_dict({k: v for k, v in bare.state_dict().items() if "conv1" not in k})


def test_a_layer_follows_its_network_and_copies_stay_whole():
    network = deq()
    network.solve_with(ForwardIteration(network.cell))
    assert not network.eval().equilibrium.training and network.train().equilibrium.training
    images = torch.rand(2, *DIGITS)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(images), network(images))
        assert twin.equilibrium.cell is twin.cell is not network.cell
        assert list(twin.state_dict()) == list(network.state_dict())
    doubled = copy.deepcopy(network).double()
    assert doubled(images.double()).dtype == torch.float64
