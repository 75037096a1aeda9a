"""Seconds of one evaluation and one step by batch size and window, on the CPU and on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from andersonn_core.methods import Anderson, Picard
from andersonn_core.problems import PROBLEMS
from andersonn_core.record.budget import Share
from andersonn_core.record.settings import Row, Settings
from andersonn_core.runcard import device_name
from andersonn_core.solve import SolveSpec
from andersonn_core.specs import KnobError

BATCH_SIZES = (1, 4, 16, 64, 256, 1024)
EVALUATIONS = 24  # of each timed solve, after a short one that warms up
WARM_UP = 4
MOST_STATE = 2**23  # elements of a batch that is still timed
RECORDED_PROBLEMS = ("digits_deq", "tanh", "poisson", "sinkhorn")
WINDOWS = (2, 10, 20)  # beside the default one,
FEWER_SIZES = (1, 64, 256)  # at these batch sizes


@dataclass(frozen=True)
class Timing:
    """Median seconds of one evaluation of a batch, the map's and the method's; their quartiles."""

    device: str  # as a person calls it: "NVIDIA H200", "Intel Xeon, 1 thread"
    gpu: bool
    method: str
    batch_size: int
    map_seconds: float
    method_seconds: float
    evaluations: int
    clock: str
    map_low: float
    map_high: float
    method_low: float
    method_high: float


def all_devices() -> list[str]:
    """The CPU and every GPU, as the knob `device` names them."""
    return ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]


def plan(
    spec: SolveSpec,
    devices: Sequence[str] | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> list[SolveSpec]:
    """The solves to time: this one at growing batch sizes, on these devices; None: all."""
    most = spec.problem.knobs()["batch_size"].maximum or batch_sizes[-1]
    sizes = [
        size
        for size in batch_sizes
        if size <= most and size * spec.problem.num_elements <= MOST_STATE
    ]
    return [
        spec.replace(
            max_iter=EVALUATIONS, rtol=0.0, atol=0.0, compact=False,
            **{"problem.batch_size": size, "problem.device": device},
        )
        for size in sizes
        for device in (all_devices() if devices is None else devices)
    ]  # fmt: skip


def measure(spec: SolveSpec) -> Timing:
    """Time one solve after a short one; medians, so that a hiccup does not count."""
    spec.replace(max_iter=WARM_UP).run()
    result = spec.run()
    device = spec.problem.torch_device
    gpu = device.type != "cpu"
    name = device_name(device)
    quartiles = [
        np.quantile(seconds.cpu().numpy(), (0.25, 0.75)).tolist()
        for seconds in (result.history.map_seconds, result.history.method_seconds)
    ]
    return Timing(
        device=name if gpu else f"{name}, {torch.get_num_threads()} thread", gpu=gpu,
        method=spec.method.name, batch_size=spec.problem.batch_size,
        map_seconds=float(result.history.map_seconds.median()),
        method_seconds=float(result.history.method_seconds.median()),
        evaluations=result.num_evals, clock=result.history.clock,
        map_low=quartiles[0][0], map_high=quartiles[0][1],
        method_low=quartiles[1][0], method_high=quartiles[1][1],
    )  # fmt: skip


def timings(specs: Iterable[SolveSpec]) -> Iterator[Timing]:
    """Time each solve that fits; what does not fit is left out."""
    for spec in specs:
        with contextlib.suppress(KnobError, torch.OutOfMemoryError):
            yield measure(spec)


def timed_problems(settings: Settings, share: Share) -> Iterator[Row]:
    """A row for each solve: its problem, its window (None: it has none) and its `Timing`."""
    for spec in share.over(planned(settings)):
        for timing in timings([spec]):
            window = getattr(spec.method, "window", None)
            yield {"problem": spec.problem.name, "window": window, **asdict(timing)}


def planned(settings: Settings) -> list[SolveSpec]:
    """The default window, then others, each from small batches on: what is cut off matters less."""
    names = settings.of(RECORDED_PROBLEMS, RECORDED_PROBLEMS[1:2])
    sizes, fewer = settings.of((BATCH_SIZES, FEWER_SIZES), ((1, 4), (1,)))
    devices = [str(device) for device in settings.devices]
    default, others = [], []
    for name in names:
        anderson = SolveSpec(problem=PROBLEMS[name](), method=Anderson())
        for spec in (anderson.replace(method=Picard()), anderson):
            default += plan(spec, devices, sizes)
        for window in settings.of(WINDOWS, WINDOWS[:1]):
            others += plan(anderson.replace(**{"method.window": window}), devices, fewer)
    return [*sorted(default, key=_size), *sorted(others, key=_size)]


def _size(spec: SolveSpec) -> int:
    return spec.problem.batch_size


def by_problem(rows: Iterable[Row]) -> dict[str, Any]:
    """The rows as the dashboard reads them: {problem: {"spec", "rows"}}, default windows only."""
    runs: dict[str, Any] = {}
    for row in rows:
        timing = dict(row)
        name, window = timing.pop("problem"), timing.pop("window")
        if window in (None, Anderson().window):
            spec = SolveSpec(problem=PROBLEMS[name](), method=Anderson())
            runs.setdefault(name, {"spec": spec.to_dict(), "rows": []})["rows"].append(timing)
    return runs
