"""Sentences about a sweep."""

from __future__ import annotations

import numpy as np

from lab.sweeps.quantities import count_text
from lab.sweeps.statuses import MARKS, STATUSES
from lab.sweeps.trials import Mask, Trials


def many(count: int, word: str) -> str:
    """A count with its noun: "1 trial", "1,200 trials"."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def counts_by_status(trials: Trials, mask: Mask | None) -> dict[str, int]:
    """How many trials ended how; only what occurs."""
    chosen = trials.count if mask is None else int(np.count_nonzero(mask))
    lost = {
        STATUSES[status]: len(every) if mask is None else int(np.count_nonzero(mask[every]))
        for status, every in trials.lost.items()
    }
    counts = {"CONVERGED": chosen - sum(lost.values())} | lost
    return {name: count for name, count in counts.items() if count}


def selected_words(trials: Trials, mask: Mask | None) -> str:
    """What is selected: "96 of 600 trials; 90 converged; median 14 evaluations, ..."."""
    counts = counts_by_status(trials, mask)
    chosen, reached = sum(counts.values()), counts.get("CONVERGED", 0)
    head = many(trials.count, "trial")
    head = head if mask is None else f"{chosen:,} of {head}"
    if not trials.count:
        return "No trial has been computed yet."
    if not chosen:
        return f"{head}: nothing is selected. Clear the selection, or brush where trials are."
    if not reached:
        return f"{head}; none converged ({_others(counts)})."
    converged = "all converged" if reached == chosen else f"{reached:,} converged"
    others = "" if reached == chosen else f" ({_others(counts)})"
    return f"{head}; {converged}{others}; {_middle(trials, mask)}."


def _others(counts: dict[str, int]) -> str:
    return ", ".join(
        f"{count:,} {MARKS[name].word}" for name, count in counts.items() if name != "CONVERGED"
    )


def _middle(trials: Trials, mask: Mask | None) -> str:
    """The median number of evaluations of the converged, and what 80 % of them need."""
    order = trials.order("num_evals")
    values = trials.values("num_evals")[order if mask is None else order[mask[order]]]
    if not len(values):
        return "evaluations unknown"
    low, median, high = np.interp(
        np.array([0.1, 0.5, 0.9]) * (len(values) - 1), np.arange(len(values)), values
    )
    spread = f", {count_text(low)} to {count_text(high)} (10-90 %)" if high > low else ""
    return f"median {count_text(median)} evaluations{spread}"
