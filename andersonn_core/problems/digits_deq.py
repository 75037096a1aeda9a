"""A trained deep equilibrium network that reads handwritten digits: the real thing, small."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from andersonn_core.cells import ConvCell
from andersonn_core.data import ImageSet, load_digits
from andersonn_core.data.digits import HELD_OUT
from andersonn_core.models import EquilibriumNetwork
from andersonn_core.problems.base import Problem, ProblemSpec
from andersonn_core.problems.common import refuse_oversize
from andersonn_core.specs import knob
from andersonn_core.weights import digits_path, load_digits_network

CHANNELS, SIDE = 48, 8
ACTIVATION_COPIES = 4  # of the widest layer, while the cell runs


@dataclass(frozen=True, eq=False)
class CellMap:
    """f(z) = cell(z, x): one pass through the network's repeated layer."""

    cell: ConvCell
    x: Tensor  # (B, C, H, W), the encoded images

    def __call__(self, z: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        """Evaluate f."""
        with torch.no_grad():
            new: Tensor = self.cell(z, self.x)
        return new

    def select(self, indices: Tensor) -> CellMap:  # (A,)
        """The map of some samples."""
        return replace(self, x=self.x[indices])


@lru_cache(maxsize=1)
def _digits() -> ImageSet:
    return load_digits()


@lru_cache(maxsize=16)
def _network(training_seed: int, dtype: torch.dtype, device: torch.device) -> EquilibriumNetwork:
    """The trained network, loaded once per type and device; never changed after that."""
    if dtype == torch.float32 and device.type == "cpu":
        return load_digits_network(training_seed)
    original = _network(training_seed, torch.float32, torch.device("cpu"))
    return copy.deepcopy(original).to(device=device, dtype=dtype)


@lru_cache(maxsize=8)
def _hashes(training_seed: int) -> dict[str, str]:
    weights = hashlib.sha256(digits_path(training_seed).read_bytes()).hexdigest()
    images = hashlib.sha256(_digits().test_images.numpy().tobytes()).hexdigest()
    return {digits_path(training_seed).name: weights, "held-out digits": images}


class DigitsDEQ(ProblemSpec):
    """The equilibrium of a convolutional cell trained on scikit-learn's digits, held-out images.

    f(z) = GN(ReLU(z + GN(x + conv(GN(ReLU(conv z)))))),  x = encode(image)
    """

    name: ClassVar[str] = "digits_deq"
    label: ClassVar[str] = "Handwritten digits (DEQ)"
    summary: ClassVar[str] = (
        "A neural network that reads digits it has never seen. Instead of many layers it repeats "
        "one until its state no longer changes; each digit settles at its own pace, and the "
        "prediction can be watched settling with it."
    )
    unused: ClassVar[dict[str, str]] = {
        "size": "The network was trained for images of 8 x 8 pixels and 48 channels.",
    }

    batch_size: int = knob(
        64, "Held-out digits that are read side by side.",
        minimum=1, maximum=HELD_OUT, typical=(1, 64), symbol="B",
    )  # fmt: skip
    training_seed: int = knob(
        0, "Which of five trainings of the same network, told apart by their random start.",
        minimum=0, maximum=4,
    )  # fmt: skip
    seed: int = knob(
        0, "Order of the held-out digits; 0 keeps the data set's.",
        minimum=0, maximum=2**31 - 1, identity=False,
    )  # fmt: skip

    @property
    def num_elements(self) -> int:
        """The length n = channels x height x width."""
        return CHANNELS * SIDE * SIDE

    def data_hashes(self) -> dict[str, str]:
        """SHA-256 of the weights and of the held-out images."""
        return dict(_hashes(self.training_seed))

    def build(self) -> Problem:
        """The cell's map from z0 = 0, with images, labels and the way to a prediction."""
        refuse_oversize(self, constants=ACTIVATION_COPIES * self.batch_size * self.num_elements)
        digits, order = _digits(), self._order()
        images = digits.test_images[order]  # (B, 1, 8, 8)
        network = _network(self.training_seed, self.torch_dtype, self.torch_device)
        with torch.no_grad():
            x = network.encode(images.to(device=self.torch_device, dtype=self.torch_dtype))

        def predict(z: Tensor) -> Tensor:  # (B, C, H, W) -> (B, 10)
            with torch.no_grad():
                return torch.softmax(network.readout(z).float(), dim=1)

        return Problem(
            name=self.name, f=CellMap(network.cell, x), z0=network.cell.initial_state(x),
            predict=predict, inputs=images[:, 0], labels=digits.test_labels[order],
        )  # fmt: skip

    def _order(self) -> Tensor:  # (B,)
        if self.seed == 0:
            return torch.arange(self.batch_size)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(HELD_OUT, generator=generator)[: self.batch_size]
