"""The kernels in Triton: one pass over the history, one launch for all small work, one mix.

A deflated restart takes three more: a pass, all small work, a pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from andersonn_core.device import triton_folding, triton_loops
from andersonn_core.device.buffers import DeviceState, Folding

TILE = 16384  # bytes that a program has of all its columns: 32 registers in 128 threads
BLOCKS = 128, 2048  # the fewest and the most elements of a column
WAVE = 528  # programs that run at once: four on each of an H200's 132 multiprocessors
FEW = 8  # samples up to which one wave does it all; more of them take as many waves: a short tail
SUMS = 4096  # partial sums that are read at once


@dataclass(frozen=True)
class TritonKernels:
    """Three launches a step, or six; `block` elements of a column at a time, or by the window."""

    block: int | None = None  # a power of two

    def parts(self, z: Tensor, window: int) -> int:  # (B, n)
        """One for each program that a sample has."""
        blocks = self._blocks(z, window)
        return -(-blocks // self._tiles(len(z), blocks))

    def advance(
        self, state: DeviceState, z: Tensor, last_z: Tensor, f_z: Tensor, plain: bool
    ) -> None:  # (B, n) each
        """One launch; see `Kernels`."""
        grid, sizes, columns = self._plan(state)
        triton_loops.advance[grid](
            *_rows(z, last_z, f_z, state.g, state.du, state.dg),
            state.scale, state.status, state.evals, state.products, state.squares, state.knobs,
            *sizes, PLAIN=plain, MOST=torch.finfo(state.dg.dtype).max, **columns,
        )  # fmt: skip

    def solve(self, state: DeviceState, plain: bool) -> None:
        """One launch, a program for each sample; see `Kernels`."""
        rules, (rows, batch) = state.rules, state.records.event.shape
        m, parts, folding = rules.window, state.squares.shape[1], state.folding
        padded = _padded(m)
        kept = (None, None) if folding is None else (folding.event, folding.last_norm)
        triton_loops.solve[(batch,)](
            state.products, state.squares, state.matrix, state.scale, state.gamma, state.count,
            state.status, state.evals, state.limit, state.best_score, _bytes(state.newest),
            _bytes(state.evicted), state.stretch, state.records.numbers, state.records.event,
            state.knobs, *kept, batch, parts, rules.max_iter, rows,
            PLAIN=plain, EMPTIES=rules.empties, TINY=torch.finfo(state.g.dtype).tiny,
            kept=rules.kept, m=m, M=padded, CHUNK=_chunk(parts, padded),
            num_warps=1 if parts * padded <= 256 and m <= 8 else 4,  # one need not wait for others
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

    def iterate_products(self, state: DeviceState) -> None:
        """One launch; see `Kernels`."""
        grid, sizes, columns = self._plan(state)
        triton_folding.iterate_products[grid](
            state.du, state.dg, state.scale, state.status, state.count, _folding(state).sums,
            state.knobs, *sizes, **columns,
        )  # fmt: skip

    def directions(self, state: DeviceState) -> None:
        """One launch, a program for each sample; see `Kernels`."""
        rules, folding = state.rules, _folding(state)
        (batch, parts), m = folding.sums.shape[:2], rules.window
        triton_folding.directions[(batch,)](
            folding.sums, folding.weights, folding.event, state.matrix, state.scale, state.count,
            state.status, state.evals, state.knobs, parts,
            kept=rules.kept, m=m, M=_padded(m), CHUNK=_chunk(parts, _padded(m) ** 2),
            num_warps=1 if m <= 8 else 4,
        )  # fmt: skip

    def fold(self, state: DeviceState) -> None:
        """One launch; see `Kernels`."""
        rules, folding = state.rules, _folding(state)
        grid, sizes, columns = self._plan(state)
        triton_folding.fold[grid](
            state.du, state.dg, folding.weights, folding.event, state.evals, *sizes,
            kept=rules.kept, K=_padded(rules.kept), **columns,
        )  # fmt: skip

    def _block(self, z: Tensor, window: int) -> int:
        least, most = BLOCKS
        return self.block or min(max(TILE // (z.itemsize * _padded(window)), least), most)

    def _blocks(self, z: Tensor, window: int) -> int:
        return max(-(-z.shape[1] // self._block(z, window)), 1)

    def _tiles(self, batch: int, blocks: int) -> int:
        """How many blocks a program takes."""
        batch = max(batch, 1)
        programs = max(WAVE // batch, 1) if batch <= FEW else -(-FEW * WAVE // batch)
        return -(-blocks // programs)

    def _plan(
        self, state: DeviceState
    ) -> tuple[tuple[int], tuple[int, int, int, int], dict[str, int]]:
        """The grid; n, B, the parts of a sample and the blocks of a part; the columns' sizes."""
        (batch, n), m = state.g.shape, state.rules.window
        parts, tiles = state.squares.shape[1], self._tiles(batch, self._blocks(state.g, m))
        columns = {"m": m, "M": _padded(m), "BLOCK": self._block(state.g, m)}
        return (batch * parts,), (n, batch, parts, tiles), columns


def _folding(state: DeviceState) -> Folding:
    assert state.folding is not None, "rules.kept is 0"
    return state.folding


def _chunk(parts: int, size: int) -> int:
    """How many parts of `size` sums are read at once."""
    return min(_padded(parts), max(SUMS // size, 1))


def _padded(count: int) -> int:
    """The next power of two."""
    return 1 << max(count - 1, 0).bit_length()


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
