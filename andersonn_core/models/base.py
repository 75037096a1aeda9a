"""What all networks share: images in, logits out, in three pieces; and the shapes they are for."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from andersonn_core.specs import KnobError

ImageShape = tuple[int, int, int]  # channels, height, width
DIGITS: ImageShape = (1, 8, 8)
CIFAR10: ImageShape = (3, 32, 32)

NUM_CLASSES = 10
POOLED = 4  # pixels on a side that the equilibrium's average pooling leaves
GROUPS = 8


class Network(nn.Module):
    """A classifier in three pieces, so that what happens between its ends can be exchanged.

    x = encode(images);  z = body(x);  logits = readout(z)

    `memory_format` is that of the weights, the faster one on a CPU thread; a convolution's values
    follow its weights.
    """

    memory_format: ClassVar[torch.memory_format] = torch.channels_last

    def __init__(self, image_shape: ImageShape, encoder: nn.Module, head: nn.Module) -> None:
        """Keep both ends; a subclass has the body."""
        super().__init__()
        self.image_shape = image_shape
        self.encoder = encoder
        self.head = head

    def encode(self, images: Tensor) -> Tensor:  # (B, channels, H, W) -> (B, C, H, W)
        """Return the input x of the body. Raises ValueError for images of another shape."""
        if images.shape[1:] != self.image_shape:
            expected = ", ".join(map(str, self.image_shape))
            raise ValueError(f"images must be (B, {expected}), got {tuple(images.shape)}")
        x: Tensor = self.encoder(images)
        return x

    def body(self, x: Tensor) -> Tensor:
        """Return the features z of x."""
        raise NotImplementedError

    def readout(self, z: Tensor) -> Tensor:  # -> (B, 10)
        """Return the logits (B, 10) of features."""
        logits: Tensor = self.head(z)
        return logits

    def forward(self, images: Tensor) -> Tensor:  # (B, channels, H, W) -> (B, 10)
        """Return the logits (B, 10) of images."""
        return self.readout(self.body(self.encode(images)))


def norm_for(image_shape: ImageShape, groups: int = GROUPS) -> Callable[[int], nn.Module]:
    """Return the norm outside a cell: group norms for digits, batch norms for CIFAR-10.

    The digits networks never let a sample see another; those for CIFAR-10 are as published.
    Raises KnobError for images that no network here is made for.
    """
    if image_shape == DIGITS:
        return lambda channels: nn.GroupNorm(groups, channels)
    if image_shape == CIFAR10:
        return nn.BatchNorm2d
    sizes = " x ".join(map(str, image_shape))
    raise KnobError(
        f"image_shape: no network is made for images of {sizes} (channels x height x width); "
        "there are those for 1 x 8 x 8 (digits) and 3 x 32 x 32 (CIFAR-10)."
    )


def encoder_for(image_shape: ImageShape, channels: int, groups: int = GROUPS) -> nn.Module:
    """Return a 3x3 convolution with bias and a norm: (B, c, H, W) -> (B, channels, H, W)."""
    convolution = nn.Conv2d(image_shape[0], channels, 3, padding=1)
    return nn.Sequential(convolution, norm_for(image_shape, groups)(channels))


def head_for(image_shape: ImageShape, channels: int, groups: int = GROUPS) -> nn.Module:
    """Return norm, average pooling to 4x4, linear: (B, channels, H, W) -> (B, 10)."""
    return nn.Sequential(
        norm_for(image_shape, groups)(channels),
        nn.AvgPool2d(image_shape[1] // POOLED),
        nn.Flatten(),
        nn.Linear(channels * POOLED**2, NUM_CLASSES),
    )
