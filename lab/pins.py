"""Pinned runs: up to eight solves that stay as thin lines and as rows of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from andersonn_core import SolveResult, SolveSpec
from andersonn_core.curves import run_table
from andersonn_core.methods import MethodSpec
from andersonn_core.words import residual_text, seconds_text
from lab.figures.curve_plot import Label, Line
from lab.figures.curves import AXES
from lab.theme import LABELS
from lab.traces import columns_of

MOST = 8


@dataclass(frozen=True)
class Pin:
    """One pinned run."""

    label: str  # of the problem
    method: MethodSpec
    tolerance: float
    result: SolveResult
    spec: SolveSpec | None = None  # None: a map that was given as code, which no link can hold

    @classmethod
    def of(cls, spec: SolveSpec, result: SolveResult) -> Pin:
        """A run that a link can hold."""
        return cls(type(spec.problem).label, spec.method, spec.rtol, result, spec)


class Pins:
    """The pinned runs of one page, in the order of pinning; `changed` follows each change."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.items: list[Pin] = []
        self._changed = changed

    def add(self, pin: Pin) -> str:
        """Pin a run; returns a sentence that says what happened."""
        if any(
            old.result is pin.result or (old.spec and old.spec == pin.spec) for old in self.items
        ):
            return "This run is pinned already."
        if len(self.items) == MOST:
            return f"{MOST} runs are pinned, which is the most: remove one first."
        self.items.append(pin)
        self._changed()
        return f"Pinned as run {len(self.items)}."

    def remove(self, index: int) -> None:
        """Take one pinned run away."""
        if index < len(self.items):
            del self.items[index]
            self._changed()

    @property
    def specs(self) -> list[SolveSpec]:
        """What was pinned, for the link."""
        return [pin.spec for pin in self.items if pin.spec is not None]

    def lines(self) -> dict[str, tuple[list[Line], list[Label]]]:
        """The lines and their numbers, for each axis of the curves."""
        drawn: dict[str, tuple[list[Line], list[Label]]] = {axis: ([], []) for axis in AXES}
        for number, pin in enumerate(self.items, 1):
            trace, columns = columns_of(pin.result, pin.tolerance)
            count, name = trace.median_evaluations, pin.method.name
            if not count:
                continue
            y = columns["median"][:count]
            for axis, (lines, labels) in drawn.items():
                x = columns[axis][:count]
                lines.append(Line(x, y, name, 1.2, 0.55))
                labels.append(Label(x[-1], y[-1], str(number), "muted", baseline="middle",
                                    right=3, size="11px"))  # fmt: skip
        return drawn

    def rows(self) -> list[list[str]]:
        """The table: number, problem, method, m, beta, B, evaluations, time, residual, status."""
        table = run_table({str(number): pin.result for number, pin in enumerate(self.items, 1)})
        return [_row(pin, row) for pin, (_, row) in zip(self.items, table.iterrows(), strict=True)]


def _name(method: MethodSpec) -> str:
    """What a method is called, and how it restarts where that is a choice."""
    restart = getattr(method, "restart", "full")
    return LABELS[method.name] + (f", restart {restart}" if restart != "full" else "")


HEADINGS = (
    "run", "problem", "method", "m", "\N{GREEK SMALL LETTER BETA}", "B", "evaluations, median",
    "worst", "time", "residual, worst", "converged",
)  # fmt: skip


def _row(pin: Pin, row: Any) -> list[str]:
    method = pin.method
    return [
        row["run"], pin.label, _name(method),
        str(getattr(method, "window", "")), f"{getattr(method, 'mixing', 1.0):.3g}",
        str(row["samples"]), f"{row['evaluations_median']:.0f}", f"{row['evaluations_worst']:.0f}",
        seconds_text(row["seconds"]), residual_text(row["residual_worst"]),
        f"{row['converged']} of {row['samples']}",
    ]  # fmt: skip
