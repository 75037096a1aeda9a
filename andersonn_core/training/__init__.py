"""Training: a spec that runs, its events, its checkpoints, and what came out."""

from andersonn_core.training.control import Control
from andersonn_core.training.events import (
    BatchDone,
    Changed,
    Ended,
    EpochDone,
    Phases,
    Saved,
    Started,
    TrainEvent,
)
from andersonn_core.training.failures import CheckpointError, CheckpointWarning, TrainingError
from andersonn_core.training.result import TrainResult
from andersonn_core.training.spec import TrainSpec
from andersonn_core.training.trainer import Trainer

__all__ = [
    "BatchDone",
    "Changed",
    "CheckpointError",
    "CheckpointWarning",
    "Control",
    "Ended",
    "EpochDone",
    "Phases",
    "Saved",
    "Started",
    "TrainEvent",
    "TrainResult",
    "TrainSpec",
    "Trainer",
    "TrainingError",
]
