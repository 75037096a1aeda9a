"""Automatic and random windows and mixings against fixed ones, in pairs: `make bench-choices`.

The maps and tolerances are those of `make bench-restarts`; each is solved with a fixed window of
ten and mixing 1, with window and mixing chosen by the solver, and with what is drawn at random from
ten seeds. Every count is paired with the fixed solve's of the same map. The table and this
machine's run card go to benchmarks/results/choices.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from restarts import CASES, Case, count
from rich.console import Console
from rich.progress import track
from rich.table import Table

from andersonn_core import Anderson
from andersonn_core.paired import paired_test
from andersonn_core.runcard import RunCard

RESULTS = Path(__file__).parent / "results" / "choices.json"
SEEDS = range(10)
FIXED = Anderson(window=10)
CHOICES: dict[str, list[Anderson]] = {
    'window="auto"': [FIXED.replace(window="auto")],
    'mixing="auto"': [FIXED.replace(mixing="auto")],
} | {
    f'randomize="{what}"': [FIXED.replace(randomize=what, randomize_seed=seed) for seed in SEEDS]
    for what in ("window", "mixing", "skip")
}


def measure(case: Case) -> list[dict[str, Any]]:
    """One record per tolerance: the fixed count, and the counts of each choice."""
    f, z0 = case.make()
    return [
        {
            "problem": case.name, "rtol": rtol, "fixed": count(f, z0, FIXED, rtol),
            "counts": {
                name: [count(f, z0, method, rtol) for method in methods]
                for name, methods in CHOICES.items()
            },
        }
        for rtol in case.tolerances
    ]  # fmt: skip


def report(records: list[dict[str, Any]], console: Console) -> None:
    """Print each map's mean count, and each choice's paired test over all maps."""
    table = Table("problem", "tol", "fixed", *CHOICES, title="Evaluations, restart='full'")
    for record in records:
        means = [f"{sum(counts) / len(counts):.0f}" for counts in record["counts"].values()]
        table.add_row(record["problem"], f"{record['rtol']:.0e}", f"{record['fixed']:.0f}", *means)
    console.print(table)
    for name in CHOICES:
        pairs = [(record["fixed"], n) for record in records for n in record["counts"][name]]
        console.print(f"{name}: {paired_test(*zip(*pairs, strict=True)).sentence}")


def main() -> None:
    """Measure, print, and write down."""
    torch.set_num_threads(1)
    console = Console(width=max(Console().width, 140))
    records = [record for case in track(CASES, "counting") for record in measure(case)]
    report(records, console)
    card = RunCard.capture({"benchmark": "choices"}, None, None, torch.device("cpu"))
    RESULTS.write_text(
        json.dumps({"card": json.loads(card.to_json()), "rows": records}, indent=1) + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
