"""Cells of deep equilibrium networks: plain modules `cell(z, x) -> z`."""

from __future__ import annotations

from torch import Tensor, nn

INITIAL_STD = 0.01  # small convolutions make a young cell contract, so training starts easily


class ConvCell(nn.Module):
    """The convolutional cell of the implicit-layers literature, one sample never seeing another.

    f(z, x) = GN3(ReLU(z + GN2(x + conv2(GN1(ReLU(conv1 z))))))

    with 3x3 convolutions without bias, `channels -> inner_channels -> channels`, and group norms.
    States and inputs have shape (B, channels, height, width).
    """

    def __init__(self, channels: int = 48, inner_channels: int = 64, groups: int = 8) -> None:
        """Build a cell with small random convolutions and neutral norms."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(inner_channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, inner_channels)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.norm3 = nn.GroupNorm(groups, channels)
        nn.init.normal_(self.conv1.weight, std=INITIAL_STD)
        nn.init.normal_(self.conv2.weight, std=INITIAL_STD)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:  # (B, C, H, W), same -> (B, C, H, W)
        """Evaluate f(z, x) once; shapes (B, C, H, W)."""
        inner: Tensor = self.norm1(self.conv1(z).relu())  # (B, inner, H, W)
        update: Tensor = self.norm2(x + self.conv2(inner))  # (B, C, H, W)
        new_state: Tensor = self.norm3((z + update).relu())  # (B, C, H, W)
        return new_state

    def initial_state(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        """Return z0 = 0 with the shape, dtype and device of x."""
        return x.new_zeros(x.shape)


class DenseCell(nn.Module):
    """The simplest cell of an equilibrium model: f(z, x) = tanh(W z + U x + b).

    States have shape (B, width), inputs (B, inputs). As torch draws them, W has a spectral radius
    of about 0.58 and forward iteration contracts.
    """

    def __init__(self, inputs: int, width: int) -> None:
        """Build a cell with torch's random weights."""
        super().__init__()
        self.state = nn.Linear(width, width, bias=False)  # W
        self.input = nn.Linear(inputs, width)  # U, b

    def forward(self, z: Tensor, x: Tensor) -> Tensor:  # (B, width), (B, inputs) -> (B, width)
        """Evaluate f(z, x) once."""
        new_state: Tensor = (self.state(z) + self.input(x)).tanh()
        return new_state

    def initial_state(self, x: Tensor) -> Tensor:  # (B, inputs) -> (B, width)
        """Return z0 = 0 in the dtype and on the device of x."""
        return x.new_zeros(x.shape[0], self.state.in_features)
