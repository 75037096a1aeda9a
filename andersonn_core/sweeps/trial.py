"""One trial: a spec's run in a worker, as a row for the driver to keep."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from andersonn_core.cache import Cache
from andersonn_core.faults import first_line
from andersonn_core.problems.base import Problem, available_device
from andersonn_core.results import SolveResult, Status
from andersonn_core.runcard import RunCard, code_version, device_name
from andersonn_core.solve import SolveSpec
from andersonn_core.specs import KnobError
from andersonn_core.store.rows import FAILED, Row
from andersonn_core.timing import torch_threads
from andersonn_core.training import TrainResult, TrainSpec

KINDS: dict[str, type[SolveSpec] | type[TrainSpec]] = {"solve": SolveSpec, "train": TrainSpec}
SEED_OF = {"solve": "problem.seed", "train": "seed"}
FINISHED = "FINISHED"  # the status of a training that came to its own end
# of a batch the status that a reader should know of
WORST = (Status.NONFINITE, Status.DIVERGED, Status.STALLED, Status.MAX_ITER, Status.CONVERGED)
WARM_UP = 3  # unrecorded evaluations: the first ones of a map and a method in a process cost more

_problems: Cache[Problem] = Cache(256 * 2**20)
_one_at_a_time = threading.Lock()  # trials that share a process would share its time


class CodeVersionError(KnobError):
    """A worker runs other sources than the driver: its numbers would be kept as this code's."""


@dataclass(frozen=True)
class Trial:
    """What a worker is told: plain text, which any version can read and refuse."""

    kind: str  # of KINDS
    knobs: str  # the spec's JSON, its seed included
    spec_id: str
    seed: int
    repeat: int
    code: str  # version of the driver's sources

    @property
    def key(self) -> tuple[str, int, int]:
        """What its row will be of."""
        return self.spec_id, self.seed, self.repeat

    def spec(self) -> SolveSpec | TrainSpec:
        """The knobs."""
        return KINDS[self.kind].from_json(self.knobs)

    def failed(self, reason: str, device: str) -> Row:
        """The row of a trial that gave nothing."""
        spec = json.loads(self.knobs)
        card = RunCard.capture(spec, self.spec_id, self.seed, torch.device("cpu"))
        card = replace(card, device=device)
        return Row(
            **vars(self), device=device, status=FAILED, reason=reason, date=card.date,
            card=card.to_json(),
        )  # fmt: skip


def run_trial(trial: Trial) -> Row:
    """Run a trial on one torch thread; an exception of its own becomes a row that says why.

    Raises CodeVersionError where this process has other sources than the driver.
    """
    check_code(trial.code)
    spec = trial.spec()
    device = available_device(device_of(spec))
    with _one_at_a_time, _alone_on(device), torch_threads(1):
        try:
            if isinstance(spec, SolveSpec):
                return _solve_row(trial, spec.run(problem=_warm_problem(spec)))
            return _train_row(trial, spec.run())
        except Exception as error:  # whatever a map, a method or a model raises is this trial's own
            reason = f"{type(error).__name__}: {first_line(error)}"
            return trial.failed(reason, device_name(device))


def check_code(code: str) -> None:
    """Raise CodeVersionError unless this process runs the driver's sources."""
    if code != code_version():
        raise CodeVersionError(
            f"a worker on {_host()} runs anderson-lab {code_version()}, the driver {code}: install "
            "the same version on both, and start the worker anew."
        )


def device_names(wanted: list[str]) -> list[str]:
    """The models of the devices that knobs call by these names; KnobError where one is absent."""
    return [device_name(available_device(name)) for name in wanted]


def device_of(spec: SolveSpec | TrainSpec) -> str:
    """What the spec calls the device that it runs on."""
    return spec.problem.device if isinstance(spec, SolveSpec) else spec.device


def _warm_problem(spec: SolveSpec) -> Problem:
    """The spec's problem, built once in a process, after a few evaluations by its method."""
    identity = (spec.problem.spec_id, spec.problem.seed, spec.problem.device)
    problem = _problems.get_or_make(identity, spec.problem.build)
    _warm_up(spec.replace(max_iter=min(WARM_UP, spec.max_iter)), problem)
    return problem


def _warm_up(short: SolveSpec, problem: Problem) -> None:
    z0 = problem.z0
    key = (problem.name, tuple(z0.shape), z0.dtype, z0.device, short.method.name)
    if key not in _warmed:
        short.run(problem=problem)
        _warmed.add(key)


_warmed: set[Any] = set()


@contextmanager
def _alone_on(device: torch.device) -> Iterator[None]:
    """One trial at a time on each GPU of a host, whatever processes and drivers want it."""
    if device.type == "cpu":
        yield
        return
    name = hashlib.sha256(f"{device_name(device)} {device.index or 0}".encode()).hexdigest()[:16]
    with locked(Path(tempfile.gettempdir()) / f"anderson-lab-{name}.lock"):
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock that the system releases when its process ends, however it ends."""
    try:
        import fcntl
    except ImportError as error:  # Windows
        raise KnobError("sweeps on a GPU need a system with fcntl: Linux or macOS.") from error
    try:
        file = os.open(path, os.O_RDONLY)  # another user's file can be locked, but not written
    except FileNotFoundError:
        file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _solve_row(trial: Trial, result: SolveResult) -> Row:
    from andersonn_core.store.curves import result_to_bytes

    status = next(one for one in WORST if bool((result.status == int(one)).any()))
    return Row(
        **vars(trial), device=result.card.device, status=status.name, date=result.card.date,
        card=result.card.to_json(), clock=result.history.clock, num_evals=result.num_evals,
        seconds=result.seconds, relative_residual=_finite(float(result.relative_residual.max())),
        samples=len(result.status), converged=int(result.converged.sum()),
        curves=result_to_bytes(result),
    )  # fmt: skip


def _train_row(trial: Trial, result: TrainResult) -> Row:
    from andersonn_core.store.curves import frame_to_bytes

    return Row(
        **vars(trial), device=result.card.device, status=FINISHED, date=result.card.date,
        card=result.card.to_json(), clock=result.clock, num_evals=result.evals,
        seconds=result.seconds, accuracy=_finite(result.test_accuracy),
        curves=frame_to_bytes(result.epochs),
    )  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@functools.cache
def _host() -> str:
    import socket

    return socket.gethostname()
