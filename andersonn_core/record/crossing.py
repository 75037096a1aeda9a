"""Where Anderson overtakes forward iteration on the digits model, on both devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from andersonn_core.crossover import crossover
from andersonn_core.methods import Anderson, Picard
from andersonn_core.problems import PROBLEMS
from andersonn_core.problems.base import Problem
from andersonn_core.record.budget import Share
from andersonn_core.record.settings import Row, Settings, place
from andersonn_core.record.spreads import spread, wall_seconds
from andersonn_core.results import SolveResult
from andersonn_core.solve import SolveSpec

BATCH_SIZES = (1, 16, 64, 256)
RTOL, MAX_ITER = 1e-4, 200
FORWARD, ANDERSON = Picard(), Anderson()
KEPT = "kind sentence target seconds evaluations residual seconds_interval speedup".split()
KEPT += "mixing_penalty penalty_paid payback".split()


@dataclass(frozen=True)
class DeviceCrossover:
    """Repeated pairs of runs at one batch size on one device, and their crossover point.

    Wall seconds are those of whole solves, from the call to the answer, and may be compared between
    devices; all others are by the device's own clock. None: there is no such number.
    """

    problem: str
    batch_size: int
    dtype: str
    window: int | str
    rtol: float
    max_iter: int
    device: str
    gpu: bool
    repeats: int
    clock: str
    forward_evals: int
    anderson_evals: int
    forward_converged: int  # samples
    anderson_converged: int
    forward_wall_seconds: float  # median and quartiles
    forward_wall_seconds_low: float
    forward_wall_seconds_high: float
    anderson_wall_seconds: float
    anderson_wall_seconds_low: float
    anderson_wall_seconds_high: float
    kind: str
    sentence: str
    target: float | None
    seconds: float | None  # when Anderson is ahead for good
    evaluations: float | None
    residual: float | None
    seconds_interval: list[float | None]  # of the mean, 95 %
    speedup: float | None  # S at the tolerance
    speedup_interval: list[float | None]
    mixing_penalty: float | None
    penalty_paid: float | None
    payback: float | None


def crossing(settings: Settings, share: Share) -> Iterator[Row]:
    """A row for each batch size and device."""
    sizes, repeats = settings.of(BATCH_SIZES, BATCH_SIZES[:2]), settings.of(5, 2)
    cases = [(size, device) for size in sizes for device in settings.devices]
    for size, device in share.over(cases):
        spec = SolveSpec(
            problem=PROBLEMS["digits_deq"](batch_size=size, device=str(device)),
            rtol=RTOL, max_iter=MAX_ITER,
        )  # fmt: skip
        yield asdict(device_crossover(spec, repeats))


def device_crossover(spec: SolveSpec, repeats: int) -> DeviceCrossover:
    """Run both methods in turn, so many times after runs that warm up, and compare them."""
    problem = spec.problem.build()
    specs = [spec.replace(method=method) for method in (FORWARD, ANDERSON)]
    for each in specs:
        each.run(problem=problem)  # warms up
    pairs = [[timed(each, problem) for each in specs] for _ in range(repeats)]
    forward, anderson = ([pair[k] for pair in pairs] for k in range(2))
    point = crossover([result for result, _ in forward], [result for result, _ in anderson])
    record = point.to_dict()
    return DeviceCrossover(
        problem=spec.problem.name, batch_size=spec.problem.batch_size, dtype=spec.problem.dtype,
        window=ANDERSON.window, rtol=spec.rtol, max_iter=spec.max_iter,
        **place(spec.problem.torch_device), repeats=repeats, clock=anderson[0][0].history.clock,
        **ends("forward", forward), **ends("anderson", anderson),
        **{name: record[name] for name in KEPT},
        speedup_interval=list(point.speedup_interval(point.target)),
    )  # fmt: skip


def timed(spec: SolveSpec, problem: Problem) -> tuple[SolveResult, float]:
    """A solve's result and its wall seconds."""
    found: list[SolveResult] = []
    device = spec.problem.torch_device
    seconds = wall_seconds(device, lambda: found.append(spec.run(problem=problem)))
    return found[0], seconds


def ends(name: str, runs: Sequence[tuple[SolveResult, float]]) -> Row:
    """How one method's runs ended: the same in all but for their seconds."""
    last = runs[-1][0]
    return {
        f"{name}_evals": last.num_evals, f"{name}_converged": int(last.converged.sum()),
        **spread(f"{name}_wall_seconds", [seconds for _, seconds in runs]),
    }  # fmt: skip
