"""Tables for the terminal; the only place besides the command line that knows rich."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from andersonn_core.card_diff import CardDiff
from andersonn_core.curves import run_table, time_split
from andersonn_core.rerun import RerunReport
from andersonn_core.results import SolveResult
from andersonn_core.specs import Spec
from andersonn_core.training import TrainResult
from andersonn_core.words import ratio_text, residual_text, seconds_text

PART_NAMES = {
    "map": "map",
    "gram": "Gram row",
    "solve": "solve",
    "mix": "mix",
    "bookkeeping": "bookkeeping",
    "method": "mixing",
}
_VERDICTS = {True: "yes", False: "no", None: "not judged"}


def runs_report(results: Mapping[str, SolveResult]) -> Table:
    """Evaluations of the median and worst sample, seconds, residual and statuses of each run."""
    rows = [
        [
            row["run"],
            f"{row['evaluations_median']:.0f}",
            f"{row['evaluations_worst']:.0f}",
            seconds_text(row["seconds"]),
            residual_text(row["residual_worst"]),
            row["status"],
        ]
        for row in run_table(results).to_dict("records")
    ]
    headings = ("", "median\nevals", "worst\nevals", "time", "worst\nresidual", "status")
    return _table(headings, rows, "Runs", numbers=(1, 2, 3, 4))


def split_report(results: Mapping[str, SolveResult]) -> Table:
    """Where the seconds of each run went, part by part, and how often the map's seconds that is."""
    splits = {name: time_split(result).set_index("part") for name, result in results.items()}
    parts = dict.fromkeys(part for split in splits.values() for part in split.index)
    rows = []
    for part in parts:
        cells = [PART_NAMES.get(part, part)]
        for split in splits.values():
            known = part in split.index and split.seconds[part] > 0
            cells += [seconds_text(split.seconds[part]) if known else "-"]
            cells += [ratio_text(split.per_map[part]) if known else "-"]
        rows.append(cells)
    headings = ["part", *(text for name in results for text in (name, "of the map"))]
    return _table(headings, rows, "Split of the time", numbers=range(1, len(headings)))


def rerun_report(report: RerunReport) -> Table:
    """The card's numbers beside the repeated ones."""
    rows = [
        [number.name, _text(number.recorded), _text(number.repeated), _VERDICTS[number.agrees]]
        for number in report.numbers
    ]
    return _table(("number", "card", "now", "agrees"), rows, "Rerun", numbers=())


def diff_report(diff: CardDiff, titles: tuple[str, str]) -> Table:
    """What two cards don't share, one value a row."""
    rows = [[each.name, _text(each.first), _text(each.second)] for each in diff.differences]
    return _table(("name", *titles), rows, "Differences", numbers=())


def trainings_report(results: Mapping[int, TrainResult]) -> Table:
    """One row a seed: why it ended, epochs, seconds, evaluations, accuracies."""
    rows = []
    for seed, result in results.items():
        each = result.batches[["forward_evals", "adjoint_evals"]].mean()
        rows.append(
            [
                str(seed),
                result.reason,
                str(len(result.epochs)),
                seconds_text(result.seconds),
                f"{each.forward_evals:.1f} + {each.adjoint_evals:.1f}",
                percents_text(result.train_accuracy),
                percents_text(result.test_accuracy),
            ]
        )
    headings = ("seed", "ended", "epochs", "time", "evals a batch\nforward + adjoint",
                "training\naccuracy", "test\naccuracy")  # fmt: skip
    return _table(headings, rows, "Trainings", numbers=range(2, len(headings)))


def sweep_report(points: pd.DataFrame, axes: Sequence[str], most: int = 20) -> Table:
    """The points of a sweep, as `by_point` orders them, the first `most`."""
    rows = [
        [
            *(_text(point[name]) for name in axes),
            f"{point['converged']} of {point['trials']}",
            *(_count(point[name]) for name in ("median", "low", "high")),
        ]
        for point in points.head(most).to_dict("records")
    ]
    headings = (*axes, "converged", "median\nevals", "10 %", "90 %")
    title = "Points" if len(points) <= most else f"The best {most} of {len(points):,} points"
    return _table(headings, rows, title, numbers=range(len(axes), len(headings)))


def frame_report(frame: pd.DataFrame, title: str, most: int = 50) -> Table:
    """The first rows of a frame as they are."""
    rows = [[_text(value) for value in row] for row in frame.head(most).itertuples(index=False)]
    told = title if len(frame) <= most else f"{title}: the first {most} of {len(frame):,}"
    return _table(list(frame), rows, told, numbers=())


def percents_text(part: float) -> str:
    """An accuracy with a digit after the point: 0.9917 -> "99.2 %"."""
    return f"{100 * part:.1f} %" if math.isfinite(part) else "-"


def knobs_report(spec: type[Spec], title: str) -> Table:
    """The knobs of a spec: option, symbol, default, allowed values, what it is."""
    rows = [
        [option_name(name), knob.symbol, _text(knob.default), knob.range_text, knob.doc]
        for name, knob in spec.knobs().items()
        if knob.kind != "spec"
    ]
    return _table(("option", "symbol", "default", "allowed", "what it is"), rows, title, numbers=())


def option_name(knob: str) -> str:
    """How the command line spells a knob: batch_size -> --batch-size."""
    return "--" + knob.replace("_", "-")


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], title: str, numbers: Sequence[int]
) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        right = index in numbers
        table.add_column(heading, justify="right" if right else "left", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def _count(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "-"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    return str(value)
