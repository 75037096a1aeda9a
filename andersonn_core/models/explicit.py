"""What a DEQ's parameters do as an ordinary network: cells in a row, each with its own weights."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from andersonn_core.cells import ConvCell
from andersonn_core.models.base import ImageShape, Network, encoder_for, head_for


class ExplicitNetwork(Network):
    """A plain stack of the DEQ's cells without weight sharing, narrower to have as many parameters.

    z_1 = cell_1(x, x);  z_{k+1} = cell_{k+1}(z_k, x);  logits = readout(z_depth)

    It starts at z_0 = x: from zero the first convolution would always be of zeros. Of three depths
    with as many parameters (1, 2 and 13 cells) 13 read a validation part of the training digits
    best.
    """

    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format  # so few channels

    def __init__(
        self, image_shape: ImageShape, depth: int = 13, channels: int = 16, inner_channels: int = 16
    ) -> None:
        """Build an untrained network; the default sizes match the DEQ's number of parameters."""
        encoder = encoder_for(image_shape, channels)
        cells = [ConvCell(channels, inner_channels) for _ in range(depth)]
        super().__init__(image_shape, encoder, head_for(image_shape, channels))
        self.cells = nn.ModuleList(cells)

    def body(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        """Return the state after the last cell."""
        z = x
        for cell in self.cells:
            z = cell(z, x)
        return z
