"""How many evaluations the project's promises take: `make bench-counts`.

Stiff problems in one solve each; then all held-out digits of all five trainings, where forward
iteration is a plain loop that shares no code with the solver.
"""

from __future__ import annotations

import sys

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.linalg import vector_norm

from andersonn_core import PROBLEMS, Anderson, SolveResult, SolveSpec, solve
from andersonn_core.problems import Problem
from andersonn_core.weights import TRAINING_SEEDS

HELD_OUT, RTOL, MAX_ITER = 360, 1e-5, 1000
STIFF = {
    "poisson 64x64, float32, window 5, 1e-6": (125, "poisson", "float32", 5, 1e-6),
    "poisson 64x64, float64, window 5, 1e-10": (280, "poisson", "float64", 5, 1e-10),
    "bratu 64x64, float32, window 10, 1e-6": (130, "bratu", "float32", 10, 1e-6),
}


def stiff(console: Console) -> int:
    """Print the stiff problems' counts; how many promises are broken."""
    table = Table("problem", "evaluations", "at most", "", title="Stiff problems")
    broken = 0
    for name, (most, problem, dtype, window, rtol) in STIFF.items():
        spec = SolveSpec(
            problem=PROBLEMS[problem](size=64, dtype=dtype), method=Anderson(window=window),
            rtol=rtol, max_iter=1000,
        )  # fmt: skip
        result = spec.run()
        good = bool(result.converged.all()) and result.num_evals <= most
        broken += not good
        table.add_row(name, str(result.num_evals), str(most), _verdict(good))
    console.print(table)
    return broken


def plain_loop(problem: Problem) -> Tensor:  # (B,), 0: not solved
    """The evaluations after which z <- f(z) meets the tolerance, sample by sample."""
    z, f, rows = problem.z0, problem.f, torch.arange(HELD_OUT)
    counts = torch.zeros(HELD_OUT, dtype=torch.long)
    for evaluation in range(1, MAX_ITER + 1):
        value = f(z)
        residual = vector_norm((value - z).flatten(1), dim=1)
        met = residual <= RTOL * vector_norm(value.flatten(1), dim=1)
        counts[rows[met]] = evaluation
        rows, z = rows[~met], value[~met]
        if not len(rows):
            break
        f = problem.f.select(rows)
    return counts


def digits(console: Console) -> int:
    """Print the digits' counts for each training; how many promises are broken."""
    table = Table(
        "training seed", "forward: median", "slowest", "never", "Anderson: median", "slowest",
        "never", "beyond 1.1 K + 60", "accuracy", "",
        title=f"All {HELD_OUT} held-out digits to {RTOL:g}; K: forward iteration's evaluations",
    )  # fmt: skip
    broken = 0
    for seed in TRAINING_SEEDS:
        problem = PROBLEMS["digits_deq"](batch_size=HELD_OUT, training_seed=seed).build()
        forward = plain_loop(problem)
        result = solve(
            problem.f, problem.z0, Anderson(), rtol=RTOL, max_iter=MAX_ITER, compact=True
        )
        row, good = _compared(problem, forward, result)
        broken += not good
        table.add_row(str(seed), *row, _verdict(good))
    console.print(table)
    return broken


def _compared(problem: Problem, forward: Tensor, result: SolveResult) -> tuple[list[str], bool]:
    """One row of the table, and whether it keeps the promise."""
    solved, ours = forward > 0, result.sample_evals
    late = solved & (~result.converged | (ours > 1.1 * forward + 60))
    medians = float(forward[solved].median()), float(ours.median())
    correct = problem.predict(result.z).argmax(1) == problem.labels
    row = [
        f"{medians[0]:.0f}", str(int(forward.max())), str(int((~solved).sum())),
        f"{medians[1]:.0f}", str(int(ours.max())), str(int((~result.converged).sum())),
        str(int(late.sum())), f"{100 * float(correct.double().mean()):.1f} %",
    ]  # fmt: skip
    return row, not bool(late.any()) and medians[1] <= 0.5 * medians[0]


def _verdict(good: bool) -> str:
    return "ok" if good else "MISSED"


def main() -> int:
    """Print both tables; 1 if a promise is broken."""
    torch.set_num_threads(1)
    console = Console(width=max(Console().width, 130))
    return min(stiff(console) + digits(console), 1)


if __name__ == "__main__":
    sys.exit(main())
