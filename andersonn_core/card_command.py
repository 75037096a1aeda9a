"""`python -m andersonn_core rerun card.json` and `diff one.json other.json`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from andersonn_core.card_diff import diff_cards
from andersonn_core.options import AsJson, explained, print_json
from andersonn_core.report import diff_report, rerun_report
from andersonn_core.rerun import rerun
from andersonn_core.runcard import RunCard

Card = Annotated[Path, typer.Argument(help="A run card: a JSON file.")]


def rerun_command(card: Card, as_json: AsJson = False) -> None:
    """Run a run card again and say, number by number, whether they agree (exit code 1: no)."""
    with explained():
        report = rerun(RunCard.load(card))
    if as_json:
        numbers = [asdict(number) for number in report.numbers]
        told = {"differences": report.differences, "sentence": report.sentence}
        print_json({"agrees": report.agrees, "numbers": numbers} | told)
    else:
        Console().print(rerun_report(report))
        print(report.sentence)
    raise typer.Exit(0 if report.agrees else 1)


def diff_command(first: Card, second: Card, as_json: AsJson = False) -> None:
    """List what differs between two run cards, and say it in words (exit code 1: something)."""
    with explained():
        diff = diff_cards(RunCard.load(first), RunCard.load(second))
    if as_json:
        differences = [asdict(each) for each in diff.differences]
        print_json({"differences": differences, "sentence": diff.sentence})
    else:
        if diff.differences:
            Console().print(diff_report(diff, (str(first), str(second))))
        print(diff.sentence)
    raise typer.Exit(1 if diff.differences else 0)
