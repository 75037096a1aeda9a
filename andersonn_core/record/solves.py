"""A whole solve of the digits model, from its start to its answer, beside torchdeq's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from andersonn_core.methods import Anderson
from andersonn_core.problems import PROBLEMS
from andersonn_core.record.budget import Share
from andersonn_core.record.settings import Row, Settings, place
from andersonn_core.record.spreads import spread, wall_seconds
from andersonn_core.record.steps import (
    CAPTURED,
    PEER,
    WINDOW,
    UncapturedError,
    not_ahead,
    replayed_seconds,
)
from andersonn_core.results import SolveResult
from andersonn_core.solve import solve

BATCH_SIZE, RTOL, MAX_ITER = 64, 1e-4, 200
Map = Callable[[Tensor], Tensor]  # (B, ...) -> (B, ...)


@dataclass(frozen=True)
class Answer:
    """Where a solve ended, and how often f was evaluated on the way."""

    z: Tensor  # (B, ...)
    evaluations: int


Solver = Callable[[Map, Tensor], Answer]


def solves(settings: Settings, share: Share) -> Iterator[Row]:
    """A row for each contender, all in turn; the residual is that of its answer, worst sample."""
    device, size = settings.device, settings.of(BATCH_SIZE, 4)
    built = PROBLEMS["digits_deq"](batch_size=size, device=str(device)).build()
    head = {"problem": "digits_deq", "batch_size": size, "rtol": RTOL, **place(device)}
    made = {name: make(device) for name, make in CONTENDERS.items()}
    contenders = {name: each for name, each in made.items() if not isinstance(each, str)}
    absent = {name: each for name, each in made.items() if isinstance(each, str)}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    answers: dict[str, Answer] = {}
    for _ in share.over(range(1 + settings.of(11, 2))):
        for name, contender in list(contenders.items()):
            try:
                wall, answers[name] = _timed(contender, built.f, built.z0)
                seconds[name].append(wall)
            except UncapturedError as error:
                del contenders[name]
                absent[name] = str(error)
    warm = {name: seconds[name][1:] for name in contenders if seconds[name][1:]}
    if warm:
        yield from (head | {"contender": name, "absent": why} for name, why in absent.items())
    for name, walls in warm.items():
        yield {
            **head, "contender": name, "rounds": len(walls), **spread("seconds", walls),
            "evaluations": answers[name].evaluations,
            "worst_residual": _worst(built.f, answers[name].z),
        }  # fmt: skip


def _timed(contender: Solver, f: Map, z0: Tensor) -> tuple[float, Answer]:
    """Wall seconds of a solve, and its answer."""
    answers: list[Answer] = []
    seconds = wall_seconds(z0.device, lambda: answers.append(contender(f, z0)))
    return seconds, answers[0]


def _worst(f: Map, z: Tensor) -> float:  # (B, ...)
    """The largest ||f(z) - z|| / ||f(z)||."""
    with torch.no_grad():
        value = f(z)
    residual = (value - z).flatten(1).norm(dim=1) / value.flatten(1).norm(dim=1)
    return float(residual.max())


def _solved(f: Map, z0: Tensor, **knobs: Any) -> SolveResult:
    return solve(f, z0, Anderson(window=WINDOW), rtol=RTOL, max_iter=MAX_ITER, **knobs)


def _ours(device: torch.device) -> Solver | str:
    def run(f: Map, z0: Tensor) -> Answer:
        """Launched step by step."""
        result = _solved(f, z0)
        return Answer(result.z, result.num_evals)

    return run


def _captured(device: torch.device) -> Solver | str:
    def run(f: Map, z0: Tensor) -> Answer:
        """Replayed, or UncapturedError."""
        result = _solved(f, z0, capture=True)
        replayed_seconds(result)
        return Answer(result.z, result.num_evals)

    return not_ahead(device) or run


def _peer(device: torch.device) -> Solver | str:
    try:
        from torchdeq.solver.anderson import anderson_solver
    except ImportError as error:
        return f"torchdeq cannot be imported here: {error}"

    def run(f: Map, z0: Tensor) -> Answer:
        """Its evaluations are counted at the map."""
        calls: list[None] = []

        def counted(z: Tensor) -> Tensor:  # (B, ...)
            """Evaluate f."""
            calls.append(None)
            return f(z)

        knobs: Any = {"m": WINDOW + 1, "max_iter": MAX_ITER, "tol": RTOL, "stop_mode": "rel"}
        with torch.no_grad():
            z, _, _ = anderson_solver(counted, z0, **knobs)
        return Answer(z, len(calls))

    return run


CONTENDERS = {"ours": _ours, CAPTURED: _captured, PEER: _peer}
