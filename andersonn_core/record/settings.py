"""What a recording is told: where, and whether only a taste of everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch

from andersonn_core.runcard import device_name

Row: TypeAlias = dict[str, Any]  # plain numbers and words

Sizes = TypeVar("Sizes")


@dataclass(frozen=True)
class Settings:
    """The device that is recorded beside the CPU."""

    device: torch.device
    quick: bool = False  # the smallest sizes and fewest repeats

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """The CPU and the device, once if they are the same."""
        cpu = torch.device("cpu")
        return (cpu,) if self.device == cpu else (cpu, self.device)

    def of(self, full: Sizes, quick: Sizes) -> Sizes:
        """One of two, as `quick` says."""
        return quick if self.quick else full


def place(device: torch.device) -> Row:
    """The head of a row: where it was measured."""
    return {"device": device_name(device), "gpu": device.type != "cpu"}
