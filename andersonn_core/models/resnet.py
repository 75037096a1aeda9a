"""Residual networks: what most people would take for these images."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from andersonn_core.models.base import CIFAR10, NUM_CLASSES, ImageShape, Network, norm_for

WIDTHS = 16, 32, 64


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input passes: ReLU(norm(conv(...)) + shortcut(x)).

    Where the width changes, the first convolution has stride 2 and the shortcut is a 1x1
    convolution (He et al., CVPR 2016, figure 2 and option B of section 4.1).
    """

    def __init__(self, width_in: int, width: int, norm: Callable[[int], nn.Module]) -> None:
        """Build a block with weights scaled for ReLU (He et al., ICCV 2015)."""
        super().__init__()
        stride = 1 if width_in == width else 2
        self.conv1 = _convolution(width_in, width, 3, stride)
        self.norm1 = norm(width)
        self.conv2 = _convolution(width, width, 3, 1)
        self.norm2 = norm(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(_convolution(width_in, width, 1, stride), norm(width))

    def forward(self, z: Tensor) -> Tensor:  # (B, width_in, H, W) -> (B, width, H / stride, ...)
        """Evaluate the block."""
        inner: Tensor = self.norm1(self.conv1(z)).relu()
        outer: Tensor = self.norm2(self.conv2(inner)) + self.shortcut(z)
        return outer.relu()


class ResidualNetwork(Network):
    """A residual network of basic blocks in three widths: 16, 32, 64 channels.

    With three blocks for each width it is ResNet-20 for CIFAR-10 (He et al., CVPR 2016, section
    4.2) with 1x1 shortcuts, 272,474 parameters. Digits have one block for each width, ResNet-8
    with group norms, 77,754 parameters.
    """

    def __init__(self, image_shape: ImageShape, blocks: int | None = None) -> None:
        """Build an untrained network; `blocks` of each width, None: 3 for CIFAR-10, else 1."""
        norm = norm_for(image_shape)
        count = blocks or (3 if image_shape == CIFAR10 else 1)
        stem = _convolution(image_shape[0], WIDTHS[0], 3, 1)
        encoder = nn.Sequential(stem, norm(WIDTHS[0]), nn.ReLU())
        widths = [WIDTHS[0], *(width for width in WIDTHS for _ in range(count))]
        pairs = zip(widths[:-1], widths[1:], strict=True)
        stages = nn.Sequential(*(BasicBlock(before, after, norm) for before, after in pairs))
        head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], NUM_CLASSES)
        )
        super().__init__(image_shape, encoder, head)
        self.stages = stages

    def body(self, x: Tensor) -> Tensor:  # (B, 16, H, W) -> (B, 64, H / 4, W / 4)
        """Return the features of the last block."""
        z: Tensor = self.stages(x)
        return z


def _convolution(width_in: int, width: int, size: int, stride: int) -> nn.Conv2d:
    layer = nn.Conv2d(width_in, width, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
