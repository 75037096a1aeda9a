"""How well the speed-up is predicted before it can be measured: `make bench-predictions`.

Fifteen cells, fixed before anything was predicted: a quarter of either solve is more than a
window, and Anderson loses some of them. First S is predicted from the first quarter of both solves,
then at a batch size and a tolerance that nobody measured, from solves of a quarter and half of that
batch to a hundred times that tolerance. Other problems, on which the forecast was chosen, are shown
but not promised. Last, how often the interval holds the truth of invented problems.

Seconds are CPU time of one thread, methods in turn; S is the median over rounds, with the smallest
and the largest. The tables and this machine's run card go to benchmarks/results/predictions.json.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from andersonn_core import PROBLEMS, Anderson, Picard, Prediction, SolveResult, crossover, predict
from andersonn_core import solve as solve_map
from andersonn_core.runcard import RunCard
from andersonn_core.staircase import levels_of
from andersonn_core.words import jsonable
from tests.synthetic import head, trial

RESULTS = Path(__file__).parent / "results" / "predictions.json"
LEAST, PATIENCE = 5, 6.0  # rounds, and CPU seconds below which there are more
MAX_ITER = 100_000
SEEN, LOOSER = 0.25, 100.0
WITHIN, ENOUGH = 0.2, 12  # of fifteen cells
TRIALS, COVERAGE = 500, (0.92, 0.98)
Pairs = tuple[list[SolveResult], list[SolveResult]]


@dataclass(frozen=True)
class Cell:
    """A problem and its tolerance; `batch_size` is the one that is predicted unmeasured."""

    problem: str
    knobs: dict[str, Any] = field(default_factory=dict)
    rtol: float = 1e-6
    batch_size: int = 4

    @property
    def title(self) -> str:
        """The problem with its knobs."""
        return " ".join([self.problem, *(f"{key}={value}" for key, value in self.knobs.items())])


DOUBLE = {"dtype": "float64"}
CELLS = [
    *(Cell(name, {"size": size}) for name in ("poisson", "bratu", "convection")
      for size in (24, 48, 96)),
    *(Cell("tanh", {"size": size}, batch_size=16) for size in (64, 128, 256)),
    *(Cell("digits_deq", {"batch_size": size}, 1e-5, size) for size in (4, 16, 64)),
]  # fmt: skip
OTHERS = [
    *(Cell("affine", {"size": size, "spectrum": "disc", "spectral_radius": 0.98})
      for size in (50, 100, 200)),
    *(Cell("affine", {"size": size, "spectral_radius": 0.999}, 1e-8) for size in (50, 100, 200)),
    *(Cell("lasso", {"size": size}, 1e-8) for size in (150, 300, 600)),
    *(Cell("pagerank", {"size": size, "following": 0.98}, 1e-8) for size in (500, 1000, 2000)),
    *(Cell("sinkhorn", {"size": size, "epsilon": 0.002}, 1e-8) for size in (32, 64, 128)),
    *(Cell("digits_deq", {"batch_size": 16, "training_seed": seed}, 1e-5) for seed in (1, 2, 3)),
    *(Cell("tanh", {"size": 256, "gain": 1.3, "batch_size": size}) for size in (1, 4, 16)),
]  # fmt: skip


def solves(cell: Cell, *kinds: tuple[float, dict[str, Any]]) -> list[Pairs]:
    """Repeated solves by forward iteration and by Anderson for each tolerance and knobs, in turn.

    Short ones are repeated for seconds: a shared machine is slow for moments at a time.
    """
    problems = [PROBLEMS[cell.problem](**DOUBLE | cell.knobs | more).build() for _, more in kinds]
    found: list[Pairs] = [([], []) for _ in kinds]
    end = time.process_time() + PATIENCE
    while len(found[0][0]) < LEAST or time.process_time() < end:
        for pairs, problem, (rtol, _) in zip(found, problems, kinds, strict=True):
            for runs, method in zip(pairs, (Picard(), Anderson()), strict=True):
                runs.append(solve_map(problem.f, problem.z0, method, rtol=rtol, max_iter=MAX_ITER))
    return found


def evaluations(result: SolveResult, rtol: float) -> int:
    """Until half of the samples have met the tolerance; all, if they never do."""
    met = levels_of(result, 0.0, 0.5)[1][:, 0] <= rtol
    return int(np.argmax(met)) + 1 if met.any() else len(met)


def rounded(value: float) -> float:
    """To four digits, for a short file."""
    return float(f"{value:.4g}")


def record(cell: Cell, measured: Pairs, predicted: Prediction, counts: list[int]) -> dict[str, Any]:
    """What was measured, what was predicted, and how both compare."""
    rounds = [
        rounded(float(crossover(one, new).speedup(cell.rtol)))
        for one, new in zip(*measured, strict=True)
    ]
    truth = float(np.median(rounds))
    return {
        "case": cell.title, "rtol": cell.rtol, "rounds": rounds, "measured": truth,
        "predicted": asdict(predicted), "kind": predicted.kind, "sentence": predicted.sentence,
        "ratio": predicted.speedup / truth, "inside": abs(predicted.speedup / truth - 1) <= WITHIN,
        "held": predicted.low <= truth <= predicted.high, "evaluations": counts,
    }  # fmt: skip


def from_a_quarter(cell: Cell) -> dict[str, Any]:
    """Predict from the first quarter; the solves are cut off, so that nothing else can be read."""
    (measured,) = solves(cell, (cell.rtol, {}))
    counts = [evaluations(kind[0], cell.rtol) for kind in measured]
    rows = [math.ceil(SEEN * count) for count in counts]
    heads = [[head(one, seen) for one in kind] for kind, seen in zip(measured, rows, strict=True)]
    found = record(cell, measured, predict(*heads, cell.rtol, seen=1.0), counts)
    found["single"] = [
        rounded(predict(one, new, cell.rtol, seen=1.0).speedup / truth)
        for one, new, truth in zip(*heads, found["rounds"], strict=True)
    ]
    return found


def unmeasured(cell: Cell) -> dict[str, Any]:
    """Predict at another batch size and tolerance than those of the solves that are looked at."""
    sizes = [cell.batch_size // 4, cell.batch_size // 2, cell.batch_size]
    *known, measured = solves(
        cell,
        *((LOOSER * cell.rtol, {"batch_size": size}) for size in sizes[:2]),
        (cell.rtol, {"batch_size": cell.batch_size}),
    )
    forward, anderson = (known[0][kind] + known[1][kind] for kind in (0, 1))
    predicted = predict(forward, anderson, cell.rtol, seen=1.0, batch_size=cell.batch_size)
    counts = [evaluations(kind[0], cell.rtol) for kind in measured]
    return record(cell, measured, predicted, counts) | {"batch_size": cell.batch_size}


def coverage(change: float) -> dict[str, float]:
    """How often the interval of S holds the truth of invented problems, as a part of the trials."""
    draw, held, wrong = np.random.default_rng(0), 0, 0
    for _ in range(TRIALS):
        forward, anderson = trial(draw, change)
        truth = float(crossover(forward, anderson).speedup(1e-6))
        found = predict(forward, anderson, 1e-6)
        held += found.low <= truth <= found.high
        wrong += found.low > 1 > truth or found.high < 1 < truth
    return {"change": change, "held": held / TRIALS, "wrong verdicts": wrong / TRIALS}


def changes(records: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """By what both solves' rates changed together after what was seen, and each on its own.

    Root mean squares of logarithms, to be compared with COMMON and OWN; what the residuals'
    scatter adds is in them, too.
    """
    logs = []
    for row in records:
        kinds = [row["predicted"][name] for name in ("forward", "anderson")]
        counts = zip(kinds, row["evaluations"], row["predicted"]["seen"], strict=True)
        logs.append([
            math.log((count - seen) / (kind["evaluations"] - seen)) for kind, count, seen in counts
        ])  # fmt: skip
    both = np.array(logs)
    apart = (both[:, 0] - both[:, 1]) / math.sqrt(2)
    return float(np.sqrt((both.mean(axis=1) ** 2).mean())), float(np.sqrt((apart**2).mean()))


def table(records: Sequence[dict[str, Any]], title: str, console: Console) -> int:
    """Print one row per cell; how many are inside."""
    shown = Table(
        "problem", "tol", "N forward: predicted", "was", "N Anderson: predicted", "was",
        "S measured", "S predicted (95 %)", "ratio", "", "verdict", title=title,
    )  # fmt: skip
    for row in records:
        found = row["predicted"]
        counts = [
            text for name, count in zip(("forward", "anderson"), row["evaluations"], strict=True)
            for text in (f"{found[name]['evaluations']:.0f}", str(count))
        ]  # fmt: skip
        shown.add_row(
            row["case"] + (f", batch {row['batch_size']}" if "batch_size" in row else ""),
            f"{row['rtol']:.0e}", *counts,
            f"{row['measured']:.2f} ({min(row['rounds']):.2f}..{max(row['rounds']):.2f})",
            f"{found['speedup']:.2f} ({found['low']:.2f}..{found['high']:.2f})",
            f"{row['ratio']:.2f}", "ok" if row["inside"] else "out", row["kind"],
        )  # fmt: skip
    console.print(shown)
    inside, held = (sum(row[name] for row in records) for name in ("inside", "held"))
    console.print(f"{inside} of {len(records)} within 20 %, the interval holds {held} of them")
    return inside


def report(found: dict[str, list[dict[str, Any]]], console: Console) -> int:
    """Print everything; how many promises are broken."""
    broken = 0
    for name, title in (
        ("quarter", "From the first quarter of the evaluations"),
        ("unmeasured", "At a batch size and a tolerance that were not measured"),
    ):
        inside = table(found[name], title, console)
        broken += inside < ENOUGH
        console.print(f"at least {ENOUGH}: {'ok' if inside >= ENOUGH else 'MISSED'}\n")
    single = np.array([ratio for row in found["quarter"] for ratio in row["single"]])
    near = int((abs(single - 1) <= WITHIN).sum())
    console.print(f"from one pair of solves each, without medians: {near} of {len(single)}\n")
    table(found["others"], "Other problems, not promised", console)
    smooth = [row for row in found["others"] if not row["case"].startswith("lasso")]
    common, own = changes([*found["quarter"], *smooth])
    told = f"by a factor exp({common:.2f}) together and exp({own:.2f}) each on its own"
    console.print(f"all but lasso: after a quarter the rates changed {told}\n")
    for row in found["coverage"]:
        told = f"rates changing {row['change']:g} times as much as assumed"
        console.print(f"{told}: the interval holds {100 * row['held']:.1f} % of {TRIALS} trials")
    held = next(row["held"] for row in found["coverage"] if row["change"] == 1)
    good = COVERAGE[0] <= held <= COVERAGE[1]
    console.print(f"as assumed, 95 % +- 3 %: {'ok' if good else 'MISSED'}")
    return broken + (not good)


def main() -> int:
    """Measure, print, and write down."""
    torch.set_num_threads(1)
    console = Console(width=max(Console().width, 170))
    found = {
        "quarter": [from_a_quarter(cell) for cell in track(CELLS, "a quarter")],
        "unmeasured": [unmeasured(cell) for cell in track(CELLS, "unmeasured")],
        "others": [from_a_quarter(cell) for cell in track(OTHERS, "others")],
        "coverage": [coverage(change) for change in track((0.0, 1.0, 2.0), "trials")],
    }
    broken = report(found, console)
    card = RunCard.capture({"benchmark": "predictions"}, None, None, torch.device("cpu"))
    written = {"card": json.loads(card.to_json())} | jsonable(found)
    RESULTS.write_text(json.dumps(written, indent=1) + "\n")
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
