"""The exercises of notebook 04: their checks, and solutions. Try before you read on!"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from andersonn_core import PROBLEMS, SolveSpec, Sweep
from andersonn_core.sweeps.summary import by_point

Compare = Callable[[pd.DataFrame, int, int], tuple[float, float, float]]
Count = Callable[[float, float], int]

WINDOW = "method.window"
PLATE = SolveSpec(problem=PROBLEMS["poisson"](size=24), rtol=1e-6, max_iter=500)
GOAL, MOST_WINDOW, MOST_TRIALS = 48, 10, 40
# part of the interval, wanted certainty, samples: powers that can be worked out by hand, and others
NEEDED = ((0.5, 0.875, 3), (0.25, 0.4375, 2), (1.0, 0.9, 1), (0.2, 0.9, 11), (0.04, 0.95, 74),
          (1e-6, 0.5, 693147))  # fmt: skip


def solution_compare(frame: pd.DataFrame, one: int, other: int) -> tuple[float, float, float]:
    """Median, 10 % and 90 % quantile of other / one, seed by seed, where both converged."""
    solved = frame[frame["status"] == "CONVERGED"]
    table = solved.pivot(index="seed", columns=WINDOW, values="num_evals")
    ratio = (table[other] / table[one]).dropna()
    return ratio.median(), ratio.quantile(0.1), ratio.quantile(0.9)


def solution_count(part: float, sure: float) -> int:
    """The smallest n with (1 - part)^n <= 1 - sure."""
    if part == 1:
        return 1
    n = math.ceil(math.log1p(-sure) / math.log1p(-part))
    return n - 1 if n > 1 and (1 - part) ** (n - 1) <= 1 - sure else n  # what rounding added


def solution_sweep() -> Sweep:
    """Windows that are allowed, and each way to keep them."""
    kept = ["full", "never", "deflated", "auto"]
    return Sweep(PLATE, {"method.restart": kept, WINDOW: [5, 10]})


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and in words what is wrong with it."""

    passed: bool
    words: str

    def __str__(self) -> str:
        return self.words


def _not_yet(words: str) -> Verdict:
    return Verdict(False, f"Not yet. {words}")


# -- on the same digits ---------------------------------------------------------------------------


def _frame() -> pd.DataFrame:
    """Two windows on nine seeds, in no order; on one seed the quicker one diverged."""
    rng = np.random.default_rng(4)
    one = np.array([20, 31, 38, 44, 52, 67, 90, 130, 55])
    other = np.round(one * (1.15 + 0.1 * rng.random(9))).astype(int)
    rows = [
        {WINDOW: window, "seed": seed, "status": "CONVERGED", "num_evals": count}
        for window, counts in ((2, one), (8, other))
        for seed, count in enumerate(counts.tolist())
    ]
    frame = pd.DataFrame(rows)
    frame.loc[8, ["status", "num_evals"]] = ["DIVERGED", 6]  # window 2 on the last seed
    return frame.sample(frac=1.0, random_state=1).reset_index(drop=True)


def check_compare(compare: Compare) -> Verdict:
    """Compare (frame, one, other) -> median, low and high with the ratios seed by seed."""
    frame = _frame()
    exact = solution_compare(frame, 2, 8)
    found = compare(frame.copy(), 2, 8)
    if not _is_triple(found):
        return _not_yet(f"Three numbers are wanted: median, low, high. This is {found!r}.")
    if np.allclose(found, exact, rtol=1e-9):
        return Verdict(True, "Right: on the same digits, and only where both arrive.")
    for words, mistake in _mistakes(frame).items():
        if np.allclose(found, mistake, rtol=1e-6):
            return _not_yet(words)
    told = ", ".join(f"{number:.3g}" for number in found)
    return _not_yet(f"These are not the ratio's median, 10 % and 90 % quantile: {told}.")


def _is_triple(found: Any) -> bool:
    try:
        return bool(np.asarray(found, dtype=float).shape == (3,))
    except (TypeError, ValueError):
        return False


def _mistakes(frame: pd.DataFrame) -> dict[str, tuple[float, ...]]:
    """Answers to another question, by what is to be said of them."""
    solved = frame[frame["status"] == "CONVERGED"]
    all_rows = frame.assign(status="CONVERGED")
    one, other = (solved[solved[WINDOW] == window]["num_evals"] for window in (2, 8))
    quantiles = [
        tuple(column.quantile(part) for part in (0.5, 0.1, 0.9)) for column in (one, other)
    ]
    as_they_lie = pd.Series(other.to_numpy()[: len(one)] / one.to_numpy())
    return {
        "This is one / other: how many times as long does the *other* take?": (
            solution_compare(frame, 8, 2)
        ),
        "A trial that diverged ends early, and looks quick: leave it out.": (
            solution_compare(all_rows, 2, 8)
        ),
        "This divides medians by medians, and the digits' spread stays in it: divide on each seed "
        "first.": tuple(b / a for a, b in zip(*quantiles, strict=True)),
        "The rows are in no order: these are ratios of different digits.": (
            as_they_lie.median(), as_they_lie.quantile(0.1), as_they_lie.quantile(0.9)
        ),
    }  # fmt: skip


# -- how many samples -----------------------------------------------------------------------------


def check_count(count: Count) -> Verdict:
    """Compare (part, sure) -> n with numbers that were worked out exactly."""
    for part, sure, exact in NEEDED:
        found = count(part, sure)
        if not isinstance(found, int) or isinstance(found, bool):
            return _not_yet(f"A whole number is wanted, as an int; this is {found!r}.")
        if found != exact:
            return _not_yet(_wrong_count(part, sure, exact, found))
    return Verdict(True, "Right: no fewer samples would do.")


def _wrong_count(part: float, sure: float, exact: int, found: int) -> str:
    at = f"For part = {part:g} and sure = {sure:g}"
    chance = 1 - (1 - part) ** max(found, 0)
    if found == math.ceil(1 / part):
        return (
            f"{at} this is 1 / part, the mean number of samples until the first hit; with so "
            f"many the chance is only {chance:.2g}."
        )
    if found > exact:
        return f"{at} fewer than {found} samples do: their chance is already high enough."
    return f"{at} the chance that one of {found} samples hits is only {chance:.4g}."


# -- a sweep of one's own -------------------------------------------------------------------------


def check_sweep(make: Callable[[], Sweep]) -> Verdict:
    """Run the sweep, and see whether it finds what was asked for."""
    sweep = make()
    words = _wrong_plan(sweep)
    if words:
        return _not_yet(words)
    frame = sweep.run("serial", store=None, progress=False)
    solved = frame[frame["status"] == "CONVERGED"]
    if solved.empty:
        return _not_yet("No trial converged.")
    axes = list(sweep.plan.axes)
    best = by_point(frame, axes).head(1).to_dict("records")[0]
    point = " with " + ", ".join(f"{name} = {best[name]}" for name in axes) if axes else ""
    fewest = int(solved["num_evals"].min())
    if fewest <= GOAL:
        return Verdict(True, f"Right: {fewest} evaluations{point}.")
    hint = "" if "method.restart" in axes else " Which knob says what is kept of a full window?"
    return _not_yet(f"The best of {sweep.total} trials takes {fewest} evaluations{point}.{hint}")


def _wrong_plan(sweep: Any) -> str:
    """One sentence, empty if the sweep keeps to the rules."""
    if not isinstance(sweep, Sweep):
        return f"Return the Sweep itself, without running it; this is {type(sweep).__name__}."
    if sweep.total > MOST_TRIALS:
        return f"These are {sweep.total} trials; {MOST_TRIALS} are allowed."
    for _, _, spec in sweep.plan.trials():
        if not isinstance(spec, SolveSpec) or spec.replace(method=PLATE.method) != PLATE:
            return "The plate and the tolerance are to stay as they are: sweep the method's knobs."
        window = getattr(spec.method, "window", 0)
        if not isinstance(window, int) or window > MOST_WINDOW:
            return f"A window of {window} is not allowed: {MOST_WINDOW} at most."
    return ""
