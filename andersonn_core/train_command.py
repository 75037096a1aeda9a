"""`python -m andersonn_core train digits --method anderson --seeds 0-4`: a spec's run per seed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from andersonn_core.data import DATASETS, ImageSet, load_cifar10
from andersonn_core.deq import GRADIENTS, Implicit
from andersonn_core.methods import METHODS, Anderson
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
from andersonn_core.report import percents_text, trainings_report
from andersonn_core.specs import KnobError
from andersonn_core.student import mean_interval
from andersonn_core.timing import torch_threads
from andersonn_core.training import BatchDone, TrainEvent, TrainResult, TrainSpec

SEEDS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
TOLD_OTHERWISE = ("data", "seed")  # by the command's name, and by --seeds

train_app = typer.Typer(
    no_args_is_help=True,
    help="Train a network, once for each seed; checkpoints, results and run cards go to a folder.",
)


@dataclass(frozen=True)
class Settings:
    """What `train` is told besides the knobs."""

    method: Annotated[
        str, typer.Option(help=f"How equilibria are found: {', '.join(METHODS)}.")
    ] = Anderson.name
    gradient: Annotated[
        str, typer.Option(help=f"How gradients go through them: {', '.join(GRADIENTS)}.")
    ] = Implicit.name
    adjoint_method: Annotated[
        str | None,
        typer.Option(
            help="Method of the backward solve, at its defaults; as --method if left out."
        ),
    ] = None
    seeds: Annotated[str, typer.Option(help='Seeds to train with, such as "3" or "0-4,7".')] = "0"
    folder: Annotated[
        Path, typer.Option(help="Gets a folder for each spec, and in it one for each seed.")
    ] = Path("trainings")
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoints.")] = False
    cifar10: Annotated[
        Path | None,
        typer.Option(help="Folder or archive of CIFAR-10's binary version; else downloaded once."),
    ] = None
    threads: Annotated[int, typer.Option(min=1, help="Threads that torch may use.")] = 1
    as_json: AsJson = False


KNOBS = {
    "Training": {
        name: declared
        for name, declared in knobs_of([TrainSpec]).items()
        if name not in TOLD_OTHERWISE
    },
    "Method": knobs_of([Anderson, *METHODS.values()]),
    "Gradient": knobs_of(list(GRADIENTS.values())),
}


def _train_command(data: str) -> Callable[..., None]:
    """The command for one data set: its options are the knobs."""

    def command(**options: Any) -> None:
        """Train on these images."""
        settings = Settings(**{key: options.pop(key) for key in vars(Settings())})
        with explained():
            spec, seeds = _spec(data, settings, options), _seeds(settings.seeds)
            results = _train(spec, seeds, settings)
            _show(spec, results, settings)
        if any(not result.finished for result in results.values()):
            raise typer.Exit(INTERRUPTED)

    command.__name__ = data
    command.__signature__ = signature_of(KNOBS, Settings, {})  # type: ignore[attr-defined]
    return command


def _spec(data: str, settings: Settings, options: Mapping[str, Any]) -> TrainSpec:
    typed = {group: given(declared, options) for group, declared in KNOBS.items()}
    adjoint = settings.adjoint_method
    return TrainSpec(
        data=data,
        method=one_of("method", settings.method, METHODS)(**typed["Method"]),
        gradient=one_of("gradient", settings.gradient, GRADIENTS)(**typed["Gradient"]),
        adjoint_method=None if adjoint is None else one_of("adjoint-method", adjoint, METHODS)(),
        **typed["Training"],
    )


def _seeds(text: str) -> list[int]:
    """The numbers of "0-4,7"."""
    if not SEEDS.fullmatch(text):
        raise KnobError(f"--seeds {text} is not understood: give numbers, such as 3 or 0-4,7.")
    ranges = [part.partition("-") for part in text.split(",")]
    found = [range(int(first), int(last or first) + 1) for first, _, last in ranges]
    return list(dict.fromkeys(seed for part in found for seed in part))


def _train(spec: TrainSpec, seeds: list[int], settings: Settings) -> dict[int, TrainResult]:
    images, results = _images(spec, settings), dict[int, TrainResult]()
    with torch_threads(settings.threads), interruptible() as stop, _progress() as show:
        for seed in seeds:
            if stop.is_set():
                break
            folder = settings.folder / spec.spec_id / f"seed-{seed}"
            results[seed] = result = spec.replace(seed=seed).run(
                show(f"seed {seed}"), stop.is_set, images=images,
                folder=folder / "checkpoints", resume=settings.resume,
            )  # fmt: skip
            result.save(folder / "result.pt")
            result.card.save(folder / "card.json")
    return results


def _images(spec: TrainSpec, settings: Settings) -> ImageSet | None:
    """None: as the spec says."""
    if settings.cifar10 is None:
        return None
    if spec.data != "cifar10":
        raise KnobError(f"--cifar10 is given, but the data set is {spec.data}: train cifar10.")
    return load_cifar10(settings.cifar10)


@contextmanager
def _progress() -> Iterator[Callable[[str], Callable[[TrainEvent], None] | None]]:
    """A bar with the time left for each seed, on a terminal's stderr; nothing elsewhere."""
    console = Console(stderr=True)
    text = TextColumn("{task.description}")
    columns = text, BarColumn(), TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def show(label: str) -> Callable[[TrainEvent], None] | None:
            """A bar for one training; None where nobody looks at a terminal."""
            if not console.is_terminal:
                return None
            task = progress.add_task(label, total=1.0)

            def on_event(event: TrainEvent) -> None:
                if isinstance(event, BatchDone):
                    told = f"{label}, epoch {event.epoch}, loss {event.loss:.3f}"
                    progress.update(task, completed=event.progress, description=told)

            return on_event

        yield show


def _show(spec: TrainSpec, results: Mapping[int, TrainResult], settings: Settings) -> None:
    folder = settings.folder / spec.spec_id
    if settings.as_json:
        record = {str(seed): result.card.to_dict() for seed, result in results.items()}
        print_json({"spec_id": spec.spec_id, "folder": str(folder), "cards": record})
        return
    console = Console()
    console.print(trainings_report(results))
    lines = [*_mean(results), f"Seconds are {next(iter(results.values())).clock} of training.",
             f"Results, run cards and checkpoints: {folder}"]  # fmt: skip
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _mean(results: Mapping[int, TrainResult]) -> list[str]:
    """The test accuracy over the seeds, where there are some and it means something."""
    scores = [result.test_accuracy for result in results.values() if result.finished]
    if len(scores) < 2 or any(score != score for score in scores):
        return []
    middle, ends = mean_interval(scores)
    low, high = map(percents_text, ends)
    return [
        f"Test accuracy over {len(scores)} seeds: {percents_text(middle)} (95 %: {low} to {high})."
    ]


for _name in DATASETS:
    train_app.command(_name, help=f"Train on {_name}.")(_train_command(_name))
