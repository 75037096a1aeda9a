"""Three torchdeq programs, unchanged but for the solver's name: `make bench-plugin`.

Each program of benchmarks/programs trains and tests with torchdeq's solvers and with ours, from the
same seeds. Seconds are CPU time of one thread for the whole program, solvers in turn, in another
order for every seed; ratios are geometric means over the seeds' own, differences of scores means,
both paired, with 95 % intervals.
Evaluations of the cell are counted by a hook on it, those of the gradient's products by one on its
values. The table and this machine's run card go to benchmarks/results/plugin.json.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from andersonn_core import paired_test
from andersonn_core.runcard import RunCard
from andersonn_core.student import mean_interval

RESULTS = Path(__file__).parent / "results" / "plugin.json"
SEEDS = range(5)
PROGRAMS = {"digits": "accuracy", "graph": "accuracy", "image": "dB"}  # and what its score is
COUNTERPARTS = {  # of ours, the solver whose name they take the place of
    "lab_anderson": "anderson",
    "lab_broyden": "broyden",
    "lab_picard": "fixed_point_iter",
    "lab_auto": "fixed_point_iter",
}
SOLVERS = [*dict.fromkeys(COUNTERPARTS.values()), *COUNTERPARTS]


class Counts:
    """Calls of a module's kind of cell, and products with its transposed Jacobian."""

    def __init__(self) -> None:
        self.evaluations = self.products = 0

    def evaluated(self, value: Tensor) -> None:
        """One call; its value counts the gradients that come back through it."""
        self.evaluations += 1
        if value.requires_grad:
            value.register_hook(self.multiplied)

    def multiplied(self, gradient: Tensor) -> None:
        """One product."""
        self.products += 1


@contextmanager
def counting(kind: type[nn.Module]) -> Iterator[Counts]:
    """Count what modules of this kind do, wherever they are."""
    counts = Counts()

    def look(module: nn.Module, _: Any, value: Tensor) -> None:
        if isinstance(module, kind):
            counts.evaluated(value)

    handle = register_module_forward_hook(look)
    try:
        yield counts
    finally:
        handle.remove()


def run(program: ModuleType, solver: str, seed: int) -> dict[str, float]:
    """One training and its test."""
    with counting(program.Cell) as counts:
        start = time.process_time()
        score = program.main(solver, seed)
        seconds = time.process_time() - start
    return {"seconds": seconds, "evaluations": counts.evaluations, "products": counts.products,
            "score": score}  # fmt: skip


def in_turn(seed: int) -> list[str]:
    """The solvers in another order for each seed."""
    places = [(place + 3 * seed) % len(SOLVERS) for place in range(len(SOLVERS))]
    return [SOLVERS[place] for place in places]


def measure(name: str, seeds: range) -> dict[str, Any]:
    """What every solver took and reached, a list over the seeds for each figure."""
    program = importlib.import_module(f"benchmarks.programs.{name}")
    runs: dict[str, list[dict[str, float]]] = {solver: [] for solver in SOLVERS}
    for seed in track(seeds, f"training {name}"):
        for solver in in_turn(seed):
            runs[solver].append(run(program, solver, seed))
    figures = ("seconds", "evaluations", "products", "score")
    solvers = {
        solver: {figure: [one[figure] for one in found] for figure in figures}
        for solver, found in runs.items()
    }
    for ours, theirs in COUNTERPARTS.items():
        times = paired_test(solvers[theirs]["seconds"], solvers[ours]["seconds"])
        solvers[ours]["counterpart"] = theirs
        solvers[ours]["speedup"] = [1 / times.ratio, 1 / times.high, 1 / times.low]
        solvers[ours]["gain"] = gain(solvers[ours]["score"], solvers[theirs]["score"])
    return {"program": name, "score": PROGRAMS[name], "solvers": solvers}


def gain(ours: list[float], theirs: list[float]) -> list[float]:
    """How much better our score is, seed by seed: mean, and the 95 % interval of it."""
    mean, ends = mean_interval([own - other for own, other in zip(ours, theirs, strict=True)])
    return [mean, *ends]


def score_text(scores: list[float], what: str) -> str:
    """Mean, smallest and largest: "0.955 (0.947..0.964)"."""
    digits = 3 if what == "accuracy" else 1
    mean, low, high = (f"{f(scores):.{digits}f}" for f in (statistics.fmean, min, max))
    return f"{mean} ({low}..{high})"


def report(record: dict[str, Any], table: Table) -> None:
    """Add a program's rows to the table."""
    for solver, found in record["solvers"].items():
        speedup = change = ""
        if "speedup" in found:
            middle, low, high = found["speedup"]
            speedup = f"{middle:.2f} ({low:.2f}..{high:.2f}) of {found['counterpart']}"
            middle, low, high = found["gain"]
            change = f"{middle:+.3f} ({low:+.3f}..{high:+.3f})"
        table.add_row(
            record["program"] if solver == SOLVERS[0] else "", solver,
            f"{statistics.median(found['seconds']):.2f}", speedup,
            f"{statistics.median(found['evaluations']):.0f}",
            f"{statistics.median(found['products']):.0f}",
            score_text(found["score"], record["score"]), change,
        )  # fmt: skip
    table.add_section()


def main() -> int:
    """Train all programs (--quick: two seeds, not written down), print and write down."""
    quick = "--quick" in sys.argv
    torch.set_num_threads(1)
    table = Table(
        "program", "solver", "CPU s", "speed-up", "evaluations", "products", "score", "gain",
        title="torchdeq programs, unchanged but for the solver's name",
    )  # fmt: skip
    records = [measure(name, range(2) if quick else SEEDS) for name in PROGRAMS]
    for record in records:
        report(record, table)
    Console(width=max(Console().width, 130)).print(table)
    if not quick:
        spec = {"benchmark": "plugin", "torchdeq": version("torchdeq")}
        card = RunCard.capture(spec, None, None, torch.device("cpu"))
        RESULTS.write_text(
            json.dumps({"card": json.loads(card.to_json()), "rows": records}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
