"""`python -m andersonn_core store ...`: look into a store, export it, compare two, rerun a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console

from andersonn_core.options import AsJson, explained, print_json
from andersonn_core.report import frame_report
from andersonn_core.specs import KnobError

store_app = typer.Typer(no_args_is_help=True, help="Look into the store of a sweep.")
File = Annotated[Path, typer.Argument(help="The store's SQLite file.")]
WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
}


@store_app.command("list")
def _list(file: File, as_json: AsJson = False) -> None:
    """List the sweeps of a store, the newest first."""
    from andersonn_core.store import Store
    from andersonn_core.sweeps.plan import axis_levels

    with explained(), Store(file, read_only=True) as store:
        found = store.sweeps()
    axes = found["record"].map(lambda record: ", ".join(axis_levels(record)))
    table = found.assign(axes=axes)[["sweep_id", "axes", "done", "total", "date"]]
    if as_json:
        print_json({"sweeps": table.to_dict("records")})
    else:
        Console().print(frame_report(table, "Sweeps"))


@store_app.command("export")
def _export(
    file: File,
    to: Annotated[Path, typer.Argument(help="The new file: .csv or .parquet.")],
    sweep: Annotated[str | None, typer.Option(help="Its sweep_id; else the newest.")] = None,
) -> None:
    """Write the rows of a sweep as CSV or Parquet."""
    from andersonn_core.store import Store
    from andersonn_core.sweeps.frames import sweep_frame

    with explained():
        if to.suffix not in WRITERS:
            raise KnobError(f"{to}: the file's name must end in {' or '.join(WRITERS)}.")
        with Store(file, read_only=True) as store:
            frame = sweep_frame(store, store.sweep_number(sweep))
        WRITERS[to.suffix](frame, to)
    print(f"{len(frame):,} rows: {to}")


@store_app.command("card")
def _card(
    file: File,
    row: Annotated[int, typer.Argument(help="The row's number (column row).")],
    to: Annotated[Path, typer.Argument(help="The new JSON file, for rerun and diff.")],
) -> None:
    """Save the run card of a row."""
    from andersonn_core.store import Store

    with explained(), Store(file, read_only=True) as store:
        store.card(row).save(to)
    print(f"The card of row {row}: {to}. Run it again: python -m andersonn_core rerun {to}")


@store_app.command("compare")
def _compare(
    first: File,
    second: Annotated[Path, typer.Argument(help="Another store.")],
    as_json: AsJson = False,
) -> None:
    """Say which trials two stores both hold, and whether their numbers agree."""
    from andersonn_core.store import Store
    from andersonn_core.store.compare import compare

    with explained(), Store(first, read_only=True) as a, Store(second, read_only=True) as b:
        found = compare(a, b)
    differing = found.both[~found.both["agrees"]]
    if as_json:
        rows = differing.astype(object).where(differing.notna(), None).to_dict("records")
        print_json({"sentence": found.sentence, "differing": rows})
        return
    if len(differing):
        names = ["spec_id", "seed", "repeat", "status_a", "status_b", "num_evals_a", "num_evals_b"]
        Console().print(frame_report(differing[names], "Trials that differ"))
    print(found.sentence)


@store_app.command("check")
def _check(file: File) -> None:
    """Read the whole file and say whether it is sound."""
    from andersonn_core.store import Store

    with explained(), Store(file, read_only=True) as store:
        store.check()
    print(f"{file} is sound.")
