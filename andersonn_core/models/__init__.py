"""Networks that read images, one idea a file, and the table of them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from andersonn_core.models.base import CIFAR10, DIGITS, ImageShape, Network
from andersonn_core.models.equilibrium import Equilibrium, EquilibriumNetwork
from andersonn_core.models.explicit import ExplicitNetwork
from andersonn_core.models.resnet import ResidualNetwork
from andersonn_core.specs import KnobError

MODELS: dict[str, Callable[[ImageShape], Network]] = {
    "deq": EquilibriumNetwork,
    "explicit": ExplicitNetwork,
    "resnet": ResidualNetwork,
}


def build_model(name: str, image_shape: ImageShape, seed: int = 0) -> Network:
    """Return an untrained network of MODELS for images of a shape, drawn from the seed on the CPU.

    The same seed gives the same weights, and torch's own generators stay as they are. Raises
    KnobError for an unknown name, or a shape that no network is made for.
    """
    if name not in MODELS:
        raise KnobError(f"model = {name!r} is unknown; it must be one of {', '.join(MODELS)}.")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the GPUs', too
        network = MODELS[name](image_shape).float()
    return network.to(memory_format=network.memory_format)  # type: ignore[call-overload, no-any-return]


__all__ = [
    "CIFAR10",
    "DIGITS",
    "MODELS",
    "Equilibrium",
    "EquilibriumNetwork",
    "ExplicitNetwork",
    "Network",
    "ResidualNetwork",
    "build_model",
]
