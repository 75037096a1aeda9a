"""What the Sweeps page says: the best settings with their spread, and how far a sweep is."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from andersonn_core.sweeps.summary import by_point, recommended
from lab.sweeps.jobs import Job
from lab.sweeps.statuses import MARKS

QUESTION = "Which settings, and how sure are we?"
THEORY = (
    "A sweep runs the solve of the sliders at every point of a grid of settings, for several "
    "seeds, and keeps each trial whatever becomes of it. A single best number would be another one "
    "with the next seed; so the answer is a region: all settings whose median is within 10 % of "
    "the best one's, with the spread that the seeds leave. Every trial has a run card and can be "
    "run again."
)
NEAR = 0.1


def headline(frame: pd.DataFrame | None, axes: Sequence[str]) -> tuple[str, str]:
    """The answer in a sentence, and what goes with it."""
    if frame is None or frame.empty:
        return "", ""
    points = by_point(frame, axes)
    region = recommended(points, NEAR)
    if region.empty:
        return "No setting converged in all of its trials.", _failures(frame)
    best = region.iloc[0]
    needs = f"{best['median']:.3g} evaluations"
    first = f"Best of {len(points):,} settings: {setting(best, axes)}, {needs}."
    others = (
        f"{len(region):,} settings are within 10 % of it"
        if len(region) > 1
        else ("No other setting is within 10 % of it")
    )
    return first, f"{_spread(best)}{others}{_ranges(region, axes)}. {_failures(frame)}".strip()


def setting(point: pd.Series, axes: Sequence[str]) -> str:
    """A point in words: "window 7, mixing 1"."""
    return ", ".join(f"{short(name)} {value_text(point[name])}" for name in axes)


def short(name: str) -> str:
    """A knob without the spec that it is of: "method.window" -> "window"."""
    return (name.partition(".")[2] or name).replace("_", " ")


def value_text(value: object) -> str:
    """A value of an axis."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _spread(best: pd.Series) -> str:
    trials = int(best["trials"])
    if trials < 2:
        return "One trial so far: nobody knows the spread yet. "
    return (
        f"The median of {trials} trials, {best['low']:.0f} to {best['high']:.0f} in 80 % of them. "
    )


def _ranges(region: pd.DataFrame, axes: Sequence[str]) -> str:
    """Where they lie, axis by axis, where that are numbers."""
    if len(region) < 2:
        return ""
    parts = []
    for name in axes:
        if pd.api.types.is_numeric_dtype(region[name]):
            low, high = region[name].min(), region[name].max()
            ends = value_text(low) if low == high else f"{value_text(low)} to {value_text(high)}"
            parts.append(f"{short(name)} {ends}")
    return f" ({'; '.join(parts)})" if parts else ""


def _failures(frame: pd.DataFrame) -> str:
    counts = frame["status"].value_counts()
    bad = {name: count for name, count in counts.items() if name not in ("CONVERGED", "FINISHED")}
    if not bad:
        return "All trials converged." if "num_evals" in frame else ""
    words = ", ".join(f"{count:,} {MARKS[name].word}" for name, count in bad.items())
    return f"Of {len(frame):,} trials {words}."


def status(job: Job | None, notice: str, planned: str) -> str:
    """How far a sweep of this server is, or what Start would run."""
    if notice:
        return notice
    if job is None:
        return planned
    told = (
        ""
        if job.progress is None
        else (f"{job.progress.done:,} of {job.progress.total:,}: {job.progress.sentence}")
    )
    return {
        "waiting": "Waiting for another sweep of this server to end.",
        "running": f"Running. {told}" if told else "Starting.",
        "done": planned,
        "stopped": f"Stopped; what is done is kept, and Start goes on from there. {planned}",
        "failed": f"It ended early: {job.error}",
    }[job.state]
