"""Results as named columns, ready to draw or to save: pandas frames, never a picture.

A sample that stopped holds its last finite value in every band, so that the bands describe the
whole batch at each evaluation; in the heat map and among the events it ends where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from andersonn_core.arrays import Floats
from andersonn_core.results import Event, SolveResult, Status

# The value that this fraction of the samples does not exceed.
BANDS = {"p10": 0.1, "median": 0.5, "p90": 0.9, "worst": 1.0}


def residual_bands(result: SolveResult) -> pd.DataFrame:
    """The relative residual over the batch, one row per evaluation (K rows).

    Columns: evaluation (1, 2, ...), seconds and wall_seconds (when the residual was known, by the
    history's clock and by the wall), p10, median, p90, worst.
    """
    return _bands(result, result.history.relative_residual)


def error_bands(result: SolveResult, error: Tensor) -> pd.DataFrame:
    """The same columns for ||z - z*|| / ||z*||, given per evaluation and sample as error (K, B)."""
    if error.shape != result.history.relative_residual.shape:
        expected = tuple(result.history.relative_residual.shape)
        raise ValueError(f"error has shape {tuple(error.shape)}: it must be (K, B) = {expected}.")
    return _bands(result, error)


def heat_map(result: SolveResult) -> pd.DataFrame:
    """log10 of the relative residual: rows are samples, columns are evaluations 1, 2, ...

    NaN after a sample stopped; a residual of exactly zero counts as the smallest positive number.
    """
    residual = _array(result.history.relative_residual)
    finite = np.where(np.isfinite(residual), residual, np.nan)
    logs = np.log10(np.maximum(finite, np.finfo(np.float64).tiny))
    evaluations = pd.RangeIndex(1, len(logs) + 1, name="evaluation")
    return pd.DataFrame(
        logs.T, index=pd.RangeIndex(logs.shape[1], name="sample"), columns=evaluations
    )


def events(result: SolveResult) -> pd.DataFrame:
    """What the method did apart from ordinary steps, one row per event.

    Columns: evaluation, seconds, sample, event ("restart", "fallback", "reject", "drop"),
    relative_residual.
    """
    flags = _array(result.history.event).astype(np.int64)
    residual, seconds = _array(result.history.relative_residual), _array(result.history.seconds)
    frames = []
    for event in (flag for flag in Event if flag):
        rows, samples = np.nonzero(flags & int(event))
        frames.append(
            pd.DataFrame(
                {
                    "evaluation": rows + 1,
                    "seconds": seconds[rows],
                    "sample": samples,
                    "event": str(event.name).lower(),
                    "relative_residual": residual[rows, samples],
                }
            )
        )
    return pd.concat(frames).sort_values(["evaluation", "sample"], ignore_index=True)


def time_split(result: SolveResult) -> pd.DataFrame:
    """Where the seconds went: part, seconds, share (of all), per_map (the same in map seconds).

    Parts: map, then gram, solve, mix and bookkeeping of a profiled solve, otherwise method; all
    after the map is the mixing penalty.
    """
    history = result.history
    split = history.part_seconds or {"method": history.method_seconds}
    parts = {"map": history.map_seconds} | split
    seconds = np.array([float(part.sum()) for part in parts.values()])
    with np.errstate(invalid="ignore", divide="ignore"):  # no evaluation, or a coarse clock
        share, per_map = seconds / seconds.sum(), seconds / seconds[0]
    return pd.DataFrame(
        {"part": list(parts), "seconds": seconds, "share": share, "per_map": per_map}
    )


def run_table(results: Mapping[str, SolveResult]) -> pd.DataFrame:
    """One row per run, as pinned runs and the terminal show it.

    Columns: run (the mapping's key), problem, method, spec_id, samples, converged (samples),
    evaluations_median, evaluations_worst (of the samples), num_evals (calls of f), seconds,
    map_seconds, method_seconds, residual_median, residual_worst (relative, of the answers),
    status (counts in words: "63 CONVERGED, 1 STALLED").
    """
    return pd.DataFrame([{"run": name} | _row(result) for name, result in results.items()])


def _row(result: SolveResult) -> dict[str, Any]:
    spec, history = result.card.spec, result.history
    evaluations, residual = _array(result.sample_evals), _array(result.relative_residual)
    return {
        "problem": (spec.get("problem") or {}).get("name") or spec.get("map"),
        "method": spec.get("method", {}).get("name"),
        "spec_id": result.card.spec_id,
        "samples": len(evaluations),
        "converged": int(result.converged.sum()),
        "evaluations_median": _quantile(evaluations, 0.5),
        "evaluations_worst": _quantile(evaluations, 1.0),
        "num_evals": result.num_evals,
        "seconds": result.seconds,
        "map_seconds": float(history.map_seconds.sum()),
        "method_seconds": float(history.method_seconds.sum()),
        "residual_median": _quantile(residual, 0.5),
        "residual_worst": _quantile(residual, 1.0),
        "status": _status_text(result),
    }


def _status_text(result: SolveResult) -> str:
    counts = {status: int((result.status == int(status)).sum()) for status in Status}
    return ", ".join(f"{count} {status.name}" for status, count in counts.items() if count)


def _bands(result: SolveResult, values: Tensor) -> pd.DataFrame:  # (K, B)
    history = result.history
    held = _hold(_array(values))
    columns = {
        "evaluation": np.arange(1, len(held) + 1),
        "seconds": _array(history.seconds),
        "wall_seconds": _array(history.wall_seconds),
    }
    return pd.DataFrame(columns | {name: _quantile(held.T, part) for name, part in BANDS.items()})


def _hold(values: Floats) -> Floats:  # (K, B) -> (K, B)
    """Each column with what is not finite replaced by the last finite value above it."""
    finite = np.where(np.isfinite(values), values, np.nan)
    return np.asarray(pd.DataFrame(finite).ffill())


def _quantile(values: Floats, fraction: float) -> Any:  # (B, ...) -> (...)
    """An order statistic, so that a band is the value of a sample; NaN where no sample has one."""
    if not len(values):
        return np.full(values.shape[1:], np.nan)[()]
    return np.quantile(values, fraction, axis=0, method="inverted_cdf")


def _array(values: Tensor) -> Floats:
    return np.asarray(values.detach().cpu().double().numpy())
