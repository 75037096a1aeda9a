"""The knobs of the page: which there are, which apply to a problem, which devices there are."""

from __future__ import annotations

from functools import cache

import torch

from andersonn_core import PROBLEMS, Anderson
from andersonn_core.driver import SolveKnobs
from andersonn_core.specs import Knob

# the page draws the parts of the method's time: it asks for them, and a captured step has none
FIXED = {"profile": True, "capture": False}


def devices() -> list[str]:
    """The devices of this machine, as the knob `device` names them."""
    found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


@cache
def knobs_of(problem: str) -> dict[str, Knob]:
    """All knobs that apply to a problem: its own, Anderson's and the driver's."""
    own = PROBLEMS[problem]
    knobs = own.knobs() | Anderson.knobs() | SolveKnobs.knobs()
    left_out = FIXED.keys() | own.unused
    return {name: knob for name, knob in knobs.items() if name not in left_out}


def _all_knobs() -> dict[str, Knob]:
    """Every knob of the page; of those that several problems declare, the first declaration."""
    merged: dict[str, Knob] = {}
    for spec in (*PROBLEMS.values(), Anderson, SolveKnobs):
        merged = spec.knobs() | merged
    order = [name for spec in (*PROBLEMS.values(), Anderson, SolveKnobs) for name in spec.knobs()]
    return {name: merged[name] for name in dict.fromkeys(order) if name not in FIXED}


KNOBS = _all_knobs()
