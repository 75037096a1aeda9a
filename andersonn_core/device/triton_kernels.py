"""The kernels in Triton: one pass over the history, one launch for all small work, one mix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from andersonn_core.device import triton_loops
from andersonn_core.device.buffers import DeviceState

TILE = 8192  # elements that a program has of all its columns: 64 registers in 128 threads
BLOCKS = 256, 2048  # the fewest and the most of a column
PROGRAMS = 8192  # some 60 for each multiprocessor of an H200: beyond that they get more blocks
CHUNK = 64  # partial sums that are read at once


@dataclass(frozen=True)
class TritonKernels:
    """Three launches a step; a program takes `block` elements at a time, by default by window."""

    block: int | None = None  # a power of two
    programs: int = PROGRAMS

    def parts(self, batch: int, n: int, window: int) -> int:
        """One for each program that a sample has."""
        blocks = max(triton.cdiv(n, self._block(window)), 1)
        return triton.cdiv(blocks, self._tiles(batch, blocks))  # type: ignore[no-any-return]

    def advance(
        self, state: DeviceState, z: Tensor, last_z: Tensor, f_z: Tensor, slot: int | None
    ) -> None:  # (B, n) each
        """One launch; see `Kernels`."""
        grid, sizes, columns = self._plan(state)
        triton_loops.advance[grid](
            *_rows(z, last_z, f_z, state.g, state.du, state.dg),
            state.scale, state.status, state.products, state.squares, state.knobs,
            *sizes, slot or 0, FIRST=slot is None, **columns,
        )  # fmt: skip

    def solve(self, state: DeviceState, slot: int | None) -> None:
        """One launch, a program for each sample; see `Kernels`."""
        rules, (rows, batch) = state.rules, state.records.event.shape
        triton_loops.solve[(batch,)](
            state.products, state.squares, state.matrix, state.scale, state.gamma, state.count,
            state.status, state.evals, state.limit, state.best_score, _bytes(state.newest),
            _bytes(state.evicted), state.stretch, state.records.numbers, state.records.event,
            state.knobs, batch, slot or 0, state.squares.shape[1], rules.patience, rules.max_iter,
            rows,
            FIRST=slot is None,
            SLIDING=rules.sliding,
            TINY=torch.finfo(state.g.dtype).tiny,
            m=rules.window,
            M=triton.next_power_of_2(rules.window),
            CHUNK=CHUNK,
            num_warps=1 if rules.window <= 8 else 4,
        )  # fmt: skip

    def mix(
        self, state: DeviceState, z: Tensor, last_z: Tensor, f_z: Tensor, out: Tensor
    ) -> None:  # (B, n) each
        """One launch; see `Kernels`."""
        grid, sizes, columns = self._plan(state)
        triton_loops.mix[grid](
            *_rows(z, last_z, f_z, state.g, state.du),
            state.gamma, state.status, _bytes(state.evicted), state.best, *_rows(out),
            state.knobs, *sizes, UNDAMPED=state.rules.mixing == 1.0, **columns,
        )  # fmt: skip

    def _block(self, window: int) -> int:
        least, most = BLOCKS
        fitting = TILE // triton.next_power_of_2(window)
        return self.block or min(max(fitting, least), most)

    def _tiles(self, batch: int, blocks: int) -> int:
        """How many blocks a program takes."""
        return -(-blocks // max(self.programs // max(batch, 1), 1))

    def _plan(
        self, state: DeviceState
    ) -> tuple[tuple[int], tuple[int, int, int, int], dict[str, int]]:
        """The grid; n, B, the parts of a sample and the blocks of a part; the columns' sizes."""
        (batch, n), m = state.g.shape, state.rules.window
        block, parts = self._block(m), state.squares.shape[1]
        tiles = self._tiles(batch, max(triton.cdiv(n, block), 1))
        columns = {"m": m, "M": triton.next_power_of_2(m), "BLOCK": block}
        return (batch * parts,), (n, batch, parts, tiles), columns


def _rows(*tensors: Tensor) -> tuple[Tensor, ...]:  # (..., n) each
    """Memory without gaps, as the kernels count it; a copy would lose what they write."""
    for tensor in tensors:
        if not tensor.is_contiguous():
            raise ValueError(
                f"a state of strides {tensor.stride()} has gaps: give contiguous rows (B, n)."
            )
    return tensors


def _bytes(flags: Tensor) -> Tensor:  # (B,) bool -> (B,) int8
    return flags.view(torch.int8)
