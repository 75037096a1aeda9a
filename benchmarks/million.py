"""A store of a million rows: a made-up sweep of 15 windows x 10 mixings x 8 batch sizes.

Each of the 1,200 settings has 28 seeds x 30 repeats: 1,008,000 trials. Statuses and measures are
made up by `trials`. A real solve was run for each window and mixing; the first 840 rows
and every twentieth of the rest have its card and curves (all of them would take 4 GB).
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import insert

from andersonn_core import PROBLEMS, Anderson, SolveSpec, Sweep
from andersonn_core.runcard import code_version
from andersonn_core.store import Row, Store
from andersonn_core.store.opening import opened
from andersonn_core.store.schema import details, members, origins, rows, specs
from andersonn_core.sweeps.trial import Trial, run_trial

WINDOWS, MIXINGS, BATCHES = np.arange(1, 16), np.arange(1, 11) / 10, 2 ** np.arange(8)
SEEDS, REPEATS = 28, 30
BASE = SolveSpec(
    problem=PROBLEMS["tanh"](size=64, batch_size=4), method=Anderson(), rtol=1e-6, max_iter=400
)
EACH, KEPT, AT_ONCE = SEEDS * REPEATS, 20, 50_000
MEASURES = ["num_evals", "seconds", "relative_residual"]


def trials() -> pd.DataFrame:
    """A made-up sweep with all the ways to end."""
    rng = np.random.default_rng(0)
    axes = (WINDOWS, MIXINGS, BATCHES, np.arange(SEEDS), np.arange(REPEATS))
    window, mixing, batch, seed, repeat = (
        each.ravel() for each in np.meshgrid(*axes, indexing="ij")
    )
    count = len(window)
    level = 8 + 120 * np.exp(-window / 3) + 30 * (1 - mixing) ** 2 + 1.2 * np.abs(window - 8)
    evaluations = np.round(level * rng.lognormal(0, 0.12, count)).clip(4, 400)
    status, chance = np.full(count, "CONVERGED", object), rng.uniform(size=count)
    status[(mixing > 0.9) & (window <= 2)] = "DIVERGED"
    status[chance < 0.01] = "STALLED"
    status[(mixing < 0.2) & (chance < 0.7)] = "MAX_ITER"
    status[chance > 0.997] = "FAILED"
    evaluations[status == "MAX_ITER"] = 400
    evaluations[status == "FAILED"] = np.nan
    cost = 2e-4 + 1.5e-5 * batch * (1 + window / 10)
    return pd.DataFrame(
        {
            "method.window": window, "method.mixing": mixing, "problem.batch_size": batch,
            "seed": seed, "repeat": repeat, "row": np.arange(count), "status": status,
            "num_evals": evaluations, "seconds": evaluations * cost * rng.lognormal(0, 0.08, count),
            "relative_residual": 10 ** rng.uniform(-6, -5, count), "device": "made up", "code": "0",
        }
    )  # fmt: skip


def big_sweep() -> Sweep:
    """1,008,000 trials; nobody runs them."""
    axes = {
        "method.window": WINDOWS.tolist(), "method.mixing": MIXINGS.tolist(),
        "problem.batch_size": BATCHES.tolist(),
    }  # fmt: skip
    return Sweep(BASE, axes, repeats=REPEATS, seeds=range(SEEDS))


def make(path: Path) -> None:
    """Write the store; about a minute."""
    plan = big_sweep().plan
    points = [plan.spec_at(point) for point in plan.points()]
    solved = [_solved(points[k]) for k in range(0, len(points), len(BATCHES))]
    with Store(path) as store:
        sweep = store.register(plan.sweep_id, plan.record(), plan.total)
    engine = opened(path, read_only=False)
    with engine.begin() as connection:
        place = {"id": 1, "code": code_version(), "device": solved[0].device}
        connection.execute(insert(origins), [place])
        known = [{"spec_id": s.spec_id, "kind": "solve", "knobs": s.to_json()} for s in points]
        connection.execute(insert(specs), known)
        frame = _rows([spec.spec_id for spec in points])
        linked = ({"sweep": sweep, "number": k, "row": k + 1} for k in range(len(frame)))
        for table, values in (
            (rows, _records(frame)), (members, linked), (details, _details(frame, solved)),
        ):  # fmt: skip
            while some := list(itertools.islice(values, AT_ONCE)):
                connection.execute(insert(table), some)
    engine.dispose()


def _solved(spec: SolveSpec) -> Row:
    trial = Trial("solve", spec.to_json(), spec.spec_id, 0, 0, code_version())
    return run_trial(trial)


def _rows(spec_ids: list[str]) -> pd.DataFrame:
    """Rows in the order of the trials' numbers."""
    made = trials()
    frame = made[["seed", "repeat", "status", *MEASURES]].assign(
        id=np.arange(1, len(made) + 1), spec_id=np.repeat(spec_ids, EACH), origin=1,
        samples=4, converged=np.where(made["status"] == "CONVERGED", 4, 0),
        date="2026-11-22T12:00:00+00:00",
    )  # fmt: skip
    return frame.astype(object).where(frame.notna(), None)


def _records(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    names = [*frame]
    columns = (frame[name].tolist() for name in names)
    return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def _details(frame: pd.DataFrame, solved: list[Row]) -> Iterator[dict[str, Any]]:
    """Cards and curves of some rows, reasons of all that failed."""
    cards = [zlib.compress(row.card.encode()) for row in solved]
    failed = (frame["status"] == "FAILED").to_numpy()
    for k in range(len(frame)):
        which = k // (EACH * len(BATCHES))
        detail = {"row": k + 1, "reason": "", "clock": solved[which].clock, "card": cards[which]}
        if failed[k]:
            yield detail | {"reason": "RuntimeError: made up", "curves": None}
        elif k < EACH or k % KEPT == 0:
            yield detail | {"curves": solved[which].curves}
