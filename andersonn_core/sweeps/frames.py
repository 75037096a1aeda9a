"""A sweep's rows with their places on the axes, and the crossovers where two methods were swept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from andersonn_core.staircase import levels_of
from andersonn_core.store import FAILED, Store
from andersonn_core.sweeps.crossings import crossing_columns
from andersonn_core.sweeps.plan import place_columns

FIRST = ("seed", "repeat", "spec_id", "status", "num_evals", "seconds")
MEASURED = ("seed", "repeat", "status", "num_evals", "seconds", "relative_residual")
# what trials of a kind never have
LACKING = {"solve": ["accuracy"], "train": ["relative_residual", "samples", "converged"]}


def sweep_frame(store: Store, sweep: int, crossovers: bool = True) -> pd.DataFrame:
    """One row a trial and origin: the axes, seed, repeat, spec_id, status, num_evals, seconds, ...

    `crossovers`: with those columns, which needs the curves of all rows.
    """
    record, members = store.record(sweep), store.members(sweep)
    axes = place_columns(record, members["number"].to_numpy())
    rest = [name for name in members if name not in FIRST]
    frame = pd.DataFrame(axes | {name: members[name] for name in (*FIRST, *rest)})
    frame = frame.drop(columns=LACKING[record["kind"]])
    frame["reason"] = _reasons(store, frame)
    return crossing_columns(store, frame, list(axes)) if crossovers else frame


def measured_frame(store: Store, sweep: int) -> pd.DataFrame:
    """The columns of `sweep_frame` that figures are drawn from; a third of its time."""
    record, members = store.record(sweep), store.members(sweep, MEASURED)
    axes = place_columns(record, members["number"].to_numpy())
    frame = pd.DataFrame(axes | {name: members[name] for name in members})
    return frame.drop(columns=LACKING[record["kind"]], errors="ignore")


def _reasons(store: Store, frame: pd.DataFrame) -> list[str]:
    known = store.reasons(frame["row"][frame["status"] == FAILED].tolist())
    return [known.get(row, "") for row in frame["row"].tolist()] if known else [""] * len(frame)


def curve_frame(store: Store, rows: Sequence[int]) -> pd.DataFrame:
    """The curves of solves: row, evaluation, seconds, level, the best median residual so far."""
    parts = []
    for row, result in store.results(rows).items():
        seconds, levels = levels_of(result, target=0.0, fraction=0.5)
        evaluation = np.arange(1, len(seconds) + 1)
        columns = {"row": row, "evaluation": evaluation, "seconds": seconds, "level": levels[:, 0]}
        parts.append(pd.DataFrame(columns))
    if not parts:
        return pd.DataFrame({"row": [], "evaluation": [], "seconds": [], "level": []})
    return pd.concat(parts, ignore_index=True)
