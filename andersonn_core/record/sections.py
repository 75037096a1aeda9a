"""The sections of a recording in their order, and the run through all of them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeAlias

import torch

from andersonn_core.record.budget import Budget, Share
from andersonn_core.record.correctness import correctness
from andersonn_core.record.crossing import crossing
from andersonn_core.record.curves import curves
from andersonn_core.record.digits import digits
from andersonn_core.record.environment import environment, notes
from andersonn_core.record.file import SCHEMA
from andersonn_core.record.settings import Row, Settings
from andersonn_core.record.solves import solves
from andersonn_core.record.steps import steps
from andersonn_core.record.timings import by_problem, timed_problems
from andersonn_core.runcard import RunCard, device_name

Section: TypeAlias = Callable[[Settings, Share], Iterator[Row]]
Tell: TypeAlias = Callable[[str], None]

# (section, the part of all the time that has passed when it begins its last measurement)
SECTIONS: dict[str, tuple[Section, float]] = {
    "correctness": (correctness, 0.10),
    "steps": (steps, 0.30),
    "solves": (solves, 0.36),
    "timing": (timed_problems, 0.56),
    "digits": (digits, 0.73),
    "crossover": (crossing, 0.84),
    "curves": (curves, 0.95),
}


def record(settings: Settings, minutes: float, tell: Tell = print) -> dict[str, Any]:
    """Measure all sections on one torch thread and return the content of a recording."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if settings.device.type == "cuda":
        torch.cuda.set_device(settings.device)  # whose stream the clocks are on
    budget, began = Budget(60 * minutes), datetime.now(UTC)
    knobs = {"recording": SCHEMA, "minutes": minutes, "quick": settings.quick}
    card = RunCard.capture(knobs, None, None, settings.device)
    try:
        sections = {
            name: run_section(name, section, settings, budget.until(part), tell)
            for name, (section, part) in SECTIONS.items()
        }
    finally:
        torch.set_num_threads(threads)
    return {
        "schema": SCHEMA, "device": device_name(settings.device),
        "gpu": settings.device.type != "cpu", "date": began.date().isoformat(),
        "versions": card.versions, "card": vars(card), "environment": environment(settings.device),
        "notes": notes(settings.device), "seconds": time.monotonic() - budget.began,
        "sections": sections, "runs": by_problem(sections["timing"]["rows"]),
    }  # fmt: skip


def run_section(
    name: str, section: Section, settings: Settings, share: Share, tell: Tell
) -> dict[str, Any]:
    """Its rows, how it ended and its seconds; one that fails keeps its rows and says why.

    On a machine that is lent for minutes the other sections must not be lost with it.
    """
    rows: list[Row] = []
    began, error = time.monotonic(), None
    try:
        for row in section(settings, share):
            rows.append(row)
            tell(f"{name:12} {words_of(row)}")
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
        traceback.print_exc()
    seconds = time.monotonic() - began
    ended = f"failed: {error}" if error else share.ended
    tell(f"{name:12} {len(rows)} rows in {seconds:.1f} s, {ended}")
    return {"rows": rows, "ended": ended, "failed": error is not None, "seconds": seconds}


def words_of(row: Row) -> str:
    """A row on one line, without what is the same in most rows and without lists."""
    shown = {
        key: value
        for key, value in row.items()
        if key not in HIDDEN and value is not None and not isinstance(value, list)
    }
    return " ".join(f"{key}={_short(value)}" for key, value in shown.items())


HIDDEN = {"device", "clock", "sentence", "notes", "n"}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
