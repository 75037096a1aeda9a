"""Residual curves of forward iteration and Anderson at their default settings, on both devices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from andersonn_core.curves import residual_bands, run_table
from andersonn_core.methods import Anderson, Picard
from andersonn_core.problems import PROBLEMS
from andersonn_core.record.budget import Share
from andersonn_core.record.settings import Row, Settings, place
from andersonn_core.record.spreads import spread
from andersonn_core.solve import SolveSpec

NAMES = ("tanh", "poisson", "sinkhorn", "digits_deq")  # the dearest last
QUICK = NAMES[:1]
REPEATS = 3
METHODS = (Picard(), Anderson())


@dataclass(frozen=True)
class ResidualCurve:
    """One solve: at evaluation k of K, when its residual was known, and the batch's median then."""

    problem: str
    method: str
    window: int | str | None  # None: the method has none
    batch_size: int
    dtype: str
    rtol: float
    max_iter: int
    device: str
    gpu: bool
    clock: str
    repeats: int  # runs, of which this is the one of middle time
    solve_seconds: float  # their median and quartiles
    solve_seconds_low: float
    solve_seconds_high: float
    evals: int  # K, of the slowest sample
    status: str  # counts in words: "63 CONVERGED, 1 STALLED"
    seconds_at: list[float]  # (K,)
    residual_at: list[float | None]  # (K,) None: no sample's is finite


def curves(settings: Settings, share: Share) -> Iterator[Row]:
    """A row for each problem, device and method; the CPU's last, which take the longest."""
    places = settings.devices[::-1]
    cases = [(name, device) for name in settings.of(NAMES, QUICK) for device in places]
    for name, device in share.over(cases):
        problem = PROBLEMS[name](device=str(device))
        for method in METHODS:
            spec = SolveSpec(problem=problem, method=method)
            yield asdict(residual_curve(spec, settings.of(REPEATS, 1)))


def residual_curve(spec: SolveSpec, repeats: int) -> ResidualCurve:
    """Solve so many times after a run that warms up; the curve of the run of middle time."""
    problem = spec.problem.build()
    spec.run(problem=problem)
    results = [spec.run(problem=problem) for _ in range(repeats)]
    results.sort(key=lambda result: result.seconds)
    result = results[(repeats - 1) // 2]
    bands = residual_bands(result)
    return ResidualCurve(
        problem=spec.problem.name, method=spec.method.name,
        window=getattr(spec.method, "window", None), batch_size=spec.problem.batch_size,
        dtype=spec.problem.dtype, rtol=spec.rtol, max_iter=spec.max_iter,
        **place(spec.problem.torch_device), clock=result.history.clock, repeats=repeats,
        **spread("solve_seconds", [each.seconds for each in results]), evals=result.num_evals,
        status=run_table({"": result})["status"][0], seconds_at=bands["seconds"].tolist(),
        residual_at=bands["median"].tolist(),
    )  # fmt: skip
