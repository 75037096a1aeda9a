"""Anderson acceleration and deep equilibrium models in PyTorch."""

from andersonn_core.card_diff import CardDiff, diff_cards
from andersonn_core.crossover import Crossover, crossover
from andersonn_core.data import DATASETS
from andersonn_core.deq import DEQ, GRADIENTS
from andersonn_core.driver import Step, reading_iterates
from andersonn_core.methods import IDR, METHODS, Anderson, Auto, Broyden, Picard, ShortRecurrence
from andersonn_core.models import MODELS, build_model
from andersonn_core.paired import PairedTest, paired_test
from andersonn_core.prediction import Prediction, predict
from andersonn_core.problems import PROBLEMS
from andersonn_core.rerun import RerunReport, rerun
from andersonn_core.results import Event, History, NotConvergedError, SolveResult, Status
from andersonn_core.runcard import AlteredCardError, RunCard
from andersonn_core.solve import SolveSpec, solve
from andersonn_core.specs import KnobError
from andersonn_core.sweeps import Between, Sweep
from andersonn_core.training import Trainer, TrainResult, TrainSpec

__version__ = "0.1.0"

__all__ = [
    "DATASETS",
    "DEQ",
    "GRADIENTS",
    "IDR",
    "METHODS",
    "MODELS",
    "PROBLEMS",
    "AlteredCardError",
    "Anderson",
    "Auto",
    "Between",
    "Broyden",
    "CardDiff",
    "Crossover",
    "Event",
    "History",
    "KnobError",
    "NotConvergedError",
    "PairedTest",
    "Picard",
    "Prediction",
    "RerunReport",
    "RunCard",
    "ShortRecurrence",
    "SolveResult",
    "SolveSpec",
    "Status",
    "Step",
    "Sweep",
    "TrainResult",
    "TrainSpec",
    "Trainer",
    "build_model",
    "crossover",
    "diff_cards",
    "paired_test",
    "predict",
    "reading_iterates",
    "rerun",
    "solve",
]
