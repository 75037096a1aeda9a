"""A state whose elements are spread over the ranks of a process group, each with its own part.

Inner products are sums over the elements, so sums of the ranks' own: what a solve decides, it
decides from sums that all ranks have alike, bit for bit (an all-reduce hands every rank the same
result), so that all take the same steps, restarts and stops.

What is sent, in float64 numbers a sample: at an evaluation ||f(z)||^2, ||g||^2 and, with the
history, a Gram row and a right-hand side of m each, in one all-reduce; with residuals m + 3.

A deflated restart reads the window before it is overwritten and takes two. A small one: the norms,
and with them the triangle of dZ dZ^T, m (m + 1) / 2, from which every rank finds what to keep. Then
the step's: the Gram row and the right-hand side, 2 m, of columns that were folded by now. Products
of the kept columns follow from those of the columns. (With residuals m + 3 and the triangle of
m + 1, then m + 1.) A solve that ends where the restart was due has sent the small one alone.

restart="auto" does the same, but for samples that are fast: their norms and rows go apart, since
who is slow by now is folded. One that becomes slow needs a message more, its triangle. A probe
sends m^2 with the norms, and two lengths; on an affine map each step sends its own products once
more, 2 m. A mixing that changes adds two numbers. Once, at the end, the lengths for the error
estimate go together; once, before the solve, what `Part` says. Where squares under- or overflow in
float64, or a value is not finite, another number or two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from andersonn_core.arrays import Floats
from andersonn_core.layout import StateLayout
from andersonn_core.memory import available_bytes
from andersonn_core.specs import KnobError


@dataclass(frozen=True)
class Part:
    """What a rank says of itself before a solve."""

    problem: str | None  # why its start is none; the rest is empty then
    batch: int = 0
    elements: int = 0  # of a sample, on this rank
    dtype: str = ""
    knobs: str = ""
    free: int | None = None  # bytes of memory

    @classmethod
    def of(cls, layout: StateLayout, knobs: str) -> Part:
        """Of a start's layout."""
        free = available_bytes(layout.device)
        return cls(None, layout.batch, layout.elements, str(layout.dtype), knobs, free)


@dataclass(frozen=True)
class Shards:
    """The group, the whole number of elements of a sample, and where this rank's begin."""

    group: Any  # torch.distributed.ProcessGroup
    parts: tuple[Part, ...]  # of all ranks
    rank: int

    @classmethod
    def agree(cls, group: Any, z0: Any, batch_dims: int, knobs: str) -> tuple[StateLayout, Shards]:
        """This rank's layout, and what all ranks say of theirs.

        Raises KnobError, on every rank, where one's start is refused or they don't fit together.
        """
        try:
            layout = StateLayout.of(z0, batch_dims)
            part = Part.of(layout, knobs)
        except KnobError as error:
            part = Part(str(error))  # the others learn of it, too: `_check_parts` raises it
        parts: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(parts, part, group)
        rank = dist.get_rank(group)
        _check_parts(parts, rank)
        return layout, cls(group, tuple(parts), rank)

    @property
    def elements(self) -> int:
        """Of a sample of the whole state: n."""
        return sum(part.elements for part in self.parts)

    @property
    def first(self) -> int:
        """The place of this rank's first element in the whole state."""
        return sum(part.elements for part in self.parts[: self.rank])

    def total(self, sums: Floats) -> Floats:
        """The sums over all elements from each rank's own."""
        return self._reduced(sums, dist.ReduceOp.SUM)

    def largest(self, values: Floats) -> Floats:
        """The largest of all ranks' values."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: Floats, how: Any) -> Floats:
        """In float64, in the memory that the group's backend communicates from."""
        numbers: Tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(numbers, how, self.group)
        reduced: Floats = numbers.cpu().numpy()
        return reduced

    @property
    def _device(self) -> str:
        return "cuda" if dist.get_backend(self.group) == "nccl" else "cpu"


def elements(values: Tensor, shards: Shards | None) -> int:  # (B, n)
    """How many a sample has, or has in the whole state of which the values are a part."""
    return values.shape[1] if shards is None else shards.elements


def check_group(group: Any) -> None:
    """Raise KnobError for what is no group of this process."""
    if not (dist.is_available() and dist.is_initialized()):
        raise KnobError(
            "group was given, but torch.distributed is not initialized: call "
            "torch.distributed.init_process_group on every rank first, or solve without a group."
        )
    if not isinstance(group, dist.ProcessGroup):
        raise KnobError(
            f"group = {group!r} is no process group of this process: give "
            "torch.distributed.group.WORLD or what torch.distributed.new_group returned on a "
            "member."
        )


def _check_parts(parts: list[Part], rank: int) -> None:
    for other, part in enumerate(parts):
        if part.problem is not None:
            whose = "" if other == rank else f"rank {other} was refused: "
            raise KnobError(whose + part.problem)
    for name, what, advice in (
        ("batch", "batch sizes", "every rank holds a part of the elements of all samples"),
        ("dtype", "dtypes", "convert the starts to one, e.g. z0.float()"),
        ("knobs", "methods or knobs", "call solve with the same ones on every rank"),
    ):
        values = [getattr(part, name) for part in parts]
        if len(set(values)) > 1:
            listed = "" if name == "knobs" else f" ({', '.join(map(str, values))})"
            raise KnobError(f"the ranks' {what} differ{listed}: {advice}.")
