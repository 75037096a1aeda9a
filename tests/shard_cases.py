"""Fixed points whose states are cut into rows; each rank holds some of them, or none.

Started as a program, `shard_cases.py FOLDER`, it solves all cases by four processes, in groups of
one, two and all of them, and each writes what it found to FOLDER/RANK-of-RANKS.pt.
"""

import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from andersonn_core import Anderson, KnobError, Picard, solve
from andersonn_core.methods import MethodSpec

ROWS, COLUMNS, BATCH = 16, 12, 3
CUTS = {1: [16], 2: [5, 11], 4: [7, 0, 1, 8]}  # rows of each rank
SEEN = 9  # first iterates that are kept


@dataclass
class Part:
    """The rows of one rank; without a group all of them."""

    rows: list[int]
    rank: int = 0
    group: Any = None

    @classmethod
    def of(cls, group: Any) -> "Part":
        return cls(CUTS[dist.get_world_size(group)], dist.get_rank(group), group)

    def cut(self, whole: Tensor) -> Tensor:  # (B, R, C) -> (B, r, C)
        return whole.split(self.rows, dim=1)[self.rank].clone()

    def everywhere(self, mine: Tensor) -> list[Tensor]:
        if self.group is None:
            return [mine]
        theirs = [torch.empty_like(mine) for _ in self.rows]
        dist.all_gather(theirs, mine.contiguous(), self.group)
        return theirs

    def with_halo(self, u: Tensor) -> Tensor:  # (B, r, C) -> (B, r + 2, C)
        """The next row of whoever has one above and below; zero at the border."""
        zero = torch.zeros_like(u[:, :0]).new_zeros(len(u), u.shape[2])
        ends = torch.stack([u[:, 0], u[:, -1]]) if u.shape[1] else torch.stack([zero, zero])
        theirs = self.everywhere(ends)
        above = [theirs[k][1] for k in range(self.rank) if self.rows[k]]
        later = range(self.rank + 1, len(self.rows))
        below = [theirs[k][0] for k in later if self.rows[k]]
        edges = [above[-1] if above else zero, below[0] if below else zero]
        return torch.cat([edges[0][:, None], u, edges[1][:, None]], 1)


def whole(dtype: torch.dtype) -> Tensor:  # (B, R, C): a smooth sample, a rough one, one between
    y = torch.linspace(0, 3, ROWS, dtype=torch.float64)[:, None]
    x = torch.linspace(0, 2, COLUMNS, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    rough = torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    return torch.stack([(y * x).sin(), rough, y * x + 0.3 * rough]).to(dtype)


def jacobi(part: Part, case: "Case") -> Any:
    """A sweep for the Poisson equation, the state's rows coupled over the ranks."""
    b = part.cut(whole(case.dtype)) * case.scale

    def f(u: Tensor) -> Tensor:
        wide = torch.nn.functional.pad(part.with_halo(u), (1, 1))
        crosswise = wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]
        return (wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + crosswise + b) / 4

    return f, torch.zeros_like(b)


def bent(part: Part, case: "Case") -> Any:
    """A map that is not affine, each element coupled to the mean of all."""
    b = part.cut(whole(case.dtype)) * case.scale
    slope = torch.tensor([0.3, 0.8, 0.55], dtype=case.dtype)[:, None, None]

    def f(u: Tensor) -> Tensor:
        mean = sum(part.everywhere(u.sum((1, 2)))) / (ROWS * COLUMNS)
        return b + slope * (u + 0.5 * mean[:, None, None]).cos()

    return f, torch.zeros_like(b)


def broken(part: Part, case: "Case") -> Any:
    """Poisson; the rough sample breaks at its fourth evaluation, on the last rank alone."""
    inner, start = jacobi(part, case)
    calls = iter(range(10_000))

    def f(u: Tensor) -> Tensor:
        value = inner(u)
        if next(calls) == 3 and part.rank == len(part.rows) - 1:
            value[1, -1, 3] = torch.nan
        return value

    return f, start


def exploding(part: Part, case: "Case") -> Any:
    """One sample grows beyond all bounds."""
    b = part.cut(whole(case.dtype))
    slope = torch.tensor([0.5, 9.0, -0.7], dtype=case.dtype)[:, None, None]
    return (lambda u: b + slope * u + u * u.abs() * (slope > 1)), torch.zeros_like(b)


@dataclass
class Case:
    """A map, a method and the knobs of the solve."""

    make: Any
    method: MethodSpec
    dtype: torch.dtype = torch.float64
    scale: float = 1.0
    knobs: dict[str, Any] = field(default_factory=lambda: {"rtol": 1e-8})

    def solve(self, group: Any = None, on_step: Any = None) -> Any:
        part = Part([ROWS]) if group is None else Part.of(group)
        f, start = self.make(part, self)
        return solve(f, start, self.method, group=group, on_step=on_step, **self.knobs)


SINGLE = {"dtype": torch.float32, "knobs": {"rtol": 1e-4}}
CASES = {
    "full": Case(jacobi, Anderson(), knobs={"rtol": 1e-6}),
    "one difference": Case(jacobi, Anderson(window=1), knobs={"rtol": 1e-2}),
    "never": Case(jacobi, Anderson(window=8, restart="never"), knobs={"rtol": 1e-3}),
    "deflated": Case(jacobi, Anderson(window=6, restart="deflated"), knobs={"rtol": 1e-6}),
    "auto on an affine map": Case(jacobi, Anderson(window=8, restart="auto")),
    "auto": Case(bent, Anderson(window=4, restart="auto")),
    "damped": Case(jacobi, Anderson(mixing=0.6), knobs={"rtol": 1e-4}),
    "float32": Case(jacobi, Anderson(), **SINGLE),
    "residuals": Case(jacobi, Anderson(window=4, least_squares="residuals"), knobs={"rtol": 1e-5}),
    "residuals, deflated": Case(
        jacobi, Anderson(window=5, least_squares="residuals", restart="deflated"),
        knobs={"rtol": 1e-4},
    ),
    "residuals, float32": Case(bent, Anderson(window=3, least_squares="residuals"), **SINGLE),
    "forward": Case(jacobi, Picard(), knobs={"rtol": 1e-2}),
    "forward, damped": Case(bent, Picard(mixing=0.4), knobs={"rtol": 1e-2}),
    "bent": Case(bent, Anderson(window=3)),
    "late and rare": Case(bent, Anderson(window=3, delay=2, period=2)),
    "guarded": Case(bent, Anderson(window=5, max_growth=1.0, max_weights=3.0)),
    "filtered": Case(bent, Anderson(window=5, max_condition=50.0, restart="never")),
    "auto window and mixing": Case(bent, Anderson(window="auto", mixing="auto")),
    "drawn": Case(bent, Anderson(randomize="window")),
    "broken": Case(broken, Anderson(), knobs={"rtol": 1e-4}),
    "exploding": Case(exploding, Anderson(window=3, fallback=False), knobs={"max_iter": 60}),
    "tiny": Case(jacobi, Anderson(window=3), scale=1e-160, knobs={"max_iter": 25}),
    "tiny float32": Case(
        jacobi, Anderson(window=3), torch.float32, scale=1e-25, knobs={"max_iter": 25}
    ),
    "out of budget": Case(jacobi, Anderson(window=2), knobs={"max_iter": 9}),
}  # fmt: skip


class Wire:
    """How many numbers each all-reduce takes, evaluation by evaluation."""

    def __init__(self) -> None:
        self.sent: list[list[int]] = [[]]
        self.original = dist.all_reduce

    def __call__(self, values: Tensor, *arguments: Any) -> Any:
        assert values.dtype == torch.float64
        self.sent[-1].append(values.numel())
        return self.original(values, *arguments)

    def mark(self) -> None:
        """An evaluation and the step after it are over."""
        self.sent.append([])

    def take(self) -> dict[str, list[list[int]]]:
        found, self.sent = {"sent": self.sent}, [[]]
        return found


def found(case: Case, group: Any = None, wire: Wire | None = None) -> dict[str, Any]:
    """What a solve gives, as plain numbers and this rank's part of tensors."""
    seen = []

    def look(step: Any) -> None:
        if step.evaluation <= SEEN:
            seen.append(step.z())
        if wire is not None:
            wire.mark()

    result = case.solve(group, look)
    return {
        "num_evals": result.num_evals,
        "sample_evals": result.sample_evals,
        "status": result.status,
        "z": result.z,
        "seen": seen,
        "residual": result.history.residual,
        "event": result.history.event,
        "error_estimate": result.error_estimate,
        "notes": result.notes,
    } | ({} if wire is None else wire.take())


def message(act: Callable[[], Any]) -> str:
    try:
        act()
    except KnobError as error:
        return str(error)
    return ""


def refusals(rank: int, group: Any) -> list[str]:
    """What is said about starts and knobs that differ between two ranks."""
    start = torch.zeros(3, 2 + rank, dtype=torch.float64)
    return [
        message(lambda: solve(torch.cos, start[: BATCH - rank], group=group)),
        message(lambda: solve(torch.cos, start.float() if rank else start, group=group)),
        message(lambda: solve(torch.cos, start, Anderson(window=4 + rank), group=group)),
        message(lambda: solve(torch.cos, start / (1 - rank), group=group)),
    ]


def failure(rank: int, group: Any) -> str:
    """A map that raises on rank 1, which then leaves the group; what each rank gets."""

    def f(z: Tensor) -> Tensor:
        if rank == 1 and z.abs().max() > 0.5:
            raise RuntimeError("lost")
        return z.cos()

    try:
        solve(f, torch.zeros(1, 3), group=group)
    except RuntimeError as error:
        assert error.partial_result.num_evals >= 1  # type: ignore[attr-defined]
        return f"RuntimeError: {error}"
    return ""


def take_part(rank: int, folder: Path) -> None:
    """Be one of the four."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=max(CUTS),
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    groups = {ranks: dist.new_group(list(range(ranks))) for ranks in CUTS}  # by all processes
    wire = dist.all_reduce = Wire()
    for ranks in sorted(CUTS, reverse=True):  # the last of all leave first
        if rank < ranks:
            group, file = groups[ranks], folder / f"{rank}-of-{ranks}.pt"
            torch.save({name: found(case, group, wire) for name, case in CASES.items()}, file)
    if rank < 2:
        said = refusals(rank, groups[2])
        torch.save((said, failure(rank, groups[2])), folder / f"said-{rank}.pt")
    dist.destroy_process_group()


def main(folder: Path) -> int:
    """Start all ranks; how many of them failed."""
    found(CASES["full"])  # what is loaded once need not be loaded by each, where they are forked
    processes = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    running = [processes.Process(target=take_part, args=(k, folder)) for k in range(max(CUTS))]
    for process in running:
        process.start()
    for process in running:
        process.join()
    return sum(process.exitcode != 0 for process in running)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
