"""What can go wrong in a training, each in a sentence that says what to do."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from andersonn_core.faults import first_line

if TYPE_CHECKING:
    from andersonn_core.training.result import TrainResult
    from andersonn_core.training.spec import TrainSpec


class TrainingError(RuntimeError):
    """A training could not go on; the message says what to do, and `partial_result` what is there.

    The last complete checkpoint is kept.
    """

    partial_result: TrainResult | None = None


class CheckpointError(TrainingError):
    """A checkpoint could not be written, read or used."""


class CheckpointWarning(UserWarning):
    """A checkpoint was damaged, and the one before it is used."""


class NotFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite; raised before the weights have changed."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what  # "the loss", "the gradient"


def out_of_memory(spec: TrainSpec, kept: str) -> str:
    """What to do about too little memory."""
    window = getattr(spec.method, "window", None)
    history = "" if window is None else f" and a window of {window}"
    remedy = "Lower batch_size" + ("" if window is None else ", or the method's window")
    return (
        f"The memory of {spec.device} is not enough for batches of {spec.batch_size}{history}: "
        f"{remedy}. {kept}"
    )


def device_failed(error: BaseException, spec: TrainSpec, step: int, kept: str) -> str:
    """What to do about a GPU that failed."""
    return (
        f"The device {spec.device} failed at step {step} ({first_line(error)}). Start a new "
        "process, which may find it well again, and run with resume=True there, or with "
        f'device="cpu". {kept}'
    )


def not_finite(what: str, spec: TrainSpec, step: int, epoch: int, kept: str) -> str:
    """What to do about a loss or a gradient that is NaN or infinite."""
    remedies = [f"lower learning_rate (now {spec.learning_rate:g})"]
    if spec.model == "deq":
        remedies += [
            f"give a Jacobian penalty (now {spec.penalty:g})",
            f"raise max_iter (now {spec.max_iter}) so that more solves converge",
        ]
    return (
        f"{what} became NaN or infinite at step {step}, in epoch {epoch}; the weights before it "
        f"are finite, and nothing was learned from it. Try to {', or '.join(remedies)}. {kept}"
    )


def not_written(error: OSError, folder: Path, step: int, size: int, kept: str) -> str:
    """What to do about a checkpoint that the system refused."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = f"the disk is full: it takes {max(1, round(size / 2**20))} MiB"
        remedy = "Free some space, or give another folder"
    else:
        why = (error.strerror or str(error)).lower()
        remedy = "Give a folder that can be written to"
    return (
        f"The checkpoint of step {step} was not written to {folder}: {why}. {remedy}, and run "
        f"again with resume=True. {kept}"
    )
