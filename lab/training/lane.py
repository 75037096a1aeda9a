"""One method's training: it steps a batch at a time and remembers what a page draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from andersonn_core import DATASETS
from andersonn_core.data import ImageSet
from andersonn_core.training import (
    BatchDone,
    Changed,
    Control,
    EpochDone,
    Trainer,
    TrainEvent,
    TrainingError,
    TrainSpec,
)
from lab.training.series import Series

MOST_MARKS = 200  # changes that are shown


@cache
def images() -> ImageSet:
    """The digits, read once."""
    return DATASETS["digits"]()


def warm_up(should_stop: Callable[[], bool]) -> None:
    """A batch of a training that nobody sees: what is loaded with it takes seconds, but once."""
    Trainer(TrainSpec(batch_size=16), should_stop=should_stop, images=images()).step()


@dataclass(frozen=True)
class Reading:
    """What an epoch's test said."""

    passes: float
    seconds: float
    evals: float
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Mark:
    """Where knobs changed."""

    passes: float
    seconds: float
    evals: float
    words: str


class Lane:
    """A trainer and the numbers that it has told so far, which pages read while it adds to them."""

    def __init__(
        self, name: str, spec: TrainSpec, folder: Path, should_stop: Callable[[], bool],
        resume: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.control = name, Control()
        self.series, self.tests, self.marks = Series(), list[Reading](), list[Mark]()
        self.residual: tuple[float, ...] = ()  # the worst, of the latest batch's solve
        self.median: tuple[float, ...] = ()
        self.ended = False  # it has come to its own end, or failed
        self.closed = False  # it was stopped, with a checkpoint: another lane goes on from there
        self.failure = ""
        self.trainer = Trainer(
            spec, self._take, should_stop, control=self.control, images=images(), folder=folder,
            resume=resume,
        )  # fmt: skip
        self.samples = self.unconverged = 0  # of forward solves
        self._images = len(images().train_labels)
        self._seen = 0
        if resume:
            self._remember()

    # -- what the race asks -----------------------------------------------------------------------

    def step(self) -> None:
        """One batch; a failure ends this lane with a sentence."""
        try:
            going = self.trainer.step()
        except TrainingError as error:
            self.ended, self.failure = True, str(error)
            return
        self.ended = not going and not self.control.stopping

    def close(self) -> None:
        """Stop, and leave a checkpoint."""
        self.control.stop()
        if not self.ended:
            self.step()
        self.closed = True

    @property
    def steps(self) -> int:
        """Batches so far."""
        return self.trainer.at.step

    @property
    def passes(self) -> float:
        """Passes over the training images so far."""
        return self._seen / self._images

    @property
    def seconds(self) -> float:
        """Of training so far."""
        return float(self.trainer.at.seconds)

    @property
    def evals(self) -> int:
        """Evaluations, forward and adjoint, so far."""
        return int(self.trainer.at.evals)

    @property
    def progress(self) -> float:
        """The part that is done, 0 to 1."""
        return 1.0 if self.ended and not self.failure else float(self.trainer.progress)

    @property
    def accuracy(self) -> float:
        """Of the test digits after the last epoch; NaN before the first."""
        return self.tests[-1].accuracy if self.tests else math.nan

    # -- what the trainer tells -------------------------------------------------------------------

    def _take(self, event: TrainEvent) -> None:
        if isinstance(event, BatchDone):
            self.residual, self.median = event.residual_worst, event.residual_median
            self._add(vars(event))
        elif isinstance(event, EpochDone):
            self._add_test(vars(event))
        elif isinstance(event, Changed):
            self._mark(event.knobs)

    def _add(self, row: dict[str, Any]) -> None:
        self._seen += int(row["batch_size"])
        self.samples = self._seen
        self.unconverged += int(row["forward_unconverged"])
        self.series.add(row | {"passes": self.passes})

    def _add_test(self, row: dict[str, Any]) -> None:
        self.tests.append(
            Reading(
                self.passes, row["seconds"], row["evals"], row["test_loss"], row["test_accuracy"]
            )
        )

    def _mark(self, knobs: dict[str, Any]) -> None:
        if len(self.marks) < MOST_MARKS:
            self.marks.append(Mark(self.passes, self.seconds, self.evals, change_words(knobs)))

    def _remember(self) -> None:
        """What the trainer's tables hold of the runs before, as if it were told again."""
        at = self.trainer.at
        changes = {change["step"]: change["knobs"] for change in at.changes}
        tests = {row["step"]: row for row in _rows(at.by_epoch.columns)}
        for row in _rows(at.by_batch.columns):
            if row["step"] in changes:
                self._mark(changes[row["step"]])
            self._add(row)
            if row["step"] in tests:
                self._add_test(tests[row["step"]])
        self.ended = at.reason is not None


def _rows(columns: dict[str, list[float]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def change_words(knobs: dict[str, Any]) -> str:
    """A change in a few words: "window 7, B 64"."""
    short = {"batch_size": "B", "learning_rate": "rate", "rtol": "tolerance"}
    words = []
    for dotted, value in knobs.items():
        name = dotted.removeprefix("method.")
        shown = value["name"] if isinstance(value, dict) else value
        words.append(f"{short.get(name, name)} {shown if isinstance(shown, str) else f'{shown:g}'}")
    return ", ".join(words)
