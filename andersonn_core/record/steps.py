"""What a step costs on the device, beside torchdeq's and a copy of the memory that it moves."""

from __future__ import annotations

import importlib.metadata
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from andersonn_core.memory import available_bytes, solve_bytes
from andersonn_core.methods import Anderson
from andersonn_core.record.budget import Share
from andersonn_core.record.settings import Row, Settings, place
from andersonn_core.record.spreads import settle, spread, wall_seconds
from andersonn_core.results import SolveResult
from andersonn_core.roofline import mixing_work
from andersonn_core.solve import LAUNCHED_AHEAD, solve
from andersonn_core.timing import Clock, clock_for

PEER = "torchdeq"
WINDOW = 5  # differences; torchdeq counts iterates: its 6
WARM = 13  # steps until the window is full and every buffer has been touched
OURS = {
    "ours": Anderson(window=WINDOW),
    "ours, sliding": Anderson(window=WINDOW, restart="never"),  # its window is full in every step
    "ours, bfloat16": Anderson(window=WINDOW, history="bfloat16"),
}
CAPTURED = "ours, captured"  # with the map, as one CUDA graph: only whole evaluations are timed
AHEAD_ONLY = "ours, bfloat16", CAPTURED
COPIED, COPIES = 2**28, 10  # bytes of the copy, copies in a round
HELD = 8  # vectors that the map keeps: c, d, its last values
FLOAT = torch.float32


@dataclass(frozen=True)
class Case:
    """A shape; after WARM + 1 evaluations `cycles` times five steps, one restarted window each."""

    batch: int
    n: int
    cycles: int
    rounds: int

    @property
    def steps(self) -> int:
        """Evaluations of one solve."""
        return WARM + 1 + WINDOW * self.cycles

    @property
    def words(self) -> Row:
        """The head of its rows."""
        return {"case": f"{self.batch} x {self.n}", "batch_size": self.batch, "n": self.n,
                "window": WINDOW}  # fmt: skip


CASES = (
    Case(64, 256, 10, 9),
    Case(256, 1024, 10, 9),
    Case(64, 49152, 4, 9),
    Case(1, 100_000_000, 2, 5),
)
QUICK = (Case(64, 256, 1, 2),)


@dataclass
class Meter:
    """The map z -> c + d z; it marks when it is called and when it returns.

    The last values are kept, so that freeing them is in nobody's step.
    """

    c: Tensor  # (B, n)
    d: Tensor  # (n,)
    clock: Clock
    called: list[Any] = field(default_factory=list)
    returned: list[Any] = field(default_factory=list)
    values: deque[Tensor] = field(default_factory=lambda: deque(maxlen=4))

    def __call__(self, z: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate the map."""
        self.called.append(self.clock.mark())
        value = self.plain(z)
        self.values.append(value)
        self.returned.append(self.clock.mark())
        return value

    def plain(self, z: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """The same without marks."""
        return torch.addcmul(self.c, z, self.d)

    def step_seconds(self, steps: int) -> float:
        """The mean time from a return to the next call, of the warm steps of a solve."""
        gaps = zip(self.returned[WARM : steps - 1], self.called[WARM + 1 : steps], strict=True)
        seconds = [self.clock.seconds(start, end) for start, end in gaps]
        return sum(seconds) / len(seconds)


@dataclass(frozen=True)
class Ran:
    """What a solve says of itself."""

    depth: float | None = None  # the mean of its warm steps
    seconds: float | None = None  # of an evaluation with its step; None: the map's marks tell more


class UncapturedError(RuntimeError):
    """A solve that was to be captured was not, and says why."""


Contender = Callable[[Meter, Tensor], Ran]


def ours(method: Anderson, case: Case) -> Contender:
    """Our solve with a tolerance that nobody meets."""

    def run(f: Meter, z0: Tensor) -> Ran:
        """One solve to the last evaluation, timed by the map's marks."""
        history = solve(f, z0, method, rtol=0.0, max_iter=case.steps).history
        return Ran(float(history.depth[WARM : case.steps - 1].nanmean()))

    return run


def replayed_seconds(result: SolveResult) -> float:
    """Of an evaluation with its step, on average; raises UncapturedError if none was replayed."""
    history = result.history
    replayed = history.map_seconds[history.method_seconds.isnan()]
    if not len(replayed):
        raise UncapturedError(" ".join(result.notes))
    return float(replayed.mean())


def captured(case: Case) -> Contender:
    """The same with map and step in one graph; raises UncapturedError where there was none."""

    def run(f: Meter, z0: Tensor) -> Ran:
        """One solve to the last evaluation, timed by its history."""
        knobs: Any = {"rtol": 0.0, "max_iter": case.steps, "capture": True}
        result = solve(f.plain, z0, OURS["ours"], **knobs)
        seconds = replayed_seconds(result)
        depth = float(result.history.depth[WARM : case.steps - 1].nanmean())
        return Ran(depth, seconds)

    return run


def peer(case: Case) -> Contender:
    """Anderson of torchdeq with its defaults; raises ImportError where there is no torchdeq."""
    from torchdeq.solver.anderson import anderson_solver

    def run(f: Meter, z0: Tensor) -> Ran:
        """One solve to the last evaluation."""
        anderson_solver(f, z0, m=WINDOW + 1, max_iter=case.steps, tol=1e-30, stop_mode="rel",
                        indexing=None)  # fmt: skip
        return Ran()

    return run


def steps(settings: Settings, share: Share) -> Iterator[Row]:
    """A row for the copy; for each shape a row for each of our forms and for torchdeq."""
    device = settings.device
    copies = [copy_rate(device, settings.of(COPIED, 2**22)) for _ in
              share.over(range(settings.of(9, 3)))]  # fmt: skip
    if not copies:
        return
    copied = spread("bytes_per_second", copies)
    yield {"case": "copy", "contender": "copy", **place(device), "rounds": len(copies), **copied}
    for case in settings.of(CASES, QUICK):
        yield from case_rows(case, device, share, copied["bytes_per_second"])
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what one shape took is not there for the next


def copy_rate(device: torch.device, num_bytes: int) -> float:
    """Bytes read and written per second by copies of so many bytes, less where memory is short."""
    free = available_bytes(device)
    size = num_bytes if free is None else min(num_bytes, free // 4)
    source = torch.ones(size // FLOAT.itemsize, device=device, dtype=FLOAT)
    target, clock = torch.zeros_like(source), clock_for(device)
    target.copy_(source)
    start = clock.mark()
    for _ in range(COPIES):
        target.copy_(source)
    seconds = clock.seconds(start, clock.mark())
    return 2 * COPIES * source.numel() * FLOAT.itemsize / seconds


def case_rows(case: Case, device: torch.device, share: Share, bandwidth: float) -> Iterator[Row]:
    """Rows of all contenders at one shape, measured in turn; those that cannot say why."""
    head = {**case.words, **place(device), "clock": clock_for(device).name}
    contenders: dict[str, Contender] = {}
    for name in (*OURS, CAPTURED, PEER):
        contender = obstacle(name, case, device)
        if isinstance(contender, str):
            yield head | {"contender": name, "absent": contender}
        else:
            contenders[name] = contender
    found = {name: Found() for name in contenders}
    for _ in share.over(range(case.rounds) if contenders else ()):
        for name, contender in list(contenders.items()):
            try:
                found[name].take(case, device, contender)
            except (torch.OutOfMemoryError, UncapturedError) as error:
                del contenders[name]
                short = isinstance(error, torch.OutOfMemoryError)
                why = f"does not fit: {error}" if short else str(error)
                yield head | {"contender": name, "absent": why}
    for name, numbers in found.items():
        if numbers.walls:
            yield head | {"contender": name} | numbers.row(case, name, bandwidth)


def not_ahead(device: torch.device) -> str:
    """Why nothing is launched ahead there; empty if it is."""
    if device.type in LAUNCHED_AHEAD:
        return ""
    return f"only a GPU has it: {device.type} is not launched ahead"


def obstacle(name: str, case: Case, device: torch.device) -> Contender | str:
    """A contender that can run this shape here, or why it cannot."""
    if name in AHEAD_ONLY and (why := not_ahead(device)):
        return why
    vectors = case.batch * case.n * FLOAT.itemsize
    needed = solve_bytes(OURS.get(name, OURS["ours"]), case.batch, case.n, FLOAT) + HELD * vectors
    if name == PEER:  # two rings of iterates, their difference, and what a step computes with
        needed = (3 * (WINDOW + 1) + 6 + HELD) * vectors
    free = available_bytes(device)
    if free is not None and needed > free:
        return f"does not fit: {needed} bytes needed, {free} available"
    if name == CAPTURED:
        return captured(case)
    if name != PEER:
        return ours(OURS[name], case)
    try:
        return peer(case)
    except ImportError as error:
        return f"torchdeq cannot be imported here: {error}"


@dataclass
class Found:
    """What one contender's rounds at one shape gave."""

    steps: list[float] = field(default_factory=list)  # seconds
    wholes: list[float] = field(default_factory=list)  # of an evaluation with its step, replayed
    walls: list[float] = field(default_factory=list)  # of an evaluation, by the wall clock
    ran: Ran = Ran()

    def take(self, case: Case, device: torch.device, run: Contender) -> None:
        """Measure one solve."""
        generator = torch.Generator().manual_seed(0)
        c = torch.randn(case.batch, case.n, generator=generator).to(device)
        d = torch.linspace(-0.95, 0.995, case.n, device=device)
        meter, z0 = Meter(c, d, clock_for(device)), torch.zeros_like(c)

        def solve_once() -> None:
            self.ran = run(meter, z0)

        wall = wall_seconds(device, solve_once)
        settle(device)
        self.walls.append(wall / (len(meter.called) or case.steps))
        if self.ran.seconds is None:
            self.steps.append(meter.step_seconds(case.steps))
        else:
            self.wholes.append(self.ran.seconds)

    def row(self, case: Case, name: str, bandwidth: float) -> Row:
        """Medians and quartiles; ours also against a copy of the bytes that a lean step moves."""
        row: Row = {"rounds": len(self.walls), **spread("evaluation_wall_seconds", self.walls)}
        if self.wholes:
            return row | spread("evaluation_seconds", self.wholes) | {"depth": self.ran.depth}
        row |= spread("step_seconds", self.steps)
        if name == PEER:
            return row | {"version": importlib.metadata.version(PEER)}
        row |= {"depth": self.ran.depth}
        if OURS[name].history != "state":
            return row  # `mixing_work` counts words of the state
        work = mixing_work(OURS[name], case.batch, case.n, FLOAT, self.ran.depth, fused=True)
        fraction = (work.bytes or 0) / row["step_seconds"] / bandwidth
        return row | {"bytes_moved": work.bytes, "fraction_of_copy_bandwidth": fraction}
