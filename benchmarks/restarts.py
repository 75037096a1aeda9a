"""What to keep of the history, counted in evaluations: `make bench-restarts`.

Every method keeps at most ten differences. On affine maps its count is compared with the full
memory's, by an implementation of its own; elsewhere with the best of all methods and windows in the
table. One sample in float64, mixing 1; of a batch, the median. The table and this machine's run
card go to benchmarks/results/restarts.json, from which assets/restarts.py draws the picture.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from andersonn_core import IDR, PROBLEMS, Anderson, ShortRecurrence, solve
from andersonn_core.methods import MethodSpec
from andersonn_core.runcard import RunCard

RESULTS = Path(__file__).parent / "results" / "restarts.json"
MOST = 800  # evaluations after which a method counts as failed, and is counted with so many
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A map with its start, and what is known of it."""

    name: str
    make: Callable[[], tuple[Map, Tensor]]
    affine: bool = False
    symmetric: bool = False
    tolerances: tuple[float, float] = (1e-6, 1e-10)


def built(problem: str, **knobs: Any) -> Callable[[], tuple[Map, Tensor]]:
    """A problem of the lab in float64."""

    def make() -> tuple[Map, Tensor]:
        found = PROBLEMS[problem](dtype="float64", **{"batch_size": 1} | knobs).build()
        return found.f, found.z0

    return make


def diagonal() -> tuple[Map, Tensor]:
    """300 eigenvalues from -0.95 to 0.995."""
    slope = torch.linspace(-0.95, 0.995, 300, dtype=torch.float64)
    offset = torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return lambda z: slope * z + offset, torch.zeros(1, 300, dtype=torch.float64)


def gaussian(radius: float) -> tuple[Map, Tensor]:
    """A random matrix: eigenvalues all over a disc, eigenvectors far from perpendicular."""
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(200, 200, generator=generator, dtype=torch.float64)
    matrix *= radius / float(torch.linalg.eigvals(matrix).abs().max())
    offset = torch.randn(200, generator=generator, dtype=torch.float64)
    return lambda z: z @ matrix.T + offset, torch.zeros(1, 200, dtype=torch.float64)


def digits_adjoint() -> tuple[Map, Tensor]:
    """The backward pass of the digits cell at its equilibria: u = J^T u + b, affine."""
    f, z0 = built("digits_deq", batch_size=8)()
    z = solve(f, z0, Anderson(), rtol=1e-12, max_iter=1000).z
    with torch.enable_grad():
        point = z.requires_grad_()
        value = f.cell(point, f.x)  # f itself records no gradients
    target = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=z.dtype)

    def adjoint(u: Tensor) -> Tensor:
        with torch.enable_grad():
            (pulled,) = torch.autograd.grad(value, point, u, retain_graph=True)
        return pulled + target

    return adjoint, torch.zeros_like(target)


CASES = [
    Case("Poisson 64x64", built("poisson"), affine=True, symmetric=True),
    Case("diagonal", diagonal, affine=True, symmetric=True),
    Case("convection 64x64", built("convection"), affine=True),
    Case("Gaussian, radius .9", lambda: gaussian(0.9), affine=True),
    Case("Gaussian, radius .98", lambda: gaussian(0.98), affine=True),
    Case("disc, normal, .99", built("affine", size=200, spectrum="disc", spectral_radius=0.99),
         affine=True),
    Case("PageRank", built("pagerank"), affine=True),
    Case("digits, adjoint", digits_adjoint, affine=True),
    Case("Bratu 64x64", built("bratu")),
    Case("tanh, gain 1.3", built("tanh", size=256, gain=1.3)),
    Case("tanh, gain 1.6", built("tanh", size=256, gain=1.6)),
    Case("H-equation, .99", built("chandrasekhar")),
    Case("H-equation, .999999", built("chandrasekhar", albedo=0.999999)),
    Case("lasso", built("lasso")),
    Case("value iteration", built("value_iteration")),
    Case("Sinkhorn", built("sinkhorn")),
    Case("digits", built("digits_deq", batch_size=16), tolerances=(1e-5, 1e-9)),
]  # fmt: skip

METHODS: dict[str, MethodSpec] = {
    "sliding 10": Anderson(window=10, restart="never"),
    "restart 5": Anderson(window=5),
    "restart 10": Anderson(window=10),
    "deflated 10": Anderson(window=10, restart="deflated"),
    "two pairs": ShortRecurrence(),
    "IDR 10": IDR(shadow=10),
    "auto 10": Anderson(window="auto", restart="auto"),  # at most ten
}
WIDE: dict[str, MethodSpec] = {  # what more memory would give, where the full memory is not optimal
    f"sliding {m}": Anderson(window=m, restart="never") for m in (20, 50, 100)
}


def count(f: Map, z0: Tensor, method: MethodSpec, rtol: float) -> float:
    """Evaluations until the tolerance, MOST for failures; the median of a batch."""
    result = solve(f, z0, method, rtol=rtol, max_iter=MOST)
    evals = result.sample_evals.double()
    return float(torch.where(result.converged, evals, float(MOST)).median())


def full_memory(f: Map, z0: Tensor, rtol: float) -> float:
    """The same with all differences, orthogonalized twice each; samples apart."""
    return float(np.median([_full_memory(f, z0, b, rtol) for b in range(len(z0))]))


def _full_memory(f: Map, z0: Tensor, sample: int, rtol: float) -> int:
    z, before, u, q = z0, None, z0.new_zeros(0, z0[0].numel()), z0.new_zeros(0, z0[0].numel())
    for evaluation in range(1, MOST):
        value = f(z)
        g, point = (value - z)[sample].flatten(), z[sample].flatten()
        if float(g.norm()) <= rtol * float(value[sample].norm()):
            return evaluation
        if before is not None:
            dz, dg = point - before[0], g - before[1]
            for _ in range(2):
                weights = q @ dg
                dz, dg = dz - weights @ u, dg - weights @ q
            u, q = (torch.cat([old, new[None] / dg.norm()]) for old, new in ((u, dz), (q, dg)))
        before = point, g
        weights = q @ g
        z = (point + g - weights @ (u + q)).reshape(z0[0].shape).expand_as(z0)
    return MOST


def measure(case: Case) -> list[dict[str, Any]]:
    """One record per tolerance: every method's count and what it is compared with."""
    f, z0 = case.make()
    records = []
    for rtol in case.tolerances:
        counts = {name: count(f, z0, method, rtol) for name, method in METHODS.items()}
        full = full_memory(f, z0, rtol)
        wide = [] if case.affine else [count(f, z0, method, rtol) for method in WIDE.values()]
        best = full if case.affine else min(full, *counts.values(), *wide)
        records.append({
            "problem": case.name, "rtol": rtol, "affine": case.affine,
            "symmetric": case.symmetric, "reference": best, "full memory": full, "counts": counts,
        })  # fmt: skip
    return records


def ratios(records: list[dict[str, Any]], method: str) -> np.ndarray:
    """A method's counts over the references."""
    return np.array([record["counts"][method] / record["reference"] for record in records])


def promises(records: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """What is promised: words, figure, limit."""
    auto = ratios(records, "auto 10")
    symmetric = [record for record in records if record["symmetric"]]
    own = np.array([
        record["counts"]["auto 10"] / min(record["counts"].values()) for record in records
    ])  # fmt: skip
    return [
        ("auto: geometric mean over the reference", float(np.exp(np.log(auto).mean())), 1.10),
        ("auto: worst over the reference", float(auto.max()), 1.35),
        (
            "two pairs, symmetric: worst over full memory",
            ratios(symmetric, "two pairs").max(),
            1.03,
        ),
        ("auto: worst over the best of our own at this memory", float(own.max()), 1.10),
    ]


def report(records: list[dict[str, Any]], console: Console) -> int:
    """Print the table and the promises; how many are broken."""
    table = Table("problem", "tol", "reference", *METHODS, title="Evaluations, ten differences")
    for record in records:
        cells = [f"{n:.0f}" if n < MOST else "-" for n in record["counts"].values()]
        table.add_row(
            record["problem"], f"{record['rtol']:.0e}", f"{record['reference']:.0f}", *cells
        )
    means = [f"{np.exp(np.log(ratios(records, name)).mean()):.2f}" for name in METHODS]
    table.add_row("geometric mean of the ratios", "", "1", *means)
    table.add_row("worst", "", "1", *(f"{ratios(records, name).max():.2f}" for name in METHODS))
    console.print(table)
    broken = 0
    for words, figure, limit in promises(records):
        broken += figure > limit
        console.print(
            f"{words}: {figure:.3f} (at most {limit:g}: {'ok' if figure <= limit else 'MISSED'})"
        )
    return broken


def main() -> int:
    """Measure, print, and write down."""
    torch.set_num_threads(1)
    console = Console(width=max(Console().width, 140))
    records = [record for case in track(CASES, "counting") for record in measure(case)]
    broken = report(records, console)
    card = RunCard.capture({"benchmark": "restarts"}, None, None, torch.device("cpu"))
    RESULTS.write_text(
        json.dumps({"card": json.loads(card.to_json()), "rows": records}, indent=1) + "\n"
    )
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
