"""Small sweeps for the tests: quick maps, some of which fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from andersonn_core import PROBLEMS, Anderson, SolveSpec, Sweep

QUICK = SolveSpec(problem=PROBLEMS["tanh"](size=16), method=Anderson(), rtol=1e-6, max_iter=100)
AXES = {"method.window": range(1, 6), "method.mixing": [0.5, 1.0], "problem.batch_size": [1, 4]}
# What a machine's speed decides, and where a row happens to lie.
UNEQUAL = ["seconds", "date", "row"]


def quick_sweep(**changes: Any) -> Sweep:
    """40 trials of a millisecond each."""
    return Sweep(QUICK, **{"axes": AXES, "seeds": range(2)} | changes)


def numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """What must be the same wherever a sweep runs."""
    return frame.drop(columns=UNEQUAL).astype({"code": str, "device": str})


def quietly(sweep: Sweep, store: Path | None = None, executor: Any = "serial", **more: Any):
    """Run without a bar."""
    return sweep.run(executor, store, progress=False, **more)
