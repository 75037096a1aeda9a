"""Options of the command line, made from knobs; none is written down a second time."""

from __future__ import annotations

import inspect
import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer

from andersonn_core.data import DataError
from andersonn_core.report import option_name
from andersonn_core.specs import Knob, KnobError, Spec, typed
from andersonn_core.sweeps.errors import EngineError
from andersonn_core.training import TrainingError
from andersonn_core.words import jsonable

MISUSE, INTERRUPTED = 2, 130  # exit codes, as shells use them

T = TypeVar("T")
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def signature_of(
    knobs: Mapping[str, Mapping[str, Knob]],
    settings: type[Any],
    defaults: Mapping[str, Any],
) -> inspect.Signature:
    """What typer reads: one option a knob, then the settings."""
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_option(declared, group, defaults),
            annotation=bool | None if declared.kind == "switch" else str | None,
        )
        for group, members in knobs.items()
        for name, declared in members.items()
    ]
    of_settings = inspect.signature(settings, eval_str=True).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature([*parameters, *(item.replace(kind=keyword) for item in of_settings)])


def _option(declared: Knob, group: str, defaults: Mapping[str, Any]) -> Any:
    """A typer option that is None unless given, so that the spec's own default holds."""
    name, switch = option_name(declared.name), declared.kind == "switch"
    symbol = f" ({declared.symbol})" if declared.symbol else ""
    allowed = "" if switch else f" Allowed: {declared.range_text}."
    default = defaults.get(declared.name, declared.default)
    return typer.Option(
        None,
        f"{name}/{name.replace('--', '--no-', 1)}" if switch else name,
        help=f"{declared.doc}{symbol}{allowed} Default: {default}.",
        metavar=None if switch else declared.kind.upper(),
        show_default=False,
        rich_help_panel=group,
    )


def knobs_of(specs: Sequence[type[Spec]]) -> dict[str, Knob]:
    """The knobs of some specs by name; the first spec that has one describes it."""
    merged: dict[str, Knob] = {}
    for spec in specs:
        merged |= {name: knob for name, knob in spec.knobs().items() if name not in merged}
    return {name: declared for name, declared in merged.items() if declared.kind != "spec"}


def given(knobs: Mapping[str, Knob], options: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs that were given, as values."""
    texts = {name: options[name] for name in knobs if options[name] is not None}
    return {name: typed(knobs[name], text) for name, text in texts.items()}


def one_of(option: str, name: str, table: Mapping[str, T]) -> T:
    """What a table holds under the name that was typed; KnobError otherwise."""
    if name not in table:
        raise KnobError(f"--{option} {name} is not known: it must be one of {', '.join(table)}.")
    return table[name]


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that what is known is shown; the second kills."""
    stop = threading.Event()

    def on_signal(*_: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def explained() -> Iterator[None]:
    """Print what the user can mend as one sentence, without a traceback, and exit with 2."""
    try:
        yield
    except OSError as error:
        typer.echo(f"Error: {error.filename}: {error.strerror}.", err=True)
        raise typer.Exit(MISUSE) from None
    # a KnobError, a card that can't be rerun, data or checkpoints that are missing or damaged,
    # an engine that is gone
    except (ValueError, DataError, EngineError, TrainingError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(MISUSE) from None


def print_json(record: Mapping[str, Any]) -> None:
    """Print one JSON object, without NaN."""
    print(json.dumps(jsonable(record), indent=2, allow_nan=False))
