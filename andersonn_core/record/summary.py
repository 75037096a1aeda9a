"""What a recording says, in a few lines: only of rows that it has, medians with their quartiles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from andersonn_core.record.settings import Row
from andersonn_core.record.steps import CAPTURED, PEER
from andersonn_core.words import percent_text, ratio_text, residual_text, seconds_text


def summary(content: Mapping[str, Any]) -> list[str]:
    """The lines that `python -m andersonn_core.record` ends with."""
    found = {name: section["rows"] for name, section in content["sections"].items()}
    rows: Mapping[str, Sequence[Row]] = defaultdict(list, found)
    parts = _answers, _steps, _solves, _devices
    return [line for part in parts for line in part(rows)]


def _answers(rows: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    found = rows["correctness"]
    if found:
        same = sum(row["same_evals"] and row["same_status"] for row in found)
        worst = residual_text(max(row["answer_difference"] for row in found))
        yield (
            f"Answers in float64: {same} of {len(found)} solves with the CPU's counts and status; "
            f"they differ by {worst} of themselves at most."
        )


def _steps(rows: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    measured = [row for row in rows["steps"] if "absent" not in row and row["case"] != "copy"]
    for case in dict.fromkeys(row["case"] for row in measured):
        by_name = {row["contender"]: row for row in measured if row["case"] == case}
        ours, peer, whole = (by_name.get(name) for name in ("ours", PEER, CAPTURED))
        if ours is None:
            continue
        fraction = percent_text(ours["fraction_of_copy_bandwidth"])
        line = (
            f"A step of {case}: {seconds_text(ours['step_seconds'])}, {fraction} of a copy's rate"
        )
        if peer is not None:
            line += f"; {PEER}'s takes {_ratio(peer, ours, 'step_seconds')} as long"
        if whole is not None:
            line += f"; captured, an evaluation {seconds_text(whole['evaluation_seconds'])}"
        yield f"{line}."


def _solves(rows: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    by_name = {row["contender"]: row for row in rows["solves"] if "absent" not in row}
    peer = by_name.pop(PEER, None)
    for name, row in by_name.items():
        line = f"A solve of {row['batch_size']} digits, {name}: {seconds_text(row['seconds'])}"
        if peer is not None:
            line += f"; {PEER}'s takes {_ratio(peer, row, 'seconds')} as long"
        yield f"{line}."


def _devices(rows: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """The CPU's wall seconds over the GPU's, of Anderson's whole solves."""
    walls = {(row["batch_size"], row["gpu"]): row for row in rows["crossover"]}
    pairs = [(size, walls[size, False], row) for (size, gpu), row in walls.items()
             if gpu and (size, False) in walls]  # fmt: skip
    if pairs:
        told = [
            f"{_ratio(cpu, gpu, 'anderson_wall_seconds')} at batch size {size}"
            for size, cpu, gpu in pairs
        ]
        yield f"Anderson on digits, the CPU's time over the GPU's: {', '.join(told)}."


def _ratio(slow: Row, fast: Row, name: str) -> str:
    """The ratio of medians, and from quartiles how far it might be off."""
    low = slow[f"{name}_low"] / fast[f"{name}_high"]
    high = slow[f"{name}_high"] / fast[f"{name}_low"]
    middle = ratio_text(slow[name] / fast[name])
    return f"{middle} ({ratio_text(low)} to {ratio_text(high)})"
