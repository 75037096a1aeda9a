"""Where a training stands: its counters and tables, as a checkpoint keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from andersonn_core.arrays import Floats
from andersonn_core.training.batches import Batches
from andersonn_core.training.events import BatchDone, Changed, EpochDone, Reason
from andersonn_core.training.result import Table
from andersonn_core.training.spec import TrainSpec

COUNTERS = ("step", "evals", "seconds", "wall_seconds", "tested", "untested", "reason", "sentence",
            "changes", "best_epoch", "best_accuracy")  # fmt: skip


@dataclass
class Standing:
    """Everything that changes in a training beside its weights and its optimizer."""

    spec: TrainSpec  # in force
    batches: Batches
    step: int = 0  # optimizer steps done
    evals: int = 0
    seconds: float = 0.0  # of training
    wall_seconds: float = 0.0  # of the runs before this one
    tested: int = 0  # steps done when the last epoch was tested
    untested: bool = False  # an epoch is over and its test is not
    reason: Reason | None = None  # why it ended
    sentence: str = ""
    changes: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None
    best_accuracy: float = -1.0  # of the validation part
    best_weights: dict[str, Tensor] | None = None
    by_batch: Table = field(default_factory=Table)
    by_epoch: Table = field(default_factory=Table)

    @property
    def epoch(self) -> int:
        """The pass that the newest batch is or was in: 1, 2, ..."""
        return self.batches.epoch + (self.batches.seen > 0 or not self.step)

    def progress(self, original: TrainSpec, more: int = 0) -> float:
        """The part of the training that is done, 0 to 1, after `more` images."""
        if original.seconds is not None:
            return min(1.0, self.seconds / original.seconds)
        return min(1.0, (self.batches.passes + more / self.batches.count) / original.epochs)

    def add_batch(self, done: BatchDone) -> None:
        """Count a batch."""
        self.by_batch.add(done)
        self.untested = self.batches.advance(done.batch_size)

    def add_epoch(self, done: EpochDone, weights: Mapping[str, Tensor]) -> None:
        """Count an epoch that was tested; keep its weights if it validates best."""
        self.by_epoch.add(done)
        self.untested, self.tested = False, self.step
        if done.validation_accuracy > self.best_accuracy:  # not where it is NaN
            self.best_accuracy, self.best_epoch = done.validation_accuracy, done.epoch
            self.best_weights = {name: value.clone() for name, value in weights.items()}

    def change(self, spec: TrainSpec, changed: Changed) -> None:
        """Take other knobs from now on, and remember when."""
        self.spec = spec
        self.changes.append(asdict(changed))

    def rows_of_epoch(self) -> dict[str, Floats]:  # (R,) each
        """The batches since the last test, column by column."""
        columns = self.by_batch.columns
        return {name: np.array(values[self.tested :]) for name, values in columns.items()}

    # -- what a checkpoint holds ------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """What is no tensor."""
        place = {"epochs_done": self.batches.epoch, "images_seen": self.batches.seen}
        return {
            "spec": self.spec.to_dict(),
            **place,
            **{name: getattr(self, name) for name in COUNTERS},
        }

    def tensors(self) -> dict[str, Tensor]:
        """The tables, the generator of the order, the best weights."""
        best = {f"best.{name}": value for name, value in (self.best_weights or {}).items()}
        tables = self.by_batch.tensors("batches") | self.by_epoch.tensors("epochs")
        return tables | best | {"order": self.batches.before}

    def restore(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Stand where `record` and `tensors` say."""
        self.spec = TrainSpec.from_dict(record["spec"])
        for name in COUNTERS:
            setattr(self, name, record[name])
        self.batches.restore(tensors["order"], record["epochs_done"], record["images_seen"])
        self.by_batch, self.by_epoch = Table.of("batches", tensors), Table.of("epochs", tensors)
        head = "best."
        best = {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}
        self.best_weights = best or None


def epoch_numbers(rows: Mapping[str, Floats]) -> dict[str, Any]:  # (R,) each
    """What the batches of an epoch say of it."""
    sizes = rows["batch_size"]
    means = ("forward_evals", "forward_sample_evals", "adjoint_evals", "adjoint_sample_evals")
    return {
        "train_loss": float(np.average(rows["loss"], weights=sizes)),
        "train_accuracy": float(np.average(rows["accuracy"], weights=sizes)),
        "epoch_seconds": float(sum(v.sum() for k, v in rows.items() if is_phase(k))),
        **{name: float(rows[name].mean()) for name in means},
        **{name: int(rows[name].sum()) for name in ("forward_unconverged", "adjoint_unconverged")},
    }


def is_phase(column: str) -> bool:
    """Whether a column of the batches holds the seconds of a phase."""
    return column.endswith("_seconds") and column != "wall_seconds"
