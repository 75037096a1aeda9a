"""What a network in training is like now: both methods on its weights, beliefs, gradients.

Nothing here changes the training: weights are read between two batches, and the clocks of the
training do not run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from andersonn_core import Anderson, Picard, SolveResult, Step, crossover, solve
from andersonn_core.deq import DEQ, spectrum
from andersonn_core.models import EquilibriumNetwork
from andersonn_core.problems import Problem
from andersonn_core.training import TrainSpec
from lab.frames import Frames
from lab.training.lane import Lane, images

DIGITS = 16  # test digits of the strip
MEASURED = 64  # test digits that S is measured on, or a batch where that is smaller
RADIUS_DIGITS, RADIUS_STEPS = 4, 32  # of the spectral radius
ANGLE_DIGITS = 16  # training digits whose gradient is compared
EXACT = {"rtol": 1e-5, "max_iter": 400}  # of the implicit gradient that others are compared to
MOST_EVALS = 400  # of forward iteration in the measurement of S

ShouldStop = Callable[[], bool]


@dataclass(frozen=True)
class Belief:
    """How the reading of the strip's digits forms: one method on its own network."""

    frames: Frames
    evaluations: int
    passes: float

    def at(self, evaluation: int) -> NDArray[np.float16] | None:  # (B, 10)
        """The probabilities at an evaluation."""
        return self.frames.prediction(min(evaluation, self.evaluations))


@dataclass(frozen=True)
class Point:
    """How stiff a network is after so many passes, and what mixing buys on it."""

    passes: float
    radius: float  # spectral radius of the cell at the equilibrium, median
    speedup: float  # S: seconds of forward iteration over Anderson's, on the same weights
    bound: bool  # forward iteration ran out of evaluations: S is at least that
    kind: str  # of the crossover
    seconds: float  # where Anderson is ahead for good; NaN unless kind is "at"
    evaluations: float
    residual: float
    agreement: float  # fraction of digits that both methods read alike
    angle: float  # degrees between the training's gradient and the implicit one


class Stopped(Exception):
    """The training was stopped while its network was measured."""


def belief(lane: Lane, spec: TrainSpec, should_stop: ShouldStop) -> Belief:
    """Solve the strip's digits by the lane's method and read at each evaluation."""
    with _reading(lane) as network, torch.no_grad():
        x = network.encode(images().test_images[:DIGITS])

        def predict(z: Tensor) -> Tensor:  # (B, C, H, W) -> (B, 10)
            return torch.softmax(network.readout(z), 1)

        problem = Problem(
            name="training", f=lambda z: network.cell(z, x), z0=network.cell.initial_state(x),
            predict=predict,
        )  # fmt: skip
        frames = Frames(problem)
        knobs = {"rtol": spec.rtol, "max_iter": spec.max_iter}
        result = _solved(problem.f, problem.z0, spec.method, should_stop, frames.add, **knobs)
    return Belief(frames, result.num_evals, lane.passes)


def point(lane: Lane, spec: TrainSpec, anderson: Anderson, should_stop: ShouldStop) -> Point:
    """Both methods on the lane's weights, the spectral radius, the gradient's angle."""
    count = min(MEASURED, spec.batch_size)
    with _reading(lane) as network:
        with torch.no_grad():
            x = network.encode(images().test_images[:count])
            z0 = network.cell.initial_state(x)

            def cell(z: Tensor) -> Tensor:  # (B, C, H, W)
                value: Tensor = network.cell(z, x)
                return value

            runs = {
                method.name: _solved(
                    cell, z0, method, should_stop, rtol=spec.rtol, max_iter=MOST_EVALS
                )
                for method in (Picard(), anderson)
            }
            reads = [network.readout(result.z).argmax(1) for result in runs.values()]
        forward, mixed = runs["picard"], runs["anderson"]
        few = x[:RADIUS_DIGITS]
        found = spectrum(
            lambda z: network.cell(z, few), mixed.z[:RADIUS_DIGITS], steps=RADIUS_STEPS, norm=False
        )
        meets = crossover(forward, mixed)
    return Point(
        passes=lane.passes, radius=float(found.spectral_radius.median()),
        speedup=forward.seconds / mixed.seconds, bound=not bool(forward.converged.all()),
        kind=meets.kind, seconds=meets.seconds, evaluations=meets.evaluations,
        residual=meets.residual, agreement=float((reads[0] == reads[1]).double().mean()),
        angle=_angle(lane, spec, should_stop),
    )  # fmt: skip


def _angle(lane: Lane, spec: TrainSpec, should_stop: ShouldStop) -> float:
    """Degrees between the gradient as the training takes it and the implicit one, solved well."""
    exact = spec.replace(gradient=_IMPLICIT, **EXACT)
    with _reading(lane) as network:
        mine, true = (_gradient(network, each, should_stop) for each in (spec, exact))
    lengths = torch.linalg.vector_norm(mine) * torch.linalg.vector_norm(true)
    if not float(lengths) > 0:
        return math.nan
    cosine = float(torch.dot(mine, true) / lengths)
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


_IMPLICIT = TrainSpec().gradient


def _gradient(network: EquilibriumNetwork, spec: TrainSpec, should_stop: ShouldStop) -> Tensor:
    """The loss's gradient on a few training digits, all parameters in one row."""
    layer = DEQ(network.cell, **spec.equilibrium_knobs)
    layer.should_stop, layer.warns = should_stop, False
    chosen, labels = images().train_images[:ANGLE_DIGITS], images().train_labels[:ANGLE_DIGITS]
    z = layer(network.encode(chosen))
    loss = cross_entropy(network.readout(z), labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    if should_stop():
        raise Stopped
    return torch.cat([each.flatten().double() for each in gradients if each is not None])


def _solved(
    f: Callable[[Tensor], Tensor], z0: Tensor, method: Any, should_stop: ShouldStop,
    on_step: Callable[[Step], None] | None = None, **knobs: Any,
) -> SolveResult:  # fmt: skip
    result = solve(f, z0, method, on_step=on_step, should_stop=should_stop, **knobs)
    if should_stop():
        raise Stopped
    return result


@contextmanager
def _reading(lane: Lane) -> Iterator[EquilibriumNetwork]:
    """The lane's network in evaluation mode, and as it was after that."""
    network = lane.trainer.network
    assert isinstance(network, EquilibriumNetwork)
    training = network.training
    network.eval()
    try:
        yield network
    finally:
        network.train(training)
