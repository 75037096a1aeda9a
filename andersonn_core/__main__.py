"""The command line: `python -m andersonn_core solve digits_deq --window 5 --rtol 1e-5`.

Thin: every command is a spec's `run` and a table of what came out, its options made from knobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.status import Status as Spinner

from andersonn_core.card_command import diff_command, rerun_command
from andersonn_core.crossover import AGGREGATES, Crossover, crossover
from andersonn_core.curves import run_table, time_split
from andersonn_core.driver import SolveKnobs, Step
from andersonn_core.methods import METHODS, Anderson, Picard
from andersonn_core.options import (
    INTERRUPTED,
    AsJson,
    explained,
    given,
    interruptible,
    knobs_of,
    one_of,
    print_json,
    signature_of,
)
from andersonn_core.problems import PROBLEMS, ProblemSpec
from andersonn_core.report import knobs_report, runs_report, split_report
from andersonn_core.results import SolveResult, Status
from andersonn_core.solve import SolveSpec
from andersonn_core.specs import Spec
from andersonn_core.store_command import store_app
from andersonn_core.sweep_command import sweep
from andersonn_core.timing import torch_threads
from andersonn_core.train_command import train_app
from andersonn_core.words import residual_text

WARM_UP = 3  # unrecorded evaluations of each method: the first ones in a process cost more
DEFAULTS = {"profile": True}  # where the command line differs from the spec: it prints the split

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Anderson acceleration, measured."
)
solve_app = typer.Typer(
    no_args_is_help=True, help="Solve a problem by forward iteration and by Anderson, and compare."
)
app.add_typer(solve_app, name="solve")
app.add_typer(train_app, name="train")
app.command("sweep")(sweep)
app.add_typer(store_app, name="store")
app.command("rerun")(rerun_command)
app.command("diff")(diff_command)


@dataclass(frozen=True)
class Settings:
    """What `solve` is told besides the knobs."""

    method: Annotated[
        str, typer.Option(help=f"What forward iteration is compared with: {', '.join(METHODS)}.")
    ] = Anderson.name
    aggregate: Annotated[
        str, typer.Option(help=f"The crossover's view of the batch: {', '.join(AGGREGATES)}.")
    ] = "median"
    repeats: Annotated[
        int, typer.Option(min=1, help="Runs of each method; 3 or more give an interval.")
    ] = 1
    threads: Annotated[int, typer.Option(min=1, help="Threads that torch may use.")] = 1
    card: Annotated[Path | None, typer.Option(help="Save the run card of the method here.")] = None
    as_json: AsJson = False


@dataclass
class Runs:
    """The runs of both methods so far, and what comes of them."""

    forward: list[SolveResult] = field(default_factory=list)
    challenger: list[SolveResult] = field(default_factory=list)
    interrupted: bool = False

    def named(self) -> dict[str, SolveResult]:
        """Of each method the run whose seconds are the median of its repeats."""
        named: dict[str, SolveResult] = {}
        for group in (self.forward, self.challenger):
            if group:
                run = sorted(group, key=lambda result: result.seconds)[len(group) // 2]
                label = METHODS[run.card.spec["method"]["name"]].label
                named[f"{label} as given" if label in named else label] = run
        return named

    def crossover(self, aggregate: str) -> Crossover | None:
        """The comparison, once each method has a run with at least one evaluation."""
        new = [run for run in self.challenger if run.num_evals]
        return crossover(self.forward[: len(new)], new, aggregate) if new else None


def _solve_command(name: str, problem: type[ProblemSpec]) -> Callable[..., None]:
    """The command for one family of problems: its options are the knobs."""
    knobs = {
        "Problem": knobs_of([problem]),
        "Method": knobs_of([Anderson, *METHODS.values()]),
        "Solve": knobs_of([SolveKnobs]),
    }

    def command(**options: Any) -> None:
        """Solve by the method and by forward iteration, and show both."""
        settings = Settings(**{key: options.pop(key) for key in vars(Settings())})
        with explained():
            typed = {group: given(declared, options) for group, declared in knobs.items()}
            spec = SolveSpec(
                problem=problem(**typed["Problem"]),
                method=one_of("method", settings.method, METHODS)(**typed["Method"]),
                **DEFAULTS | typed["Solve"],
            )
            one_of("aggregate", settings.aggregate, AGGREGATES)
            runs = _measure(spec, settings)
            _show(runs, settings)
            if settings.card is not None and runs.challenger:
                runs.challenger[0].card.save(settings.card)
        if runs.interrupted:
            raise typer.Exit(INTERRUPTED)

    command.__name__, command.__doc__ = name, problem.summary or problem.__doc__
    command.__signature__ = signature_of(knobs, Settings, DEFAULTS)  # type: ignore[attr-defined]
    return command


def _measure(spec: SolveSpec, settings: Settings) -> Runs:
    """Run both methods in turn, after a few unrecorded evaluations of each."""
    forward, runs = spec.replace(method=Picard()), Runs()
    with torch_threads(settings.threads), interruptible() as stop, _progress() as show:
        for one in (forward, spec):
            one.replace(max_iter=min(WARM_UP, one.max_iter)).run(should_stop=stop.is_set)
        for _ in range(settings.repeats):
            for one, done in ((forward, runs.forward), (spec, runs.challenger)):
                if not stop.is_set():
                    done.append(one.run(show(one.method.label), stop.is_set))
        runs.interrupted = stop.is_set()
    return runs


@contextmanager
def _progress() -> Iterator[Callable[[str], Callable[[Step], None] | None]]:
    """A line on a terminal's stderr that says how far a method is; nothing elsewhere."""
    console = Console(stderr=True)
    with console.status("") if console.is_terminal else nullcontext() as spinner:

        def show(label: str) -> Callable[[Step], None] | None:
            return None if spinner is None else lambda step: _update(spinner, label, step)

        yield show


def _update(spinner: Spinner, label: str, step: Step) -> None:
    worst = residual_text(float(step.relative_residual.nan_to_num(0.0).max()))
    spinner.update(f"{label}: {step.evaluation} evaluations, largest relative residual {worst}")


def _show(runs: Runs, settings: Settings) -> None:
    """Print the tables and the sentence, or everything as one JSON object."""
    named, point = runs.named(), runs.crossover(settings.aggregate)
    if settings.as_json:
        print_json(
            {
                "runs": run_table(named).to_dict("records"),
                "split": {name: time_split(run).to_dict("records") for name, run in named.items()},
                "crossover": point and point.to_dict(),
                "cards": {name: run.card.to_dict() for name, run in named.items()},
                "interrupted": runs.interrupted,
            }
        )
        return
    console = Console()
    if named:
        console.print(runs_report(named), split_report(named))
        console.print(_remarks(named), highlight=False, markup=False, soft_wrap=True)
    if point:
        console.print(point.sentence, highlight=False, markup=False, soft_wrap=True)


def _remarks(named: Mapping[str, SolveResult]) -> str:
    """The clock, and one line of advice for each way in which samples failed."""
    first = next(iter(named.values()))
    where = f"{first.card.device}, torch threads: {first.card.threads}"
    lines = [f"Seconds are {first.history.clock} on {where}."]
    for name, run in named.items():
        failed = sorted(set(run.status.tolist()) - {int(Status.CONVERGED)})
        lines += [f"{name}, {Status(code).name}: {Status(code).advice}" for code in failed]
    return "\n".join(lines)


@app.command("problems")
def _problems(name: Annotated[str | None, typer.Argument(help="Only this one.")] = None) -> None:
    """List the problems with their knobs."""
    _list("problem", PROBLEMS, name)


@app.command("methods")
def _methods(name: Annotated[str | None, typer.Argument(help="Only this one.")] = None) -> None:
    """List the methods with their knobs."""
    _list("method", METHODS, name)


def _list(kind: str, table: Mapping[str, type[Spec]], name: str | None) -> None:
    with explained():
        chosen = table if name is None else {name: one_of(kind, name, table)}
    for key, spec in chosen.items():
        Console().print(knobs_report(spec, f"{key}: {_first_line(spec)}"))


def _first_line(spec: type[Spec]) -> str:
    return getattr(spec, "summary", "") or (spec.__doc__ or "").partition("\n")[0]


for _name, _problem in PROBLEMS.items():
    solve_app.command(_name)(_solve_command(_name, _problem))

if __name__ == "__main__":
    app(prog_name="python -m andersonn_core")
