"""`python -m andersonn_core sweep sweep.yaml --set method.window=1:16`: a Sweep's run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console

from andersonn_core.methods import METHODS
from andersonn_core.options import INTERRUPTED, AsJson, explained, interruptible, print_json
from andersonn_core.problems import PROBLEMS
from andersonn_core.report import sweep_report
from andersonn_core.specs import KnobError
from andersonn_core.sweeps.axes import axis_from_text
from andersonn_core.sweeps.file import SweepFile
from andersonn_core.sweeps.summary import by_point
from andersonn_core.sweeps.sweep import LARGE, Sweep

SET = "Set or replace an axis: NAME=1:16 (a range), NAME=0.5,0.8 (a list), NAME=0.2~1 (sampled)."


def sweep(
    file: Annotated[Path | None, typer.Argument(help="The sweep's YAML file.")] = None,
    problem: Annotated[
        str | None, typer.Option(help=f"Without a file: {', '.join(PROBLEMS)}.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help=f"Without a file: {', '.join(METHODS)}.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help=SET)] = None,
    seeds: Annotated[str | None, typer.Option(help='Seeds, such as "0:3" or "0,7".')] = None,
    repeats: Annotated[int | None, typer.Option(help="Runs of each point and seed.")] = None,
    executor: Annotated[
        str | None,
        typer.Option(help="serial, processes, or the address of a Dask scheduler: tcp://host:8786"),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; else one a core.")] = None,
    store: Annotated[Path | None, typer.Option(help="The SQLite file that keeps the rows.")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Run failed trials again.")] = False,
    yes: Annotated[bool, typer.Option(help=f"Run more than {LARGE:,} trials unasked.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a sweep; what the store holds already is not run again."""
    with explained():
        told = SweepFile.read(file) if file else SweepFile()
        _take_options(told, problem=problem, method=method, seeds=seeds, repeats=repeats)
        _take_axes(told, set_ or [])
        planned = told.sweep()
        large = planned.total > LARGE and not yes
        if large and not typer.confirm(f"Run {planned.total:,} trials?", err=True):
            raise typer.Exit(1)
        with interruptible() as stop:
            kept = store or Path(told.store)
            processes = told.workers if workers is None else workers
            frame = planned.run(
                executor or told.engine(), kept, workers=processes, yes=True,
                retry_failed=retry_failed, should_stop=stop.is_set,
            )  # fmt: skip
    _show(planned, frame, kept, as_json)
    if len(frame) < planned.total:
        raise typer.Exit(INTERRUPTED)


def _take_options(told: SweepFile, **options: Any) -> None:
    for name in ("problem", "method"):
        if options[name] is not None:
            told.base = dict(told.base) | {name: options[name]}
    if "problem" not in told.base and told.kind == "solve":
        raise KnobError(f"no problem: give a file, or --problem one of {', '.join(PROBLEMS)}.")
    told.plan |= {name: options[name] for name in ("seeds", "repeats") if options[name] is not None}


def _take_axes(told: SweepFile, settings: list[str]) -> None:
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not text.strip():
            raise KnobError(f"--set {setting} is not understood: write NAME=1:16, or NAME=0.5,0.8.")
        told.axes = dict(told.axes or {}) | {name.strip(): axis_from_text(text)}


def _show(planned: Sweep, frame: pd.DataFrame, store: Path, as_json: bool) -> None:
    if as_json:
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        print_json({"sweep_id": planned.sweep_id, "total": planned.total, "rows": rows})
        return
    console = Console()
    axes = list(planned.plan.axes)
    console.print(sweep_report(by_point(frame, axes), axes))
    counts = ", ".join(
        f"{count:,} {name}" for name, count in frame["status"].value_counts().items()
    )
    lines = (
        f"{len(frame):,} of {planned.total:,} trials: {counts}.\nRows, run cards, curves: {store}"
    )
    console.print(lines, highlight=False, markup=False, soft_wrap=True)
