"""Anderson whose window and mixing are chosen by the user's own callbacks, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import PrivateAttr

from andersonn_core.arrays import Counts
from andersonn_core.methods.anderson import Anderson
from andersonn_core.methods.steering import Rule, Sight

Callback = Callable[[Sight], ArrayLike]


@dataclass(frozen=True)
class Asked:
    """A callback as a rule: its answer is checked at every step."""

    callback: Callback
    what: str  # "window" or "mixing"
    least: float
    most: float

    def __call__(self, sight: Sight) -> NDArray[Any]:  # (B,)
        """One number for all samples, or one each; raises ValueError for anything else."""
        answer = np.asarray(self.callback(sight))
        batch = len(sight.residual)
        whole = np.issubdtype(answer.dtype, np.integer) or self.what == "mixing"
        fine = whole and answer.shape in ((), (batch,)) and answer.dtype.kind in "iuf"
        if not fine or not ((answer >= self.least) & (answer <= self.most)).all():
            kind = "integer" if self.what == "window" else "number"
            raise ValueError(
                f"the {self.what} callback {name_of(self.callback)} returned {answer!r} at "
                f"evaluation {sight.evaluation}: give one {kind} from {self.least:g} to "
                f"{self.most:g}, or one for each of the {batch} samples."
            )
        return np.broadcast_to(answer, batch).copy()

    def notes(self) -> tuple[str, ...]:
        """Only the user knows why."""
        return ()

    def select(self, places: Counts) -> Asked:  # (A,)
        """The same: `Sight.samples` says who is asked about."""
        return self


class SteeredAnderson(Anderson):
    """What `Anderson.steered` returns; it can be solved with, not stored and rerun."""

    label: ClassVar[str] = "Anderson, steered"

    _callbacks: Mapping[str, Callback] = PrivateAttr(default_factory=dict)

    def with_callbacks(self, callbacks: Mapping[str, Callback]) -> Self:
        """A copy that asks these, by what they decide."""
        copy = type(self)(**dict(self))
        copy._callbacks = dict(callbacks)
        return copy

    def replace(self, **changes: Any) -> Self:
        """A copy with some knobs changed and the same callbacks."""
        return super().replace(**changes).with_callbacks(self._callbacks)

    def to_dict(self) -> dict[str, Any]:
        """The knobs, and the callbacks' names, with which no spec can be made again."""
        return super().to_dict() | {"steered_by": self._names()}

    def _identity(self) -> dict[str, Any]:
        return super()._identity() | {"steered_by": self._names()}

    def _names(self) -> dict[str, str]:
        return {what: name_of(callback) for what, callback in self._callbacks.items()}

    def _rules(self, batch: int, slots: int) -> dict[str, Rule]:
        ranges = {"window": (0.0, float(slots)), "mixing": (np.finfo(float).tiny, 2.0)}
        asked: dict[str, Rule] = {
            what: Asked(callback, what, *ranges[what]) for what, callback in self._callbacks.items()
        }
        return super()._rules(batch, slots) | asked


def name_of(callback: Callback) -> str:
    """Where a callback was defined."""
    kind = type(callback)
    return f"{getattr(callback, '__module__', kind.__module__)}." + getattr(
        callback, "__qualname__", kind.__qualname__
    )
