"""Rotations: forward iteration circles for ever, Anderson stops at the center."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from andersonn_core.problems.base import Problem, ProblemSpec
from andersonn_core.problems.common import normal, refuse_oversize
from andersonn_core.specs import knob


@dataclass(frozen=True, eq=False)
class RotationMap:
    """f(z) = s R z + c, where R turns each plane (z_2i, z_2i+1) by its own angle."""

    cosine: Tensor  # (P,), times s
    sine: Tensor  # (P,), times s
    offset: Tensor  # (B, 2P)

    def __call__(self, z: Tensor) -> Tensor:  # (B, 2P) -> (B, 2P)
        """Evaluate f."""
        x, y = z[:, 0::2], z[:, 1::2]
        turned = (self.cosine * x - self.sine * y, self.sine * x + self.cosine * y)
        return torch.stack(turned, dim=2).flatten(1).add_(self.offset)

    def select(self, indices: Tensor) -> RotationMap:  # (A,)
        """The map of some samples."""
        return replace(self, offset=self.offset[indices])

    def to(self, device: torch.device) -> RotationMap:
        """The same map on another device."""
        return RotationMap(self.cosine.to(device), self.sine.to(device), self.offset.to(device))

    def fixed_point(self) -> Tensor:  # (B, 2P) float64
        """(I - s R)^-1 c, plane by plane."""
        gap, sine = 1 - self.cosine.double(), self.sine.double()
        x, y = self.offset[:, 0::2].double(), self.offset[:, 1::2].double()
        center = torch.stack((gap * x - sine * y, sine * x + gap * y), dim=2)
        return (center / (gap**2 + sine**2)[:, None]).flatten(1)


class Rotation(ProblemSpec):
    """Planes that turn about a center, each by its own angle.

    f(z) = s R(angles) z + c,  angle_i = angle + i (180 - angle) / size degrees
    """

    name: ClassVar[str] = "rotation"
    label: ClassVar[str] = "Rotation"
    summary: ClassVar[str] = (
        "Every step turns the point about a center and changes nothing else: forward iteration "
        "circles for ever, while Anderson finds the center from a few points of the circle."
    )

    size: int = knob(
        2, "Planes that turn; each adds two numbers to the state.",
        minimum=1, maximum=2**20, typical=(1, 20), symbol="P",
    )  # fmt: skip
    angle: float = knob(
        60.0, "Turn of the first plane per step; the others turn faster, up to a half turn.",
        minimum=1.0, maximum=180.0, typical=(10.0, 170.0), symbol="theta", unit="degrees",
    )  # fmt: skip
    scale: float = knob(
        1.0, "Factor by which each step shrinks (below 1) or stretches (above 1) the circle.",
        minimum=0.0, maximum=3.0, typical=(0.8, 1.2), symbol="s",
    )  # fmt: skip

    @property
    def num_elements(self) -> int:
        """The length n = 2 size."""
        return 2 * self.size

    def build(self) -> Problem:
        """The map from z0 = 0, with its exact center."""
        refuse_oversize(self)
        steps = torch.arange(self.size, dtype=torch.float64) / self.size
        angles = torch.deg2rad(self.angle + steps * (180.0 - self.angle))  # (P,)
        upper = torch.polar(torch.full_like(angles, self.scale), angles)
        offset = normal(self.seed, self.batch_size, self.num_elements) / math.sqrt(2)
        rounded = (t.to(self.torch_dtype) for t in (upper.real, upper.imag, offset))
        here = RotationMap(*rounded)
        z_star = here.fixed_point().to(self.torch_device, self.torch_dtype)
        f = here.to(self.torch_device)
        return Problem(
            name=self.name, f=f, z0=torch.zeros_like(f.offset), z_star=z_star,
            contraction=self.scale, spectrum=torch.cat((upper, upper.conj())),
        )  # fmt: skip
