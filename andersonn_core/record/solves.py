"""A whole solve of the digits model, from its start to its answer, beside torchdeq's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from andersonn_core.methods import Anderson
from andersonn_core.problems import PROBLEMS
from andersonn_core.record.budget import Share
from andersonn_core.record.settings import Row, Settings, place
from andersonn_core.record.spreads import spread, wall_seconds
from andersonn_core.record.steps import PEER, WINDOW
from andersonn_core.solve import LAUNCHED_AHEAD, solve

BATCH_SIZE, RTOL, MAX_ITER = 64, 1e-4, 200
Map = Callable[[Tensor], Tensor]  # (B, ...) -> (B, ...)
Solver = Callable[[Map, Tensor], Any]


@dataclass
class _Solves:
    """What the solves of one contender gave."""

    seconds: list[float] = field(default_factory=list)  # wall clock
    calls: int = 0  # of the map's Python, in one solve
    z: Tensor | None = None  # (B, ...) the last answer


def solves(settings: Settings, share: Share) -> Iterator[Row]:
    """A row for each contender, all in turn; the residual is that of its answer, worst sample."""
    device, size = settings.device, settings.of(BATCH_SIZE, 4)
    built = PROBLEMS["digits_deq"](batch_size=size, device=str(device)).build()
    head = {"problem": "digits_deq", "batch_size": size, "rtol": RTOL, **place(device)}
    contenders, absent = {}, {}
    for name, make in _CONTENDERS.items():
        try:
            contenders[name] = make(device)
        except ImportError as error:
            absent[name] = str(error)
    found = {name: _Solves() for name in contenders}
    for number in share.over(range(1 + settings.of(11, 2))):
        for name, contender in contenders.items():
            _take(found[name], contender, built.f, built.z0, warm=number > 0)
    if any(numbers.seconds for numbers in found.values()):
        yield from (head | {"contender": name, "absent": why} for name, why in absent.items())
    for name, numbers in found.items():
        if numbers.seconds and numbers.z is not None:
            yield {
                **head, "contender": name, "rounds": len(numbers.seconds),
                **spread("seconds", numbers.seconds), "map_calls": numbers.calls,
                "worst_residual": _worst(built.f, numbers.z),
            }  # fmt: skip


def _take(found: _Solves, contender: Solver, f: Map, z0: Tensor, warm: bool) -> None:
    calls = 0

    def counted(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return f(z)

    def once() -> None:
        found.z = contender(counted, z0)

    seconds = wall_seconds(z0.device, once)
    found.calls = calls
    if warm:
        found.seconds.append(seconds)


def _worst(f: Map, z: Tensor) -> float:  # (B, ...)
    """The largest ||f(z) - z|| / ||f(z)||."""
    with torch.no_grad():
        value = f(z)
    residual = (value - z).flatten(1).norm(dim=1) / value.flatten(1).norm(dim=1)
    return float(residual.max())


def _ours(device: torch.device, **knobs: Any) -> Solver:
    method = Anderson(window=WINDOW)
    return lambda f, z0: solve(f, z0, method, rtol=RTOL, max_iter=MAX_ITER, **knobs).z


def _captured(device: torch.device) -> Solver:
    """Raises ImportError where nothing is captured."""
    if device.type not in LAUNCHED_AHEAD:
        raise ImportError(f"only a GPU has it: {device.type} is not launched ahead")
    return _ours(device, capture=True)


def _peer(device: torch.device) -> Solver:
    try:
        from torchdeq.solver.anderson import anderson_solver
    except ImportError as error:
        raise ImportError(f"torchdeq cannot be imported here: {error}") from error

    def run(f: Map, z0: Tensor) -> Tensor:
        with torch.no_grad():
            z, _, _ = anderson_solver(f, z0, m=WINDOW + 1, max_iter=MAX_ITER, tol=RTOL,
                                      stop_mode="rel")  # fmt: skip
        answer: Tensor = z
        return answer

    return run


_CONTENDERS = {"ours": _ours, "ours, captured": _captured, PEER: _peer}
