"""Results without a solve: any residuals, any clock, so that the answer is known on paper."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike

from andersonn_core import Anderson, Picard, RunCard, SolveResult, Status
from andersonn_core.results import Event, History

SPEC = {"problem": {"name": "synthetic", "seed": 0, "dtype": "float64"}}


def synthetic(
    residual: ArrayLike,  # (K,) or (K, B), NaN after a sample stopped
    map_seconds: ArrayLike = 1.0,  # per evaluation
    method_seconds: ArrayLike = 0.0,
    rtol: float = 0.0,
    status: Status = Status.MAX_ITER,  # of samples above rtol
    method: Anderson | Picard | None = None,
    events: dict[tuple[int, int], Event] | None = None,  # (row, sample) -> event
    parts: dict[str, float] | None = None,  # seconds per evaluation
    clock: str = "thread CPU time",
    seed: int = 0,
) -> SolveResult:
    """The result of a solve that had these residuals; a sample stops once it is at most rtol."""
    rows = torch.as_tensor(np.array(residual, dtype=float))
    rows = rows[:, None] if rows.ndim == 1 else rows
    evals, batch = rows.shape
    stopped = ((rows <= rtol).cumsum(0) - (rows <= rtol).int()) > 0
    rows = torch.where(stopped, torch.nan, rows)
    running = ~(stopped | rows.isnan())
    best = torch.where(rows.isnan(), torch.inf, rows).amin(0) if evals else torch.zeros(batch)
    event = torch.zeros(evals, batch, dtype=torch.int16)
    for place, flag in (events or {}).items():
        event[place] = int(flag)
    blank = torch.full_like(rows, torch.nan)
    seconds = {
        "map_seconds": torch.as_tensor(np.broadcast_to(map_seconds, evals).copy()).double(),
        "method_seconds": torch.as_tensor(np.broadcast_to(method_seconds, evals).copy()).double(),
    }
    history = History(
        relative_residual=rows,
        residual=rows,
        gain=blank,
        weight_norm=blank,
        condition=blank,
        depth=blank,
        mixing=blank,
        event=event,
        **seconds,
        wall_seconds=sum(seconds.values()).cumsum(0),
        clock=clock,
        part_seconds={name: torch.full((evals,), part) for name, part in (parts or {}).items()},
        running=running,
    )
    spec = SPEC | {"method": (method or Anderson()).to_dict()}
    spec["problem"] = spec["problem"] | {"seed": seed}
    return SolveResult(
        z=torch.zeros(batch, 1),
        status=torch.where(best <= rtol, int(Status.CONVERGED), int(status)).to(torch.int8),
        num_evals=evals,
        sample_evals=running.sum(0),
        relative_residual=best,
        history=history,
        diagnostics={},
        error_estimate=best,
        card=RunCard.capture(spec, "synthetic", seed, torch.device("cpu")),
    )


def forward(residual: ArrayLike, **rest: object) -> SolveResult:
    """The same, by forward iteration."""
    return synthetic(residual, method=Picard(), **rest)  # type: ignore[arg-type]


def geometric(factor: float, evals: int, first: float = 1.0) -> np.ndarray:
    """first, first * factor, first * factor^2, ..."""
    return first * factor ** np.arange(evals)


def head(result: SolveResult, rows: int) -> SolveResult:
    """The same solve before it had come any further: its first rows alone."""
    columns = {
        name: value[:rows] for name, value in vars(result.history).items() if torch.is_tensor(value)
    }
    parts = {name: part[:rows] for name, part in result.history.part_seconds.items()}
    return replace(
        result, num_evals=rows, history=replace(result.history, part_seconds=parts, **columns)
    )


def trial(draw: np.random.Generator, change: float = 1.0) -> tuple[SolveResult, SolveResult]:
    """Forward iteration and Anderson on an invented problem, to 1e-6.

    Residuals are random walks that begin with a fast part; their steps scatter as much as those of
    `make bench-predictions`. After a quarter the rates change, both by a common factor (30 %, one
    deviation) and each by one of its own (10 %), `change` times as much. Seconds are lognormal, one
    in fifty is five times as long.
    """
    evals = math.exp(draw.uniform(math.log(60), math.log(1000)))
    ratio = math.exp(draw.uniform(math.log(0.8), math.log(8)))
    common = 0.3 * draw.standard_normal()
    solves = []
    for kind, count, spread, cost in (
        (forward, evals, draw.uniform(0.1, 0.4), 0.05),
        (
            synthetic,
            max(evals / ratio, 40.0),
            draw.uniform(0.15, 0.9),
            math.exp(draw.uniform(-1, 1)),
        ),
    ):
        later = math.exp(change * (common + 0.1 * draw.standard_normal()))
        residual = _walk(draw, count, spread, later)
        seconds = np.exp(0.1 * draw.standard_normal((2, len(residual))))
        seconds *= np.where(draw.random(len(residual)) < 0.02, 5e-3, 1e-3)
        solves.append(
            kind(residual, map_seconds=seconds[0], method_seconds=cost * seconds[1], rtol=1e-6)
        )
    return solves[0], solves[1]


def _walk(draw: np.random.Generator, evals: float, spread: float, later: float) -> np.ndarray:
    """Residuals from 1 to 1e-6 in about so many rows; the rate changes after a quarter of them."""
    row = np.arange(math.ceil(20 * evals))
    rate = math.log(1e6) / evals * np.where(row < evals / 4, 1.0, later)
    steps = rate * (1 + spread * draw.standard_normal(len(row)))
    fast = draw.random() * -np.expm1(-row / (evals / 50))
    residual = np.exp(steps[0] - np.cumsum(steps) - fast)
    return residual[: np.argmax(residual <= 1e-6) + 1]
