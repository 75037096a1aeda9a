"""An Anderson step that stays on the device: three kernels, and buffers the host never reads."""

from andersonn_core.device.buffers import NUMBERS, DeviceState, Records, Rules
from andersonn_core.device.interface import LARGEST_WINDOW, Choice, Kernels, kernels_for
from andersonn_core.device.torch_kernels import TorchKernels

__all__ = [
    "LARGEST_WINDOW",
    "NUMBERS",
    "Choice",
    "DeviceState",
    "Kernels",
    "Records",
    "Rules",
    "TorchKernels",
    "kernels_for",
]
