"""Whether fused kernels work on a device at all: a few steps of theirs beside torch's."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from andersonn_core.device.buffers import DeviceState, Rules
from andersonn_core.device.interface import Kernels, make_room
from andersonn_core.device.torch_kernels import TorchKernels

STEPS, CLOSE = 5, 1e-3
RULES = Rules(window=3, ridge=1e-6, precision=1e-7, rtol=0.0, max_iter=100)


@cache
def failure(kernels: Kernels, device: torch.device, folds: bool = False) -> str:
    """Why these kernels are of no use there; empty if their steps are torch's to rounding.

    `folds`: steps with a deflated restart among them.

    A driver, a compiler or a GPU that they were never tried on must not spoil a solve.
    """
    rules = replace(RULES, kept=1) if folds else RULES
    try:
        found, expected = (_steps(each, device, rules) for each in (kernels, TorchKernels()))
    except Exception as error:
        return f"they failed on {device}: {type(error).__name__}: {error}".splitlines()[0]
    off = float((found - expected).norm() / expected.norm())
    return "" if off <= CLOSE else f"their steps on {device} are off by {off:.1g} of the state"


def _steps(kernels: Kernels, device: torch.device, rules: Rules) -> Tensor:  # (2, 65)
    """The iterate after some steps on an affine contraction."""
    numbers = torch.linspace(-1, 1, 130, device=device).reshape(2, 65)
    z, last_z = numbers.sin(), torch.zeros_like(numbers)
    state = DeviceState.of(z, rules, kernels.parts(z, rules.window), STEPS)
    for evaluation in range(STEPS):
        plain = evaluation == 0
        f_z = 0.9 * numbers.abs() * z + numbers.cos()
        if not plain:
            make_room(kernels, state)
        kernels.advance(state, z, last_z, f_z, plain)
        kernels.solve(state, plain)
        kernels.mix(state, z, last_z, f_z, last_z)
        z, last_z = last_z, z
    return z
