"""What a run does: a spec's solve, or a method on a map that was given as code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from andersonn_core import KnobError, SolveResult, SolveSpec, Step, solve
from andersonn_core.cache import Cache
from andersonn_core.driver import SolveKnobs
from andersonn_core.faults import is_device_failure, is_out_of_memory
from andersonn_core.methods import MethodSpec
from andersonn_core.problems import Problem

THREADS = 1  # torch threads of a run: small maps are slower with more, and CPU time sees only one
LONGEST_SENTENCE = 300
DEVICE_FAILED = (
    "The GPU failed in the middle of the run ({}). Choose cpu as the device to go on; if the GPU "
    "fails again, restart the lab, or the machine."
)
NO_MEMORY = "The run did not fit into memory: lower the batch size, the problem size or the window."
PROBLEMS_BUILT: Cache[Problem] = Cache(192 * 2**20)

Solver = Callable[[Problem, Callable[[Step], None], Callable[[], bool]], SolveResult]


@dataclass(frozen=True)
class Task:
    """What one method of a generation is to do."""

    build: Callable[[], Problem]
    solve: Solver
    key: Hashable | None = None  # of its result; None: not to be kept


def spec_task(spec: SolveSpec) -> Task:
    """The task of one spec: its problem is cached apart from its result."""
    problem = spec.problem
    identity = (problem.spec_id, problem.seed, problem.device)

    def run(
        built: Problem, on_step: Callable[[Step], None], should_stop: Callable[[], bool]
    ) -> SolveResult:
        """Solve what the spec says on the problem that was built."""
        return spec.run(on_step, should_stop, built)

    def build() -> Problem:
        return PROBLEMS_BUILT.get_or_make(identity, problem.build)

    return Task(build, run, key=(spec.spec_id, problem.seed, problem.device, THREADS))


def map_task(
    problem: Problem, method: MethodSpec, knobs: SolveKnobs, guard: threading.Lock
) -> Task:
    """The task of one method on a map that was given as code."""

    def guarded(z: Any) -> Any:
        with guard:
            return problem.f(z)

    def run(
        built: Problem, on_step: Callable[[Step], None], should_stop: Callable[[], bool]
    ) -> SolveResult:
        """Solve on the given map, one call of it at a time."""
        return solve(
            guarded, built.z0, method, on_step=on_step, should_stop=should_stop, **dict(knobs)
        )

    return Task(lambda: problem, run)


def sentence(error: BaseException) -> str:
    """What went wrong as one plain sentence: never a traceback."""
    text = next(iter(str(error).strip().splitlines()), "")[:LONGEST_SENTENCE]
    if is_out_of_memory(error):
        return NO_MEMORY
    if is_device_failure(error):
        return DEVICE_FAILED.format(text)
    if isinstance(error, KnobError):
        return text
    return f"The map raised {type(error).__name__}{': ' if text else ''}{text}".rstrip(".") + "."
