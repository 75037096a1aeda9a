"""Honest clocks: thread CPU time on one CPU thread, wall time on several, events on a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """As many threads for torch as were asked for, in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Clock(Protocol):
    """Marks moments cheaply and turns pairs of marks into seconds afterwards."""

    name: str

    def mark(self) -> Any:
        """A token for this moment."""
        ...

    def seconds(self, start: Any, end: Any) -> float:
        """Seconds between two marks; may wait for the device."""
        ...


class HostClock:
    """A clock of the host: this thread's CPU time, or wall time."""

    def __init__(self, wall: bool) -> None:
        self.name = "wall time" if wall else "thread CPU time"
        self.mark = time.perf_counter if wall else time.thread_time

    def seconds(self, start: float, end: float) -> float:
        """Seconds between two marks."""
        return end - start


class CudaClock:
    """CUDA events on the current stream: no synchronization until the seconds are asked for."""

    name = "CUDA events"

    def mark(self) -> torch.cuda.Event:
        """Record an event."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Seconds between two events; waits for the later one."""
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


def clock_for(device: torch.device) -> Clock:
    """The clock to quote for work on `device`.

    Thread CPU time leaves out what other programs on a shared machine do, but it sees only the
    calling thread: with several torch threads wall time is the only honest figure.
    """
    if device.type == "cuda":
        return CudaClock()
    return HostClock(wall=device.type != "cpu" or torch.get_num_threads() > 1)


class PartTimer:
    """Splits the time of a method step into named parts; does nothing unless profiling."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock
        self._marks: list[tuple[str, Any]] = []

    def lap(self, part: str) -> None:
        """Say that what runs from now on belongs to `part`."""
        if self._clock is not None:
            self._marks.append((part, self._clock.mark()))

    def take(self) -> Sequence[tuple[str, Any]]:
        """The marks since the last call."""
        marks, self._marks = self._marks, []
        return marks
