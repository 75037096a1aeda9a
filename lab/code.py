"""A picture's numbers as Python that anybody can run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from andersonn_core import SolveSpec
from andersonn_core.specs import Spec
from lab.theme import LABELS

NAMES = dict(zip(LABELS, LABELS, strict=True)) | {"picard": "forward", "restart": "full_restart"}


def as_python(specs: Mapping[str, SolveSpec]) -> str:
    """Code that solves the specs again, with the same counts and residuals, and prints them."""
    methods = sorted({type(spec.method).__name__ for spec in specs.values()})
    names = ", ".join(["PROBLEMS", *methods, "SolveSpec"] + ["crossover"] * _compared(specs))
    lines = ["import torch", "", f"from andersonn_core import {names}", ""]
    lines += ["torch.set_num_threads(1)  # as on the page: seconds are this thread's CPU time"]
    lines += _problem_lines(specs)
    for name, spec in specs.items():
        driver = [f"{knob}={value!r}" for knob, value in _changed(spec).items()]
        solve = ["problem=problem" if _shared(specs) else f"problem={_made(spec.problem)}"]
        solve += [f"method={type(spec.method).__name__}({_arguments(spec.method)})", *driver]
        lines.append(f"{NAMES[name]} = SolveSpec({', '.join(solve)}).run()")
    pairs = ", ".join(f'("{NAMES[name]}", {NAMES[name]})' for name in specs)
    lines += ["", f"for name, result in [{pairs}]:"]
    lines += ["    evaluations = result.sample_evals.tolist()"]
    lines += ["    print(name, result.num_evals, evaluations, result.relative_residual.tolist())"]
    if _compared(specs):
        lines += ["print(crossover(forward, anderson).sentence)"]
    return "\n".join(lines) + "\n"


def _compared(specs: Mapping[str, SolveSpec]) -> bool:
    return {"picard", "anderson"} <= specs.keys()


def _shared(specs: Mapping[str, SolveSpec]) -> bool:
    first, *others = specs.values()
    return all(spec.problem == first.problem for spec in others)


def _problem_lines(specs: Mapping[str, SolveSpec]) -> list[str]:
    first = next(iter(specs.values())).problem
    return [f"problem = {_made(first)}"] if _shared(specs) else []


def _made(problem: Spec) -> str:
    return f'PROBLEMS["{problem.name}"]({_arguments(problem)})'


def _arguments(spec: Spec) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in _changed(spec).items())


def _changed(spec: Spec) -> dict[str, Any]:
    """The knobs that are not as declared, apart from the specs in it."""
    defaults = {name: knob.default for name, knob in spec.knobs().items()}
    return {
        name: value
        for name, value in spec
        if not isinstance(value, Spec) and value != defaults[name]
    }
