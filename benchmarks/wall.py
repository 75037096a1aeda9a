"""Whole solves against our own forward iteration, by seconds: `make bench-wall`.

CPU time of one thread, methods in turn within one process, medians over rounds; a ratio is one of
medians, its spread that of the rounds' own. Where forward iteration does not converge its time is
what it took to find that out. The table and this machine's run card go to
benchmarks/results/wall.json.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from andersonn_core import PROBLEMS, Anderson, Auto, Picard, solve
from andersonn_core.methods import MethodSpec
from andersonn_core.results import SolveResult
from andersonn_core.runcard import RunCard

RESULTS = Path(__file__).parent / "results" / "wall.json"
ROUNDS, MORE = 9, 120  # more where a solve is short, and its ratio noisy
METHODS: dict[str, MethodSpec] = {
    "forward": Picard(),
    "Anderson 5": Anderson(),
    "auto 10": Anderson(window="auto", restart="auto"),
    "Auto": Auto(),
}
AUTO_LEAST = 0.95
SHORT = 0.3  # seconds of forward iteration's solve
ENOUGH = 0.01  # seconds that a method computes in a round, by so many solves


@dataclass(frozen=True)
class Case:
    """A problem, its tolerance, and the least speed-up of Anderson that is promised."""

    name: str
    knobs: dict[str, Any] = field(default_factory=dict)
    rtol: float = 1e-6
    least: float | None = None

    @property
    def title(self) -> str:
        """The problem with the knobs that differ from its defaults."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.knobs.items())])


CASES = [
    Case("digits_deq", rtol=1e-5, least=1.6),
    Case("poisson", {"size": 256}, 3e-4, least=8.0),
    Case("bratu", {"size": 128}, 3e-4, least=13.0),
    Case("poisson"),
    Case("bratu"),
    Case("convection"),
    Case("tanh"),
    Case("tanh", {"size": 256, "gain": 1.3, "batch_size": 1}),
    Case("affine"),
    Case("chandrasekhar"),
    Case("lasso"),
    Case("value_iteration"),
    Case("pagerank"),
    Case("sinkhorn"),
    Case("newton"),
]


def measure(case: Case) -> dict[str, Any]:
    """Seconds of every round, evaluations and notes of every method."""
    problem = PROBLEMS[case.name](**case.knobs).build()

    def timed(name: str, count: int) -> tuple[float, SolveResult]:
        start = time.process_time()
        for _ in range(count):
            result = solve(problem.f, problem.z0, METHODS[name], rtol=case.rtol, max_iter=20_000)
        return (time.process_time() - start) / count, result

    first = {name: timed(name, 1) for name in METHODS}  # nothing is warm yet: does not count
    counts = {name: max(1, round(ENOUGH / taken)) for name, (taken, _) in first.items()}
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    results = {}
    for turn in range(MORE if first["forward"][0] < SHORT else ROUNDS):
        for name in in_turn(turn):
            taken, results[name] = timed(name, counts[name])
            seconds[name].append(taken)
    return {
        "case": case.title, "rtol": case.rtol, "promised": case.least, "seconds": seconds,
        "evaluations": {name: result.num_evals for name, result in results.items()},
        "converged": {name: bool(result.converged.all()) for name, result in results.items()},
        "notes": results["Auto"].notes,
    }  # fmt: skip


def in_turn(turn: int) -> list[str]:
    """The methods in another order each round: after another one's solve caches are cold."""
    names = [*METHODS]
    return names[turn % len(names) :] + names[: turn % len(names)]


def ratio(record: dict[str, Any], name: str) -> tuple[float, float, float]:
    """Forward's seconds over a method's: of the medians, and the rounds' smallest and largest."""
    forward, own = record["seconds"]["forward"], record["seconds"][name]
    rounds = [a / b for a, b in zip(forward, own, strict=True)]
    return statistics.median(forward) / statistics.median(own), min(rounds), max(rounds)


def report(records: list[dict[str, Any]], console: Console) -> int:
    """Print the table; how many promises are broken."""
    table = Table("problem", "tol", *METHODS, "promised", title="Speed-up of the whole solve")
    broken = 0
    for record in records:
        cells = [f"{1e3 * statistics.median(record['seconds']['forward']):.1f} ms"]
        for name in list(METHODS)[1:]:
            middle, low, high = ratio(record, name)
            evals = f"{record['evaluations'][name]}{'' if record['converged'][name] else '!'}"
            cells.append(f"{middle:.2f} ({low:.2f}..{high:.2f}), {evals}")
        kept = ratio(record, "Auto")[0] >= AUTO_LEAST
        if record["promised"] is not None:
            kept &= ratio(record, "Anderson 5")[0] >= record["promised"]
        broken += not kept
        least = "" if record["promised"] is None else f"Anderson {record['promised']:g}, "
        verdict = "ok" if kept else "MISSED"
        table.add_row(
            record["case"], f"{record['rtol']:.0e}", *cells, f"{least}Auto {AUTO_LEAST}: {verdict}"
        )
    console.print(table)
    return broken


def main() -> int:
    """Measure, print, and write down."""
    torch.set_num_threads(1)
    console = Console(width=max(Console().width, 150))
    records = [measure(case) for case in track(CASES, "solving")]
    broken = report(records, console)
    print(f"{broken} of the promises missed" if broken else "all promises kept")
    card = RunCard.capture({"benchmark": "wall"}, None, None, torch.device("cpu"))
    RESULTS.write_text(
        json.dumps({"card": json.loads(card.to_json()), "rows": records}, indent=1) + "\n"
    )
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
