"""Results without a solve: any residuals, any clock, so that the answer is known on paper."""

from __future__ import annotations

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
