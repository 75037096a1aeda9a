"""Small trained weights inside the package, with the scripts that made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from andersonn_core.models import DIGITS, EquilibriumNetwork

TRAINING_SEEDS = (0, 1, 2, 3, 4)
FOLDER = Path(__file__).parent


def digits_path(training_seed: int, suffix: str = ".npz") -> Path:
    """Return the file of one training's weights (".npz") or of its card (".json")."""
    return FOLDER / f"digits_deq_seed{training_seed}{suffix}"


def load_digits_weights(training_seed: int) -> dict[str, Tensor]:
    """Return the state dict of a trained digits network, float32 on the CPU."""
    if training_seed not in TRAINING_SEEDS:
        raise ValueError(f"training_seed must be one of {TRAINING_SEEDS}, got {training_seed!r}")
    with np.load(digits_path(training_seed), allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def load_digits_network(training_seed: int) -> EquilibriumNetwork:
    """Return a trained network in eval mode whose parameters need no gradient."""
    network = EquilibriumNetwork(DIGITS).float()  # whatever torch's default type is
    network.load_state_dict(load_digits_weights(training_seed))
    return network.eval().requires_grad_(False)


def load_digits_card(training_seed: int) -> dict[str, Any]:
    """Return what the training recorded: accuracy, settings, counts, version, date."""
    card: dict[str, Any] = json.loads(digits_path(training_seed, ".json").read_text())
    return card


__all__ = [
    "TRAINING_SEEDS",
    "digits_path",
    "load_digits_card",
    "load_digits_network",
    "load_digits_weights",
]
