"""What a sweep is: base, axes, seeds and repeats. A trial's number says its place on them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd

from andersonn_core.runcard import code_version
from andersonn_core.solve import SolveSpec
from andersonn_core.specs import KnobError, Spec
from andersonn_core.sweeps.axes import SAMPLERS, Axis, Sampling, samples
from andersonn_core.sweeps.trial import KINDS, SEED_OF, Trial
from andersonn_core.training import TrainSpec

MOST_SEED = 2**31 - 1


class Plan:
    """The trials of a sweep, in order: the last axis, then seeds, then repeats change fastest.

    Raises KnobError for anything that no trial could be run with, before any work.
    """

    def __init__(
        self,
        base: SolveSpec | TrainSpec,
        axes: Mapping[str, Any],
        repeats: int,
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> None:
        kinds = [kind for kind, spec in KINDS.items() if isinstance(base, spec)]
        if not kinds:
            raise KnobError(f"base = {base!r} is no SolveSpec and no TrainSpec.")
        self.kind, self.repeats, self.sampling = kinds[0], repeats, sampling
        self.seeds = _checked_seeds(seeds)
        if not isinstance(repeats, int) or isinstance(repeats, bool) or not 1 <= repeats <= 10_000:
            raise KnobError(f"repeats = {repeats!r} is not allowed: it must be 1 to 10,000.")
        _check_sampling(sampling)
        self.base, self.axes = base, _axes(base, axes)
        self.grid = {name: axis for name, axis in self.axes.items() if axis.interval is None}
        # values that belong together, one of each axis: what a sampler drew
        drawn = {name: axis for name, axis in self.axes.items() if axis.interval is not None}
        self.joint = samples(drawn, sampling)
        self._check_each()

    @classmethod
    def of_points(
        cls,
        base: SolveSpec | TrainSpec,
        points: Mapping[str, Sequence[Any]],
        repeats: int,
        seeds: Sequence[int],
    ) -> Self:
        """The trials at some points: as many values of each axis, one of each belong together."""
        once = {name: list(dict.fromkeys(values)) for name, values in points.items()}
        plan = cls(base, once, repeats, seeds, Sampling())
        plan.grid, plan.joint = {}, {name: list(values) for name, values in points.items()}
        return plan

    @property
    def shape(self) -> tuple[int, ...]:
        """How many values each axis, the seeds and the repeats have; samples count as one axis."""
        grid = tuple(len(axis.values) for axis in self.grid.values())
        joint = tuple(len(values) for values in self.joint.values())[:1]
        return (*grid, *joint, len(self.seeds), self.repeats)

    @property
    def total(self) -> int:
        """How many trials there are."""
        return math.prod(self.shape)

    def record(self) -> dict[str, Any]:
        """The sweep as JSON: what the numbers of trials mean."""
        first = self.spec_at(next(self.points()))
        return {
            "kind": self.kind,
            "base": first.replace(**{SEED_OF[self.kind]: self.seeds[0]}).to_dict(),
            # lists, not mappings: the order of the axes is part of what a trial's number means
            "axes": [[name, axis.plain(), axis.labels] for name, axis in self.grid.items()],
            "samples": [
                [name, self.axes[name].labels_of(values)] for name, values in self.joint.items()
            ],
            "seeds": list(self.seeds),
            "repeats": self.repeats,
        }

    @cached_property
    def sweep_id(self) -> str:
        """Content hash of the record."""
        text = json.dumps(self.record(), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def spec_at(self, values: Mapping[str, Any]) -> SolveSpec | TrainSpec:
        """The base with these values; a knob that a swept method or problem lacks is left out."""
        whole = {name: value for name, value in values.items() if isinstance(value, Spec)}
        spec = self.base.replace(**whole) if whole else self.base
        inner = {name: value for name, value in values.items()
                 if name not in whole and _reaches(spec, name)}  # fmt: skip
        return spec.replace(**inner) if inner else spec

    def points(self) -> Iterator[dict[str, Any]]:
        """The values of all axes at each place, without seeds and repeats."""
        grid = [axis.values for axis in self.grid.values()]
        joint = list(zip(*self.joint.values(), strict=True)) or [()]
        names = [*self.grid, *self.joint]
        for *values, sample in itertools.product(*grid, joint):
            yield dict(zip(names, (*values, *sample), strict=True))

    def trials(self) -> Iterator[tuple[int, Trial, SolveSpec | TrainSpec]]:
        """The number, the trial and its spec (but for the seed) at each place."""
        numbers, code, seed_name = itertools.count(), code_version(), SEED_OF[self.kind]
        for point in self.points():
            spec = self.spec_at(point)
            spec_id = spec.spec_id
            before, _, after = _json_around(spec, seed_name)
            for seed in self.seeds:
                knobs = f"{before}{seed}{after}"
                for repeat in range(self.repeats):
                    trial = Trial(self.kind, knobs, spec_id, seed, repeat, code)
                    yield next(numbers), trial, spec

    def _check_each(self) -> None:
        """Try each value of each axis once, beside the first values of the others."""
        first = next(self.points())
        columns = {name: axis.values for name, axis in self.grid.items()} | self.joint
        for name, values in columns.items():
            others = self._that_reach(name, first)
            for value in values:
                self.spec_at(others | {name: value})

    def _that_reach(self, name: str, first: Mapping[str, Any]) -> dict[str, Any]:
        """The first values, but of whole specs the first one that has the knob `name`."""
        chosen = dict(first)
        for whole, axis in self.grid.items():
            if axis.knob.kind == "spec" and name.startswith(f"{whole}."):
                rest = name.removeprefix(f"{whole}.")
                chosen[whole] = next(value for value in axis.values if _reaches(value, rest))
        return chosen


def axis_levels(record: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The axes of a sweep's record, in their order, and the values of each."""
    drawn = {name: list(dict.fromkeys(values)) for name, values in record["samples"]}
    return {name: labels for name, _, labels in record["axes"]} | drawn


def place_columns(record: Mapping[str, Any], numbers: Any) -> dict[str, Any]:
    """The axes' columns, seed and repeat of trials by their numbers (N,), from a sweep's record."""
    listed = [(name, labels) for name, _, labels in record["axes"]]
    drawn = record["samples"]
    joint = [len(drawn[0][1])] if drawn else []
    shape = [*(len(labels) for _, labels in listed), *joint, len(record["seeds"])]
    places = np.unravel_index(np.asarray(numbers), (*shape, record["repeats"]))
    at = [*zip(listed, places, strict=False), *((axis, places[len(listed)]) for axis in drawn)]
    return {
        name: pd.Series(values).take(place).reset_index(drop=True) for (name, values), place in at
    }


def _axes(base: Spec, axes: Mapping[str, Any]) -> dict[str, Axis]:
    """Whole specs first: a dotted knob may be of one of them only."""
    found = {
        name: Axis(name, values, [base]) for name, values in axes.items() if _is_whole(base, name)
    }
    bases = [base]
    for name, axis in found.items():
        bases += [base.replace(**{name: value}) for value in axis.values]
    found |= {name: Axis(name, values, bases) for name, values in axes.items() if name not in found}
    return {name: found[name] for name in axes}


def _is_whole(base: Spec, name: str) -> bool:
    declared = base.knobs().get(name)
    return declared is not None and declared.kind == "spec"


def _reaches(spec: Spec, name: str) -> bool:
    head, _, rest = name.partition(".")
    if not rest:
        return head in spec.knobs()
    part = getattr(spec, head, None)
    return isinstance(part, Spec) and _reaches(part, rest)


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    found = tuple(seeds) if not isinstance(seeds, int | str) else ()
    for seed in found:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MOST_SEED:
            raise KnobError(f"seeds: {seed!r} is not allowed: it must be 0 to {MOST_SEED:,}.")
    if not found or len(set(found)) < len(found):
        raise KnobError(f"seeds = {seeds!r}: give different numbers, such as range(3) or (0, 7).")
    return found


def _check_sampling(sampling: Sampling) -> None:
    if sampling.sampler not in SAMPLERS:
        raise KnobError(f"sampler = {sampling.sampler!r} must be one of {', '.join(SAMPLERS)}.")
    if not isinstance(sampling.count, int) or not 1 <= sampling.count <= 1_000_000:
        raise KnobError(f"samples = {sampling.count!r} is not allowed: it must be 1 to 1,000,000.")
    if not isinstance(sampling.seed, int) or not 0 <= sampling.seed <= MOST_SEED:
        raise KnobError(f"sample_seed = {sampling.seed!r} must be 0 to {MOST_SEED:,}.")


def _json_around(spec: SolveSpec | TrainSpec, seed_name: str) -> tuple[str, str, str]:
    """The spec's JSON, which is made once for all seeds: before its seed, a mark, and after it."""
    mark = 8_765_432_109_876_543_210  # no other knob's
    record = spec.to_dict()
    *parts, last = seed_name.split(".")
    inner = record
    for part in parts:
        inner = inner[part]
    inner[last] = mark
    return json.dumps(record, sort_keys=True, allow_nan=False).partition(str(mark))
