"""What a run looked like on its way: predictions and states by evaluation, within a budget."""

from __future__ import annotations

import bisect
import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from andersonn_core.driver import Step
from andersonn_core.problems import Problem
from andersonn_core.solve import LAUNCHED_AHEAD

BUDGET = 16 * 2**20  # bytes of one run's frames; when they are used up, every second frame goes
MOST_STATE = 2**20  # bytes of one frame's states; of larger batches only the first samples are kept


class Frames:
    """Frames of a run for playback: all evaluations of a short one, evenly thinned of a long one.

    Where a problem has predictions, they are kept for every sample; where it has a picture or a
    known spectrum, the states of the first `samples` samples are. A solve that is launched ahead
    (on a GPU) would have to wait for each of them: it has none.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._lock, self._stride, self._bytes = problem, threading.Lock(), 1, 0
        self._frames: list[tuple[int, NDArray[Any] | None, NDArray[Any] | None]] = []
        z0 = problem.z0
        # a visitor's own state may be anything, but has nothing that could be shown
        apart = isinstance(z0, Tensor) and z0.device.type in LAUNCHED_AHEAD
        self._predict = None if apart else problem.predict
        shown = not apart and (problem.picture is not None or problem.spectrum is not None)
        sample = z0[:1].nbytes if shown and len(z0) else 1
        self.samples = min(len(z0), max(1, MOST_STATE // sample)) if shown else 0

    @property
    def evaluations(self) -> list[int]:
        """The evaluations that have a frame, in order."""
        with self._lock:
            return [frame[0] for frame in self._frames]

    @property
    def nbytes(self) -> int:
        """The memory that the frames take."""
        return self._bytes

    def add(self, step: Step) -> None:
        """Keep this evaluation's frame if it is due."""
        predict = self._predict
        if (step.evaluation - 1) % self._stride or not (self.samples or predict):
            return
        z = step.z()
        state = _array(z[: self.samples]).copy() if self.samples else None
        chances = None if predict is None else _array(predict(z)).astype(np.float16)
        with self._lock:
            self._frames.append((step.evaluation, state, chances))
            self._bytes += sum(part.nbytes for part in (state, chances) if part is not None)
            while self._bytes > BUDGET and len(self._frames) > 1:
                self._thin()

    def _thin(self) -> None:
        self._stride *= 2
        self._frames = [frame for frame in self._frames if (frame[0] - 1) % self._stride == 0]
        parts = [part for frame in self._frames for part in frame[1:] if part is not None]
        self._bytes = sum(part.nbytes for part in parts)

    def _at(self, evaluation: int) -> tuple[int, NDArray[Any] | None, NDArray[Any] | None] | None:
        """The latest frame at or before an evaluation."""
        with self._lock:
            index = bisect.bisect_right(self._frames, evaluation, key=lambda frame: frame[0])
            return self._frames[index - 1] if index else None

    def prediction(self, evaluation: int) -> NDArray[np.float16] | None:  # (B, classes)
        """The probability of each class at an evaluation, if the problem predicts."""
        frame = self._at(evaluation)
        return None if frame is None else frame[2]

    def state(self, evaluation: int) -> NDArray[Any] | None:  # (samples, ...)
        """The states of the first samples at an evaluation, if they are kept."""
        frame = self._at(evaluation)
        return None if frame is None else frame[1]

    def picture(self, evaluation: int, sample: int = 0) -> NDArray[Any] | None:  # (height, width)
        """What one sample's state shows at an evaluation, if the problem has a picture."""
        state, draw = self.state(evaluation), self._problem.picture
        if state is None or draw is None or not 0 <= sample < self.samples:
            return None
        z = self._problem.z0.clone()  # a picture may need the whole batch: others show their start
        z[: self.samples] = torch.from_numpy(state).to(z)
        with torch.no_grad():
            return _array(draw(z)[sample])


def _array(values: Tensor) -> NDArray[Any]:
    """A NumPy array; bfloat16, which NumPy lacks, as float32."""
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
