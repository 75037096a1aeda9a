"""The trials of a sweep as arrays: axes as small codes, statuses as codes, measures as floats.

A brush has to be answered while the hand still moves: at a million trials one pass over an array of
small codes takes a few milliseconds, a pandas groupby some hundreds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import holoviews as hv
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from andersonn_core.sweeps.trial import FINISHED
from lab.sweeps.statuses import CONVERGED, STATUSES

SYMBOLS = {"window": "m", "mixing": "\N{GREEK SMALL LETTER BETA}", "batch_size": "B"}
NAMES = {"rtol": "tolerance", "atol": "absolute tolerance", "max_iter": "most evaluations"}
NONE = "none"  # the word for a knob that was left out
REPLICAS = ("seed", "repeat")  # what is swept to see the spread

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Indices = NDArray[np.int64]
Made = TypeVar("Made")


def label(name: str) -> str:
    """A knob's dotted name in words: "method.window" -> "window m"."""
    last = name.rsplit(".", 1)[-1]
    words = NAMES.get(last, last.replace("_", " "))
    return f"{words} {SYMBOLS[last]}" if last in SYMBOLS else words


def level_text(level: Any) -> str:
    """A value of an axis, as short as it is exact."""
    return f"{level:g}" if isinstance(level, float) else str(level)


@dataclass(frozen=True)
class Axis:
    """One swept knob: its levels in order, and for each trial which of them it has."""

    name: str
    label: str
    levels: tuple[Any, ...]
    codes: NDArray[np.uint16]
    numeric: bool

    @cached_property
    def counts(self) -> Indices:
        """How many trials have each level."""
        return np.bincount(self.codes, minlength=len(self.levels))

    @cached_property
    def texts(self) -> list[str]:
        """The levels in words."""
        return [level_text(level) for level in self.levels]

    @cached_property
    def values(self) -> Any:
        """The level of every trial: numbers, or a pandas Categorical of words."""
        if self.numeric:
            return np.array(self.levels, float)[self.codes]
        return pd.Categorical.from_codes(self.codes.astype(np.int32), categories=list(self.levels))


def _axis(name: str, column: pd.Series, planned: Sequence[Any], title: str) -> Axis:
    """Code a column; `planned` levels have their place before a trial has them."""
    codes, found = pd.factorize(column, use_na_sentinel=False)
    plain = [_plain(level) for level in found]
    every = list(dict.fromkeys([*map(_plain, planned), *plain]))
    numeric = all(isinstance(level, int | float) and not isinstance(level, bool) for level in every)
    if not numeric:
        plain, every = [*map(_word, plain)], list(dict.fromkeys(map(_word, every)))
    levels = sorted(every) if numeric else every
    place = {level: number for number, level in enumerate(levels)}
    places = np.array([place[level] for level in plain], np.uint16)
    coded = places[codes] if len(places) else np.zeros(0, np.uint16)
    return Axis(name, title, tuple(levels), coded, numeric)


def _plain(level: Any) -> Any:
    """A level as Python has it; what is missing is None."""
    level = level.item() if isinstance(level, np.generic) else level
    return None if level is None or level is pd.NA or level != level else level


def _word(level: Any) -> str:
    return NONE if level is None else level_text(level)


class Trials:
    """All trials of one frame (n rows).

    `axes` names the swept columns, or gives the planned levels of each. Raises ValueError for a
    status that is none.
    """

    def __init__(
        self, frame: pd.DataFrame, axes: Mapping[str, Sequence[Any]] | Sequence[str]
    ) -> None:
        planned = axes if isinstance(axes, Mapping) else dict.fromkeys(axes, ())
        self.frame, self.count = frame, len(frame)
        titles = {name: label(name) for name in planned}
        twice = {each for each in titles.values() if [*titles.values()].count(each) > 1}
        self.axes = {
            name: _axis(name, frame[name], levels, name if titles[name] in twice else titles[name])
            for name, levels in planned.items()
        }
        self.statuses = _statuses(frame["status"])
        self.converged: Mask = self.statuses == CONVERGED
        self._shared: dict[Hashable, Any] = {}
        self._values: dict[str, Floats] = {}
        self._logs: dict[str, Floats] = {}
        self._orders: dict[str, Indices] = {}

    @cached_property
    def replicas(self) -> dict[str, Axis]:
        """Seed and repeat, where they vary."""
        made = {
            name: _axis(name, self.frame[name], (), name)
            for name in REPLICAS
            if name in self.frame and name not in self.axes
        }
        return {name: axis for name, axis in made.items() if len(axis.levels) > 1}

    @cached_property
    def reached(self) -> Indices:
        """The trials that converged."""
        return np.flatnonzero(self.converged)

    @cached_property
    def lost(self) -> dict[int, Indices]:
        """The trials that did not converge, by status; only what occurs."""
        counts = np.bincount(self.statuses, minlength=len(STATUSES))
        return {k: np.flatnonzero(self.statuses == k) for k, n in enumerate(counts) if k and n}

    @property
    def every_axis(self) -> dict[str, Axis]:
        """The swept axes, then seed and repeat."""
        return self.axes | self.replicas

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The key of each trial's stored row."""
        return self.frame["row"].to_numpy(np.int64)

    def values(self, name: str) -> Floats:
        """A measured column; NaN where a trial has none."""
        if name not in self._values:
            self._values[name] = self.frame[name].to_numpy(float, na_value=math.nan)
        return self._values[name]

    def logs(self, name: str) -> Floats:
        """The decimal logarithm of a measured column; NaN where there is none."""
        if name not in self._logs:
            values = self.values(name)
            with np.errstate(divide="ignore", invalid="ignore"):
                self._logs[name] = np.where(values > 0, np.log10(values), np.nan)
        return self._logs[name]

    def order(self, name: str) -> Indices:
        """The converged trials with a finite value, from the smallest to the largest."""
        if name not in self._orders:
            values = self.values(name)
            known = np.flatnonzero(self.converged & np.isfinite(values))
            self._orders[name] = known[np.argsort(values[known], kind="stable")]
        return self._orders[name]

    @cached_property
    def dataset(self) -> hv.Dataset:
        """The trials as HoloViews has them, for selection expressions: axes, measures, "row"."""
        columns: dict[str, Any] = {name: axis.values for name, axis in self.every_axis.items()}
        kinds = self.frame.select_dtypes("number").columns
        columns |= {name: self.values(name) for name in kinds if name not in columns}
        columns["row"] = self.rows
        columns["status"] = pd.Categorical.from_codes(self.statuses.astype(np.int8), STATUSES)
        return hv.Dataset(pd.DataFrame(columns, copy=False))

    def shared(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What a view derives from all trials, made for the first visitor who sees it."""
        if key not in self._shared:
            self._shared[key] = make()
        made: Made = self._shared[key]
        return made

    def has(self, name: str) -> bool:
        """Whether any trial has a finite value in this column."""
        return name in self.frame and bool(np.isfinite(self.values(name)).any())

    def setting(self, index: int) -> str:
        """A trial in words."""
        parts = [f"{axis.label} {axis.texts[axis.codes[index]]}" for axis in self.axes.values()]
        parts += [f"{axis.name} {axis.texts[axis.codes[index]]}" for axis in self.replicas.values()]
        return ", ".join(parts)


def _statuses(column: pd.Series) -> NDArray[np.uint8]:  # (n,) -> (n,)
    codes, found = pd.factorize(column)
    found = ["CONVERGED" if each == FINISHED else each for each in found]  # of a training
    unknown = [each for each in found if each not in STATUSES]
    if unknown or (codes < 0).any():
        raise ValueError(f"status is one of {', '.join(STATUSES)}; not {unknown or 'missing'}.")
    places = np.array([STATUSES.index(each) for each in found], np.uint8)
    return places[codes] if len(places) else np.zeros(0, np.uint8)


def swept(frame: pd.DataFrame) -> list[str]:
    """The columns of a frame that are axes: dotted names (and the method) with several levels."""
    named = [name for name in frame if name == "method" or "." in name]
    varied = [name for name in named if frame[name].nunique(dropna=False) > 1]
    return varied or named[:1]
