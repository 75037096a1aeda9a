"""A sweep's rows with their places on the axes, and the crossovers where two methods were swept."""

from __future__ import annotations

import pandas as pd

from andersonn_core.store import FAILED, Store
from andersonn_core.sweeps.crossings import crossing_columns
from andersonn_core.sweeps.plan import place_columns

FIRST = ("seed", "repeat", "spec_id", "status", "num_evals", "seconds")


def sweep_frame(store: Store, sweep: int, crossovers: bool = True) -> pd.DataFrame:
    """One row a trial and origin: the axes, seed, repeat, spec_id, status, num_evals, seconds, ...

    `crossovers`: with those columns, which needs the curves of all rows.
    """
    record, members = store.record(sweep), store.members(sweep)
    axes = place_columns(record, members["number"].to_numpy())
    rest = [name for name in members if name not in FIRST]
    frame = pd.DataFrame(axes | {name: members[name] for name in (*FIRST, *rest)})
    if record["kind"] == "solve":
        frame = frame.drop(columns="accuracy")
    else:
        frame = frame.drop(columns=["relative_residual", "samples", "converged"])
    frame["reason"] = _reasons(store, frame)
    return crossing_columns(store, frame, list(axes)) if crossovers else frame


def _reasons(store: Store, frame: pd.DataFrame) -> list[str]:
    known = store.reasons(frame["row"][frame["status"] == FAILED].tolist())
    return [known.get(row, "") for row in frame["row"].tolist()] if known else [""] * len(frame)
