"""The axes of a sweep: knobs by dotted name, and the values that each one takes.

An axis is a list of values, a range, or an interval `Between(low, high)`. Lists and ranges make a
grid. Intervals are sampled together, by Sobol points or at random, and the grid is run for each
sample.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from andersonn_core.arrays import Floats
from andersonn_core.specs import Knob, KnobError, Spec, typed

Sampler = Literal["sobol", "random"]
SAMPLERS = ("sobol", "random")
RANGE = re.compile(r"(-?\d+):(-?\d+)(?::(-?\d+))?")
INTERVAL = re.compile(r"([^,:~]+)~([^,:~]+?)(\s+log)?")
SEEDS = ("seed", "problem.seed")


@dataclass(frozen=True)
class Between:
    """All numbers from `low` to `high`; `log`: as many in each decade."""

    low: float
    high: float
    log: bool = False

    def at(self, places: Floats) -> Floats:  # (N,) in [0, 1) -> (N,)
        """The numbers at these places of the interval."""
        if self.log:
            return np.asarray(self.low * (self.high / self.low) ** places)
        return np.asarray(self.low + (self.high - self.low) * places)


def axis_from_text(text: str) -> Any:
    """The axis that a text stands for: "1:16", "0.5,0.8,1", "0.2~1.0", "1e-4~1e-1 log".

    "1:16" is Python's range(1, 16), whose last number is 15; "1:16:5" takes each fifth.
    """
    text = text.strip()
    if found := RANGE.fullmatch(text):
        return range(*(int(part) for part in found.groups() if part is not None))
    if found := INTERVAL.fullmatch(text):
        try:
            return Between(float(found[1]), float(found[2]), log=bool(found[3]))
        except ValueError:
            raise KnobError(
                f"the axis {text!r} is not an interval: give two numbers, such as 0.2~1.0."
            ) from None
    return [part.strip() for part in text.split(",") if part.strip()]


@dataclass(frozen=True)
class Sampling:
    """How intervals are sampled: `count` joint points, by a seeded sampler."""

    count: int = 64
    sampler: Sampler = "sobol"
    seed: int = 0


class Axis:
    """One knob and its values, each checked; or the interval that it is sampled from."""

    def __init__(self, name: str, values: Any, specs: Sequence[Spec]) -> None:
        self.name, self.values = name, list[Any]()
        self.interval: Between | None = None
        self.knob = knob_at(name, specs)
        if isinstance(values, Between):
            self.interval = self._interval(values)
        else:
            self.values = [self._value(value, specs) for value in _listed(name, values)]
            if not self.values:
                raise KnobError(f"the axis '{name}' is empty: give at least one value.")
            self._once()

    @property
    def labels(self) -> list[Any]:
        """The values as a frame shows them: a spec by its name."""
        if self.knob.kind != "spec":
            return self.values
        names = [value.name for value in self.values]
        return [name if names.count(name) == 1 else f"{name} {value!r}"
                for name, value in zip(names, self.values, strict=True)]  # fmt: skip

    def labels_of(self, values: list[Any]) -> list[Any]:
        """Some values, as a frame shows them."""
        if self.knob.kind != "spec":
            return values
        known = dict(zip(self.values, self.labels, strict=True))
        return [known[value] for value in values]

    def plain(self) -> list[Any]:
        """The values as JSON has them."""
        return [value.to_dict() if isinstance(value, Spec) else value for value in self.values]

    def sampled(self, places: Floats) -> list[Any]:  # (N,) in [0, 1)
        """The interval's numbers at these places; each whole number has an equal part of it."""
        assert self.interval is not None
        low, high, log = self.interval.low, self.interval.high, self.interval.log
        if self.knob.kind != "integer":
            return [float(value) for value in Between(low, high, log).at(places)]
        values = np.floor(Between(low, high + 1, log).at(places))
        return [int(value) for value in np.clip(values, low, high)]

    def _value(self, value: Any, specs: Sequence[Spec]) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, str):
            value = typed(self.knob, value)
        if self.knob.kind == "spec":
            return _spec_value(self.name, value, specs)
        if self.knob.kind == "number" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)  # 1 and 1.0 are one trial
        return value

    def _interval(self, values: Between) -> Between:
        low, high = values.low, values.high
        if self.knob.kind not in ("integer", "number"):
            raise KnobError(f"the axis '{self.name}' holds no numbers: give a list of values.")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise KnobError(f"the axis '{self.name}' = {values}: its low end must be the smaller.")
        if values.log and low <= 0:
            raise KnobError(f"the axis '{self.name}' = {values}: a log axis begins above 0.")
        return values

    def _once(self) -> None:
        seen: list[Any] = []
        for value in self.values:
            if value in seen:
                raise KnobError(f"the axis '{self.name}' has {value!r} twice: give it once.")
            seen.append(value)


def knob_at(name: str, specs: Sequence[Spec]) -> Knob:
    """The declaration of a dotted knob, in the first spec that has it; KnobError if none does."""
    if name in SEEDS:
        raise KnobError(f"'{name}' is not an axis: give seeds=range(3), or so, beside the axes.")
    for spec in specs:
        found = _find(name, spec)
        if found is not None:
            if not found.identity and found.name != "device":
                raise KnobError(
                    f"'{name}' can't be an axis: it changes no result, so that all of its values "
                    "would be one stored row. Run a sweep for each value, into stores of their own."
                )
            return found
    known = [dotted for spec in specs for dotted in dotted_names(spec)]
    near = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean '{near[0]}'?" if near else f"the axes are {', '.join(known)}."
    raise KnobError(f"there is no axis '{name}': {remedy}")


def dotted_names(spec: Spec) -> list[str]:
    """The knobs of a spec and of the specs in it that can be axes."""
    names = []
    for name, declared in spec.knobs().items():
        value = getattr(spec, name)
        if declared.identity or name == "device":
            names.append(name)
        if isinstance(value, Spec):
            names += [f"{name}.{inner}" for inner in dotted_names(value)]
    return list(dict.fromkeys(name for name in names if name not in SEEDS))


def samples(intervals: Mapping[str, Axis], sampling: Sampling) -> dict[str, list[Any]]:
    """Joint values of the axes that are intervals."""
    if not intervals:
        return {}
    from scipy.stats import qmc

    if sampling.sampler == "sobol":
        # the first 2^k points of a scrambled sequence are balanced; fewer are a part of these
        bits = math.ceil(math.log2(sampling.count))
        points = qmc.Sobol(len(intervals), rng=sampling.seed).random_base2(bits)
    else:
        points = np.random.default_rng(sampling.seed).random((sampling.count, len(intervals)))
    columns = points[: sampling.count].T
    return {
        name: axis.sampled(at) for (name, axis), at in zip(intervals.items(), columns, strict=True)
    }


def _find(name: str, spec: Spec) -> Knob | None:
    head, _, rest = name.partition(".")
    if not rest:
        return spec.knobs().get(head)
    part = getattr(spec, head, None)
    return _find(rest, part) if isinstance(part, Spec) else None


def _listed(name: str, values: Any) -> list[Any]:
    if isinstance(values, str):
        found = axis_from_text(values)
        return list(found) if isinstance(found, Iterable) else [values]
    if isinstance(values, Iterable) and not isinstance(values, Mapping | Spec):
        return list(values)
    raise KnobError(
        f"the axis '{name}' = {values!r} is no list of values: give a list, a range, or "
        "Between(low, high)."
    )


def _spec_value(name: str, value: Any, specs: Sequence[Spec]) -> Spec:
    """A spec that is given as itself, by its name in the table, or as a record of its knobs."""
    if isinstance(value, Spec):
        return value
    head, _, rest = name.partition(".")
    if rest:
        parts = [part for spec in specs if isinstance(part := getattr(spec, head, None), Spec)]
        return _spec_value(rest, value, parts)
    record = {"name": value} if isinstance(value, str) else value
    for spec in specs:
        if head in spec._tables and isinstance(record, Mapping):
            return spec._part(head, spec._tables[head], record)
    raise KnobError(f"the axis '{name}': {value!r} is not a spec, nor the name of one.")
