"""Window and mixing that change from step to step, by a rule or by the user's own callbacks.

A rule sees what the steps saw (`Sight`). The window's rule is asked before the least-squares
problem is solved, so that its weights and gain are those of the step before; the mixing's rule is
asked after it, about this step. (The order in which SUNDIALS' KINSOL asks its depth and damping
functions.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

from andersonn_core.arrays import Counts, Floats
from andersonn_core.least_squares import Weights

if TYPE_CHECKING:
    from andersonn_core.methods.windowed import WindowState


@dataclass(frozen=True)
class Sight:
    """What a rule for window or mixing sees; B samples, m slots of the window."""

    evaluation: int  # 1, 2, ...
    samples: Counts  # (B,) of those that still run: their places in the whole batch
    residual: Floats  # (B,) ||g||
    relative_residual: Floats  # (B,)
    growth: Floats  # (B,) ||g|| over that of the evaluation before; infinite sizes give NaN
    stored: Counts  # (B,) differences since the last restart
    window: Counts  # (B,) the most that a step may use
    depth: Counts  # (B,) differences that the step used
    gain: Floats  # (B,) the least-squares residual over ||g||: what the step promised; 1: plain
    gamma: Floats  # (B, m) its weights, the newest difference's first
    mixing: Floats  # (B,) its weight on f(z); asked for the mixing: of the step before
    # (B,) the mixing with which the step before would have led to the smallest residual, if the map
    # is affine; NaN where that is not known
    best_mixing: Floats

    @property
    def weight_norm(self) -> Floats:  # (B,)
        """||gamma||_1."""
        total: Floats = np.abs(self.gamma).sum(1)
        return total


class Rule(Protocol):
    """Answers a sight with one value per sample."""

    def __call__(self, sight: Sight) -> Any:  # (B,)
        """The window, the mixing, or who takes a plain step."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What was decided and why."""
        ...

    def select(self, places: Counts) -> Rule:  # (A,)
        """The rule for some samples."""
        ...


@dataclass
class Steering:
    """The rules of one solve, and what they see."""

    sight: Sight
    base: float  # the mixing with which the window's plain steps are stored
    rules: Mapping[str, Rule]  # by what they decide: window, mixing, or plain: who steps so
    left: Tensor | None = field(default=None, repr=False)  # (B, n) g - dG^T gamma of the last step
    left_square: Floats | None = None  # (B,)

    @classmethod
    def of(cls, batch: int, slots: int, mixing: float, rules: Mapping[str, Rule]) -> Steering:
        """Nothing seen yet."""
        one, none, unknown = np.ones(batch), np.zeros(batch, np.int64), np.full(batch, np.nan)
        sight = Sight(
            0, np.arange(batch), unknown, unknown, unknown,
            stored=none, window=np.full(batch, slots), depth=none, gain=one,
            gamma=np.zeros((batch, slots)), mixing=mixing * one, best_mixing=unknown,
        )  # fmt: skip
        return cls(sight, mixing, rules)

    def begin(self, state: WindowState) -> None:
        """Before the newest difference is stored: how many may be used."""
        assert state.norms is not None
        norm = state.norms[0]
        self.sight = replace(
            self.sight,
            evaluation=state.evaluation + 1,
            residual=norm,
            relative_residual=state.progress.scores[-1],
            growth=norm / state.last_norm,
            stored=state.count.copy(),
            best_mixing=self._best_mixing(state, norm),
        )
        if "window" in self.rules:
            state.limit = np.asarray(self.rules["window"](self.sight), np.int64)
            self.sight = replace(self.sight, window=state.limit)

    def weigh(self, state: WindowState, weights: Weights | None) -> None:
        """After the weights are known: who takes a plain step all the same."""
        if weights is not None and "plain" in self.rules:
            state.go_plain(weights, np.asarray(self.rules["plain"](self.sight), np.bool_))
        self._see(state, weights)

    def mix(self, state: WindowState, z_next: Tensor, weights: Weights | None) -> None:  # (B, n)
        """In place: the step's own mixing instead of the one that the window was stored with."""
        if "mixing" not in self.rules:
            return
        mixing = np.asarray(self.rules["mixing"](self.sight), np.float64)
        self.sight = replace(self.sight, mixing=mixing)
        state.mixing = mixing
        gamma = None if weights is None else weights.gamma
        self.left = state.g.clone() if gamma is None else state.window.predict(state.g, gamma)
        self.left_square = state.rows.squares(self.left)
        change = z_next.new_tensor(mixing - self.base)[:, None]
        z_next.addcmul_(self.left, change)

    def _see(self, state: WindowState, weights: Weights | None) -> None:
        assert state.norms is not None
        batch = len(self.sight.gain)
        if weights is None:
            gain, gamma = np.ones(batch), np.zeros_like(self.sight.gamma)
            depth = np.zeros(batch, np.int64)
        else:
            gain = weights.gain(state.norms[0])
            order = np.argsort(-state.window.stored, kind="stable")
            gamma = (weights.gamma * weights.used)[:, order][:, : self.sight.gamma.shape[1]]
            depth = weights.used.sum(1)
        self.sight = replace(self.sight, gain=gain, gamma=gamma, depth=depth)

    def _best_mixing(self, state: WindowState, norm: Floats) -> Floats:  # (B,) -> (B,)
        """Of g' = r - mixing (I - J) r, affine in the mixing, the shortest.

        With w = r - g' = mixing (I - J) r known after the step, it is mixing <r, w> / <w, w>.
        """
        if self.left is None or self.left_square is None:
            return np.full(len(norm), np.nan)
        inner = state.rows.inner(self.left, state.g)
        along = self.left_square - inner
        length = self.left_square - 2 * inner + norm**2
        best: Floats = np.where(length > 0, self.sight.mixing * along / length, np.nan)
        return best

    def notes(self) -> tuple[str, ...]:
        """What the rules decided."""
        return tuple(note for rule in self.rules.values() for note in rule.notes())

    def select(self, indices: Tensor) -> Steering:  # (A,)
        """The rules for some samples."""
        places: Counts = indices.cpu().numpy()
        sight = Sight(
            self.sight.evaluation,
            *(values[places] for name, values in vars(self.sight).items() if name != "evaluation"),
        )
        rules = {name: rule.select(places) for name, rule in self.rules.items()}
        left = None if self.left is None else self.left[indices]
        square = None if self.left_square is None else self.left_square[places]
        return Steering(sight, self.base, rules, left, square)
