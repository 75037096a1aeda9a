"""A sweep's frame in short: each point of the axes over its seeds and repeats, the best first."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from andersonn_core.results import Status
from andersonn_core.sweeps.trial import FINISHED

GOOD = (Status.CONVERGED.name, FINISHED)


def by_point(frame: pd.DataFrame, axes: Sequence[str], value: str = "num_evals") -> pd.DataFrame:
    """One row a point: trials, those that converged, and median, 10 % and 90 % of `value`.

    Only converged trials have values; points are in the order of the part that converged, then of
    the median.
    """
    good = frame["status"].isin(GOOD)
    kept = frame.assign(good=good, value=frame[value].where(good))
    if not axes:
        kept, axes = kept.assign(all="all"), ["all"]
    grouped = kept.groupby(list(axes), dropna=False, sort=False)
    table = pd.DataFrame(
        {
            "trials": grouped.size(),
            "converged": grouped["good"].sum(),
            "median": grouped["value"].median(),
            "low": grouped["value"].quantile(0.1),
            "high": grouped["value"].quantile(0.9),
        }
    ).reset_index()
    part = table["converged"] / table["trials"]
    order = table.assign(part=-part).sort_values(["part", "median"], kind="stable").index
    return table.loc[order].reset_index(drop=True)


def recommended(points: pd.DataFrame, within: float = 0.1) -> pd.DataFrame:
    """The points of `by_point` in which all trials converged, with a median near the best one's.

    Near: at most the part `within` above it. A region says more than its lowest point, which the
    next seed may put elsewhere.
    """
    whole = points[points["converged"] == points["trials"]]
    return whole[whole["median"] <= (1 + within) * whole["median"].min()]
