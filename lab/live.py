"""What the newest generation of runs has shown so far: curves, results, frames, errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from andersonn_core import Anderson
from andersonn_core.crossover import Crossover, crossover
from andersonn_core.layout import StateLayout
from andersonn_core.methods import MethodSpec
from andersonn_core.problems import Problem
from andersonn_core.results import SolveResult
from lab.traces import Trace, empty_columns

if TYPE_CHECKING:
    from lab.frames import Frames
    from lab.runner import Update


@dataclass
class Live:
    """The state that every card of the page reads."""

    methods: Mapping[str, MethodSpec] = field(default_factory=dict)
    tolerance: float = 1e-6
    problem_name: str = ""
    traces: dict[str, Trace] = field(default_factory=dict)
    results: dict[str, SolveResult] = field(default_factory=dict)
    frames: dict[str, Frames] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    problem: Problem | None = None
    crossing: Crossover | None = None

    def keep(self, before: Live, names: Sequence[str]) -> None:
        """Take over what the generation before has shown of runs that go on."""
        if names:
            self.problem = before.problem
        for name in names:
            for mine, theirs in (
                (self.traces, before.traces), (self.results, before.results),
                (self.frames, before.frames),
            ):  # fmt: skip
                if name in theirs:
                    mine[name] = theirs[name]

    def take(self, update: Update) -> dict[str, list[float]]:
        """Read one update; returns the new points of the method's curve."""
        name = update.method
        trace = self.traces.setdefault(name, Trace(self.tolerance))
        if update.problem is not None:
            self.problem = update.problem
        if update.frames is not None:
            self.frames[name] = update.frames
        if update.error is not None:
            self.errors[name] = update.error
        elif update.result is not None:
            self.results[name] = update.result
        return empty_columns() if update.rows is None else trace.extend(update.rows)

    @property
    def complete(self) -> bool:
        """Whether every method has ended, well or not."""
        return bool(self.methods) and set(self.methods) <= set(self.results) | set(self.errors)

    def ended(self, name: str) -> bool:
        """Whether this method has ended."""
        return name in self.results or name in self.errors

    def compare(self) -> Crossover | None:
        """The crossover of the two methods; None if one has no result to compare."""
        pair: list[Any] = [self.results.get(name) for name in ("picard", "anderson")]
        if any(result is None or not result.num_evals or not len(result.status) for result in pair):
            return None
        self.crossing = crossover(*pair)
        return self.crossing

    @property
    def anderson(self) -> Anderson:
        """The knobs of Anderson's run."""
        method = self.methods["anderson"]
        assert isinstance(method, Anderson)
        return method

    @property
    def elements(self) -> int:
        """n, the elements of one sample of the state."""
        result = self.results["anderson"]
        return StateLayout.of(result.z, batch_dims=0).elements // max(result.status.numel(), 1)

    def seconds_at(self, name: str, evaluation: int) -> float | None:
        """When a method's evaluation was known."""
        result = self.results.get(name)
        if result is None or not result.num_evals:
            return None
        return float(result.history.seconds[min(evaluation, result.num_evals) - 1])

    @property
    def longest(self) -> int:
        """The evaluations of the longer of both runs."""
        return max((result.num_evals for result in self.results.values()), default=1)
