"""A sweep as a YAML file: the same that Python says, for people and for job scripts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from andersonn_core.methods import METHODS
from andersonn_core.problems import PROBLEMS
from andersonn_core.specs import KnobError
from andersonn_core.sweeps.axes import Between, axis_from_text
from andersonn_core.sweeps.sweep import STORE, Sweep
from andersonn_core.sweeps.trial import KINDS

KEYS = ("kind", "base", "axes", "repeats", "seeds", "samples", "sampler", "sample_seed",
        "executor", "workers", "store")  # fmt: skip

TYPES = {"kind": (str,), "base": (Mapping,), "axes": (Mapping,), "store": (str,)}
EXPECTED = {
    "kind": f"it must be one of {', '.join(KINDS)}",
    "base": "write knobs by name, such as base: {problem: poisson}",
    "axes": "write values by name, such as axes: {method.window: 1:16}",
    "store": "write the name of a file",
}


@dataclass
class SweepFile:
    """What the file says: the sweep, and where it runs and is kept."""

    kind: str = "solve"
    base: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)  # repeats, seeds, samples, ...
    executor: Any = "processes"
    workers: int | None = None
    store: str = STORE

    @classmethod
    def read(cls, path: str | Path) -> SweepFile:
        """The file's content; raises KnobError that names the file and the key."""
        from andersonn_core.yaml_text import read_yaml

        try:
            return cls.of(read_yaml(path))
        except FileNotFoundError:
            raise KnobError(
                f"{path} does not exist: give the path of a sweep's YAML file."
            ) from None

    @classmethod
    def of(cls, record: Any) -> SweepFile:
        """What a record says."""
        if not isinstance(record, Mapping):
            raise KnobError(f"a sweep's file holds the keys {', '.join(KEYS)}; this is {record!r}.")
        for key in record:
            if key not in KEYS:
                near = difflib.get_close_matches(str(key), KEYS, n=1)
                remedy = (
                    f"did you mean '{near[0]}'?" if near else f"the keys are {', '.join(KEYS)}."
                )
                raise KnobError(f"a sweep's file has no key '{key}': {remedy}")
        for key, kinds in TYPES.items():
            if not isinstance(record.get(key), (*kinds, type(None))):
                raise KnobError(f"{key} = {record[key]!r} is not understood: {EXPECTED[key]}.")
        given = {key: value for key, value in record.items() if value is not None}
        own = {key: given[key] for key in given if key in cls.__dataclass_fields__}
        plan = {key: value for key, value in given.items() if key not in own}
        return cls(**own, plan=plan)

    def sweep(self) -> Sweep:
        """The sweep; raises KnobError as `Sweep` does."""
        if self.kind not in KINDS:
            raise KnobError(f"kind = {self.kind!r}: it must be one of {', '.join(KINDS)}.")
        plan = dict(self.plan)
        if "seeds" in plan:
            plan["seeds"] = seeds_from(plan["seeds"])
        axes = {str(name): axis_from(name, values) for name, values in self.axes.items()}
        return Sweep(KINDS[self.kind].from_dict(_named(self.base)), axes, **plan)

    def engine(self) -> Any:
        """What `Sweep.run` takes as executor."""
        from andersonn_core.sweeps.engines import Slurm

        if isinstance(self.executor, Mapping):
            if set(self.executor) != {"slurm"}:
                raise KnobError(f"executor = {self.executor!r}: as a mapping it has the key slurm.")
            return Slurm.from_dict(self.executor["slurm"] or {})
        return self.executor


def axis_from(name: str, values: Any) -> Any:
    """An axis as YAML has it: a list, a text such as 1:16, one value, or {between: [low, high]}."""
    if isinstance(values, Mapping) and "between" in values:
        ends, log = values["between"], values.get("log", False)
        pair = isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends))
        if set(values) - {"between", "log"} or not pair or not isinstance(log, bool):
            raise KnobError(
                f"the axis '{name}' = {values!r}: write between: [low, high], log: true."
            )
        return Between(ends[0], ends[1], log)
    if isinstance(values, str):
        return axis_from_text(values)
    return values if isinstance(values, list | range | Between) else [values]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def seeds_from(value: Any) -> Any:
    """Seeds as a list, as one number, or as a text such as 0:3."""
    found = axis_from_text(value) if isinstance(value, str) else value
    found = [found] if isinstance(found, int) else found
    try:
        return [int(seed) if isinstance(seed, str) else seed for seed in found]
    except (TypeError, ValueError):
        raise KnobError(
            f"seeds = {value!r} is not understood: write 0:3, or [0, 7], or one number."
        ) from None


def _named(base: Mapping[str, Any]) -> dict[str, Any]:
    """`problem: poisson` is short for `problem: {name: poisson}`."""
    tables: dict[str, Any] = {"problem": PROBLEMS, "method": METHODS}
    short = {key for key in tables if isinstance(base.get(key), str)}
    return dict(base) | {key: {"name": base[key]} for key in short}
