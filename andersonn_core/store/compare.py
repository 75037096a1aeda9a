"""Two stores side by side: which trials both hold, and where their numbers differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sqlalchemy import select

from andersonn_core.store.schema import origins, rows
from andersonn_core.store.store import KEY, Store

EXACT = ("status", "num_evals", "samples", "converged")
CLOSE = ("relative_residual", "accuracy")
RTOL = 1e-3  # relative difference up to which residuals agree, as `rerun` has it


@dataclass(frozen=True)
class StoreComparison:
    """What two stores have in common, by (spec_id, seed, repeat); of several rows the newest."""

    both: pd.DataFrame  # a row a common trial: columns of each store with _a and _b; agrees, ratio
    only_a: pd.DataFrame
    only_b: pd.DataFrame

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        head = (
            f"{len(self.both):,} trials are in both stores, {len(self.only_a):,} only in the "
            f"first, {len(self.only_b):,} only in the second."
        )
        if not len(self.both):
            return head
        agree = int(self.both["agrees"].sum())
        numbers = f"Statuses, counts and residuals agree in {agree:,} of {len(self.both):,}."
        low, middle, high = self.both["ratio"].quantile([0.1, 0.5, 0.9])
        devices = sorted({*self.both["device_a"], *self.both["device_b"]})
        where = "on one device" if len(devices) == 1 else f"on {' and '.join(devices)}"
        if not np.isfinite(middle):
            return f"{head} {numbers}"
        return (
            f"{head} {numbers} The second takes {middle:.3g} times the first's seconds "
            f"({low:.3g} to {high:.3g} in 80 % of the trials; {where})."
        )


def compare(a: Store, b: Store, rtol: float = RTOL) -> StoreComparison:
    """Match the rows of two stores by what was run; code and device may differ, and are told."""
    first, second = _newest(a), _newest(b)
    joined = first.merge(second, on=list(KEY), how="outer", suffixes=("_a", "_b"), indicator=True)
    both = joined[joined["_merge"] == "both"].drop(columns="_merge").reset_index(drop=True)
    agrees = pd.Series(True, index=both.index)
    for name in EXACT:
        agrees &= _same(both[f"{name}_a"], both[f"{name}_b"])
    for name in CLOSE:
        one, other = both[f"{name}_a"].astype(float), both[f"{name}_b"].astype(float)
        agrees &= np.isclose(one, other, rtol=rtol, atol=0.0, equal_nan=True)
    ratio = both["seconds_b"] / both["seconds_a"]
    return StoreComparison(
        both=both.assign(agrees=agrees, ratio=ratio),
        only_a=_side(joined, "left_only", "_a"),
        only_b=_side(joined, "right_only", "_b"),
    )


def _newest(store: Store) -> pd.DataFrame:
    columns = [rows.c[name] for name in (*KEY, *EXACT, *CLOSE, "seconds", "date")]
    query = select(rows.c.id.label("row"), *columns, origins.c.code, origins.c.device)
    frame = store.frame(query.join(origins).order_by(rows.c.id))
    return frame.drop_duplicates(list(KEY), keep="last")


def _same(one: pd.Series, other: pd.Series) -> pd.Series:
    return (one == other) | (one.isna() & other.isna())


def _side(joined: pd.DataFrame, side: str, end: str) -> pd.DataFrame:
    part = joined[joined["_merge"] == side]
    names = [*KEY, *(name for name in joined if name.endswith(end))]
    return part[names].rename(columns=lambda name: name.removesuffix(end)).reset_index(drop=True)
