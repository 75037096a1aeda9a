"""The tables of README.md that come from the code: running this file rewrites them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from claims import claims_tables
from measured_tables import memory_table, plugin_table, sweep_block, training_block

from andersonn_core import GRADIENTS, METHODS, PROBLEMS
from andersonn_core.deq import EquilibriumKnobs, GradientSpec
from andersonn_core.driver import SolveKnobs
from andersonn_core.problems.base import ProblemSpec
from andersonn_core.specs import Knob, Spec
from andersonn_core.training import TrainSpec

README = Path(__file__).resolve().parents[1] / "README.md"


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


def tables() -> dict[str, str]:
    """Every generated table by the name of its markers in the README."""
    knobs = {name: knob_table(spec) for name, spec in METHODS.items()}
    knobs |= {"solve": knob_table(SolveKnobs), "deq": knob_table(EquilibriumKnobs)}
    knobs |= {"train": knob_table(TrainSpec, EquilibriumKnobs)}
    listed = {"problems": problem_table(), "gradients": gradient_table()}
    measured = {"training": training_block(), "memory": memory_table(), "plugin": plugin_table()}
    measured["sweep"] = sweep_block()
    return knobs | listed | measured | {"claims": claims_tables()}


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
