"""Deep equilibrium classifiers: one cell, repeated until its state no longer changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn

from andersonn_core.cells import ConvCell
from andersonn_core.models.base import GROUPS, ImageShape, Network, encoder_for, head_for

Equilibrium = Callable[[Tensor], Tensor]  # x -> z* with z* = cell(z*, x)


class EquilibriumNetwork(Network):
    """A deep equilibrium classifier, in the pieces that a solver needs apart.

    x = encode(images);  z* = cell(z*, x);  logits = readout(z*)

    For CIFAR-10 with the default sizes it is the network of 64,842 parameters of the
    *Deep Implicit Layers* tutorial (Kolter, Duvenaud and Johnson, NeurIPS 2020, chapter 4):
    convolution, batch norm, cell, batch norm, average pooling, linear. For digits every norm is a
    group norm, so that a sample's result does not depend on its batch. The cell has group norms
    in both.

    `solve_with` chooses how z* is found; what finds it is no part of `state_dict`.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        channels: int = 48,
        inner_channels: int = 64,
        groups: int = GROUPS,
    ) -> None:
        """Build an untrained network; `weights.load_digits_network` returns a trained one."""
        encoder = encoder_for(image_shape, channels, groups)
        cell = ConvCell(channels, inner_channels, groups)
        super().__init__(image_shape, encoder, head_for(image_shape, channels, groups))
        self.cell = cell
        self.equilibrium: Equilibrium | None = None
        self.register_state_dict_post_hook(_leave_out_equilibrium)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_miss_no_equilibrium)  # type: ignore[no-untyped-call]

    def solve_with(self, equilibrium: Equilibrium | None) -> Self:
        """Find z* by `equilibrium` from now on: a layer around `self.cell`, or any x -> z*.

        A layer follows the network to its device and between train() and eval(). Returns self.
        """
        if hasattr(self, "equilibrium"):
            del self.equilibrium  # nn.Module lets no plain function replace a module
        self.equilibrium = equilibrium
        return self

    def body(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        """Return z* = cell(z*, x). Raises RuntimeError where no solver has been chosen."""
        if self.equilibrium is None:
            raise RuntimeError(
                "This network has no solver for its equilibrium yet: call "
                "network.solve_with(layer) with a layer around network.cell, or any map x -> z*."
            )
        return self.equilibrium(x)


def _leave_out_equilibrium(
    network: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]
) -> None:
    """Keep the layer's names of the cell's tensors out: the cell has them already."""
    for name in [name for name in state if name.startswith(f"{prefix}equilibrium.")]:
        del state[name]


def _miss_no_equilibrium(network: nn.Module, incompatible: Any) -> None:
    missing = incompatible.missing_keys
    missing[:] = [name for name in missing if "equilibrium" not in name.split(".")]
