"""Which results may be compared: those of one problem, batch, clock and device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from andersonn_core.results import SolveResult

SEEDS = ("seed", "problem.seed")
BATCHES = ("batch size", "problem.batch_size")


def paired(
    forward: SolveResult | Sequence[SolveResult],
    anderson: SolveResult | Sequence[SolveResult],
    may_differ: Sequence[str] = SEEDS,
) -> Sequence[tuple[SolveResult, SolveResult]]:
    """Run i of the one with run i of the other.

    Raises ValueError if there is nothing to compare, or if batch, problem, clock or device differ;
    repeated runs may differ in their seeds, or in what else is said, the two of a pair may not.
    """
    runs = [forward] if isinstance(forward, SolveResult) else list(forward)
    new = [anderson] if isinstance(anderson, SolveResult) else list(anderson)
    if not runs or len(runs) != len(new):
        raise ValueError(f"repeated runs are compared in pairs: got {len(runs)} and {len(new)}.")
    for result in (*runs, *new):
        if not result.num_evals or not len(result.status):
            raise ValueError("nothing to compare: a result has no evaluations or no samples.")
        _check(runs[0], result, but=may_differ)
    for one, other in zip(runs, new, strict=True):
        _check(one, other)
    return list(zip(runs, new, strict=True))


def _check(one: SolveResult, other: SolveResult, but: Sequence[str] = ()) -> None:
    first, second = _circumstances(one), _circumstances(other)
    for name in first | second:
        was, now = first.get(name), second.get(name)
        if was != now and name not in but:
            raise ValueError(f"the results can't be compared: {name} is {was} and {now}.")


def _circumstances(result: SolveResult) -> dict[str, Any]:
    """What must be the same for two results to be comparable."""
    spec = result.card.spec
    problem = {f"problem.{name}": value for name, value in (spec.get("problem") or {}).items()}
    return problem | {
        "batch size": len(result.status),
        "clock": result.history.clock,
        "device": result.card.device,
        "map": spec.get("map"),
        "seed": result.card.seed,
    }
