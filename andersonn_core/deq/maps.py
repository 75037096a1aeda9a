"""The map z -> cell(z, x) for a solver, and on rows with a tape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from andersonn_core.deq.parametrized import held_weights
from andersonn_core.deq.trees import change, tensors
from andersonn_core.layout import StateLayout


@dataclass(frozen=True, eq=False)
class CellMap:
    """f(z) = cell(z, x) in the type of z, which autocast may have left."""

    cell: Callable[[Any, Any], Any]
    x: Any

    def __call__(self, z: Any) -> Any:
        """Evaluate f."""
        value = self.cell(z, self.x)
        dtype = next(tensors(z)).dtype
        return change(value, lambda part: _narrowed(part, dtype))

    def select(self, indices: Tensor) -> CellMap:  # (A,)
        """The map of some samples."""
        return CellMap(self.cell, change(self.x, lambda part: part[indices]))


@dataclass(frozen=True, eq=False)
class CutMap:
    """f on rows, with given tensors in place of those of x that require grad.

    The backward pass may evaluate it, too: under the forward pass's autocast, with weights held.
    """

    f: CellMap
    layout: StateLayout
    autocast: torch.dtype | None  # of the cell's operations; None: not on

    @classmethod
    def now(cls, f: CellMap, layout: StateLayout) -> CutMap:
        """The map under the autocast that is on."""
        device = layout.device.type
        on = torch.is_autocast_enabled(device)
        return cls(f, layout, torch.get_autocast_dtype(device) if on else None)

    @property
    def half(self) -> bool:
        """Whether anything here is in half precision."""
        return self.autocast is not None or self.layout.dtype == torch.bfloat16

    def __call__(self, z: Tensor, leaves: Sequence[Tensor]) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate f; gradients flow through."""
        left, layout, device = iter(leaves), self.layout, self.layout.device.type
        x = change(self.f.x, lambda part: next(left) if part.requires_grad else part)
        on = self.autocast is not None
        with held(self.f.cell), torch.autocast(device, self.autocast, enabled=on):
            value = CellMap(self.f.cell, x)(layout.unpack(z))
        return layout.join(*tensors(layout.ordered(value)))

    def select(self, indices: Tensor) -> CutMap:  # (A,)
        """The map of some samples."""
        return replace(self, f=self.f.select(indices))


def held(cell: Any) -> AbstractContextManager[None]:
    """The cell's parametrized weights made once, here, for the block."""
    return held_weights(cell) if isinstance(cell, nn.Module) else nullcontext()


def _narrowed(part: Tensor, dtype: torch.dtype) -> Tensor:
    return part.to(dtype) if part.is_floating_point() and part.dtype != dtype else part
