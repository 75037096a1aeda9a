"""Compile every loop ahead: `python -m andersonn_core.kernels`, with which `make` ends."""

import torch

from andersonn_core.kernels import rows_for
from andersonn_core.least_squares import ResidualGram, ScaledGram

for dtype in (torch.float32, torch.float64):
    rows_for(torch.zeros(1, 1, dtype=dtype))
ScaledGram.of(1, 1, 0.0, 1.0)
ResidualGram.of(1, 1, 0.0, 1.0)
