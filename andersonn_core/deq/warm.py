"""Starting a solve where the last one ended, as long as that is measured to help."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from andersonn_core.layout import StateLayout
from andersonn_core.results import SolveResult

COLD, MEAN, PLACE = "the cell's own start", "the mean of the last states", "the last states"
ROUNDS = 3  # calls with each start before one is preferred
AGAIN = 25  # calls after which the others are looked at once more
MEMORY = 0.2  # weight of the newest count in an average
LEAST = 0.98  # a start that does not save two percent is not worth its memory


class WarmStart:
    """Chooses between the cell's own start, the mean of the last equilibria, and themselves.

    The last equilibria in their places help where a batch comes again, their mean where samples
    are drawn anew. Evaluations are averaged for each start, which is used in turn at first and now
    and then later; where neither saves evaluations, the cell's own start stays in use.
    """

    def __init__(self) -> None:
        self.evals: dict[str, float] = {}
        self.calls = dict.fromkeys((COLD, MEAN, PLACE), 0)
        self.used = COLD
        self.states: Tensor | None = None  # (B, n) the last equilibria

    @property
    def note(self) -> str:
        """What was measured and what is in use, in one sentence."""
        counts = ", ".join(f"{start}: {count:.1f}" for start, count in self.evals.items())
        return f"Starts from {self._best()}; evaluations a solve from {counts or 'nothing yet'}."

    def start(self, layout: StateLayout, cold: Any) -> Any:
        """Where to start now, in the structure of the cell's own start."""
        self.used = self._choose(layout)
        if self.used == COLD or self.states is None:
            return cold
        if self.used == PLACE:
            return layout.unpack(self.states)
        mean = self.states.mean(0, keepdim=True)
        return layout.unpack(mean.expand(layout.batch, -1).contiguous())

    def learn(self, layout: StateLayout, answer: Tensor, result: SolveResult) -> None:  # (B, n)
        """Take what the solve from `start` found and cost."""
        self.calls[self.used] += 1
        before = self.evals.get(self.used, float(result.num_evals))
        self.evals[self.used] = before + MEMORY * (result.num_evals - before)
        if len(answer) and bool(torch.isfinite(answer).all()):
            self.states = answer.clone()

    def _choose(self, layout: StateLayout) -> str:
        if self.states is None or self.states.shape[1] != layout.elements:
            return COLD
        if (self.states.dtype, self.states.device) != (layout.dtype, layout.device):
            return COLD
        possible = [COLD, MEAN] + [PLACE] * (len(self.states) == layout.batch)
        rarest = min(possible, key=lambda start: self.calls[start])
        if self.calls[rarest] < ROUNDS or sum(self.calls.values()) % AGAIN == 0:
            return rarest
        return self._best(possible)

    def _best(self, possible: list[str] | None = None) -> str:
        known = {
            start: self.evals[start] for start in possible or self.evals if start in self.evals
        }
        if not known:
            return COLD
        best = min(known, key=lambda start: known[start])
        return best if known[best] < LEAST * known.get(COLD, float("inf")) else COLD
