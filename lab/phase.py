"""A phase diagram's plan and its cells: which settings are solved, in which order, what came out.

Two maps share their cells: window x mixing at the present batch size, and window x batch size at
the present mixing. The reference of every cell is undamped forward iteration of the same batch.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch

from andersonn_core import Anderson, SolveResult, SolveSpec, Status
from andersonn_core.crossover import Crossover, crossover
from andersonn_core.memory import history_bytes
from andersonn_core.prediction import predict
from lab.words import median_evals

WINDOWS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20)
MIXINGS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.1, 1.3, 1.5)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
STRIDES = (4, 2, 1)  # of the lattices that are computed one after the other

Axis = Literal["mixing", "batch"]
AXES: tuple[Axis, ...] = ("mixing", "batch")


class Setting(NamedTuple):
    """What tells one cell from the others."""

    window: int
    mixing: float
    batch_size: int


@dataclass(frozen=True)
class Cell:
    """One setting's solve against forward iteration; times in seconds of the same clock.

    `speedup` is S at the tolerance: infinite where only Anderson converges, 0 where only forward
    iteration does, NaN where neither does. Where forward iteration only ran out of evaluations
    `bound` is true, and S is at least the number given.
    """

    setting: Setting
    speedup: float = math.nan
    bound: bool = False
    crossover: float = math.nan  # 0: ahead from the start; infinite: never
    evaluations: float = math.nan  # of the median sample; NaN where it does not converge
    forward_evaluations: float = math.nan
    seconds: float = math.nan
    penalty: float = math.nan  # mixing seconds / map seconds
    memory: int = 0  # bytes of Anderson's workspace
    predicted: float = math.nan  # S, from the first quarter of both solves
    predicted_low: float = math.nan
    predicted_high: float = math.nan
    prediction: str = ""  # in words
    how: str = ""  # how the solve ended, in words
    error: str = ""  # one plain sentence: nothing came out

    @property
    def known(self) -> bool:
        """Whether it was computed; before that only its bytes are known."""
        return bool(self.how or self.error)

    @property
    def converged(self) -> bool:
        """Whether half of the batch met the tolerance."""
        return math.isfinite(self.evaluations)


@dataclass(frozen=True)
class Spread:
    """S of repeated runs: their geometric mean and its 95 % interval."""

    speedup: float
    low: float
    high: float
    runs: int

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out 1: whether mixing pays, or does not."""
        return self.low > 1 or self.high < 1


@dataclass(frozen=True)
class Plan:
    """The settings of both maps around the present one."""

    forward: SolveSpec
    anderson: SolveSpec

    @cached_property
    def here(self) -> Setting:
        """Where the controls are."""
        return setting_of(self.anderson)

    @cached_property
    def windows(self) -> tuple[float, ...]:
        """The columns of both maps."""
        return _holding(WINDOWS, self.here.window)

    def rows(self, axis: Axis) -> tuple[float, ...]:
        """The rows of one map, from below."""
        if axis == "mixing":
            return _holding(MIXINGS, self.here.mixing)
        most = type(self.anderson.problem).knobs()["batch_size"].maximum or math.inf
        sizes = [size for size in BATCH_SIZES if size <= most]
        return _holding(sizes, self.here.batch_size)

    def setting(self, axis: Axis, window: float, row: float) -> Setting:
        """The setting of one place of a map."""
        if axis == "mixing":
            return Setting(int(window), row, self.here.batch_size)
        return Setting(int(window), self.here.mixing, int(row))

    def settings(self) -> list[list[Setting]]:
        """The present one; then both maps on a coarse lattice and on finer ones, each once."""
        levels: list[dict[Setting, float]] = [{self.here: 0.0}, *({} for _ in STRIDES)]
        for axis in AXES:
            rows = self.rows(axis)
            column, row = nearest(self.windows, self.here.window), self._here_row(axis)
            for i, window in enumerate(self.windows):
                for j, value in enumerate(rows):
                    level = levels[_level(i - column, j - row)]
                    level[self.setting(axis, window, value)] = math.hypot(i - column, j - row)
        seen: set[Setting] = set()
        ordered = []
        for level in levels:
            ordered.append(
                sorted(level.keys() - seen, key=lambda each, far=level: (far[each], each))
            )
            seen |= level.keys()
        return ordered

    @cached_property
    def every(self) -> frozenset[Setting]:
        """All settings of both maps."""
        return frozenset(each for level in self.settings() for each in level)

    def known(self, cells: Container[Setting]) -> list[Setting]:
        """The settings of both maps that are among these, in their order."""
        return sorted(each for each in self.every if each in cells)

    def on_map(self, axis: Axis, setting: Setting) -> bool:
        """Whether a setting belongs to a map: it shares what the map does not vary."""
        if axis == "mixing":
            return setting.batch_size == self.here.batch_size
        return setting.mixing == self.here.mixing

    def _here_row(self, axis: Axis) -> int:
        value = self.here.mixing if axis == "mixing" else self.here.batch_size
        return nearest(self.rows(axis), value)

    def is_kin(self, other: Plan) -> bool:
        """Whether cells of the one may stand in the other: all else but their setting is equal."""
        mine, theirs = (plan.specs(self.here) for plan in (self, other))
        return mine == theirs

    def bytes_at(self, setting: Setting) -> int:
        """Bytes of Anderson's workspace: two columns a past step, and a few vectors."""
        problem, method = self.anderson.problem, self.anderson.method
        dtype = getattr(torch, problem.dtype)
        changed = method.replace(window=setting.window)
        return history_bytes(changed, setting.batch_size, problem.num_elements, dtype)

    def specs(self, setting: Setting) -> tuple[SolveSpec, SolveSpec]:
        """Forward iteration and Anderson at one setting; KnobError if it can't be had."""
        batch = {"problem.batch_size": setting.batch_size}
        changes = {"method.window": setting.window, "method.mixing": setting.mixing}
        return self.forward.replace(**batch), self.anderson.replace(**batch, **changes)


def setting_of(anderson: SolveSpec) -> Setting:
    """The setting of a solve by Anderson."""
    method = anderson.method
    assert isinstance(method, Anderson)
    return Setting(method.largest_window, method.first_mixing, anderson.problem.batch_size)


def setting_text(setting: Setting) -> str:
    """A setting in symbols."""
    beta = "\N{GREEK SMALL LETTER BETA}"
    return f"m = {setting.window}, {beta} = {setting.mixing:g}, B = {setting.batch_size}"


def _holding(values: Iterable[float], value: float) -> tuple[float, ...]:
    """The values of an axis, one more if the present one lies beyond them: in between it is a ring.

    An axis that grew with each move of a slider would jump under the hand that moves it.
    """
    axis = tuple(values)
    return tuple(sorted({*axis, value})) if not axis[0] <= value <= axis[-1] else axis


def nearest(axis: Sequence[float], value: float) -> int:
    """The index of the value of an axis that is closest."""
    return min(range(len(axis)), key=lambda index: abs(axis[index] - value))


def _level(columns: int, rows: int) -> int:
    """The number of the first lattice that holds a place so far from the present one."""
    return 1 + next(k for k, step in enumerate(STRIDES) if columns % step == rows % step == 0)


# -- what came out --------------------------------------------------------------------------------

HOW = {
    Status.MAX_ITER: "out of evaluations", Status.DIVERGED: "diverges",
    Status.NONFINITE: "not finite", Status.STALLED: "stalls", Status.CANCELLED: "cut off",
}  # fmt: skip


def measured(setting: Setting, forward: SolveResult, anderson: SolveResult, rtol: float) -> Cell:
    """What one cell shows, from both results; its memory is the plan's to say."""
    needed, reference = median_evals(anderson), median_evals(forward)
    point = None if needed is None else crossover(forward, anderson)
    speedup, bound = _speedup(point, forward, anderson)
    history = anderson.history
    return Cell(
        setting, speedup, bound,
        crossover=_crossover_seconds(point),
        evaluations=needed or math.nan,
        forward_evaluations=reference or math.nan,
        seconds=math.nan if needed is None else seconds_at(anderson, needed),
        penalty=float(history.method_seconds.sum() / history.map_seconds.sum()),
        how=ending(anderson),
        **_prediction(forward, anderson, rtol),
    )  # fmt: skip


def _prediction(forward: SolveResult, anderson: SolveResult, rtol: float) -> dict[str, Any]:
    """The fields of a cell's prediction; none without a tolerance to predict for."""
    if not 0 < rtol < 1:
        return {}
    found = predict(forward, anderson, rtol)
    return {
        "predicted": found.speedup, "predicted_low": found.low, "predicted_high": found.high,
        "prediction": found.sentence,
    }  # fmt: skip


def _speedup(
    point: Crossover | None, forward: SolveResult, anderson: SolveResult
) -> tuple[float, bool]:
    """S at the tolerance, and whether it is only a lower bound."""
    needed, reference = median_evals(anderson), median_evals(forward)
    if needed is None or point is None:
        return (math.nan if reference is None else 0.0), False
    if reference is not None:
        return float(point.speedup(point.target)), False
    if failure(forward) == Status.MAX_ITER:
        return forward.seconds / seconds_at(anderson, needed), True
    return math.inf, False


def _crossover_seconds(point: Crossover | None) -> float:
    """When Anderson is ahead for good: 0 from the start, infinite never, NaN if not resolved."""
    if point is None or point.kind == "none":
        return math.inf
    where = point.by_seconds
    known = {"at": where.seconds, "from the start": 0.0, "none": math.inf}
    return known.get(where.kind, math.nan)


def seconds_at(result: SolveResult, evaluation: int) -> float:
    """When an evaluation was known."""
    return float(result.history.seconds[evaluation - 1])


def failure(result: SolveResult) -> Status:
    """How most of the samples that did not converge ended."""
    ends = [Status(int(code)) for code in result.status[~result.converged]]
    return max(HOW, key=ends.count)


def ending(result: SolveResult) -> str:
    """How a solve ended: "converged", "12 of 16 converged", "diverges"."""
    done, batch = int(result.converged.sum()), result.status.numel()
    if done == batch:
        return "converged"
    rest = HOW[failure(result)]
    return f"{done} of {batch} converged, the rest {rest}" if done else rest


def spread(forward: Sequence[SolveResult], anderson: Sequence[SolveResult]) -> Spread:
    """S of repeated runs with its interval."""
    point = crossover(forward, anderson)
    low, high = point.speedup_interval(point.target)
    return Spread(float(point.speedup(point.target)), low, high, len(forward))


def leaders(cells: Iterable[Cell], count: int) -> list[Cell]:
    """The cells with a window that pay most; where forward iteration gets nowhere, the fastest."""
    solved = [cell for cell in cells if cell.converged and cell.setting.window]
    endless = [cell for cell in solved if cell.bound or not math.isfinite(cell.speedup)]
    if endless:
        return sorted(endless, key=lambda cell: cell.seconds)[:count]
    return sorted(solved, key=lambda cell: -cell.speedup)[:count]
