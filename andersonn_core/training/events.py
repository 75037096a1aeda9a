"""What a training tells while it runs: small frozen records of numbers and text."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

Reason = Literal["finished", "patience", "seconds", "stopped", "failed"]


@dataclass(frozen=True)
class Started:
    """A training begins, or goes on from a checkpoint (step > 0)."""

    spec: dict[str, Any]  # the knobs that are in force
    step: int  # optimizer steps done before
    progress: float  # 0 to 1
    data: str  # what a person reads
    train_images: int
    validation_images: int
    test_images: int
    parameters: int
    device: str
    clock: str  # of all seconds but wall_seconds
    notes: tuple[str, ...] = ()  # what happened to the checkpoints


@dataclass(frozen=True)
class Phases:
    """Where the seconds of a batch went."""

    encode: float = 0.0
    forward_map: float = 0.0  # the cell in the forward solve; all of the body without equilibrium
    forward_mixing: float = 0.0  # the method in the forward solve
    forward_rest: float = 0.0  # setting up the solve, and the evaluation with a tape
    readout: float = 0.0  # logits and loss
    penalty: float = 0.0
    adjoint_map: float = 0.0  # products with the transposed Jacobian
    adjoint_mixing: float = 0.0
    backward_rest: float = 0.0  # setting up, and the gradients of encoder, cell and readout
    optimizer: float = 0.0


@dataclass(frozen=True)
class BatchDone:
    """One optimizer step.

    Evaluations are those of the solves; an implicit gradient takes one more, with a tape. Those of
    a sample end where it stopped, those of the batch with the slowest sample.
    """

    step: int  # 1, 2, ...
    epoch: int  # 1, 2, ...
    progress: float  # 0 to 1: of the whole training
    batch_size: int
    learning_rate: float
    loss: float
    accuracy: float  # of this batch, before the step; NaN for synthetic data
    seconds: float  # of training so far, tests and events left out
    wall_seconds: float  # since the start, everything included
    evals: int  # forward and adjoint, of all batches so far
    forward_evals: int
    forward_sample_evals: float  # mean over the batch
    forward_residual: float  # the largest relative residual of an answer
    forward_unconverged: int  # samples
    adjoint_evals: int
    adjoint_sample_evals: float
    adjoint_residual: float  # NaN where the gradient has no backward solve
    adjoint_unconverged: int
    gradient_norm: float
    phases: Phases
    residual_median: tuple[float, ...] = ()  # of the forward solve, at evaluation 1, 2, ...
    residual_worst: tuple[float, ...] = ()


@dataclass(frozen=True)
class EpochDone:
    """One pass over the training images, and what the network reads of the others after it."""

    epoch: int  # 1, 2, ...
    step: int
    seconds: float  # of training so far
    wall_seconds: float
    evals: int  # forward and adjoint, so far
    epoch_seconds: float  # of training, this epoch
    train_loss: float  # mean over the epoch, while the weights changed
    train_accuracy: float  # likewise; accuracies are NaN for synthetic data
    validation_accuracy: float  # NaN without a validation part
    test_loss: float
    test_accuracy: float
    test_seconds: float
    test_evals: float  # mean of the test batches
    test_unconverged: int  # samples
    forward_evals: float  # mean of the epoch's batches
    forward_sample_evals: float
    forward_unconverged: int  # samples
    adjoint_evals: float
    adjoint_sample_evals: float
    adjoint_unconverged: int
    spectral_radius: float  # median over `spectrum` test images; NaN unless asked for
    spectral_radius_worst: float


@dataclass(frozen=True)
class Changed:
    """Knobs that were changed while it ran hold from this step on."""

    step: int  # the first with them
    epoch: int
    knobs: dict[str, Any]


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on the disk."""

    step: int
    path: str


@dataclass(frozen=True)
class Ended:
    """A training is over; resumed, a stopped one goes on."""

    reason: Reason
    sentence: str
    step: int
    seconds: float
    wall_seconds: float


TrainEvent = Started | BatchDone | EpochDone | Changed | Saved | Ended


def numbers(event: BatchDone | EpochDone) -> dict[str, float]:
    """The numbers of an event by name; phases as "encode_seconds" and so on."""
    row: dict[str, float] = {}
    for item in fields(event):
        value = getattr(event, item.name)
        if isinstance(value, Phases):
            row |= {f"{part.name}_seconds": getattr(value, part.name) for part in fields(value)}
        elif not isinstance(value, tuple):
            row[item.name] = value
    return row
