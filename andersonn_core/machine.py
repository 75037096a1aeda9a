"""What this machine does at most, measured: streams, matrix products, calls of torch.

The peaks are those of torch's present number of threads (the lab's is one) on the CPU. A GPU's are
not measured here.
"""

from __future__ import annotations

import functools
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from andersonn_core.memory import available_bytes, cache_sizes, place
from andersonn_core.runcard import device_name
from andersonn_core.timing import Clock, HostClock, clock_for

SMALLEST, LARGEST = 2**15, 2**28  # working sets of the streams, bytes
MOVED = 2**23  # bytes that a call moves at least, so that the call itself does not count
SHIFT = 64  # bytes from one row to the next of a call that goes through a small set many times
SQUARE = {"float32": 512, "float64": 512, "bfloat16": 128}  # without its instructions it crawls
ROUNDS, CALLS = 5, 1000
WARM = 4  # sums before one is timed: an L3 filled from L2 took three to be at full speed
RESOLUTION = 1e-6  # seconds; a coarser CPU clock (Windows) sees nothing of a call: wall time then
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Rate:
    """A measured rate: the median of several rounds, the slowest and the fastest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, rates: list[float]) -> Self:
        """The spread of some rounds."""
        return cls(statistics.median(rates), min(rates), max(rates))


@dataclass(frozen=True)
class Machine:
    """The measured peaks of the CPU, and the sizes of its caches where the system tells them.

    A stream is a sum in place, a += b: w / 2 bytes each, 1.5 w read and written. A copy is slower
    by the bytes that it names, since the hardware fetches what it then overwrites.
    """

    device: str  # the model: "AMD EPYC 9654"
    torch_version: str
    threads: int  # torch's
    clock: str
    date: str  # ISO 8601, UTC
    caches: dict[str, int]  # bytes by level, "L1", "L2", "L3"; empty where the system is silent
    streams: dict[int, Rate]  # bytes per second by the working set w in bytes, rising
    products: dict[str, Rate]  # flop/s of a square matrix product by dtype
    calls: Rate  # calls per second of torch on one number

    def bandwidth(self, working_set: float) -> float:
        """Bytes per second of a stream: linear in the size's logarithm, level beyond the ends.

        Raises ValueError for a working set that is not positive.
        """
        if not working_set > 0:
            raise ValueError(f"working_set = {working_set} bytes: it must be above 0.")
        speeds = [rate.median for rate in self.streams.values()]
        return float(np.interp(math.log2(working_set), np.log2(list(self.streams)), speeds))

    def peak(self, dtype: torch.dtype) -> float:
        """Flop/s of a matrix product; raises ValueError for a type that was not measured."""
        name = str(dtype).removeprefix("torch.")
        if name not in self.products:
            known = ", ".join(self.products)
            raise ValueError(f"no peak was measured for {name}: there are {known}.")
        return self.products[name].median

    def place(self, working_set: float) -> str:
        """Where so many bytes lie: "L2 cache", "memory"."""
        return place(working_set, self.caches)

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The machine that `to_json` described; raises ValueError that says what is wrong."""
        try:
            record = json.loads(text)
            names = {item.name for item in fields(cls)}
            if set(record) != names:
                raise ValueError(f"it must have exactly {', '.join(sorted(names))}")
            streams = {int(size): Rate(**rate) for size, rate in record["streams"].items()}
            record["streams"] = dict(sorted(streams.items()))
            record["caches"] = dict(sorted(record["caches"].items()))
            record["products"] = {name: Rate(**rate) for name, rate in record["products"].items()}
            record["calls"] = Rate(**record["calls"])
        except (TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"this is no record of a machine: {error}.") from None
        return cls(**record)


def measure_machine() -> Machine:
    """The peaks of this machine with torch's present threads: once a process, below a second."""
    return _measured(torch.get_num_threads())


@functools.cache
def _measured(threads: int) -> Machine:
    coarse = time.get_clock_info("thread_time").resolution > RESOLUTION
    clock = HostClock(wall=True) if coarse else clock_for(_CPU)
    return Machine(
        device=device_name(_CPU),
        torch_version=torch.__version__,
        threads=threads,
        clock=clock.name,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        caches=cache_sizes(),
        streams=_streams(clock),
        products={name: _product(clock, name) for name in SQUARE},
        calls=_calls(clock),
    )


def _streams(clock: Clock) -> dict[int, Rate]:
    """The ladder, all rungs in turn in every round: a slow spell of the machine hits them alike."""
    free = available_bytes(_CPU)
    largest = LARGEST if free is None else min(LARGEST, max(free // 4, SMALLEST))
    memory = torch.empty(largest // 4 + 2**14).zero_()  # torch.zeros has no pages before a write
    ladder = [2**k for k in range(SMALLEST.bit_length() - 1, largest.bit_length())]
    pairs = {size: _pair(memory, size) for size in ladder}
    found: dict[int, list[float]] = {size: [] for size in ladder}
    for _ in range(ROUNDS):
        for size, (source, target) in pairs.items():
            for _ in range(min(max(LARGEST // size, 1), WARM)):
                target.add_(source)
            seconds = _seconds(clock, lambda t=target, s=source: t.add_(s))  # type: ignore[misc]
            found[size].append(3 * source.numel() * source.itemsize / seconds)
    return {size: Rate.of(rates) for size, rates in found.items()}


def _pair(memory: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Source and target that share `size` bytes; small ones are gone through again and again.

    The rows overlap but for a shift, since torch writes no memory twice that has stride 0.
    """
    rows = max(MOVED // size, 1).bit_length() - 1  # log2
    shape = (2 ** (rows // 2), 2 ** (rows - rows // 2), size // 8)
    shift = SHIFT // 4
    strides = (shift, shift, 1)
    start = size // 8 + shift * (shape[0] + shape[1] - 2)
    return memory.as_strided(shape, strides), memory.as_strided(shape, strides, start)


def _product(clock: Clock, name: str) -> Rate:
    n, dtype = SQUARE[name], getattr(torch, name)
    a, b, out = torch.ones(3, n, n, dtype=dtype).unbind()
    torch.mm(a, b, out=out)
    return Rate.of(
        [2 * n**3 / _seconds(clock, lambda: torch.mm(a, b, out=out)) for _ in range(ROUNDS)]
    )


def _calls(clock: Clock) -> Rate:
    a, b, out = torch.ones(3, 1).unbind()

    def many() -> None:
        for _ in range(CALLS):
            torch.add(a, b, out=out)

    many()
    return Rate.of([CALLS / _seconds(clock, many) for _ in range(ROUNDS)])


def _seconds(clock: Clock, work: Callable[[], Any]) -> float:
    start = clock.mark()
    work()
    return clock.seconds(start, clock.mark())
