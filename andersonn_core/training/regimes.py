"""Forward iteration against Anderson in training: three fair questions, answered apart.

What "the same effort" means decides who wins: the same tolerance, the same number of evaluations,
or the same time. Both methods train from the same seed on the same batches, a batch of each in
turn, so that a slow moment of the machine meets both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from andersonn_core.data import ImageSet
from andersonn_core.methods import MethodSpec, Picard
from andersonn_core.models import EquilibriumNetwork
from andersonn_core.student import geometric_mean, mean_interval
from andersonn_core.training.result import TrainResult
from andersonn_core.training.spec import TrainSpec
from andersonn_core.training.trainer import Trainer


@dataclass(frozen=True)
class Regime:
    """What both methods are granted."""

    label: str
    question: str
    knobs: dict[str, Any] = field(default_factory=dict)
    of_time: bool = False  # both train for the seconds of the faster one


REGIMES = {
    "tolerance": Regime(
        "equal tolerance",
        "Both solve to 1e-3, forward and backward, however many evaluations that takes.",
        {"rtol": 1e-3, "max_iter": 400},
    ),
    "cap": Regime(
        "equal cap",
        "Both stop at 25 evaluations or 1e-2, forward and backward; gradients are what they are.",
        {"rtol": 1e-2, "max_iter": 25},
    ),
    "time": Regime(
        "equal time",
        "Both solve to 1e-3 and train for as many seconds as the faster one needs for its epochs.",
        {"rtol": 1e-3, "max_iter": 400},
        of_time=True,
    ),
}

Results = dict[str, TrainResult]  # "forward", "anderson", and whoever trained beside them


def in_turns(trainers: Mapping[str, Trainer]) -> Results:
    """Train all to their ends, a batch of each in turn."""
    running = dict(trainers)
    while running:
        running = {name: trainer for name, trainer in running.items() if trainer.step()}
    return {name: trainer.result() for name, trainer in trainers.items()}


def contest(
    spec: TrainSpec,
    regime: Regime,
    images: ImageSet,
    seconds: float | None = None,
    others: Mapping[str, Callable[[TrainSpec], Trainer]] | None = None,
) -> Results:
    """Train by forward iteration and by the spec's method, in turn, in one regime.

    `seconds` is the budget of equal time; `others` make more trainers, which train beside them.
    """
    knobs = regime.knobs | ({"seconds": seconds} if regime.of_time else {})
    adjoint = {"adjoint_rtol": None, "adjoint_max_iter": None}
    anderson = spec.replace(**knobs, **adjoint)
    forward = anderson.replace(method=Picard(), adjoint_method=None)
    trainers = {
        "forward": Trainer(forward, images=images), "anderson": Trainer(anderson, images=images),
    }  # fmt: skip
    trainers |= {name: make(anderson) for name, make in (others or {}).items()}
    return in_turns(trainers)


# -- what is told of one training -----------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """One number of a training, and how two trainings are compared by it."""

    label: str
    of: Callable[[TrainResult], float]
    ratio: bool = False  # forward over Anderson; else Anderson less forward
    scale: float = 1.0
    unit: str = ""


def fluctuation(result: TrainResult) -> float:
    """The mean change of the test accuracy from one epoch to the next, without its sign."""
    scores = result.epochs["test_accuracy"].to_numpy()
    return float(np.abs(np.diff(scores)).mean()) if len(scores) > 1 else math.nan


def batch_seconds(result: TrainResult, row: int) -> float:
    """Mean seconds of a batch in an epoch, first (0) or last (-1): a budget may end the last."""
    batches = result.epochs["step"].diff().fillna(result.epochs["step"])
    return float((result.epochs["epoch_seconds"] / batches).iloc[row])


def _unconverged(column: str) -> Callable[[TrainResult], float]:
    return lambda result: float(result.batches[column].sum() / result.batches["batch_size"].sum())


def _evals(row: int) -> Callable[[TrainResult], float]:
    def of(result: TrainResult) -> float:
        epoch = result.epochs.iloc[row]
        return float(epoch["forward_evals"] + epoch["adjoint_evals"])

    return of


PERCENT: dict[str, Any] = {"scale": 100.0, "unit": "%"}
MEASURES = {
    "train_accuracy": Measure("training accuracy, last epoch", lambda r: r.train_accuracy,
                              **PERCENT),
    "test_accuracy": Measure("test accuracy, last epoch", lambda r: r.test_accuracy, **PERCENT),
    "fluctuation": Measure("change of test accuracy per epoch", fluctuation, **PERCENT),
    "epochs": Measure("epochs", lambda r: float(r.batches["batch_size"].sum() / r.train_images),
                      ratio=True),
    "seconds": Measure("training time", lambda r: r.seconds, ratio=True, unit="s"),
    "evals": Measure("evaluations per batch", lambda r: r.evals / len(r.batches), ratio=True),
    "evals_first": Measure("evaluations per batch, first epoch", _evals(0), ratio=True),
    "evals_last": Measure("evaluations per batch, last epoch", _evals(-1), ratio=True),
    "batch_first": Measure("time of a batch, first epoch", lambda r: batch_seconds(r, 0),
                           ratio=True, unit="s"),
    "batch_last": Measure("time of a batch, last epoch", lambda r: batch_seconds(r, -1),
                          ratio=True, unit="s"),
    "growth": Measure("time of a batch, last epoch over first",
                      lambda r: batch_seconds(r, -1) / batch_seconds(r, 0), ratio=True),
    "forward_unconverged": Measure("samples whose forward solve ended early",
                                   _unconverged("forward_unconverged"), **PERCENT),
    "adjoint_unconverged": Measure("samples whose backward solve ended early",
                                   _unconverged("adjoint_unconverged"), **PERCENT),
}  # fmt: skip


def seconds_to(result: TrainResult, accuracy: float) -> float:
    """Training seconds until a test first reached this accuracy; infinite if none did."""
    reached = result.epochs[result.epochs["test_accuracy"] >= accuracy]
    return float(reached["seconds"].iloc[0]) if len(reached) else math.inf


@torch.no_grad()
def agreement(result: TrainResult, methods: list[MethodSpec], images: ImageSet) -> float:
    """The fraction of test images that two methods read alike with the weights of a training."""
    spec = result.spec
    network = result.network().to(spec.torch_device)
    assert isinstance(network, EquilibriumNetwork)
    pixels = images.test_images.to(spec.torch_device, spec.torch_dtype)
    first, second = (
        network.solve_with(spec.replace(method=method).layer(network.cell)).eval()(pixels).argmax(1)
        for method in methods
    )
    return float((first == second).double().mean())


def measured(results: Results, images: ImageSet) -> dict[str, dict[str, float]]:
    """Every measure of every training of a contest, and the agreement of its two methods."""
    rows = {
        name: {key: measure.of(result) for key, measure in MEASURES.items()}
        for name, result in results.items()
    }
    methods = [results[name].spec.method for name in ("forward", "anderson")]
    for name in ("forward", "anderson"):
        rows[name]["agreement"] = agreement(results[name], methods, images)
    return rows


# -- over seeds -----------------------------------------------------------------------------------


def compared(seeds: list[dict[str, dict[str, float]]]) -> pd.DataFrame:
    """One row a measure over the seeds of one regime.

    Columns: measure, label, unit, forward, anderson (means), kind ("ratio": forward / Anderson,
    geometric mean; "difference": Anderson - forward), effect, low, high (95 %, Student).
    """
    rows = []
    for key, measure in MEASURES.items():
        forward = np.array([row["forward"][key] for row in seeds]) * measure.scale
        anderson = np.array([row["anderson"][key] for row in seeds]) * measure.scale
        effect, (low, high) = (
            geometric_mean(forward / anderson) if measure.ratio
            else mean_interval(anderson - forward)
        )  # fmt: skip
        rows.append(
            {
                "measure": key, "label": measure.label, "unit": measure.unit,
                "forward": forward.mean(), "anderson": anderson.mean(),
                "kind": "ratio" if measure.ratio else "difference",
                "effect": effect, "low": low, "high": high,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def compute_saved(speedup: float) -> float:
    """1 - 1/S: the same number as S, in other words; no measurement of energy."""
    return 1 - 1 / speedup
