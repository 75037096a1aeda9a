"""The peers' defects in the peers themselves, where they are installed (`make bench` does that).

Each exhibit asks one peer one question and says whether the defect is there. In the version that
was studied it has to be; for another version that has mended it, the test is skipped and says so.
What ours does with the same maps is in test_peers_defects.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
from cases import Counter, answered, creeping, growing, recomputed, roots, waves
from torch import Tensor

from andersonn_core import Picard, solve
from andersonn_core.problems import Bratu

STUDIED = {"torchdeq": "0.1.0", "scipy": "1.17.1"}
Exhibit = Callable[[], bool]
EXHIBITS: list[tuple[str, Exhibit]] = []


def exhibit(peer: str) -> Callable[[Exhibit], Exhibit]:
    def keep(question: Exhibit) -> Exhibit:
        EXHIBITS.append((peer, question))
        return question

    return keep


@pytest.mark.parametrize(
    ("peer", "question"), EXHIBITS, ids=[f"{peer}-{ask.__name__}" for peer, ask in EXHIBITS]
)
def test_the_peer_has_the_defect_or_has_mended_it(peer, question):
    pytest.importorskip(peer)
    there, installed = question(), version(peer)
    if not there and installed != STUDIED[peer]:
        pytest.skip(f"mended in {peer} {installed}: {question.__doc__}")
    assert there, f"{peer} {installed} does not do this: {question.__doc__}"


def torchdeq(
    f: Callable[[Tensor], Tensor], z0: Tensor, solver: str = "anderson", **options: Any
) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """The answer, the points of the trajectory that were asked for, and the statistics."""
    from torchdeq.solver import get_solver

    return get_solver(solver)(f, z0.clone(), **{"stop_mode": "rel", "tol": 1e-6, **options})


@exhibit("torchdeq")
def absolute_ridge() -> bool:
    """1: with the default ridge the unit decides, and forward iteration may be ahead."""
    reached = []
    for unit in (1e-3, 1e3):
        case = creeping(unit)
        _, _, stat = torchdeq(case.f, case.z0, max_iter=400)
        reached.append(float(stat["rel_lowest"]))
    forward = solve(case.f, case.z0, Picard(), max_iter=400)
    return reached[0] > float(forward.relative_residual) > 10 * reached[1]


@exhibit("torchdeq")
def no_ridge_at_an_exact_answer() -> bool:
    """1: without a ridge one sample that is done makes the whole batch raise."""
    case = answered()
    try:
        torchdeq(case.f, case.z0, lam=0.0)
    except torch.linalg.LinAlgError:
        return True
    return False


@exhibit("torchdeq")
def unknown_options() -> bool:
    """4: options that do not exist are taken and ignored."""
    from torchdeq import get_deq

    z0 = torch.zeros(1, 1)
    plain, misspelt = torchdeq(torch.cos, z0), torchdeq(torch.cos, z0, lamb=1e3, window=1)
    return torch.equal(plain[0], misspelt[0]) and get_deq(stop_mode="rel").f_stop_mode == "abs"


@exhibit("torchdeq")
def shortened_trajectory() -> bool:
    """5: of three points that are asked for, one comes back if the solve ends early."""
    _, points, _ = torchdeq(torch.cos, torch.zeros(1, 1), tol=1e-3, indexing=[3, 20, 30])
    return len(points) == 1


@exhibit("torchdeq")
def window_of_one() -> bool:
    """6: m=1 raises IndexError."""
    try:
        torchdeq(torch.cos, torch.zeros(1, 1), m=1)
    except IndexError:
        return True
    return False


@exhibit("torchdeq")
def two_evaluations() -> bool:
    """6: with max_iter=2 the start comes back, with a residual of 1e8 that nobody computed."""
    z, _, stat = torchdeq(torch.cos, torch.zeros(1, 1), max_iter=2)
    return z.item() == 0.0 and stat["rel_lowest"].item() == 1e8 and stat["nstep"].item() == 0


@exhibit("torchdeq")
def nobody_is_frozen() -> bool:
    """6: samples that are done are evaluated until the slowest is."""
    rates = torch.full((64, 1), 0.05, dtype=torch.float64)
    rates[5] = 0.95
    f = Counter(lambda z: rates * z + 1.0)
    z0 = torch.zeros(64, 4, dtype=torch.float64)
    torchdeq(f, z0, "fixed_point_iter", tol=1e-4, max_iter=400)
    needed = solve(f.f, z0, Picard(), rtol=1e-4, max_iter=400).sample_evals
    return 64 * f.calls > 10 * int(needed.sum())


@exhibit("torchdeq")
def one_nan_for_all() -> bool:
    """6: one NaN sample keeps the batch running to the limit."""
    case = roots()
    f = Counter(case.f)
    torchdeq(f, case.z0)
    return f.calls == 50  # the default max_iter; the others are done after 6


@exhibit("torchdeq")
def poisoned_best_point() -> bool:
    """A sample that turns NaN loses the finite point that it had: 0 * NaN is NaN."""
    case = roots()
    z, _, stat = torchdeq(case.f, case.z0, "fixed_point_iter")
    return bool(z[0].isnan()) and bool(stat["rel_lowest"][0].isnan())


@exhibit("torchdeq")
def infinity_converges() -> bool:
    """A residual over a norm that overflowed is 0 and passes as convergence."""
    case = growing()
    z, _, stat = torchdeq(case.f, case.z0, "fixed_point_iter", max_iter=400)
    true = float(recomputed(case.f, z.double()))
    return stat["rel_lowest"].item() == 0.0 and stat["nstep"].item() < 400 and true > 0.3


@exhibit("torchdeq")
def broyden_returns_nan() -> bool:
    """Broyden's method diverges on Bratu's problem and returns NaN instead of its best point."""
    problem = Bratu(size=32).build()
    z, _, _ = torchdeq(problem.f, problem.z0, "broyden", tol=1e-4, max_iter=200)
    return bool(z.isnan().any())


@exhibit("torchdeq")
def image_of_the_best() -> bool:
    """The image of the best point is returned, with the residual of the point itself."""
    case = waves()
    z, _, stat = torchdeq(case.f, case.z0, m=2, lam=0.0, max_iter=21)
    return float(recomputed(case.f, z)) > 4 * float(stat["rel_lowest"])


@exhibit("torchdeq")
def padded_trace() -> bool:
    """The trace lacks the first two evaluations and is filled up to max_iter."""
    f = Counter(torch.cos)
    _, _, stat = torchdeq(f, torch.zeros(1, 1))
    trace = stat["rel_trace"][0]
    return f.calls < len(trace) == 49 and int((trace != trace[-1]).sum()) < f.calls


@exhibit("torchdeq")
def in_place_converges() -> bool:
    """A map that overwrites its argument has a residual of 0 wherever it is."""

    def f(z: Tensor) -> Tensor:
        return z.mul_(0.5).add_(1)

    answers = [torchdeq(f, torch.zeros(1, 3), name) for name in ("anderson", "fixed_point_iter")]
    return all(
        stat["rel_lowest"].item() == 0.0 and float((z - 2).abs().max()) > 0.1
        for z, _, stat in answers
    )


def scipy(f: Callable[[Tensor], Tensor], z0: Tensor, maxiter: int) -> tuple[Tensor, list[float]]:
    """The point with which SciPy gives up, and the residuals of all that it evaluated."""
    from scipy.optimize import NoConvergence, anderson

    residuals = []

    def residual(z: np.ndarray) -> np.ndarray:
        value = (f(torch.tensor(z)[None]) - torch.tensor(z)[None])[0]
        residuals.append(float(value.norm()))
        return value.numpy()

    with pytest.raises(NoConvergence) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the matrices that it solves with
        anderson(residual, z0[0].numpy(), M=1, alpha=1.0, w0=1e-8, line_search=None,
                 f_tol=1e-12, maxiter=maxiter)  # fmt: skip
    return torch.tensor(caught.value.args[0])[None], residuals


@exhibit("scipy")
def last_instead_of_best() -> bool:
    """When the steps run out, the last point comes with the exception, however bad it is."""
    case = waves()
    z, residuals = scipy(case.f, case.z0, maxiter=20)
    last = float((case.f(z) - z).norm())
    return last == pytest.approx(residuals[-1]) and last > 20 * min(residuals)


@exhibit("scipy")
def unjudged_last_point() -> bool:
    """A point that the last step makes exact is called no convergence: nobody looks at it."""
    _, residuals = scipy(torch.ones_like, torch.zeros(1, 3, dtype=torch.float64), maxiter=1)
    return residuals[-1] == 0.0
