"""What kind of failure an exception was: too little memory, or a device that failed."""

from __future__ import annotations

import torch

ALLOCATION = ("can't allocate memory", "not enough memory", "out of memory")  # torch's words
# With these a GPU's libraries begin what they tell by a plain RuntimeError.
DEVICE = ("CUDA error", "CUDA driver error", "cuDNN error", "cuBLAS error", "HIP error",
          "Triton Error [CUDA]", "NCCL error")  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a failure was one of memory: torch raises a plain RuntimeError on CPUs."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATION)


def is_device_failure(error: BaseException) -> bool:
    """Whether a GPU failed in the middle of its work.

    Most of these errors last: until the process ends the device refuses everything, also to hand
    out what it computed before. The CPU is not affected.
    """
    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in DEVICE)


def first_line(error: BaseException) -> str:
    """The line of a message that says what happened; CUDA adds some that don't."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
