"""What a step costs beside the peers and a copy of the memory it touches: `make bench-steps`.

Each contender solves the same elementwise linear map with a tolerance that nobody meets. Its time
is what passes between the map's return and its next call, the whole driver included: CPU time of
one thread, contenders in turn within one process, medians over rounds; a ratio is one of medians,
its spread that of the rounds' own ratios. torchdeq's m counts iterates: its 6 is a window of 5. The
table and this machine's run card go to benchmarks/results/steps.json.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from andersonn_core import Anderson, solve
from andersonn_core.runcard import RunCard

RESULTS = Path(__file__).parent / "results" / "steps.json"
RESIDUALS = "ours, residuals"
FLOORS = 9  # times that the copies are made in a round
WARM = 13  # steps until every window is full and every buffer has been touched


@dataclass
class Meter:
    """The map z -> c + d z; it notes the CPU time between one return and the next call.

    Its values are freed in its own time, whoever held them last: 40 MB take as long as a copy.
    """

    c: Tensor  # (B, n)
    d: Tensor  # (n,)
    gaps: list[float] = field(default_factory=list)
    left: float | None = None
    values: deque[Tensor] = field(default_factory=lambda: deque(maxlen=4))

    def __call__(self, z: Tensor) -> Tensor:
        """Evaluate the map."""
        now = time.process_time()
        if self.left is not None:
            self.gaps.append(now - self.left)
        value = torch.addcmul(self.c, z, self.d)
        self.values.append(value)
        self.left = time.process_time()
        return value

    @property
    def milliseconds(self) -> float:
        """The mean: a restarted window makes steps of several lengths."""
        return 1e3 * statistics.fmean(self.gaps[WARM:])


def ours(method: Anderson, steps: int) -> Callable[[Meter, Tensor], Any]:
    """Our driver with a method."""
    return lambda f, z0: solve(f, z0, method, rtol=0.0, max_iter=steps)


def torchdeq(m: int, steps: int) -> Callable[[Meter, Tensor], Any]:
    """Anderson of torchdeq with its defaults."""
    from torchdeq.solver.anderson import anderson_solver

    return lambda f, z0: anderson_solver(
        f, z0, m=m, max_iter=steps, tol=1e-30, stop_mode="rel", indexing=None
    )


def scipy(window: int, steps: int) -> Callable[[Meter, Tensor], Any]:
    """Anderson of SciPy for the residual, undamped; it ends by a budget that it calls a failure."""
    from scipy.optimize import NoConvergence, anderson

    def run(f: Meter, z0: Tensor) -> None:
        def residual(z: Any) -> Any:
            point = torch.from_numpy(np.asarray(z, dtype=np.float32))[None]
            return (f(point)[0] - point[0]).numpy()

        try:
            anderson(residual, z0[0].numpy(), M=window, alpha=1.0, maxiter=steps, f_tol=1e-30,
                     line_search=None)  # fmt: skip
        except NoConvergence:
            pass

    return run


@dataclass(frozen=True)
class Case:
    """One shape, our window, the least ratios promised for peer / ours, the most of copies."""

    batch: int
    n: int
    window: int
    steps: int
    rounds: int
    peer: str
    least: float
    least_residuals: float | None = None
    most_copies: float | None = None  # of the residual form

    @property
    def name(self) -> str:
        """The shape and the window."""
        return f"{self.batch} x {self.n if self.n < 1e6 else format(self.n, '.0e')}, {self.window}"


CASES = [
    Case(64, 256, 5, 60, 9, "torchdeq", 2.3),
    Case(256, 1024, 5, 60, 7, "torchdeq", 3.0, 3.8),
    Case(64, 49152, 5, 34, 5, "torchdeq", 7.0, 8.0),
    Case(1, 10_000_000, 4, 26, 5, "torchdeq", 9.0, 13.0, 1.25),
    Case(1, 1_000_000, 10, 40, 5, "scipy", 5.0),
]
QUICK = CASES[:2]


def contenders(case: Case) -> dict[str, Callable[[Meter, Tensor], Any]]:
    """The peer, our default, and our form for large well-conditioned cells, full all the time."""
    window, steps = case.window, case.steps
    sliding = Anderson(window=window, restart="never", least_squares="residuals")
    peers = {"torchdeq": lambda: torchdeq(window + 1, steps), "scipy": lambda: scipy(window, steps)}
    return {
        case.peer: peers[case.peer](),
        "ours": ours(Anderson(window=window), steps),
        RESIDUALS: ours(sliding, steps),
    }


def floor(case: Case) -> float:
    """Milliseconds of copying (2 m + 6) / 2 states: as many words as a lean step moves."""
    source, target = torch.rand(2, case.batch, case.n)
    times = []
    for _ in range(FLOORS + 1):
        start = time.process_time()
        for _ in range(case.window + 3):
            target.copy_(source)
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times[1:])


def measure(case: Case) -> tuple[dict[str, list[float]], list[float]]:
    """Milliseconds per step of each contender and of the copies, one figure a round, in turn."""
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(case.batch, case.n, generator=generator)
    d = torch.linspace(-0.95, 0.995, case.n)
    runs = contenders(case)
    found: dict[str, list[float]] = {name: [] for name in runs}
    floors = []
    for _ in range(case.rounds):
        for name, run in runs.items():
            meter = Meter(c, d)
            run(meter, torch.zeros_like(c))
            found[name].append(meter.milliseconds)
        floors.append(floor(case))
    return found, floors


def report(case: Case, table: Table) -> list[dict[str, Any]]:
    """Add a case's rows to the table; the same as records."""
    found, floors = measure(case)
    records = []
    for name, times in found.items():
        residuals = name == RESIDUALS
        least = {"ours": case.least, RESIDUALS: case.least_residuals}.get(name)
        most = case.most_copies if residuals else None
        row = {"case": case.name, "contender": name, "milliseconds": statistics.median(times)}
        row |= _ratio("ratio", found[case.peer], times) | {"promised": least}
        row |= _ratio("times_copy_floor", times, floors) | {"promised_copies": most}
        records.append(row)
        table.add_row(
            case.name if name == case.peer else "", name, f"{row['milliseconds']:.3f}",
            *_cells(row, "ratio", f">= {least:g}" if least else "", kept=kept(row, "promised")),
            *_cells(row, "times_copy_floor", f"<= {most:g}" if most else "",
                    kept=kept(row, "promised_copies")),
        )  # fmt: skip
    return records


def _ratio(name: str, above: list[float], below: list[float]) -> dict[str, float]:
    """The ratio of medians, and the range of the rounds' own."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    ratio = statistics.median(above) / statistics.median(below)
    return {name: ratio, f"{name}_low": min(ratios), f"{name}_high": max(ratios)}


def _cells(row: dict[str, Any], name: str, promise: str, kept: bool) -> tuple[str, str, str]:
    spread = f"{row[f'{name}_low']:.2f}..{row[f'{name}_high']:.2f}"
    verdict = f"{promise} {'ok' if kept else 'MISSED'}" if promise else ""
    return f"{row[name]:.2f}", spread, verdict


def kept(row: dict[str, Any], promise: str) -> bool:
    """Whether a row keeps a promise, or was promised nothing."""
    if row[promise] is None:
        return True
    if promise == "promised":
        return bool(row["ratio"] >= row["promised"])
    return bool(row["times_copy_floor"] <= row["promised_copies"])


def main() -> int:
    """Measure all cases (--quick: the two small ones), print them and write them down."""
    quick = "--quick" in sys.argv
    torch.set_num_threads(1)
    table = Table(
        "shape, m", "contender", "ms/step", "peer/this", "spread", "promised", "x copy", "spread",
        "promised",
        title="Time between the map's return and its next call",
    )  # fmt: skip
    records = [record for case in (QUICK if quick else CASES) for record in report(case, table)]
    Console(width=max(Console().width, 130)).print(table)
    promises = "promised", "promised_copies"
    missed = sum(not kept(row, promise) for row in records for promise in promises)
    print(f"{missed} of the promises missed" if missed else "all promises kept")
    if not quick:
        card = RunCard.capture({"benchmark": "steps"}, None, None, torch.device("cpu"))
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(
            json.dumps({"card": json.loads(card.to_json()), "rows": records}, indent=1) + "\n"
        )
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
