"""Which settings are best? Optuna asks for points, the store answers, or a worker.

A grid shows a landscape; where only its lowest point is wanted, a sampler that learns from what it
has seen needs a part of the trials. The Tree-structured Parzen Estimator is that of Bergstra et
al., NeurIPS 2011.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from andersonn_core.solve import SolveSpec
from andersonn_core.specs import KnobError
from andersonn_core.store import Store
from andersonn_core.sweeps.axes import Axis
from andersonn_core.sweeps.engines import Engine
from andersonn_core.sweeps.plan import Plan
from andersonn_core.sweeps.progress import OnProgress, SweepProgress
from andersonn_core.sweeps.session import Session
from andersonn_core.sweeps.summary import GOOD
from andersonn_core.training import TrainSpec

if TYPE_CHECKING:
    from optuna import Study, Trial

OBJECTIVES = ("num_evals", "seconds")
TOGETHER = 4  # points that are asked for before the answers to the first are in


@dataclass(frozen=True)
class Best:
    """The point with the smallest median of the objective, and all that was tried."""

    spec: SolveSpec | TrainSpec
    value: float  # the median over seeds and repeats; infinite where some trial did not converge
    point: dict[str, Any]  # by axis
    frame: pd.DataFrame  # the rows of all points that were asked for
    study: Study  # Optuna's own record


class Search:
    """Points that a study asks for, and what it is told of them."""

    def __init__(self, plan: Plan, objective: str, seed: int) -> None:
        import optuna

        if objective not in OBJECTIVES:
            raise KnobError(f"objective = {objective!r} must be one of {', '.join(OBJECTIVES)}.")
        if not plan.axes:
            raise KnobError("there is nothing to choose: give at least one axis.")
        self.plan, self.objective = plan, objective
        # each search is a sweep of its own: what it asks for follows from what it was answered
        self.sweep_id = secrets.token_hex(8)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # the liar takes points that are under way for bad ones, so that others are asked for
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self.study = optuna.create_study(sampler=sampler, direction="minimize")
        self.points: dict[str, list[Any]] = {name: [] for name in plan.axes}
        self.values: list[float] = []

    def ask(self, count: int) -> tuple[list[Trial], Plan]:
        """So many new points; the trials at these and at all points before."""
        asked = [self.study.ask() for _ in range(count)]
        for name, axis in self.plan.axes.items():
            self.points[name] += [_suggested(one, axis) for one in asked]
        plan = self.plan
        return asked, Plan.of_points(plan.base, self.points, plan.repeats, plan.seeds)

    def tell(self, asked: list[Trial], frame: pd.DataFrame) -> None:
        """What came out at the points that were asked for."""
        each = self.plan.repeats * len(self.plan.seeds)
        rows = frame.set_index("number")
        for one in asked:
            first = len(self.values) * each
            self.values.append(_median(rows.loc[first : first + each - 1], self.objective))
            self.study.tell(one, self.values[-1])

    def best(self, frame: pd.DataFrame) -> Best:
        """The best of the points that were answered."""
        index = min(range(len(self.values)), key=self.values.__getitem__)
        point = {name: values[index] for name, values in self.points.items()}
        return Best(self.plan.spec_at(point), self.values[index], point, frame, self.study)


def search(
    found: Search,
    trials: int,
    store: Store,
    engine: Engine,
    tell: OnProgress,
    should_stop: Callable[[], bool],
) -> Best:
    """Ask for `trials` points, some at a time, run what the store does not know, tell the study."""
    frame, start = pd.DataFrame(), time.monotonic()
    each = found.plan.repeats * len(found.plan.seeds)
    while len(found.values) < trials and not should_stop():
        asked, points = found.ask(min(TOGETHER, trials - len(found.values)))
        session = Session(points, store, engine, sweep_id=found.sweep_id)
        session.run(lambda _: None, should_stop)
        rows = session.frame()
        if len(rows) < points.total:  # stopped
            break
        frame = rows
        found.tell(asked, frame)
        done = len(found.values) * each
        tell(SweepProgress(trials * each, done, 0, 0, time.monotonic() - start))
    if not found.values:
        raise KnobError("the search was stopped before its first answer: there is no best point.")
    return found.best(frame)


def _suggested(trial: Trial, axis: Axis) -> Any:
    """A value of the axis: of an interval any, of a list one of its own; numbers have an order."""
    name, interval = axis.name, axis.interval
    if interval is None:
        ordered = axis.knob.kind in ("integer", "number") and not any(
            isinstance(value, str) or value is None for value in axis.values
        )
        if ordered:
            return sorted(axis.values)[trial.suggest_int(name, 0, len(axis.values) - 1)]
        return axis.values[trial.suggest_categorical(name, range(len(axis.values)))]
    if axis.knob.kind == "integer":
        return trial.suggest_int(
            name, math.ceil(interval.low), math.floor(interval.high), log=interval.log
        )
    return trial.suggest_float(name, interval.low, interval.high, log=interval.log)


def _median(rows: pd.DataFrame, objective: str) -> float:
    """The median over seeds and repeats; infinite unless all of them converged."""
    good = rows["status"].isin(GOOD)
    return float(rows[objective].median()) if bool(good.all()) else math.inf
