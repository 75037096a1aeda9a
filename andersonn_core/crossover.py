"""Where Anderson overtakes forward iteration, what that cost before, and what it pays after.

All levels are best-so-far relative residuals of an aggregate of the batch: the level that half
(median), 95 % (p95) or all of the samples have reached; levels below the tolerance do not count.

    crossover point      the earliest time after which Anderson stays below forward iteration
    S(tol)               T_forward(tol) / T_anderson(tol), T(tol) the time at which tol is reached
    crossover tolerance  the loosest tol below which S > 1 for every tighter one: the same point
    penalty paid         the largest T_anderson(tol) - T_forward(tol) before the crossover
    payback              T_forward(tol) - T_anderson(tol) at the tolerance that the solves met
    mixing penalty       method seconds / map seconds of Anderson's steps

These definitions are ours; the literature names the terms without defining them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from andersonn_core.arrays import Floats
from andersonn_core.comparable import paired
from andersonn_core.methods import METHODS, Anderson
from andersonn_core.results import SolveResult, Status
from andersonn_core.staircase import Crossing, Staircase, cross, levels_of, loosest_converged
from andersonn_core.student import Interval, geometric_mean
from andersonn_core.words import interval_text, jsonable, ratio_text, residual_text, seconds_text

Kind = Literal["at", "from the start", "only the challenger converges", "none", "not resolved"]

AGGREGATES = {"median": 0.5, "p95": 0.95, "all": 1.0}  # the fraction of samples at the level
WHERE = {
    "median": " in the median",
    "p95": " for 95 % of the samples",
    "all": " for the slowest sample",
}


@dataclass(frozen=True)
class Point:
    """Where two curves cross for good over one abscissa; numbers are NaN unless kind is "at".

    With repeated runs a number is their geometric mean, its interval holds that mean with 95 %;
    for a single run the interval is NaN.
    """

    kind: Kind
    seconds: float = math.nan
    evaluations: float = math.nan  # Anderson's
    residual: float = math.nan  # the level that forward iteration holds when Anderson passes it
    seconds_interval: Interval = (math.nan, math.nan)
    evaluations_interval: Interval = (math.nan, math.nan)
    residual_interval: Interval = (math.nan, math.nan)


@dataclass(frozen=True)
class Crossover:
    """Where one method overtakes another, on one aggregate of the batch.

    `kind` is the verdict over seconds. "only the challenger converges" is said before any crossing;
    where Anderson then passes forward iteration, if it ever was behind, is in `by_seconds`.
    """

    kind: Kind
    aggregate: str
    by_seconds: Point
    by_evaluations: Point
    target: float  # the loosest relative residual that met a tolerance; NaN if none did
    mixing_penalty: float  # Anderson's method seconds / map seconds
    penalty_parts: dict[str, float]  # its split, in map seconds; empty unless profiled
    penalty_paid: float  # seconds; 0 if forward iteration never leads
    payback: float  # seconds; negative: forward iteration wins; infinite: one never gets there
    num_samples: int
    samples_ahead: int  # Anderson ends ahead for good, in every repeat
    samples_behind: int  # forward iteration does; the rest is the same in both, or undecided
    sample_seconds: Floats  # (B,) each sample's own, their mean; NaN unless "at" in every repeat
    challenger: str  # how a person calls the method: "Anderson"
    reason: str  # a clause that says why there is no crossover; empty where there is one
    _curves: tuple[tuple[Staircase, Staircase], ...] = field(repr=False, compare=False)

    @property
    def point(self) -> Point:
        """The crossover point: `by_seconds` if the verdict is "at", otherwise NaN throughout."""
        return self.by_seconds if self.kind == "at" else Point(self.kind)

    @property
    def seconds(self) -> float:
        """When Anderson is ahead for good; NaN unless kind is "at"."""
        return self.point.seconds

    @property
    def evaluations(self) -> float:
        """How many evaluations Anderson has then made; NaN unless kind is "at"."""
        return self.point.evaluations

    @property
    def residual(self) -> float:
        """The residual there, which is the crossover tolerance; NaN unless kind is "at"."""
        return self.point.residual

    def speedup(self, tol: ArrayLike) -> Floats:
        """S(tol) = T_forward(tol) / T_anderson(tol), the geometric mean over repeats.

        Infinite where only Anderson reaches tol, 0 where only forward iteration does, NaN where
        neither does.
        """
        levels = np.asarray(tol, dtype=float)
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = [np.log(one.time_to(levels) / new.time_to(levels)) for one, new in self._curves]
            return np.asarray(np.exp(np.mean(logs, axis=0)))

    def speedup_interval(self, tol: float) -> Interval:
        """The interval that holds the mean S(tol) of repeated runs with 95 %.

        NaN for a single run, and where a run does not reach tol.
        """
        level = np.asarray(tol)
        each = [float(one.time_to(level) / new.time_to(level)) for one, new in self._curves]
        if not all(0 < ratio < math.inf for ratio in each):
            return math.nan, math.nan
        return geometric_mean(each)[1]

    def compute_saved(self, tol: ArrayLike) -> Floats:
        """1 - 1/S(tol): the part of forward iteration's seconds that Anderson does without."""
        with np.errstate(divide="ignore"):
            return np.asarray(1 - 1 / self.speedup(tol))

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        where = WHERE[self.aggregate] if self.num_samples > 1 else ""
        if self.kind == "at":
            text = f"{self.challenger} is ahead after {_time_text(self.point)}{where}"
        elif self.kind == "from the start":
            text = f"{self.challenger} is ahead from the start{where}"
        elif self.kind == "only the challenger converges":
            text = f"Only {self.challenger} converges{where}: {self.reason}"
        else:
            head = "No crossover" if self.kind == "none" else "The crossover is not resolved"
            return f"{head}: {self.reason}."
        return f"{text}{self._samples_clause()}.{self._gain_clause()}"

    def _samples_clause(self) -> str:
        """For how many samples the verdict holds, where it does not hold for all."""
        crossed = self.kind in ("at", "from the start")
        if not crossed or self.num_samples == 1 or not self.samples_behind:
            return ""
        few = self.samples_behind == 1
        rest = "the last" if few else f"the other {self.samples_behind}"
        return f", in the end for {self.samples_ahead} of {self.num_samples}; never for {rest}"

    def _gain_clause(self) -> str:
        if self.kind == "only the challenger converges":
            when = f" {self.challenger} is ahead after {_time_text(self.by_seconds)}."
            return when if self.by_seconds.kind == "at" else ""
        gain = float(self.speedup(self.target))
        if math.isnan(gain):
            return " Neither reaches the tolerance."
        return f" It reaches the tolerance {ratio_text(gain)} sooner." if gain < math.inf else ""

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON: NaN and infinity become None."""
        names = ["kind", "aggregate", "sentence", "challenger", "target", "mixing_penalty"]
        names += ["penalty_parts", "penalty_paid", "payback", "num_samples", "samples_ahead"]
        record = {name: getattr(self, name) for name in [*names, "samples_behind"]}
        record |= {name: value for name, value in vars(self.point).items() if name != "kind"}
        record["speedup"] = float(self.speedup(self.target))
        record["compute_saved"] = float(self.compute_saved(self.target))
        return {name: jsonable(value) for name, value in record.items()}


def crossover(
    forward: SolveResult | Sequence[SolveResult],
    anderson: SolveResult | Sequence[SolveResult],
    aggregate: str = "median",
) -> Crossover:
    """Compare a solve by forward iteration with one by Anderson, or repeated runs of both in pairs.

    Raises ValueError if they can't be compared: another batch, problem, seed, clock or device.
    """
    fraction, results = fraction_of(aggregate), paired(forward, anderson)
    pairs = [_compare(one, new, fraction) for one, new in results]
    kind, challenger = _agreed([pair.kind for pair in pairs]), label_of(results[0][1])
    sample_kinds = np.stack([pair.sample_kinds for pair in pairs])  # (R, B)
    penalty, parts = _mixing_penalty([new for _, new in results])
    return Crossover(
        kind=kind,
        aggregate=aggregate,
        by_seconds=_pooled([pair.by_seconds for pair in pairs]),
        by_evaluations=_pooled([pair.by_evaluations for pair in pairs]),
        target=float(np.fmax.reduce([pair.target for pair in pairs])),
        mixing_penalty=penalty,
        penalty_parts=parts,
        penalty_paid=float(np.mean([pair.penalty_paid for pair in pairs])),
        payback=float(np.mean([pair.payback for pair in pairs])),
        num_samples=sample_kinds.shape[1],
        samples_ahead=int(np.isin(sample_kinds, ("at", "from the start")).all(0).sum()),
        samples_behind=int((sample_kinds == "none").all(0).sum()),
        sample_seconds=np.mean([pair.sample_seconds for pair in pairs], axis=0),
        challenger=challenger,
        reason=_reason(kind, challenger, results[0][0], pairs, penalty),
        _curves=tuple((pair.forward, pair.anderson) for pair in pairs),
    )


def fraction_of(aggregate: str) -> float:
    """The part of the samples that an aggregate waits for; raises ValueError for unknown names."""
    if aggregate not in AGGREGATES:
        raise ValueError(f"aggregate = {aggregate!r}: it must be one of {', '.join(AGGREGATES)}.")
    return AGGREGATES[aggregate]


@dataclass(frozen=True)
class _Pair:
    """One run by forward iteration against one by Anderson."""

    kind: Kind
    by_seconds: Point
    by_evaluations: Point
    forward: Staircase
    anderson: Staircase
    target: float
    penalty_paid: float
    payback: float
    led: bool  # Anderson was ahead at some time
    cancelled: bool
    sample_kinds: NDArray[np.str_]  # (B,)
    sample_seconds: Floats  # (B,)


def _compare(forward: SolveResult, anderson: SolveResult, fraction: float) -> _Pair:
    target = max(loosest_converged(forward), loosest_converged(anderson))
    x, levels = levels_of(forward, target, fraction)
    x_new, new = levels_of(anderson, target, fraction)
    by_seconds = cross(x, levels, x_new, new)
    counts, counts_new = (np.arange(1.0, len(time) + 1) for time in (x, x_new))
    by_evaluations = cross(counts, levels[:, :1], counts_new, new[:, :1])
    curve, curve_new = Staircase(x, levels[:, 0]), Staircase(x_new, new[:, 0])
    goal = np.asarray(target or math.nan)
    with np.errstate(invalid="ignore"):
        payback = float(curve.time_to(goal) - curve_new.time_to(goal))
    return _Pair(
        kind=_kind(forward, anderson, fraction, by_seconds),
        by_seconds=_point(by_seconds, x_new, x_new, counts_new),
        by_evaluations=_point(by_evaluations, counts_new, x_new, counts_new),
        forward=curve,
        anderson=curve_new,
        target=float(goal),
        penalty_paid=curve.largest_lead_over(curve_new, float(by_seconds.ceiling[0])),
        payback=payback,
        led=bool(by_seconds.led[0]),
        cancelled=_cancelled(forward, anderson),
        sample_kinds=by_seconds.kinds[1:],
        sample_seconds=by_seconds.positions[1:],
    )


def _kind(forward: SolveResult, anderson: SolveResult, fraction: float, crossing: Crossing) -> Kind:
    """The verdict on one pair; statuses are heard before curves."""
    if _cancelled(forward, anderson):
        return "not resolved"
    needed = math.ceil(fraction * len(forward.status))
    solved = [int(result.converged.sum()) >= needed for result in (forward, anderson)]
    return "only the challenger converges" if solved == [False, True] else _kind_of(crossing)


def _kind_of(crossing: Crossing) -> Kind:
    return cast(Kind, str(crossing.kinds[0]))


def _point(crossing: Crossing, x: Floats, seconds: Floats, counts: Floats) -> Point:  # (K,) each
    """The aggregate's crossing as a point; x, seconds and counts are Anderson's."""
    if _kind_of(crossing) != "at":
        return Point(_kind_of(crossing))
    row = int(np.searchsorted(x, crossing.positions[0]))
    return Point("at", float(seconds[row]), float(counts[row]), float(crossing.residuals[0]))


def _cancelled(*results: SolveResult) -> bool:
    return any(bool((result.status == int(Status.CANCELLED)).any()) for result in results)


def _agreed(kinds: Sequence[Kind]) -> Kind:
    """What all repeats say; "not resolved" if they contradict one another."""
    return kinds[0] if len(set(kinds)) == 1 else "not resolved"


def _pooled(points: Sequence[Point]) -> Point:
    """The geometric mean of repeated points, with 95 % intervals."""
    kind = _agreed([point.kind for point in points])
    if kind != "at" or len(points) == 1:
        return points[0] if len(points) == 1 else Point(kind)
    seconds, seconds_interval = geometric_mean([point.seconds for point in points])
    evaluations, evaluations_interval = geometric_mean([point.evaluations for point in points])
    residual, residual_interval = geometric_mean([point.residual for point in points])
    intervals = seconds_interval, evaluations_interval, residual_interval
    return Point("at", seconds, evaluations, residual, *intervals)


def _mixing_penalty(results: Sequence[SolveResult]) -> tuple[float, dict[str, float]]:
    """Method seconds / map seconds over all steps, and the same for each profiled part."""
    histories = [result.history for result in results]
    in_map = sum(float(history.map_seconds.sum()) for history in histories)
    if in_map <= 0:  # a clock too coarse for so short a run
        return math.nan, {}
    method = sum(float(history.method_seconds.sum()) for history in histories)
    parts: dict[str, float] = {}
    for history in histories:
        for name, seconds in history.part_seconds.items():
            parts[name] = parts.get(name, 0.0) + float(seconds.sum()) / in_map
    return method / in_map, parts


def label_of(result: SolveResult) -> str:
    """How a person calls the method of a result."""
    name = result.card.spec.get("method", {}).get("name", Anderson.name)
    return METHODS[name].label if name in METHODS else str(name)


def _reason(
    kind: Kind, challenger: str, forward: SolveResult, pairs: Sequence[_Pair], penalty: float
) -> str:
    """A clause that says why there is no crossover; empty where there is one."""
    if kind == "only the challenger converges":
        return _how_it_failed(forward)
    if kind == "none":
        return _why_none(challenger, pairs[0], penalty)
    if kind != "not resolved":
        return ""
    if any(pair.cancelled for pair in pairs):
        return "a run was stopped before its end"
    if len({pair.kind for pair in pairs}) == 1:
        return f"{challenger} and forward iteration make the same iterates"
    wins = sum(pair.kind not in ("none", "not resolved") for pair in pairs)
    return f"{challenger} ends ahead in {wins} of {len(pairs)} runs"


def _how_it_failed(forward: SolveResult) -> str:
    """What most of the samples without an answer did under forward iteration."""
    failed = forward.status[~forward.converged].tolist()
    status = Status(max(set(failed), key=failed.count))
    level = residual_text(float(forward.relative_residual[~forward.converged].median()))
    return {
        Status.DIVERGED: "forward iteration diverges",
        Status.NONFINITE: "forward iteration runs into NaN or infinity",
        Status.STALLED: f"forward iteration stalls at {level}",
    }.get(status, f"forward iteration is still at {level} after {forward.num_evals} evaluations")


def _why_none(challenger: str, pair: _Pair, penalty: float) -> str:
    reached, left = (float(curve.levels[-1]) for curve in (pair.forward, pair.anderson))
    if pair.led and reached < left:
        lead = f"{challenger} leads for a while but stays at {residual_text(left)}"
        return f"{lead}, forward iteration goes on to {residual_text(reached)}"
    where = ", in evaluations too" if pair.by_evaluations.kind == "none" else ""
    costs = "" if math.isnan(penalty) else f", mixing costs {ratio_text(penalty)} the map"
    return f"forward iteration wins here{where}{costs}"


def _time_text(point: Point) -> str:
    low, high = point.seconds_interval
    spread = "" if math.isnan(low) else f" (95 %: {interval_text(low, high)})"
    return seconds_text(point.seconds) + spread
