"""Where a solve starts, and what it may be started with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from andersonn_core.deq.trees import tensors
from andersonn_core.layout import StateLayout
from andersonn_core.specs import KnobError


def zeros_like(x: Any) -> Tensor:
    """Zeros of the input's shape; in float32 where x has less than bfloat16's range."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not x.dim():
        raise KnobError(
            "DEQ needs a start: x is not one floating-point tensor with a batch, so that zeros "
            "like x are no state. Pass z0, or give the cell a method initial_state(x)."
        )
    return torch.zeros_like(x, dtype=torch.float32 if x.dtype == torch.float16 else x.dtype)


def check_start(z0: Any, own: Any) -> None:
    """KnobError unless z0 holds tensors, of the structure and shapes of the cell's own start."""
    layout = StateLayout.of(z0, 1)
    if layout.numpy:
        raise KnobError("z0 holds NumPy arrays: give tensors, e.g. torch.from_numpy(z0).")
    if own is None:
        return
    expected = StateLayout.of(own, 1)
    if _shapes(layout) != _shapes(expected):
        raise KnobError(
            f"z0 has shape {_shapes(layout)}, but the cell's state has shape {_shapes(expected)} "
            "for this input: pass z0 of that shape, or leave it out."
        )


def _shapes(layout: StateLayout) -> str:
    """Such as (4, 3), ((4, 3), (4, 2)), or a: (4, 3), b: (4, 2)."""
    if layout.keys is not None:
        return ", ".join(
            f"{key}: {shape}" for key, shape in sorted(zip(layout.keys, layout.shapes, strict=True))
        )
    return str(layout.shapes[0] if layout.single else layout.shapes)


def check_rows(x: Any, state: Tensor) -> None:
    """KnobError unless each tensor of x has one row per sample."""
    for part in tensors(x):
        if part.shape[:1] != state.shape[:1]:
            raise KnobError(
                f"compact = True needs one row per sample in each tensor of x, but one has shape "
                f"{tuple(part.shape)} in a batch of {len(state)}: hold shared tensors in the cell, "
                "or leave compact at False."
            )


def versions_of(x: Any) -> list[int]:
    """How often each tensor of x was changed in place; inference tensors do not count that."""
    return [part._version for part in tensors(x) if not part.is_inference()]


def check_versions(x: Any, before: list[int]) -> None:
    """ValueError if a tensor of x was changed in place since `before`."""
    if versions_of(x) != before:
        raise ValueError(
            "the cell changed its input x in place, so that each evaluation saw another one: "
            "return new tensors, e.g. start with x = x.clone()."
        )
