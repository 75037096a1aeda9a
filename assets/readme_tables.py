"""The tables of README.md that come from the code: running this file rewrites them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from andersonn_core import GRADIENTS, METHODS, PROBLEMS
from andersonn_core.deq import EquilibriumKnobs, GradientSpec
from andersonn_core.driver import SolveKnobs
from andersonn_core.problems.base import ProblemSpec
from andersonn_core.specs import Knob, Spec
from andersonn_core.training import TrainSpec
from andersonn_core.training.regimes import REGIMES

README = Path(__file__).resolve().parents[1] / "README.md"
TRAINED = README.parent / "benchmarks" / "results" / "train.json"
SHOWN = ("train_accuracy", "test_accuracy", "seconds", "evals", "fluctuation")
MEMORY = README.parent / "benchmarks" / "results" / "memory.json"  # of `make bench-memory`


def knob_table(spec: type[Spec], without: type[Spec] = Spec) -> str:
    """One row per knob of a spec, those of another one left out."""
    head = "| knob | symbol | default | allowed | what it does |\n| --- | --- | --- | --- | --- |"
    rows = [_row(each) for name, each in spec.knobs().items() if name not in without.knobs()]
    return "\n".join([head, *rows])


def _row(declared: Knob) -> str:
    default = f"`{declared.default!r}`" if declared.kind == "spec" else f"{declared.default}"
    cells = (f"`{declared.name}`", declared.symbol, default, declared.range_text, declared.doc)
    return "| " + " | ".join(cell.replace("|", r"\|") or " " for cell in cells) + " |"


def problem_table() -> str:
    """One row per problem family, with the knobs that are its own."""
    head = "| problem | what it is | its own knobs (default) |\n| --- | --- | --- |"
    return "\n".join([head, *(_problem_row(spec) for spec in PROBLEMS.values())])


def _problem_row(spec: type[ProblemSpec]) -> str:
    common = set(ProblemSpec.knobs()) - {"batch_size"}
    own: Iterable[Knob] = (k for k in spec.knobs().values() if k.name not in common)
    listed = ", ".join(
        f"`{k.name}` ({k.default})" for k in own if k.name not in spec.unused or k.name == "size"
    )
    return f"| `{spec.name}` | {spec.summary} | {listed} |"


def gradient_table() -> str:
    """One row per gradient through an equilibrium."""
    head = "| gradient | what it is | its knobs (default) |\n| --- | --- | --- |"
    return "\n".join([head, *(_gradient_row(spec) for spec in GRADIENTS.values())])


def _gradient_row(spec: type[GradientSpec]) -> str:
    listed = ", ".join(f"`{k.name}` ({k.default})" for k in spec.knobs().values())
    return f"| `{spec.name}` | {spec.summary} | {listed or ' '} |"


def training_block() -> str:
    """What `make bench-train` found: picture, numbers, and the ledger of the published claim."""
    if not TRAINED.exists():
        return "`make bench-train` writes what it finds here."
    found = json.loads(TRAINED.read_text())
    picture = "![Training in three regimes, forward iteration against Anderson](assets/train.png)"
    parts = [picture] if (README.parent / "assets" / "train.png").exists() else []
    return "\n\n".join([*parts, _training_table(found), _peer(found), _ledger(found)])


def _training_table(found: dict[str, Any]) -> str:
    """One row a regime and measure; effects with their 95 % intervals over the seeds."""
    lines = ["| regime | measure | forward | Anderson | effect (95 %) |",
             "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for name, regime in REGIMES.items():
        for row in found["regimes"][name]:
            if row["measure"] in SHOWN:
                unit = f" {row['unit']}" if row["unit"] else ""
                sign = "x" if row["kind"] == "ratio" else unit
                effect = f"{row['effect']:.3g}{sign} ({row['low']:.3g} to {row['high']:.3g})"
                means = [f"{row[who]:.3g}{unit}" for who in ("forward", "anderson")]
                lines.append("| " + " | ".join([regime.label, row["label"], *means, effect]) + " |")
    return "\n".join(lines)


def _peer(found: dict[str, Any]) -> str:
    peer = found["peer"]
    (low, high), (worse, better) = peer["ratio_interval"], peer["accuracy_interval"]
    return (
        f"Epochs of ours are {peer['ratio']:.2f} times shorter than torchdeq 0.1.0's on the same "
        f"cell at the same tolerances (95 %: {low:.2f} to {high:.2f}); test accuracy, ours less "
        f"theirs: {peer['accuracy_gain']:+.2f} points (95 %: {worse:+.2f} to {better:+.2f})."
    )


def _ledger(found: dict[str, Any]) -> str:
    """The rows of the ledger."""
    lines = ["| claim of arXiv 2410.19460 | published (CIFAR-10) | here (digits) | verdict |",
             "| --- | --- | --- | --- |"]  # fmt: skip
    for entry in found["ledger"]:
        here = f"{entry['regime']}: {entry['here']}"
        cells = entry["claim"], entry["published"], here, entry["verdict"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Left open: {found['open']}."])


def memory_table() -> str:
    """Peak MiB of a training step, one row per gradient and cell that was measured."""
    rows = json.loads(MEMORY.read_text())["rows"]
    evals = list(rows[0]["peak_bytes"])
    head = f"| gradient | channels inside | {' | '.join(evals)} | |\n" + "| --- " * 8 + "|"
    return "\n".join([head, *(_memory_row(row, evals) for row in rows)])


def _memory_row(row: dict[str, Any], evals: list[str]) -> str:
    peaks = " | ".join(f"{row['peak_bytes'][k] / 2**20:.2f}" for k in evals)
    return f"| `{row['gradient']}` | {row['inner_channels']} | {peaks} | {row['verdict']} |"


def tables() -> dict[str, str]:
    """Every generated table by the name of its markers in the README."""
    knobs = {name: knob_table(spec) for name, spec in METHODS.items()}
    knobs |= {"solve": knob_table(SolveKnobs), "deq": knob_table(EquilibriumKnobs)}
    knobs |= {"train": knob_table(TrainSpec, EquilibriumKnobs), "training": training_block()}
    return knobs | {
        "problems": problem_table(),
        "gradients": gradient_table(),
        "memory": memory_table(),
    }


def with_tables(text: str) -> str:
    """The README's text with every table between its markers made anew."""
    for name, table in tables().items():
        block = f"<!-- table: {name} -->\n{table}\n<!-- end -->"
        pattern = rf"<!-- table: {name} -->.*?<!-- end -->"
        text, found = re.subn(pattern, lambda _, block=block: block, text, flags=re.S)
        if found != 1:
            raise ValueError(f"README.md must hold the markers of the table '{name}' once")
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
