"""Many points or lines as one small image, by datashader; it is imported when it is needed.

Importing datashader and compiling what is used of it takes about ten seconds, once in a process,
so that `prepare` does it in a thread while the page shows what needs none of it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lab.sweeps.trials import Floats

Pixels = NDArray[np.float64]

MANY = 20_000  # points from which on a browser is better sent a picture of them
POINT_PIXELS = (330, 170)  # each about two pixels wide on the screen, so that one point is seen
LINE_PIXELS = (640, 220)


def _canvas(pixels: tuple[int, int], box: tuple[float, float, float, float]) -> Any:
    import datashader

    left, right, bottom, top = box
    return datashader.Canvas(*pixels, x_range=(left, right), y_range=(bottom, top))


def points(
    x: Floats, y: Floats, box: tuple[float, float, float, float]
) -> NDArray[np.uint32]:  # (n,), (n,) -> (height, width)
    """How many points lie in each pixel of a box (left, right, bottom, top); row 0 is lowest."""
    import datashader

    frame = pd.DataFrame({"x": x, "y": y}, copy=False)
    found = _canvas(POINT_PIXELS, box).points(frame, "x", "y", datashader.count())
    return np.asarray(found.to_numpy(), np.uint32)


class Segments(NamedTuple):
    """Straight pieces of lines (k): their ends, how many lines share each, and a mean value."""

    x0: Floats
    y0: Floats
    x1: Floats
    y1: Floats
    weight: Floats
    value: Floats


class Lines(NamedTuple):
    """Lines in the pixels (height, width); row 0 is lowest."""

    weight: Pixels  # how many of them, 0 where there is none
    mean: Pixels  # of their values, NaN where there is none
    lost: Pixels  # how many lines of trials that did not converge
    status: Pixels  # the last of their statuses


def lines(
    reached: Segments, lost: Sequence[tuple[Segments, int]], box: tuple[float, float, float, float]
) -> Lines:
    """Lines of trials that converged, and of others by their status, in the pixels of a box."""
    import datashader

    table = _table([(reached, 0), *lost])
    names = ("weight", "product", "lost")
    wanted = datashader.summary(
        **{name: datashader.sum(name) for name in names}, status=datashader.max("status")
    )
    found = _canvas(LINE_PIXELS, box).line(table, ["x0", "x1"], ["y0", "y1"], agg=wanted, axis=1)
    weight, product, others = (np.nan_to_num(found[name].to_numpy()) for name in names)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = product / weight
    return Lines(weight, mean, others, found["status"].to_numpy())


def _table(parts: Sequence[tuple[Segments, int]]) -> pd.DataFrame:
    """All segments as datashader takes them.

    Each column is an array of its own, always: numba compiles anew for another memory layout.
    """
    joined = Segments(*(np.concatenate(each) for each in zip(*(p for p, _ in parts), strict=True)))
    status = np.concatenate([np.full(len(p.x0), float(status)) for p, status in parts])
    converged = np.where(status == 0, joined.weight, 0.0)
    columns = joined._asdict() | {
        "weight": converged, "product": converged * joined.value,
        "lost": joined.weight - converged, "status": status,
    }  # fmt: skip
    return pd.DataFrame(columns, copy=False)


class _Compiler:
    """Compiles once in a process, and calls whoever waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self.ready = False

    def __call__(self, then: Callable[[], None] | None = None) -> bool:
        """Begin, if nobody has; whether all is ready. If it is not, `then` is called when it is."""
        with self._lock:
            if self.ready:
                return True
            if then is not None:
                self._waiting.append(then)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="datashader", daemon=True)
                self._thread.start()
            return False

    def wait(self) -> None:
        """Begin, if nobody has, and return when all is ready."""
        if not self() and self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        _compile()
        with self._lock:
            self.ready, waiting = True, self._waiting
            self._waiting = []
        for then in waiting:
            then()


@functools.cache
def _compile() -> None:
    """Draw one point and one line: numba compiles them for these types."""
    box = (0.0, 1.0, 0.0, 1.0)
    points(np.array([0.5]), np.array([0.5]), box)
    zero, one = np.zeros(1), np.ones(1)
    lines(Segments(zero, zero, one, one, one, one), (), box)


prepare = _Compiler()
