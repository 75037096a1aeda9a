"""Where one swept method overtakes another: a crossover for each row, from the kept curves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from andersonn_core.crossover import Crossover, crossover
from andersonn_core.methods import Picard
from andersonn_core.store import FAILED, Store

METHOD = "method"
NUMBERS = ("crossover_seconds", "crossover_evaluations", "crossover_residual", "speedup",
           "penalty_paid", "payback", "mixing_penalty")  # fmt: skip
AGGREGATE = "median"  # of the batch


def baseline_of(methods: list[str]) -> str:
    """What the others are compared with: forward iteration, or else the first."""
    return Picard.name if Picard.name in methods else methods[0]


def crossing_columns(store: Store, frame: pd.DataFrame, axes: list[str]) -> pd.DataFrame:
    """The frame with a crossover in each row of a method, beside the same row of the baseline.

    `crossover` says of which kind it is; it is empty where there is nothing to compare: for the
    baseline itself, for what failed, and where its row was made by other code or on another device.
    """
    if METHOD not in axes or len(methods := list(frame[METHOD].unique())) < 2:
        return frame
    same = [name for name in axes if name.partition(".")[0] != METHOD]
    by = [*same, "seed", "repeat", "code", "device"]
    columns: dict[int, dict[str, Any]] = {}
    for _, group in frame.groupby(by, dropna=False, observed=True, sort=False):
        columns |= dict(_compared(store, group, baseline_of(methods)))
    found = pd.DataFrame.from_dict(columns, orient="index", columns=["crossover", *NUMBERS])
    found = found.reindex(frame.index)
    return pd.concat([frame, found.fillna({"crossover": ""})], axis=1)


def _compared(
    store: Store, group: pd.DataFrame, baseline: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The numbers of each row of one problem, seed, repeat and origin.

    Other axes may be of the method alone, such as its window: the baseline's rows are then one.
    """
    usable = group[group["status"] != FAILED]
    first, others = usable[usable[METHOD] == baseline], usable[usable[METHOD] != baseline]
    if first.empty or others.empty:
        return
    results = store.results([*first["row"][:1], *others["row"].unique()])
    one = results[first["row"].iloc[0]]
    for index, row in others["row"].items():
        yield int(str(index)), _numbers(crossover(one, results[row], AGGREGATE))


def _numbers(found: Crossover) -> dict[str, Any]:
    values = (found.seconds, found.evaluations, found.residual, float(found.speedup(found.target)),
              found.penalty_paid, found.payback, found.mixing_penalty)  # fmt: skip
    finite = {name: value if math.isfinite(value) else math.nan
              for name, value in zip(NUMBERS, values, strict=True)}  # fmt: skip
    return {"crossover": found.kind} | finite
