"""A few steps, f included, captured as one CUDA graph: launched by one call, not by dozens.

CUDA captures what is launched, with its addresses, without doing it; Python runs only then. What a
replay does is therefore the same work on the same memory, whatever f's own code would decide now.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

Work = Callable[[], None]
WARM_UP = 2  # evaluations before: libraries set themselves up in their first calls


def record(work: Work) -> Work:
    """The work as a CUDA graph, to be replayed; raises where it can't be one."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    replay: Work = graph.replay
    return replay


class Graph:
    """Captures the work when it is first to be replayed; where that fails, `note` says why."""

    def __init__(
        self, work: Work, evaluations: int, capture: Callable[[Work], Work] | None = None
    ) -> None:
        self.evaluations = evaluations
        self.note = ""
        self._work, self._capture = work, capture or record
        self._replay: Work | None = None

    def replay(self, evaluation: int, most: int) -> Work | None:
        """What does this evaluation and those after it, of `most` in all; None: nothing does."""
        begins = evaluation > WARM_UP and (evaluation - 1) % self.evaluations == 0
        if not begins or evaluation + self.evaluations - 1 > most:
            return None
        if not self.note:
            self._try()
        return self._replay

    def _try(self) -> None:
        handled = sys.exception()  # of whoever called: none of ours
        try:
            self._replay = self._capture(self._work)
        except Exception as error:  # of f, of a library, of CUDA: launched by itself f may do
            self.note = (
                f"not captured, every step was launched by itself: {_reason(error, handled)}"
            )
        else:
            self.note = f"captured: {self.evaluations} evaluations with their steps in one graph"


def _reason(error: BaseException, handled: BaseException | None) -> str:
    """The first error of a chain: those after it are about the capture that it broke."""
    while error.__context__ not in (None, handled):
        assert error.__context__ is not None
        error = error.__context__
    return f"{type(error).__name__}: {error}".splitlines()[0]
