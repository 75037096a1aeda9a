"""What a solve returns: statuses with advice, one history row per evaluation, the answer itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

if TYPE_CHECKING:
    from andersonn_core.runcard import RunCard


class Status(IntEnum):
    """How the solve of one sample ended; `advice` says in one sentence which knob to move."""

    CONVERGED = 0
    MAX_ITER = 1
    DIVERGED = 2
    NONFINITE = 3
    STALLED = 4
    CANCELLED = 5

    @property
    def advice(self) -> str:
        """What happened and which knob to move."""
        return _ADVICE[self]


_ADVICE = {
    Status.CONVERGED: "The residual of the returned point meets the tolerance.",
    Status.MAX_ITER: "The evaluations ran out first: raise max_iter, loosen rtol, "
    "or (Anderson, Broyden) widen the window.",
    Status.DIVERGED: "The residual grew beyond a million times its start: lower mixing, "
    "widen the window, or start closer (z0).",
    Status.NONFINITE: "The map returned NaN or infinity: lower mixing, start closer (z0), "
    "or check f there; the best earlier iterate is returned.",
    Status.STALLED: "The best residual no longer improves: loosen rtol, use dtype float64, "
    "or change the window.",
    Status.CANCELLED: "The solve was stopped on request: the best iterate so far is returned.",
}


RUNNING = -1  # not a Status: no result ever holds it


class Event(IntFlag):
    """What the method did at an evaluation, apart from an ordinary step; flags add up."""

    NONE = 0
    RESTART = 1  # differences were dropped because the window was full, or stale
    FALLBACK = 2  # a sample that made no progress went on with plain steps from its best iterate
    REJECT = 4  # a step was taken back, or refused
    DROP = 8  # columns were dropped because the least-squares problem was numerically singular
    PLAIN = 16  # a plain step, with which a fallback begins or goes on
    DEFLATE = 32  # with RESTART: the slowest directions were kept
    PROBE = 64  # an evaluation that tested whether the map is affine
    HEAVY = 128  # a step whose weights were too large was replaced by a plain one
    FILTER = 256  # a step left out columns that were nearly dependent
    OVERFLOW = 512  # with DROP: a difference was too large for the history's type


@dataclass
class History:
    """One row per evaluation of f, from z0, never padded; NaN after a sample stopped.

    Shapes: K evaluations, B samples. Seconds: thread CPU time on one CPU thread, else see `clock`.
    """

    relative_residual: Tensor  # (K, B) ||f(z) - z|| / ||f(z)||: the plotted norm is the tested norm
    residual: Tensor  # (K, B) ||f(z) - z||_2
    gain: Tensor  # (K, B) the least-squares residual over ||g||: what the step expects to be left
    weight_norm: Tensor  # (K, B) ||gamma||_1, the weights on the differences
    condition: Tensor  # (K, B) a lower bound of the scaled Gram matrix's condition number
    depth: Tensor  # (K, B) differences used by the step
    mixing: Tensor  # (K, B) its weight on f(z)
    event: Tensor  # (K, B) int16, flags of Event
    running: Tensor  # (K, B) bool: the sample had not stopped before this evaluation
    map_seconds: Tensor  # (K,)
    # (K,) everything between two evaluations: the mixing penalty; NaN where both were replayed as
    # one graph, whose seconds are the map's
    method_seconds: Tensor
    wall_seconds: Tensor  # (K,) wall-clock time at the end of the row, from the start of the solve
    clock: str = "thread CPU time"
    part_seconds: dict[str, Tensor] = field(default_factory=dict)  # (K,) each, when profiled

    @property
    def seconds(self) -> Tensor:  # (K,)
        """When each residual was known: all map time so far and all method time before it."""
        before = torch.cat(
            [self.method_seconds.new_zeros(1), self.method_seconds[:-1]]
        ).nan_to_num()
        return (self.map_seconds + before).cumsum(0)

    def to_frame(self) -> pd.DataFrame:
        """A tidy frame, one row per (evaluation, sample) in which the sample was looked at.

        That is while it ran and, after compaction, in the confirming evaluation.
        """
        evals, batch = self.relative_residual.shape
        columns: dict[str, Any] = {
            "evaluation": np.repeat(np.arange(1, evals + 1), batch),
            "sample": np.tile(np.arange(batch), evals),
        }
        for name in (
            "relative_residual",
            "residual",
            "gain",
            "weight_norm",
            "condition",
            "depth",
            "mixing",
            "event",
        ):
            columns[name] = getattr(self, name).double().reshape(-1).cpu().numpy()
        per_row = {
            "seconds": self.seconds,
            "map_seconds": self.map_seconds,
            "method_seconds": self.method_seconds,
        }
        for name, values in (
            per_row | {f"{k}_seconds": v for k, v in self.part_seconds.items()}
        ).items():
            columns[name] = np.repeat(values.double().cpu().numpy(), batch)
        frame = pd.DataFrame(columns).astype({"event": "int64"})
        shown = self.running | ~torch.isnan(self.relative_residual)
        return frame[shown.reshape(-1).cpu().numpy()].reset_index(drop=True)

    @property
    def sample_evals(self) -> Tensor:  # (B,) int64
        """The number of rows before each sample stopped (its last, finite or not, included)."""
        return self.running.sum(0)


@dataclass
class SolveResult:
    """The answer of `solve`, sample by sample.

    `z` is, per sample, the iterate with the smallest relative residual at which f was evaluated
    (the one that met the tolerance, where one did); its residual is in `history`.
    """

    z: Any  # as z0: tensor, array, tuple or dict, (B, ...)
    status: Tensor  # (B,) int8 of Status
    num_evals: int  # calls of f, each on the whole batch; = len(history)
    sample_evals: Tensor  # (B,) evaluations until each sample stopped
    relative_residual: Tensor  # (B,) of z
    history: History
    diagnostics: dict[str, int]  # counts of restarts, fallbacks, drops over all samples
    error_estimate: Tensor  # (B,) of ||z - z*||: see `solve`
    card: RunCard
    notes: tuple[str, ...] = ()  # what the method decided and why, in sentences

    @property
    def converged(self) -> Tensor:  # (B,) bool
        """Whether each sample met the tolerance."""
        return self.status == int(Status.CONVERGED)

    @property
    def seconds(self) -> float:
        """Map and method time of the whole solve, by the history's clock."""
        return float(self.history.map_seconds.sum() + self.history.method_seconds.nansum())

    def to_frame(self) -> pd.DataFrame:
        """The history as a tidy pandas frame, one row per evaluation and sample."""
        return self.history.to_frame()

    def save(self, path: str | Path) -> None:
        """Write everything, run card included, to one file; `load` reads it back."""
        record = {name: getattr(self, name) for name in _SAVED}
        record |= {"z": _tensors(self.z), "numpy": _holds_numpy(self.z)}
        record |= {"history": dict(vars(self.history)), "card": self.card.to_json()}
        torch.save(record, path)

    @classmethod
    def load(cls, path: str | Path) -> SolveResult:
        """Read what `save` wrote; the file holds tensors and text, and no code is run."""
        from andersonn_core.runcard import RunCard

        record = torch.load(path, weights_only=True)
        z = _arrays(record["z"]) if record["numpy"] else record["z"]
        history, card = History(**record["history"]), RunCard.from_json(record["card"])
        return cls(z=z, history=history, card=card, **{name: record[name] for name in _SAVED})

    def check(self) -> SolveResult:
        """Return self if every sample converged; otherwise raise NotConvergedError with advice."""
        if not bool(self.converged.all()):
            raise NotConvergedError(_verdict(self))
        return self


_SAVED = (
    "status",
    "num_evals",
    "sample_evals",
    "relative_residual",
    "diagnostics",
    "error_estimate",
    "notes",
)


def _map_leaves(change: Callable[[Any], Any], state: Any) -> Any:
    if isinstance(state, dict):
        return {key: change(leaf) for key, leaf in state.items()}
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)


def _tensors(state: Any) -> Any:
    return _map_leaves(torch.as_tensor, state)


def _arrays(state: Any) -> Any:
    return _map_leaves(lambda leaf: leaf.numpy(), state)


def _holds_numpy(state: Any) -> bool:
    leaves = state.values() if isinstance(state, dict) else state
    leaf = next(iter(leaves)) if isinstance(state, dict | tuple) else state
    return isinstance(leaf, np.ndarray)


class NotConvergedError(RuntimeError):
    """Some samples did not converge; the message says how many, why, and what to move."""


def _verdict(result: SolveResult) -> str:
    counts = [(status, int((result.status == int(status)).sum())) for status in Status]
    worst = float(result.relative_residual.max())
    head = f"{int(result.converged.sum())} of {result.status.numel()} samples converged in "
    head += f"{result.num_evals} evaluations; the largest relative residual is {worst:.3g}."
    lines = [
        f"{n} x {status.name}: {status.advice}"
        for status, n in counts
        if n and status != Status.CONVERGED
    ]
    return "\n".join([head, *lines])
