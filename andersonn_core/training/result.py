"""What a training returns: its numbers by batch and by epoch, and the weights."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from andersonn_core.models import EquilibriumNetwork, Network, build_model
from andersonn_core.models.base import ImageShape
from andersonn_core.runcard import RunCard
from andersonn_core.training.events import BatchDone, EpochDone, Phases, Reason, numbers
from andersonn_core.training.spec import TrainSpec


class Table:
    """Rows of numbers, one a batch or an epoch, kept as columns.

    Arrays take 8 bytes a number where lists of Python's floats take 32: a long training shows it.
    """

    def __init__(self, columns: Mapping[str, array[float]] | None = None) -> None:
        self.columns: dict[str, array[float]] = dict(columns or {})

    def add(self, event: BatchDone | EpochDone) -> None:
        """Append an event's numbers."""
        for name, value in numbers(event).items():
            self.columns.setdefault(name, array("d")).append(float(value))

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The columns (R,) float64 by name."""
        return {
            f"{prefix}.{name}": torch.from_numpy(np.array(values))
            for name, values in self.columns.items()
        }

    @classmethod
    def of(cls, prefix: str, tensors: Mapping[str, Tensor]) -> Table:
        """The table that `tensors` gave."""
        head = f"{prefix}."
        return cls(
            {
                name.removeprefix(head): array("d", values.tolist())
                for name, values in tensors.items()
                if name.startswith(head)
            }
        )

    def frame(self) -> pd.DataFrame:
        """The rows; counts are integers."""
        frame = pd.DataFrame({name: np.array(values) for name, values in self.columns.items()})
        whole = [name for name in frame if (frame[name] % 1 == 0).all() and name in COUNTS]
        return frame.astype(dict.fromkeys(whole, "int64"))


COUNTS = {"step", "epoch", "batch_size", "evals", "forward_unconverged", "adjoint_unconverged",
          "test_unconverged"}  # fmt: skip


@dataclass
class TrainResult:
    """The numbers of a training and the weights that it ended with.

    `batches` and `epochs` have a column for each number of `BatchDone` and `EpochDone`. Accuracies
    of synthetic data are NaN.
    """

    card: RunCard
    reason: Reason
    sentence: str
    batches: pd.DataFrame
    epochs: pd.DataFrame
    changes: list[dict[str, Any]]  # step, epoch, knobs: what was changed while it ran
    weights: dict[str, Tensor]
    best_epoch: int | None  # by validation accuracy; None without a validation part
    best_weights: dict[str, Tensor] | None
    image_shape: ImageShape
    train_images: int  # in a pass
    clock: str
    notes: tuple[str, ...] = field(default=())

    @property
    def spec(self) -> TrainSpec:
        """The knobs that it began with."""
        return TrainSpec.from_dict(self.card.spec)

    @property
    def finished(self) -> bool:
        """Whether it came to its own end."""
        return self.reason in ("finished", "patience", "seconds")

    @property
    def seconds(self) -> float:
        """Of training: tests, checkpoints and listeners left out."""
        return float(self.batches["seconds"].iloc[-1]) if len(self.batches) else 0.0

    @property
    def evals(self) -> int:
        """Evaluations of forward and adjoint solves, of all batches."""
        return int(self.batches["evals"].iloc[-1]) if len(self.batches) else 0

    @property
    def test_accuracy(self) -> float:
        """After the last epoch; NaN before the first, and for synthetic data."""
        return float(self.epochs["test_accuracy"].iloc[-1]) if len(self.epochs) else math.nan

    @property
    def best_test_accuracy(self) -> float:
        """Of the epoch whose validation accuracy is the best; NaN without a validation part."""
        if self.best_epoch is None:
            return math.nan
        return float(self.epochs.set_index("epoch")["test_accuracy"][self.best_epoch])

    @property
    def train_accuracy(self) -> float:
        """Mean over the last epoch, while the weights changed."""
        return float(self.epochs["train_accuracy"].iloc[-1]) if len(self.epochs) else math.nan

    @property
    def phases(self) -> Phases:
        """Where the seconds went."""
        names = Phases.__dataclass_fields__
        if not len(self.batches):
            return Phases()
        return Phases(**{name: float(self.batches[f"{name}_seconds"].sum()) for name in names})

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the weights: equal for equal bits."""
        digest = hashlib.sha256()
        for name, value in sorted(self.weights.items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def network(self, best: bool = False) -> Network:
        """The trained network, with its layer, in evaluation mode; `best`: of the best epoch."""
        weights = self.best_weights if best else self.weights
        if weights is None:
            raise ValueError("there is no best epoch without a validation part: set validation.")
        spec = self.spec
        network = build_model(spec.model, self.image_shape, spec.seed).to(spec.torch_dtype)
        if isinstance(network, EquilibriumNetwork):
            network.solve_with(spec.layer(network.cell))
        network.load_state_dict(weights)
        return network.eval()

    def with_summary(self) -> TrainResult:
        """The same with the numbers of the run on its card."""
        return replace(self, card=replace(self.card, summary=_summary(self)))

    def save(self, path: str | Path) -> None:
        """Write everything to one file; `load` reads it back."""
        record = {name: getattr(self, name) for name in _SAVED}
        record |= {"card": self.card.to_json(), "notes": list(self.notes)}
        for name in ("batches", "epochs"):
            record[name] = getattr(self, name).to_dict("list")
        torch.save(record, path)

    @classmethod
    def load(cls, path: str | Path) -> TrainResult:
        """Read what `save` wrote; the file holds tensors and text, and no code is run."""
        record = torch.load(path, weights_only=True)
        record |= {"card": RunCard.from_json(record["card"]), "notes": tuple(record["notes"])}
        for name in ("batches", "epochs"):
            record[name] = Table(record[name]).frame()
        return cls(**record)


_SAVED = ("reason", "sentence", "changes", "weights", "best_epoch", "best_weights", "image_shape",
          "train_images", "clock")  # fmt: skip


def _summary(result: TrainResult) -> dict[str, Any]:
    last = result.batches.iloc[-1] if len(result.batches) else {}
    return {
        "reason": result.reason,
        "steps": len(result.batches),
        "epochs": len(result.epochs),
        "evals": result.evals,
        "weights_digest": result.weights_digest,
        "loss": _number(last["loss"]) if len(last) else None,
        "train_accuracy": _number(result.train_accuracy),
        "test_accuracy": _number(result.test_accuracy),
        "best_epoch": result.best_epoch,
        "best_test_accuracy": _number(result.best_test_accuracy),
        "changes": result.changes,
        "train_seconds": result.seconds,
        "clock": result.clock,
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
