"""Golden traces of SciPy, PETSc and SUNDIALS KINSOL, compared with ours step by step.

`golden/make.py` made the traces; no peer is needed here. Three definitions coincide with

    gamma   = argmin || g_k - dG^T gamma ||,  g_k = f(z_k) - z_k
    z_{k+1} = z_k + beta g_k - (dZ + beta dG)^T gamma

and a window of m differences that slides: Anderson(window=m, mixing=beta, regularization=0.0,
restart="never", fallback=False).

| peer              | m, beta                          | how it gets there                        |
| ----------------- | -------------------------------- | ---------------------------------------- |
| SciPy `anderson`  | M, alpha                         | F = g, Gram matrix of differences with   |
|                   | w0=0, line_search=None           | a ridge of w0^2 times its diagonal       |
| PETSc             | snes_anderson_m (stored points,  | F = -g, weights that add to 1 on points  |
| SNESANDERSON      | without the newest), _beta       | z_i + beta g_i, Gram matrix of g_i - g_k |
| KINSOL KIN_FP     | KINSetMAA, KINSetDampingAA and   | QR of the differences, updated           |
|                   | KINSetDamping                    |                                          |

Where they part:

- SciPy's default w0 = 0.01 is our regularization=1e-4, a ridge on the Gram matrix scaled to unit
  diagonal. Its default alpha (a guess from the start's norm) and its line search have no
  counterpart here.
- KINSOL with KINSetDampingAA alone: the first step is (1 - d) z + beta f(z), where d is the beta of
  KINSetDamping, 1 unless set: hence beta f(z). Every later step is ours.
- A Gram matrix of condition K leaves the weights about K roundings wrong, and the next iterate by
  that times its correction. With window 3 this is little at every step: 4e-11 of the iterate is the
  largest difference seen, and TOLERANCE leaves room for machines that round otherwise. With window
  8 on the H-equation K leaps from 3e4 to 2e8 at the seventh evaluation, and from there on each peer
  goes its own way.
"""

import json
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from andersonn_core import Anderson, SolveResult, solve

make = import_module("golden.make")  # beside this file

TOLERANCE = 1e-9  # of ||z||, see above
ANOTHER = 1e4 * TOLERANCE  # what differs by this is another method
TRUSTED = 1e6  # up to this condition a trace is what the definition says

TRACES = {
    peer: json.loads((make.HERE / f"{peer}.json").read_text(encoding="utf-8"))["runs"]
    for peer in make.RUNS
}
RIDGED, ONE_DAMPING = TRACES["scipy"][-1], TRACES["kinsol"][-1]
WIDE = {peer: next(run for run in runs if run["window"] == 8) for peer, runs in TRACES.items()}
SAME = {
    f"{peer}-{run['map']}-{run['mixing']}": run
    for peer, runs in TRACES.items()
    for run in runs
    if run["window"] == 3 and run is not RIDGED and run is not ONE_DAMPING
}


def batch_map(name: str):
    """The very arithmetic of the traces, for tensors."""
    f = make.MAPS[name][0]
    return lambda z: torch.tensor([f(row) for row in z.tolist()], dtype=torch.float64)


def method_of(run: dict[str, Any], **knobs: Any) -> Anderson:
    same = {"window": run["window"], "mixing": run["mixing"], "regularization": 0.0}
    return Anderson(**{**same, "restart": "never", "fallback": False, **knobs})


def iterates_of(run: dict[str, Any]) -> Tensor:  # (evaluations, n)
    return torch.tensor(run["iterates"], dtype=torch.float64)


def ours(run: dict[str, Any], **knobs: Any) -> tuple[Tensor, SolveResult]:
    """Where our solver evaluates the run's map, from the same start."""
    points = []
    result = solve(
        batch_map(run["map"]),
        iterates_of(run)[:1],
        method_of(run, **knobs),
        rtol=0.0,
        max_iter=len(run["iterates"]),
        on_step=lambda step: points.append(step.z()[0]),
    )
    return torch.stack(points), result


def next_points(run: dict[str, Any], **knobs: Any) -> Tensor:  # (evaluations, n)
    """Where our method would go from each point of a trace, having seen those before it."""
    f, method, points = batch_map(run["map"]), method_of(run, **knobs), iterates_of(run)
    state = method.init(points[:1])
    return torch.cat([method.step(state, z, f(z)).clone() for z in points[:, None]])


def errors(points: Tensor, golden: Tensor) -> Tensor:  # (K, n), (K, n) -> (K,)
    """Relative to the iterate; it may be zero at the start, and is longer than 1 afterwards."""
    return (points - golden).norm(dim=1) / golden.norm(dim=1).clamp(min=1.0)


# -- the traces themselves ------------------------------------------------------------------------


@pytest.mark.parametrize("peer", TRACES)
def test_the_traces_are_those_that_the_script_makes(peer):
    for run, wanted in zip(TRACES[peer], make.RUNS[peer], strict=True):
        f, start = make.MAPS[run["map"]]
        assert (run["map"], run["window"], run["mixing"]) == wanted[:3]
        assert len(run["iterates"]) == make.EVALUATIONS
        assert run["iterates"][0] == start
        # bit for bit: on this machine the maps are what they were where the traces were made
        assert [make.residual_norm(z, f(z)) for z in run["iterates"]] == run["residuals"]


def test_the_script_still_makes_scipy_s_traces():
    pytest.importorskip("scipy")
    for golden, run in zip(TRACES["scipy"], make.RUNS["scipy"], strict=True):
        if golden is not WIDE["scipy"]:  # SciPy warns of its matrices, and rightly
            made = make.trace("scipy", *run)
            assert made["options"] == golden["options"]
            assert errors(iterates_of(made), iterates_of(golden)).max() <= TOLERANCE


# -- where the definitions coincide ---------------------------------------------------------------


@pytest.mark.parametrize("least_squares", ["gram", "qr", "residuals"])
@pytest.mark.parametrize("run", SAME.values(), ids=SAME)
def test_every_step_is_the_peer_s(run, least_squares):
    golden = iterates_of(run)
    points, result = ours(run, least_squares=least_squares)
    assert errors(points, golden).max() <= TOLERANCE
    off = result.history.residual[:, 0] - torch.tensor(run["residuals"], dtype=torch.float64)
    # ||f(z) - z|| moves by a few times what z moves by
    assert (off.abs() <= 4 * TOLERANCE * golden.norm(dim=1).clamp(min=1.0)).all()


@pytest.mark.parametrize("wrong", [2, 4])
@pytest.mark.parametrize("run", [*SAME.values(), RIDGED], ids=[*SAME, "scipy-ridged"])
def test_with_another_window_the_steps_part_where_the_windows_do(run, wrong):
    points, _ = ours(run, window=wrong, regularization=run["options"].get("w0", 0.0) ** 2)
    different = errors(points, iterates_of(run))
    first = min(wrong, run["window"]) + 2  # z_k is made from the last min(k - 1, m) differences
    assert different[:first].max() <= TOLERANCE
    assert different[first] >= ANOTHER


@pytest.mark.parametrize("least_squares", ["gram", "qr"])
def test_scipy_s_w0_is_the_root_of_our_regularization(least_squares):
    w0, golden = RIDGED["options"]["w0"], iterates_of(RIDGED)
    assert w0 == 0.01
    points, _ = ours(RIDGED, regularization=w0**2, least_squares=least_squares)
    assert errors(points, golden).max() <= TOLERANCE
    without, _ = ours(RIDGED, least_squares=least_squares)
    assert errors(without, golden).max() >= ANOTHER


# -- where they part ------------------------------------------------------------------------------


def test_kinsol_with_one_damping_set_starts_with_a_multiple_of_f_and_goes_on_as_we_do():
    golden, f = iterates_of(ONE_DAMPING), batch_map(ONE_DAMPING["map"])
    assert torch.equal(golden[1:2], 0.5 * f(golden[:1]))
    different = errors(next_points(ONE_DAMPING)[:-1], golden[1:])
    assert different[0] >= ANOTHER
    assert different[1:].max() <= TOLERANCE
    # so that a wrong window would be seen: z_5 is the first point after one full window
    different = errors(next_points(ONE_DAMPING, window=4)[:-1], golden[1:])
    assert different[1:4].max() <= TOLERANCE
    assert different[4] >= ANOTHER


@pytest.mark.parametrize("peer", TRACES)
def test_a_wide_window_agrees_while_its_least_squares_problem_has_one_answer(peer):
    points, result = ours(WIDE[peer])
    trusted = result.history.condition[:, 0] <= TRUSTED  # row k made z_{k+1}
    first = 1 + int(trusted.long().argmin())
    assert first == 7
    assert errors(points, iterates_of(WIDE[peer]))[:first].max() <= TOLERANCE
    for other in TRACES.keys() - {peer}:
        apart = errors(iterates_of(WIDE[peer]), iterates_of(WIDE[other]))
        assert apart[:first].max() <= TOLERANCE
        assert apart[first:].max() >= ANOTHER  # no trace is the right one
