"""Whether the device gives the CPU's answers: the same solves in double precision on both."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from andersonn_core.methods import Anderson
from andersonn_core.problems import PROBLEMS
from andersonn_core.record.budget import Share
from andersonn_core.record.settings import Row, Settings, place
from andersonn_core.results import SolveResult
from andersonn_core.solve import SolveSpec

NAMES = ("affine", "tanh", "poisson", "bratu", "sinkhorn", "digits_deq")
QUICK = NAMES[:2]
METHODS = (Anderson(), Anderson(window=5, restart="never"))
EARLY = 10  # evaluations in which rounding has not yet grown


def correctness(settings: Settings, share: Share) -> Iterator[Row]:
    """A row for each problem and method; counts, statuses, and the largest differences."""
    cases = [(name, method) for name in settings.of(NAMES, QUICK) for method in METHODS]
    for name, method in share.over(cases):
        problem = PROBLEMS[name](dtype="float64", batch_size=4)
        spec = SolveSpec(problem=problem, method=method, rtol=1e-8, max_iter=300)
        here = spec.run()
        there = spec.replace(**{"problem.device": str(settings.device)}).run()
        yield {"problem": name, "method": method.name, "restart": method.restart,
               **place(settings.device), **compared(here, there)}  # fmt: skip


def compared(here: SolveResult, there: SolveResult) -> Row:
    """The numbers of two runs of one solve, the CPU's first; differences are relative."""
    same_status = bool((here.status.cpu() == there.status.cpu()).all())
    rows = min(here.num_evals, there.num_evals, EARLY)
    early = [run.history.relative_residual[:rows].cpu() for run in (here, there)]
    return {
        "evals_cpu": here.num_evals,
        "evals_device": there.num_evals,
        "same_evals": here.num_evals == there.num_evals,
        "same_status": same_status,
        "answer_difference": largest_difference(here.z.cpu(), there.z.cpu()),
        "early_residual_difference": largest_difference(early[0].T, early[1].T),
        "notes": " ".join(there.notes),
    }


def largest_difference(here: torch.Tensor, there: torch.Tensor) -> float:  # (B, ...) each
    """The largest ||there - here|| / ||here|| of a sample."""
    here, there = here.flatten(1).double(), there.flatten(1).double()
    tiny = torch.finfo(torch.float64).tiny
    return float(((there - here).norm(dim=1) / here.norm(dim=1).clamp(min=tiny)).max())
