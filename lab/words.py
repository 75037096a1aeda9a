"""The sentences of the page: the live answer, statuses, badges; plain text, escaped where shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from andersonn_core import Anderson
from andersonn_core.crossover import Crossover
from andersonn_core.methods.anderson import AUTO
from andersonn_core.problems import Problem
from andersonn_core.results import SolveResult, Status
from andersonn_core.words import ratio_text, residual_text, seconds_text
from lab.theme import LABELS

METHODS = ("picard", "anderson")  # that are compared
NOUNS = {"digits_deq": ("digit", "digits")}
QUESTION = "How many past steps are worth remembering?"
MARKS = {
    "restarts": ("ticks", "restart"), "probes": ("circles", "probe"),
    "drops": ("crosses", "dropped column"), "fallbacks": ("triangles", "fallback"),
}  # fmt: skip
THEORY = (
    "Forward iteration feeds the map its own output, z <- f(z), and forgets everything else. "
    "Anderson acceleration also keeps the last m steps, asks which weighted combination of them "
    "would have left the smallest residual f(z) - z, and continues from there: fewer evaluations "
    "of f, at the price of a small least-squares problem in each."
)


def noun(problem: str, count: int) -> str:
    """What a sample is called: "64 digits", "1 sample"."""
    one, many = NOUNS.get(problem, ("sample", "samples"))
    return f"{count} {one if count == 1 else many}"


def steps(window: int | str) -> str:
    """The window in words."""
    if isinstance(window, str):
        return f"up to {Anderson(window=AUTO).largest_window} past steps"
    return {0: "no past step", 1: "1 past step"}.get(window, f"{window} past steps")


def median_evals(result: SolveResult) -> int | None:
    """The evaluations that half of the samples needed; None if fewer than half converged."""
    needed = torch.where(result.converged, result.sample_evals, torch.iinfo(torch.int64).max)
    ranked = needed.sort().values
    middle = int(ranked[max(math.ceil(len(ranked) / 2) - 1, 0)]) if len(ranked) else 0
    return middle if 0 < middle < torch.iinfo(torch.int64).max else None


def headline(results: Mapping[str, SolveResult], problem: str, window: int | str) -> str:
    """The live answer: what remembering costs or saves in evaluations."""
    forward, anderson = (median_evals(results[name]) for name in ("picard", "anderson"))
    batch = results["anderson"].status.numel()
    typical = "" if batch == 1 else f", in the median of {noun(problem, batch)}"
    if window == 0:
        return "With a window of 0 nothing is remembered: both curves are forward iteration."
    if forward is None and anderson is None:
        reasons = [f"{_capital(LABELS[name])}: {_why(results[name])}" for name in METHODS]
        return f"Neither method gets there. {' '.join(reasons)}"
    if forward is None:
        return (
            f"With {steps(window)}, Anderson needs {anderson} evaluations{typical}. "
            f"Forward iteration does not get there: {_why(results['picard'])}"
        )
    if anderson is None:
        return (
            f"Here memory does harm: forward iteration needs {forward} evaluations{typical}. "
            f"Anderson does not get there: {_why(results['anderson'])}"
        )
    if anderson == forward:
        head = f"{_capital(steps(window))} change nothing here"
        return f"{head}: {forward} evaluations either way{typical}."
    if anderson > forward:
        return (
            f"Here none: forward iteration needs {forward} evaluations, "
            f"with {steps(window)} it takes {anderson}{typical}."
        )
    return f"With {steps(window)}, {anderson} evaluations do the work of {forward}{typical}."


def gain(anderson: Anderson, elements: int, results: Mapping[str, SolveResult]) -> str:
    """What it saves or costs to keep more than a full restart does, where both were run."""
    counts = [median_evals(results[name]) for name in ("anderson", "restart") if name in results]
    if len(counts) < 2 or counts[0] is None or counts[1] is None:
        return ""
    mine, full = counts
    way = _way(anderson, elements)
    if mine == full:
        return f"{way} changes nothing: {full} evaluations either way."
    if mine < full:
        return f"{way} saves {full - mine} of {full} evaluations."
    more = _many(mine - full, "more evaluation")
    return f"{way} costs {more} than a full restart ({mine} against {full})."


def _way(anderson: Anderson, elements: int) -> str:
    """What becomes of a full window, as the subject of a sentence."""
    return {
        "deflated": f"Keeping {_many(anderson.directions(elements), 'slow direction')}",
        "auto": "Choosing what to keep",
        "never": "Dropping only the oldest step",
    }[anderson.restart]


def marks(counts: Mapping[str, int], most_restarts: int) -> str:
    """What the marks on the heat map are, from the counts of a solve."""
    restarts, kept = counts["restarts"], counts["deflations"]
    ticks = f" ({kept} kept slow directions)" if kept else ""
    ticks += ", too many to be drawn" if restarts > most_restarts else ""
    parts = [
        f"{mark}: {_many(counts[kind], word)}{ticks if kind == 'restarts' else ''}"
        for kind, (mark, word) in MARKS.items()
        if counts[kind]
    ]
    return _capital("; ".join(parts)) + "." if parts else ""


def _many(count: int, word: str) -> str:
    return f"{count or 'no'} {word}{'' if count == 1 else 's'}"


def _why(result: SolveResult) -> str:
    """The most common way in which samples failed, in words."""
    reasons = {
        Status.MAX_ITER: f"it is still on its way after {result.num_evals} evaluations.",
        Status.DIVERGED: "its residual grows beyond all bounds.",
        Status.NONFINITE: "the map returns values that are not finite.",
        Status.STALLED: "its residual no longer shrinks.",
        Status.CANCELLED: "it was stopped.",
    }
    counts = {status: int((result.status == int(status)).sum()) for status in reasons}
    return reasons[max(counts, key=lambda status: counts[status])]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def verdict(
    point: Crossover | None, problem: Problem | None, results: Mapping[str, SolveResult]
) -> str:
    """The crossover in words, if one of the methods got there; why forward iteration could not."""
    rate = None if problem is None else problem.contraction
    expands = (
        f"This map expands (spectral radius {rate:.3g}): forward iteration cannot converge."
        if rate and rate > 1
        else ""
    )
    if point is None or not math.isfinite(point.target):
        return expands
    sentence = point.sentence
    others = [median_evals(result) for name, result in results.items() if name not in METHODS]
    if point.kind == "only the challenger converges" and any(others):
        sentence = f"{_capital(point.reason)}."  # there is a third run, and it converges, too
    return f"{expands} {sentence}".strip()


def status_line(results: Mapping[str, SolveResult], problem: str) -> str:
    """How each method ended, for the status line."""
    parts = []
    for name, result in results.items():
        done, batch = int(result.converged.sum()), result.status.numel()
        of = batch if parts else f"{noun(problem, batch)} converged"
        part = f"{LABELS[name]}: {done} of {of}"
        if done < batch:
            part += f" ({_failures(result)})"
        parts.append(part)
    return _capital("; ".join(parts)) + "."


def _failures(result: SolveResult) -> str:
    names = {
        Status.MAX_ITER: "ran out of evaluations", Status.DIVERGED: "diverged",
        Status.NONFINITE: "not finite", Status.STALLED: "stalled", Status.CANCELLED: "stopped",
    }  # fmt: skip
    counts = {status: int((result.status == int(status)).sum()) for status in names}
    return ", ".join(f"{count} {names[status]}" for status, count in counts.items() if count)


def running_line(evaluations: Mapping[str, tuple[int, float]]) -> str:
    """Where the running solves are."""
    parts = [
        f"{LABELS[name]} at evaluation {number}, median residual {residual_text(level)}"
        for name, (number, level) in evaluations.items()
        if number
    ]
    return "Running: " + ("; ".join(parts) or "building the problem") + "."


# -- do both methods end at the same point? -------------------------------------------------------


def distance(one: Tensor, other: Tensor) -> float:  # (B, ...), (B, ...)
    """The largest relative distance of two states over the batch."""
    first, second = one.double().flatten(1), other.double().flatten(1)
    scale = torch.linalg.vector_norm(second, dim=1).clamp(min=1e-300)
    return float((torch.linalg.vector_norm(first - second, dim=1) / scale).max())


def equilibrium_badge(
    gap: float, tolerance: float, agree: tuple[int, int] | None
) -> tuple[str, str]:
    """("good", "warn" or "bad", what both methods' end points have to do with one another)."""
    if not math.isfinite(gap):
        return "warn", "one of the methods has no finite end point"
    text = f"end points {residual_text(gap)} apart"
    same = agree is None or agree[0] == agree[1]
    if agree is not None:
        text += f", {'all' if same else f'{agree[0]} of'} {agree[1]} predictions agree"
    close = gap < max(1e3 * tolerance, 1e-9)
    return ("good" if close and same else "warn" if close or same else "bad"), text


def how_drawn(results: Mapping[str, SolveResult], problem: str) -> str:
    """What the lines are, and why one that diverges is flat."""
    batch = max((result.status.numel() for result in results.values()), default=1)
    spread = f"Thick: the median of {noun(problem, batch)}; shaded: 10 to 90 %; thin: the worst."
    words = "One sample." if batch == 1 else spread
    if any(bool((result.status == int(Status.DIVERGED)).any()) for result in results.values()):
        words += " Where a run diverges its line turns flat: f(z) - z and f(z) grow together."
    return words


def penalty_text(point: Crossover) -> str:
    """The mixing penalty: "mixing costs 0.74x the map"."""
    return f"mixing costs {ratio_text(point.mixing_penalty)} the map"


def short_crossing(axis: str, value: float) -> str:
    """The label of the crossover's dot."""
    return (
        f"ahead after {int(value)} evaluations"
        if axis == "evaluation"
        else f"ahead after {seconds_text(value)}"
    )


def tidy(value: Any) -> str:
    """A number in a table: at most three significant digits."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)
