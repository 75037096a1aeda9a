"""Peak memory of a training step against the evaluations of its solves: `make bench-memory`.

One step is a forward and a backward pass of a convolutional equilibrium layer with a tolerance that
nobody meets, so that each solve takes exactly the evaluations that it may. Counted are the bytes of
all tensors that are alive at once, beyond those from before the step: every storage that an
operation makes counts until it is freed, in either pass. The tables and this machine's run card go
to benchmarks/results/memory.json.

A solver keeps its best iterate apart from where a residual first rises, at the rounding errors of
single precision at the latest: two states more, once. Beside a cell that is five times as wide
inside as its state they are less than five percent; the lean cell shows them.
"""

from __future__ import annotations

import json
import sys
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from andersonn_core import DEQ, GRADIENTS, Anderson
from andersonn_core.cells import ConvCell
from andersonn_core.deq import AdjointWarning
from andersonn_core.runcard import RunCard

RESULTS = Path(__file__).parent / "results" / "memory.json"
EVALS = (5, 10, 25, 50, 100)
PROMISED = 0.05  # how far peaks may be from being flat, or from a straight line
GROWING = "unrolled"
METHOD = Anderson(window=5, restart="never")  # whose pairs "shine" starts from
CHANNELS, WIDE, LEAN = 48, 256, 64


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations make and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and look at what it made."""
        before = {id(storage) for storage in map(_storage, tree_leaves((args, kwargs))) if storage}
        made = func(*args, **(kwargs or {}))
        for storage in map(_storage, tree_leaves(made)):
            if storage is not None and id(storage) not in before | self.seen:
                self._add(storage)
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), id(storage)
        self.seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.live -= size


def _storage(leaf: Any) -> torch.UntypedStorage | None:
    return leaf.untyped_storage() if isinstance(leaf, Tensor) else None


def peak_bytes(step: Callable[[], Any]) -> int:
    """The most bytes that are alive at once while `step` runs, beyond those from before."""
    with LiveBytes() as meter:
        step()
    return meter.peak


def training_step(gradient: str, evals: int, x: Tensor, cell: torch.nn.Module) -> None:
    """Forward and backward, `evals` evaluations in each solve."""
    layer = DEQ(cell, METHOD, gradient=gradient, rtol=0.0, max_iter=evals)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdjointWarning)  # nothing can meet a tolerance of zero
        layer(x).square().mean().backward()
    solves = [layer.last_forward, layer.last_adjoint]
    assert all(solve is None or solve.num_evals == evals for solve in solves)


def measure(gradient: str, evals: tuple[int, ...], x: Tensor, inner_channels: int) -> list[int]:
    """Peak bytes of a training step for each number of evaluations."""
    torch.manual_seed(0)
    cell = ConvCell(x.shape[1], inner_channels)
    training_step(gradient, evals[0], x, cell)  # gradients have their memory from here on
    return [peak_bytes(lambda k=k: training_step(gradient, k, x, cell)) for k in evals]


def distance_from_line(evals: tuple[int, ...], peaks: list[int]) -> tuple[float, float]:
    """Bytes per evaluation, and the largest distance from that line, of the largest peak."""
    slope, start = np.polyfit(evals, peaks, 1)
    off = np.abs(peaks - (slope * np.array(evals) + start))
    return float(slope), float(off.max() / max(peaks))


def spread(peaks: list[int]) -> float:
    """How much larger the largest peak is than the smallest one."""
    return max(peaks) / min(peaks) - 1


def verdict(gradient: str, inner_channels: int, peaks: list[int], state: int) -> tuple[str, bool]:
    """What the peaks say, and whether the promise is kept; a state has so many bytes."""
    if gradient == GROWING:
        slope, off = distance_from_line(EVALS, peaks)
        return f"{slope / state:.1f} states an evaluation, linear within {off:.1%}", off <= PROMISED
    more = (max(peaks) - min(peaks)) / state
    said = f"flat within {spread(peaks):.1%}, {more:.1f} states"
    return said, spread(peaks) <= PROMISED if inner_channels == WIDE else more <= 2.1


def report(gradient: str, inner_channels: int, x: Tensor) -> tuple[dict[str, Any], list[str], bool]:
    """A record, a table's row, and whether the promise is kept."""
    peaks = measure(gradient, EVALS, x, inner_channels)
    said, good = verdict(gradient, inner_channels, peaks, x.nbytes)
    record = {
        "gradient": gradient, "inner_channels": inner_channels,
        "peak_bytes": dict(zip(EVALS, peaks, strict=True)), "verdict": said, "kept": good,
    }  # fmt: skip
    shown = [f"{peak / 2**20:.2f}" for peak in peaks]
    return record, [gradient, *shown, said, "ok" if good else "MISSED"], good


def main() -> int:
    """Measure all gradients, print them and write them down; 1 if a promise is broken."""
    torch.set_num_threads(1)
    x = torch.randn(4, CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0))
    constant = [(gradient, WIDE) for gradient in GRADIENTS if gradient != GROWING]
    tables = {
        "Constant: a cell with 256 channels inside": constant,
        "Constant: a lean cell, 64 channels inside": [("implicit", LEAN)],
        "Not constant": [(GROWING, WIDE)],
    }
    console, records, kept = Console(width=max(Console().width, 110)), [], True
    for title, cases in tables.items():
        table = Table("gradient", *map(str, EVALS), "", "", title=f"{title} (peak MiB)")
        for gradient, inner_channels in cases:
            record, row, good = report(gradient, inner_channels, x)
            table.add_row(*row)
            records.append(record)
            kept &= good
        console.print(table)
    card = RunCard.capture({"benchmark": "memory"}, None, None, torch.device("cpu"))
    found = {"card": json.loads(card.to_json()), "state": list(x.shape), "rows": records}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
