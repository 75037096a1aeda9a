"""Anderson's method for one sample as the definitions state it: NumPy, dense least squares.

It shares nothing with ours. Each argument after `mixing` is one switch, as a function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def everything(dg: Floats) -> list[int]:
    return list(range(dg.shape[1]))


@dataclass
class Look:
    """What a switch may look at."""

    evaluation: int = 0  # 1, 2, ...
    norm: float = np.nan  # ||g||
    growth: float = np.nan
    gain: float = 1.0  # of the last step, then of this one
    depth: int = 0
    stored: int = 0
    best_mixing: float = np.nan  # in the last step


@dataclass
class Plain:
    """The iterates z_0, z_1, ... and how many differences each step used."""

    points: list[Floats] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    mixings: list[float] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)  # evaluations


def plain_anderson(
    f: Callable[[Floats], Floats],
    z0: Floats,  # (n,)
    window: int,
    restart: str,
    mixing: float,
    num_evals: int,
    *,
    take: Callable[[Floats], list[int]] = everything,  # of the columns dG, oldest first
    limit: Callable[[Look], int] | None = None,
    mix: Callable[[Look], float] | None = None,
    skip: Callable[[Look], bool] = lambda look: False,
    max_growth: float = np.inf,
    max_weights: float = np.inf,
) -> Plain:
    """`num_evals` evaluations of f."""
    window = min(window, len(z0))
    made, look = Plain(), Look()
    z, differences, used_up = np.array(z0), [], False
    previous, bold, left, beta = None, False, None, mixing
    for evaluation in range(1, num_evals + 1):
        made.points.append(z)
        g = f(z) - z
        norm = float(np.linalg.norm(g))
        look.evaluation, look.growth, look.norm = evaluation, norm / look.norm, norm
        look.stored = len(differences)
        if left is not None and (left - g).any():
            look.best_mixing = beta * float(left @ (left - g)) / float((left - g) @ (left - g))
        most = window if limit is None else limit(look)
        refused = bold and look.growth > max_growth
        if previous is not None and window:
            if restart == "full" and used_up:
                differences, used_up = [], False
            differences = [*differences, (z - previous[0], g - previous[1])][-window:]
        if refused:
            made.rejected.append(evaluation)
            z_next, differences, taken = previous[0] + mixing * previous[1], [], []
            previous, bold = None, False  # nor is the difference from the refused point kept
            gamma = np.zeros(0)
        else:
            dz, dg = _columns(differences, z)
            first = max(len(differences) - most, 0)
            taken = [first + column for column in take(dg[:, first:])]
            gamma = np.linalg.lstsq(dg[:, taken], g, rcond=None)[0]
            used_up = used_up or len(differences) >= most
            if np.abs(gamma).sum() > max_weights:
                made.rejected.append(evaluation)
                differences, used_up, taken, gamma = [], False, [], np.zeros(0)
            if skip(look):
                taken, gamma = [], np.zeros(0)
            left = g - dg[:, taken] @ gamma
            look.gain, look.depth = float(np.linalg.norm(left)) / norm, len(taken)
            beta = mixing if mix is None else mix(look)
            z_next = z - dz[:, taken] @ gamma + beta * left
            previous, bold = (z, g), bool(taken)
        made.depths.append(len(taken))
        made.mixings.append(beta)
        z = z_next
    return made


def _columns(differences: list[tuple[Floats, Floats]], z: Floats) -> tuple[Floats, Floats]:
    if not differences:
        return np.zeros((len(z), 0)), np.zeros((len(z), 0))
    dz, dg = (np.stack(rows, axis=1) for rows in zip(*differences, strict=True))
    return dz, dg


def as_numpy_map(f, shape=(-1,)):
    """A batched map for one sample, as NumPy sees it: flat."""
    return lambda z: f(torch.from_numpy(z).reshape(1, *shape)).numpy().flatten()
