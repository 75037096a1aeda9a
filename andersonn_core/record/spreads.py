"""Repeated measurements in three numbers, and a stopwatch that waits for the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from andersonn_core.record.settings import Row


def spread(name: str, values: Sequence[float]) -> Row:
    """The median of a quantity under its name, its quartiles as name_low and name_high."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {name: float(middle), f"{name}_low": float(low), f"{name}_high": float(high)}


def wall_seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Wall-clock seconds of some work, from an idle device to an idle device."""
    settle(device)
    start = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - start


def settle(device: torch.device) -> None:
    """Wait until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
