"""The speed-up that two solves will show, from the first part of their evaluations.

    S = (N_forward / N_anderson) / (1 + mixing seconds / map seconds)

N: evaluations until the tolerance, forecast from the residuals so far. Forward iteration's own
step is cheap but not free: it counts as part of the map, and mixing as what it costs on top, so
that S is the ratio of both runs' seconds, which `Crossover.speedup` measures afterwards.

`make bench-predictions` measures it. Kept: the mean slope of the logarithms after the first quarter
of what was seen. It errs by up to 40 % on N, mostly in the same way for both solves, so that S is
better than either. Tried and dropped: all of what was seen (the fast beginning misleads); the last
half, third or quarter (restarts make Anderson's slope noisy); different parts for the two solves
(their errors cancel no longer); Theil and Sen's slope (a best-so-far residual has no outliers);
y = a - s k - p log k by least squares (good for forward iteration, far too noisy for Anderson); the
history's gains (they foretell about half of the fall: the map shrinks the combined residual, too);
slopes over the levels that both solves have passed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from andersonn_core.arrays import Floats
from andersonn_core.comparable import BATCHES, SEEDS, paired
from andersonn_core.cost_model import Forecast, forecast, settled, speedup
from andersonn_core.crossover import WHERE, fraction_of, label_of
from andersonn_core.results import SolveResult
from andersonn_core.staircase import levels_of
from andersonn_core.words import count_text, ratio_text, residual_text

Verdict = Literal["pays", "does not pay", "not resolved"]

HANDFUL = 6  # evaluations below which nothing is predicted
Z_975 = 1.959964
TINY = np.finfo(float).tiny  # seconds of a clock that is too coarse to see any
# Rates change after what was seen, both by a common factor and each by one of its own: deviations
# of their logarithms, as `make bench-predictions` finds them.
COMMON, OWN = 0.3, 0.1


@dataclass(frozen=True)
class Prediction:
    """What S will be, with a 95 % interval; infinite, 0 and NaN as `Crossover.speedup` has them."""

    speedup: float
    low: float
    high: float
    forward: Forecast
    anderson: Forecast
    map_seconds: float  # of one evaluation, at the predicted batch size
    mixing_seconds: float  # of Anderson's step between two evaluations
    plain_seconds: float  # of forward iteration's
    rtol: float
    seen: tuple[int, int]  # evaluations that the forecasts were made from
    challenger: str  # how a person calls the method: "Anderson"
    where: str  # on what aggregate: " in the median"

    @property
    def kind(self) -> Verdict:
        """The verdict: "not resolved" where the intervals of both times overlap."""
        if self.low > 1:
            return "pays"
        return "does not pay" if self.high < 1 else "not resolved"

    @property
    def too_few(self) -> bool:
        """Whether too few evaluations were seen to predict anything."""
        return math.isnan(self.forward.evaluations) or math.isnan(self.anderson.evaluations)

    @property
    def sentence(self) -> str:
        """The prediction in words."""
        if self.too_few:
            seen = f"{self.seen[0]} of forward iteration, {self.seen[1]} of {self.challenger}"
            return f"Too few evaluations for a prediction: {seen}; {HANDFUL} of each are needed."
        if math.isnan(self.speedup):
            return f"No residual falls so far: nothing says when {self._goal} will be reached."
        head = {
            "pays": f"{self.challenger} will pay",
            "does not pay": f"{self.challenger} will not pay",
            "not resolved": f"Whether {self.challenger} pays is not resolved",
        }[self.kind]
        return f"{head}: {self._clause}."

    @property
    def _goal(self) -> str:
        return f"{residual_text(self.rtol)}{self.where}"

    @property
    def _clause(self) -> str:
        """How much sooner, after how many evaluations and at what price."""
        counts = [count_text(one.evaluations) for one in (self.anderson, self.forward)]
        if self.speedup == math.inf:
            stuck = "forward iteration's residual does not fall so far"
            return f"it reaches {self._goal} after {counts[0]} evaluations, {stuck}"
        if self.speedup == 0:
            stuck = "its residual does not fall so far"
            return f"{stuck}, forward iteration reaches {self._goal} after {counts[1]} evaluations"
        span = _span_text(self.low, self.high)
        mixed, plain = self.mixing_seconds + self.map_seconds, self.plain_seconds + self.map_seconds
        price = ratio_text(mixed / plain)
        head = f"{ratio_text(self.speedup)} as fast to {self._goal} (95 %: {span})"
        return f"{head}, {counts[0]} evaluations instead of {counts[1]}, each {price} as dear"


def predict(
    forward: SolveResult | Sequence[SolveResult],
    anderson: SolveResult | Sequence[SolveResult],
    rtol: float,
    seen: float = 0.25,
    aggregate: str = "median",
    batch_size: int | None = None,
) -> Prediction:
    """Predict `crossover(forward, anderson, aggregate).speedup(rtol)`.

    Of every history only the first `seen` part is read, and at least a handful of rows. Repeated
    runs come in pairs; their medians count. With runs of two or more batch sizes,
    `batch_size` may be another one: seconds then lie on lines a + b B through the measured ones,
    the evaluations are those of the nearest batch size. `rtol` may be tighter than the solves' own.

    Raises ValueError if runs cannot be compared, a number is out of its range, or one batch size
    has to do for another.
    """
    _check(rtol, seen)
    fraction = fraction_of(aggregate)
    pairs = paired(forward, anderson, may_differ=(*SEEDS, *BATCHES))
    runs = [
        [_Run.of(one, rtol, seen, fraction) for one in kind] for kind in zip(*pairs, strict=True)
    ]
    size = _batch_size(batch_size, {run.batch_size for run in runs[0]})
    near = [_nearest(kind, size) for kind in runs]
    costs = _costs_at(size, *runs)
    own = [_pooled([run.changed(OWN) for run in kind]) for kind in near]
    shown = [_pooled([run.changed(math.hypot(COMMON, OWN)) for run in kind]) for kind in near]
    middle, low, high = _speedup(own[0], own[1], costs)
    rows = min(run.seen for run in near[0]), min(run.seen for run in near[1])
    return Prediction(
        speedup=middle,
        low=low,
        high=high,
        forward=shown[0],
        anderson=shown[1],
        map_seconds=costs.map,
        mixing_seconds=costs.mixing,
        plain_seconds=costs.plain,
        rtol=rtol,
        seen=rows,
        challenger=label_of(pairs[0][1]),
        where=WHERE[aggregate] if size > 1 else "",
    )


@dataclass(frozen=True)
class _Costs:
    """Seconds of one evaluation and of both methods' steps; the deviation of log S they cause."""

    map: float
    plain: float
    mixing: float
    error: float


@dataclass(frozen=True)
class _Run:
    """What the first rows of one solve say."""

    batch_size: int
    seen: int
    forecast: Forecast
    map_seconds: float
    penalty: float  # seconds of a step over those of the map beside it
    error: float  # of the logarithm of 1 + penalty

    @classmethod
    def of(cls, result: SolveResult, rtol: float, part: float, fraction: float) -> _Run:
        """The first `part` of a run, forecast to its tolerance."""
        seen = min(max(HANDFUL, math.ceil(part * result.num_evals)), result.num_evals)
        seen = _moving(result, seen, fraction)
        _, levels = levels_of(result, 0.0, fraction)
        found = _forecast(levels[:seen, 0], rtol)
        return cls(len(result.status), seen, found, *_penalty(result, seen))

    def changed(self, deviation: float) -> Forecast:
        """The forecast if the rate changes after what was seen, its logarithm by a deviation."""
        middle, low, high = (
            getattr(self.forecast, name) - self.seen for name in ("evaluations", "low", "high")
        )
        if not 0 < middle < math.inf:
            return self.forecast
        change = Z_975 * deviation
        low = middle * math.exp(-math.hypot(math.log(middle / low), change))
        high = middle * math.exp(math.hypot(math.log(high / middle), change))
        return Forecast(self.seen + middle, self.seen + low, self.seen + high)


def _check(rtol: float, seen: float) -> None:
    if not 0 < rtol < 1:
        raise ValueError(f"rtol = {rtol:g}: a tolerance to predict for lies between 0 and 1.")
    if not 0 < seen <= 1:
        raise ValueError(f"seen = {seen:g}: the part of the rows lies above 0 and at most at 1.")


def _batch_size(wanted: int | None, measured: set[int]) -> int:
    """The one to predict for, if it can be."""
    sizes = ", ".join(map(str, sorted(measured)))
    if wanted is None and len(measured) > 1:
        raise ValueError(f"batch_size = None: the runs have {sizes}; say for which to predict.")
    size = min(measured) if wanted is None else wanted
    if size < 1:
        raise ValueError(f"batch_size = {size}: it must be at least 1.")
    if measured != {size} and len(measured) == 1:
        raise ValueError(f"batch_size = {size}: all runs have {sizes}; give runs of two sizes.")
    return size


def _moving(result: SolveResult, seen: int, fraction: float) -> int:
    """The rows before so many samples had stopped that the aggregate's level cannot fall."""
    running = result.history.running[:seen].cpu().numpy()  # (K, B)
    rank = math.ceil(fraction * running.shape[1])
    return int(((~running).sum(axis=1) < rank).sum())


def _forecast(levels: Floats, rtol: float) -> Forecast:  # (K,)
    """Of the rows from the first finite residual on; NaN if they are too few."""
    dull = int((~np.isfinite(levels)).sum())
    if len(levels) - dull < HANDFUL and not (levels <= rtol).any():
        return Forecast(math.nan, len(levels), math.inf)
    found = forecast(levels[dull:], rtol)
    return Forecast(found.evaluations + dull, found.low + dull, found.high + dull)


def _penalty(result: SolveResult, seen: int) -> tuple[float, float, float]:
    """A map's typical seconds, the step's over these, and the error of log(1 + that ratio)."""
    parts = result.history.map_seconds, result.history.method_seconds
    in_map, in_method = (part[settled(seen)].cpu().double().numpy() for part in parts)
    logs = np.log1p(in_method / np.maximum(in_map, TINY))
    spread = 1.4826 * float(np.median(np.abs(logs - np.median(logs))))
    error = math.sqrt(math.pi / 2 / len(logs)) * spread
    map_seconds = max(_typical(in_map), TINY)
    return map_seconds, _typical(in_method) / map_seconds, error


def _typical(seconds: Floats) -> float:
    """The median; the mean where a clock is so coarse that most rows took no time."""
    return float(np.median(seconds)) or float(seconds.mean())


def _nearest(runs: Sequence[_Run], batch_size: int) -> list[_Run]:
    """The runs whose batch size has the smallest ratio to the wanted one."""
    far = [abs(math.log(run.batch_size / batch_size)) for run in runs]
    return [run for run, distance in zip(runs, far, strict=True) if distance == min(far)]


def _costs_at(batch_size: int, forward: Sequence[_Run], anderson: Sequence[_Run]) -> _Costs:
    """As measured at that batch size, or on lines through what was measured at others."""
    measured = {
        size: _costs(
            [run for run in forward if run.batch_size == size],
            [run for run in anderson if run.batch_size == size],
        )
        for size in sorted({run.batch_size for run in forward})
    }
    return measured.get(batch_size) or _on_lines(batch_size, measured)


def _costs(forward: Sequence[_Run], anderson: Sequence[_Run]) -> _Costs:
    """Of runs with one batch size.

    A machine that others use is slow for moments at a time: the map's seconds are those of the
    fastest run of either method, a step's follow from its ratio to the map within one run.
    """
    seconds = min(run.map_seconds for run in (*forward, *anderson))
    penalties = (float(np.median([run.penalty for run in kind])) for kind in (forward, anderson))
    errors = (
        float(np.median([run.error for run in kind])) / math.sqrt(len(kind))
        for kind in (forward, anderson)
    )
    plain, mixing = (seconds * penalty for penalty in penalties)
    return _Costs(seconds, plain, mixing, math.hypot(*errors))


def _on_lines(batch_size: int, measured: Mapping[int, _Costs]) -> _Costs:
    """Lines a + b B with a and b not negative, of least squares of relative errors.

    The error is that of the line without that condition, and both solves' own: another batch holds
    other samples.
    """
    costs, sizes = list(measured.values()), np.array(list(measured), dtype=float)
    whole = np.array([one.map + one.mixing for one in costs])
    design = np.column_stack([np.ones_like(sizes), sizes]) / whole[:, None]
    at = np.array([1.0, batch_size])
    in_map, plain, mixing = (
        float(at @ _law(design, np.array([getattr(one, name) for one in costs]) / whole))
        for name in ("map", "plain", "mixing")
    )
    errors = at @ np.linalg.pinv(design) * [one.error for one in costs] / (in_map + mixing)
    return _Costs(in_map, plain, mixing, math.hypot(float(np.linalg.norm(errors)), OWN, OWN))


def _law(design: Floats, values: Floats) -> Floats:  # (R, 2), (R,) -> (2,)
    """The coefficients a, b >= 0 with the least squares: of those with none or one of them 0."""
    found = [np.linalg.lstsq(design, values)[0].astype(float)]
    for column in (0, 1):
        alone = np.zeros(2)
        alone[column] = design[:, column] @ values / (design[:, column] @ design[:, column])
        found.append(alone)
    allowed = [law for law in found if (law >= 0).all()]
    return min(allowed, key=lambda law: float(np.linalg.norm(design @ law - values)))


def _pooled(found: Sequence[Forecast]) -> Forecast:
    """The medians of repeated runs' forecasts."""
    table = np.array([[one.evaluations, one.low, one.high] for one in found])
    return Forecast(*np.median(table, axis=0).tolist())


def _speedup(forward: Forecast, anderson: Forecast, costs: _Costs) -> tuple[float, float, float]:
    """S with its 95 % interval.

    The logarithms' errors are independent: distances of the bounds from the middles add up as
    squares, each side on its own (Zou and Donner, Statistics in Medicine 27, 2008).
    """
    cost = speedup(1, 1, costs.map + costs.plain, costs.mixing - costs.plain)
    if not (math.isfinite(forward.evaluations) and math.isfinite(anderson.evaluations)):
        low = cost * forward.low / anderson.high if anderson.high < math.inf else 0.0
        high = cost * forward.high / anderson.low
        middle = cost * forward.evaluations / anderson.evaluations
        return middle, low, high
    seconds = Z_975 * costs.error
    logs = np.log([[one.evaluations, one.low, one.high] for one in (forward, anderson)])
    (f, f_low, f_high), (a, a_low, a_high) = logs.tolist()
    middle = cost * math.exp(f - a)
    low = middle * math.exp(-math.hypot(f - f_low, a_high - a, seconds))
    return middle, low, middle * math.exp(math.hypot(f_high - f, a - a_low, seconds))


def _span_text(low: float, high: float) -> str:
    """An interval of factors, which may be open."""
    if math.isinf(high):
        return f"at least {ratio_text(low)}"
    return f"{ratio_text(low)} to {ratio_text(high)}"
