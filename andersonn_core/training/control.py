"""What another thread may do to a training: change knobs, pause, go on, stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from andersonn_core.deq import EquilibriumKnobs
from andersonn_core.specs import KnobError

if TYPE_CHECKING:
    from andersonn_core.training.spec import TrainSpec

LIVE = (*EquilibriumKnobs.model_fields, "batch_size", "learning_rate", "penalty", "spectrum")
SHORT = {"window": "method.window", "mixing": "method.mixing"}


class Control:
    """The handle of one training; every method may be called from any thread, at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._going_on = threading.Event()
        self._going_on.set()
        self._stop = threading.Event()
        self._spec: TrainSpec | None = None
        self._pending: dict[str, Any] = {}

    def change(self, **knobs: Any) -> None:
        """Change knobs from the next batch on: `window`, `mixing`, `batch_size`, `method`, ...

        Dotted names reach in: ``**{"method.window": 3}``. Raises KnobError, and changes nothing,
        for a value out of range or a knob that only a new training can have.
        """
        changes = {SHORT.get(name, name): value for name, value in knobs.items()}
        for name in changes:
            if name.partition(".")[0] not in LIVE:
                raise KnobError(
                    f"{name} cannot change while a training runs: it must be one of "
                    f"{', '.join([*SHORT, *LIVE])}. Start a new training for it."
                )
        with self._lock:
            if self._spec is not None:
                self._spec = self._spec.replace(**changes)
            self._pending |= changes

    def pause(self) -> None:
        """Wait before the next batch until `resume`."""
        self._going_on.clear()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._going_on.set()

    def stop(self) -> None:
        """End within one evaluation of the cell, a checkpoint left where there is a folder."""
        self._stop.set()
        self._going_on.set()

    @property
    def paused(self) -> bool:
        """Whether the training waits, or will before its next batch."""
        return not self._going_on.is_set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    # -- the training's side ----------------------------------------------------------------------

    def bind(self, spec: TrainSpec) -> None:
        """Judge changes by this spec from now on; raises KnobError for those made before."""
        with self._lock:
            self._spec = spec.replace(**self._pending)

    def take(self) -> tuple[TrainSpec, dict[str, Any]]:
        """The spec as it is now, and the changes since the last call."""
        with self._lock:
            assert self._spec is not None
            changes, self._pending = self._pending, {}
            return self._spec, changes

    def wait(self, should_stop: Callable[[], bool]) -> None:
        """Return once the training may go on, or is to stop."""
        while not should_stop() and not self._going_on.wait(0.05):
            pass
