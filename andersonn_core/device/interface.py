"""The kernels of a step that never waits for the device, and who does them where."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from andersonn_core.device.buffers import DeviceState
from andersonn_core.device.torch_kernels import TorchKernels

LARGEST_WINDOW = 32  # of the fused kernels, which keep an m x m matrix in registers


class Kernels(Protocol):
    """A step is `advance`, `solve`, `mix`, in this order, at every evaluation.

    Where restarts keep directions (`Rules.kept`), `make_room` comes before the second and all later
    steps: `iterate_products`, `directions`, `fold`, for samples whose window was used in full.

    The host reads no value of the device in any of them, and tells them none that changes but
    whether the step is `plain`, without differences: the first one, and all of forward iteration.
    So a step can be captured. The newest difference lies in slot (evaluation - 2) modulo m.
    """

    def parts(self, z: Tensor, window: int) -> int:  # (B, n)
        """In how many partial sums `advance` leaves each inner product of such a state."""
        ...

    def advance(
        self, state: DeviceState, z: Tensor, last_z: Tensor, f_z: Tensor, plain: bool
    ) -> None:  # (B, n) each
        """G = f(z) - z and the newest differences, with their inner products, in one pass.

        Of samples that run; others keep theirs, and have zeros for sums.
        """
        ...

    def solve(self, state: DeviceState, plain: bool) -> None:
        """Judge, store the Gram matrix's row, solve for gamma; one row of the records."""
        ...

    def mix(
        self, state: DeviceState, z: Tensor, last_z: Tensor, f_z: Tensor, out: Tensor
    ) -> None:  # (B, n) each
        """Out = z + mixing g - dU^T gamma for samples that go on, z for others.

        Where the best iterate was `last_z` and the newest is worse, `last_z` is saved first: `out`
        may be its memory.
        """
        ...

    def iterate_products(self, state: DeviceState) -> None:
        """The sums dZ dZ^T of windows that were used in full, in one pass."""
        ...

    def directions(self, state: DeviceState) -> None:
        """The weights of their k slowest combinations, and the Gram matrix of these.

        They take the k newest slots. Where there are none (see `slow_directions`) nothing is kept.
        """
        ...

    def fold(self, state: DeviceState) -> None:
        """Replace columns by the combinations, in one pass."""
        ...


def make_room(kernels: Kernels, state: DeviceState) -> None:
    """A deflated restart of the samples that are due for one, before a step with differences."""
    if state.folding is not None:
        kernels.iterate_products(state)
        kernels.directions(state)
        kernels.fold(state)


@dataclass(frozen=True)
class Choice:
    """Which kernels a device gets, and why; None where it can have none."""

    kernels: Kernels | None
    reason: str


def kernels_for(device: torch.device, dtype: torch.dtype, window: int, kept: int = 0) -> Choice:
    """The fastest kernels for states of this type and a window of so many differences.

    `kept`: how many directions of it a restart keeps.
    """
    choice = _choice(device, dtype, window, kept)
    if kept and device.type == "cuda" and isinstance(choice.kernels, TorchKernels):
        return Choice(None, f"in torch's operations a deflated restart waits; {choice.reason}")
    return choice


def _choice(device: torch.device, dtype: torch.dtype, window: int, kept: int) -> Choice:
    if device.type == "mps" or dtype not in (torch.float32, torch.float64):
        lacking = "has no float64" if device.type == "mps" else f"cannot take {dtype} states"
        return Choice(None, f"{device.type} {lacking}: the small systems are solved on the host")
    if device.type != "cuda":
        return Choice(TorchKernels(), f"torch's operations: {device.type} has no fused kernels")
    if window > LARGEST_WINDOW:
        why = f"the fused kernels end at window = {LARGEST_WINDOW}, and this is {window}"
        return Choice(TorchKernels(), f"torch's operations: {why}")
    if find_spec("triton") is None:
        why = "triton is not installed: `pip install triton` brings the fused kernels"
        return Choice(TorchKernels(), f"torch's operations: {why}")
    # Imported here: it is optional, and takes a second.
    from andersonn_core.device.check import failure
    from andersonn_core.device.triton_kernels import TritonKernels

    if why := failure(TritonKernels(), device, kept > 0):
        return Choice(TorchKernels(), f"torch's operations instead of the fused kernels: {why}")
    return Choice(TritonKernels(), "fused kernels by Triton")
