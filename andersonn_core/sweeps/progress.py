"""How far a sweep is, and a bar that says so on a terminal or in a notebook."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from andersonn_core.words import duration_text


@dataclass(frozen=True)
class SweepProgress:
    """How far a sweep is."""

    total: int
    done: int  # rows that are there, those of before included
    found: int  # of these, the rows of before
    failed: int  # of the new ones
    seconds: float  # since the first trial began

    @property
    def rate(self) -> float:
        """New rows a second; NaN before the first."""
        new = self.done - self.found
        return new / self.seconds if new and self.seconds else math.nan

    @property
    def seconds_left(self) -> float:
        """At this rate; NaN before the first new row."""
        return (self.total - self.done) / self.rate if self.done < self.total else 0.0

    @property
    def sentence(self) -> str:
        """In words: "3.1 trials/s, 2 min left, 4 failed"."""
        parts = ["trials"]
        if math.isfinite(self.rate):
            parts = [f"{self.rate:.3g} trials/s", f"{duration_text(self.seconds_left)} left"]
        if self.found:
            parts.append(f"{self.found:,} were there")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        return ", ".join(parts)


OnProgress = Callable[[SweepProgress], None]


@contextmanager
def shown(progress: bool | OnProgress) -> Iterator[OnProgress]:
    """What a sweep tells its progress: the given function, a bar, or nobody."""
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda _: None
    else:
        with _bar() as tell:
            yield tell


@contextmanager
def _bar() -> Iterator[OnProgress]:
    """A bar with rate and time left, where somebody looks; nothing in a pipe."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    seen = console.is_terminal or console.is_jupyter
    with Progress(*columns, console=console, disable=not seen) as bar:
        task = bar.add_task("trials", total=None)
        yield lambda now: bar.update(
            task, total=now.total, completed=now.done, description=now.sentence
        )
