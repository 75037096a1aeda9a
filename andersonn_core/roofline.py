"""How close the map and the mixing come to what the machine allows (the roofline model).

    attainable flop/s = min(peak, intensity * bandwidth),   intensity = flops / bytes

Williams, Waterman and Patterson, Commun. ACM 52 (2009). In a solve the map and the step take turns
in the same caches: the bandwidth is that of a stream through as much memory as both touch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from andersonn_core.kernels.rows import is_compiled
from andersonn_core.layout import StateLayout
from andersonn_core.machine import Machine, measure_machine
from andersonn_core.methods import METHODS, Anderson, MethodSpec, Picard
from andersonn_core.methods.anderson import AUTO
from andersonn_core.results import History, SolveResult
from andersonn_core.solve import solve
from andersonn_core.words import percent_text, rate_text
from andersonn_core.work import Work, count_work

Limit = Literal["memory", "arithmetic", "calls"]
SHORT, STEPS = 32, 60  # elements and evaluations of the solve that shows what calls cost


@dataclass(frozen=True)
class Roof:
    """What measured seconds of some work are of what the machine allows.

    Where the work is not known in full, or the seconds are 0, what follows is NaN.
    """

    what: str  # "map", "mixing"
    work: Work
    seconds: float  # measured
    working_set: int  # bytes that a cache would have to hold
    place: str  # where they lie: "L3 cache", "memory"
    bandwidth: float  # bytes per second of a stream through so much
    peak: float  # flop/s of a matrix product
    calls_seconds: float  # what its calls would take without any memory or arithmetic

    @property
    def attained(self) -> float:
        """Flop/s."""
        return math.nan if self.work.flops is None else self.work.flops / self._time

    @property
    def attainable(self) -> float:
        """Flop/s: min(peak, intensity * bandwidth)."""
        if math.isnan(self.work.intensity):
            return math.nan
        return min(self.peak, self.work.intensity * self.bandwidth)

    @property
    def fraction(self) -> float:
        """The part of the roof that is reached: attained / attainable, also where both are 0."""
        memory, arithmetic, _ = self.parts.values()
        return max(memory, arithmetic) if math.isfinite(arithmetic) else math.nan

    @property
    def parts(self) -> dict[Limit, float]:
        """What memory, arithmetic and calls each would take alone, in parts of the seconds."""
        flops, moved = (
            math.nan if count is None else count for count in (self.work.flops, self.work.bytes)
        )
        return {
            "memory": moved / self.bandwidth / self._time,
            "arithmetic": flops / self.peak / self._time,
            "calls": self.calls_seconds / self._time,
        }

    @property
    def limit(self) -> Limit | None:
        """Which of them takes longest; None where the three together are less than half of it."""
        parts = self.parts
        if not sum(parts.values()) >= 0.5:  # so that NaN gives None
            return None
        return max(parts, key=lambda name: parts[name])

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if self.work.unseen:
            return f"The work of the {self.what} is not known: {', '.join(self.work.unseen)}."
        if math.isnan(self._time):
            return f"The clock is too coarse to see the {self.what}."
        memory, arithmetic, calls = (percent_text(min(part, 1)) for part in self.parts.values())
        if self.limit is None:
            left = ": left are fresh memory, exp and its like, scattered reads, Python"
            return (
                f"Most of the {self.what}'s time is neither memory ({memory}) nor arithmetic "
                f"({arithmetic}) nor calls ({calls}){left if self.what == 'map' else ''}."
            )
        if self.limit == "calls":
            return (
                f"The {self.what} is bound by calls ({calls} of its time), not by memory "
                f"({memory}) or arithmetic ({arithmetic})."
            )
        reached = percent_text(self.fraction)
        if self.limit == "arithmetic":
            speed = rate_text(self.peak, "flop/s")
            return f"The {self.what} runs at {reached} of a matrix product's speed here, {speed}."
        speed = rate_text(self.bandwidth, "B/s")
        return f"The {self.what} runs at {reached} of what {self._the_place} allows, {speed}."

    @property
    def _time(self) -> float:
        return self.seconds if self.seconds > 0 else math.nan

    @property
    def _the_place(self) -> str:
        return "this machine's memory" if self.place == "memory" else f"the {self.place}"


def rooflines(
    f: Callable[[Any], Any], z0: Any, result: SolveResult, machine: Machine | None = None
) -> tuple[Roof, Roof]:
    """The map and the mixing of a solve of f from z0 under the roof; evaluates f once more.

    The map's seconds are the median of its evaluations, the mixing's that of the steps with the
    fullest window. Raises ValueError for a solve elsewhere than on `machine`, on a GPU for one,
    whose peaks are not measured; for one that was compacted, whose steps are of several sizes; for
    one that made no step.
    """
    machine = machine or measure_machine()
    _check(result, machine)
    spec, history = result.card.spec, result.history
    method = METHODS[spec["method"]["name"]].from_dict(spec["method"])
    layout = StateLayout.of(z0, spec["batch_dims"])
    seconds, depth = _fullest_step(history)
    batch, working = layout.batch, layout.working_dtype
    mapped = count_work(f, z0)
    mixing = mixing_work(method, batch, layout.elements, working, depth)
    size = (mapped.footprint or 0) + (mixing.footprint or 0) or 1
    limits = size, machine.place(size), machine.bandwidth(size)
    map_seconds = float(history.map_seconds.median())
    one_call, least = _least_seconds(method, batch, working, torch.get_num_threads())
    calls = one_call + max(mapped.calls - 1, 0) / machine.calls.median
    return (
        Roof("map", mapped, map_seconds, *limits, machine.peak(layout.dtype), calls),
        Roof("mixing", mixing, seconds, *limits, machine.peak(working), least),
    )


def _check(result: SolveResult, machine: Machine) -> None:
    card = result.card
    if (card.device, card.threads) != (machine.device, machine.threads):
        raise ValueError(
            f"the solve ran on {card.device} with {card.threads} torch threads, the peaks are of "
            f"{machine.device} with {machine.threads}: measure and solve in the same place."
        )
    if result.diagnostics["compactions"]:
        raise ValueError("a compacted solve has steps of several sizes: solve with compact=False.")
    if card.spec["method"]["name"] not in METHODS:
        raise ValueError(f"a roofline is for the methods {', '.join(METHODS)}.")


def mixing_work(
    method: MethodSpec,
    batch: int,
    n: int,
    dtype: torch.dtype,
    depth: float | None = None,
    fused: bool | None = None,
) -> Work:
    """What lies between two evaluations: the residual, its norms and a step with `depth` columns.

    By the passes of the kernels over states (B, n) of the working dtype; None: the full window.
    Left out is what has no n in it, such as each sample's Gram matrix. Only Anderson without QR
    and with one mixing, and forward iteration, have a formula. With m differences and mixing 1 a
    compiled step moves 2 m + 8 states' worth of words, with residuals 2 m + 6; torch's calls, on
    long rows and several threads, 3 m + 20 + 1 / m and 2 m + 11. `fused` says which of the two;
    None: what a solve on the CPU would do here.
    """
    compiled = is_compiled(torch.device("cpu"), n) if fused is None else fused
    if isinstance(method, Picard):
        step = _plain(method.mixing)
    elif not isinstance(method, Anderson) or method.least_squares == "qr":
        qr = isinstance(method, Anderson)
        hidden = "the QR factorization" if qr else f"a formula for {method.label}"
        return Work(None, None, None, 0, (hidden,))
    else:
        if method.mixing == AUTO or method.randomize == "mixing":
            return Work(None, None, None, 0, ("a mixing that changes",))
        size, damped = method.slots(n), method.first_mixing != 1.0
        used, residuals = size if depth is None else depth, method.least_squares == "residuals"
        if not used:
            step = _plain(method.first_mixing)
        elif compiled:
            step = _loops_of_residuals(size) if residuals else _loops(used, damped)
        else:
            step = _calls_of_residuals(size, damped) if residuals else _calls(size, used, damped)
    step += _MEASURE if compiled else _MEASURE_BY_CALLS
    per_word = batch * n * dtype.itemsize
    return Work(
        flops=round(step.flops * batch * n),
        bytes=round(step.words * per_word),
        footprint=round(step.vectors * per_word),
        calls=step.calls,
    )


@dataclass(frozen=True)
class _Passes:
    """Flops and words an element of the state, distinct vectors, and passes over the state."""

    flops: float
    words: float
    vectors: float
    calls: int

    def __add__(self, other: _Passes) -> _Passes:
        mine, its = (vars(item).values() for item in (self, other))
        return _Passes(*(a + b for a, b in zip(mine, its, strict=True)))


# g = f(z) - z, ||g|| and ||f(z)||, of z, f(z) and g.
_MEASURE = _Passes(flops=1 + 2 + 2, words=3, vectors=3, calls=1)
_MEASURE_BY_CALLS = _Passes(flops=1 + 2 + 2, words=3 + 1 + 1, vectors=3, calls=3)


def _plain(mixing: float) -> _Passes:
    """A copy of f(z), or z + mixing g."""
    return _Passes(0, 2, 1, 1) if mixing == 1.0 else _Passes(1, 3, 1, 1)


def _loops(depth: float, damped: bool) -> _Passes:
    """The newest differences and all inner products with the residual, then the step."""
    append = _Passes(6 + 2 * _up(2 * depth, 4), 4 + depth - 1, 2, 0)  # last z is the step's place
    mix = _Passes(2 * _up(depth, 4) + 3, depth + 2, 2 * depth, 1)
    return append + mix + _Passes(0, 1, 0, 0) if damped else append + mix


def _up(columns: float, together: int) -> int:
    """As many columns as a loop works on that takes so many at a time, the last ones again."""
    return together * math.ceil(columns / together)


def _loops_of_residuals(size: int) -> _Passes:
    """The plain step and all inner products with the residual, then the step."""
    columns = size + 1
    enter = _Passes(2 + 2 * _up(columns, 3), columns, 2 * columns, 0)
    return enter + _Passes(2 * _up(columns, 4), columns + 1, 0, 1)


def _calls(size: int, depth: float, damped: bool) -> _Passes:
    """By torch: the newest differences in three calls, each sweep over the columns in one."""
    length = _Passes(2 / size, 1 / size, 0, 0)  # ||dz|| of slot 0
    append = _Passes(2, 6, 2, 2) + _SCALED + length  # dg, du; last z is where the step goes
    end = _Passes(1, 3, 2 * depth, 1)
    step = append + _sweep(depth) + _sweep(depth) + _sweep(depth) + end
    return step + _SCALED if damped else step


def _calls_of_residuals(size: int, damped: bool) -> _Passes:
    """The plain step is a call of its own."""
    columns = size + 1
    append = _SCALED if damped else _Passes(0, 2, 0, 1)
    return append + _sweep(columns) + _sweep(columns) + _Passes(0, 0, 2 * columns, 0)


_SCALED = _Passes(1, 3, 0, 1)  # values of a vector added to another's


def _sweep(columns: float) -> _Passes:
    """The inner products of columns with a vector, or their combination into one."""
    return _Passes(2 * columns, columns + 1, 0, 1)


def _fullest_step(history: History) -> tuple[float, float]:
    """Median seconds of the steps with most columns, a batch's mean, and how many those are."""
    running = history.running & ~torch.isnan(history.depth)
    samples = running.sum(1)
    stepped = samples > 0
    stepped[-1:] = False  # the last row only judged
    if not bool(stepped.any()):
        raise ValueError("a roofline needs a solve with a step: it ended at its first evaluation.")
    depth = torch.where(running, history.depth.double(), 0.0).sum(1) / samples
    depth = torch.where(stepped, depth, -1.0)
    fullest = depth >= depth.max() - 1e-9
    return float(history.method_seconds[fullest].median()), float(depth.max())


@functools.cache
def _least_seconds(
    method: MethodSpec, batch: int, dtype: torch.dtype, threads: int
) -> tuple[float, float]:
    """Of a map of one call and of the same step, on states so small that only calls count."""
    slopes = torch.linspace(-0.95, 0.995, SHORT, dtype=dtype)
    offset = torch.ones(batch, SHORT, dtype=dtype)
    history = solve(
        lambda z: torch.addcmul(offset, z, slopes), torch.zeros_like(offset), method,
        rtol=0.0, max_iter=STEPS,
    ).history  # fmt: skip
    return float(history.map_seconds.median()), _fullest_step(history)[0]
