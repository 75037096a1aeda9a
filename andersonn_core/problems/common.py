"""What the families share: seeded numbers that do not depend on the batch, and the memory check."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from andersonn_core.memory import check_fits
from andersonn_core.problems.base import ProblemSpec

GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, modulo 1, spread evenly however many
ALIGNED = 32  # elements of any type that fill whole cache lines
STATE_VECTORS = 24  # a solve with window 5, its history and z_star in float64 fit into so many


def uniform(seed: int, *shape: int) -> Tensor:
    """Numbers in [0, 1), float64; those of sample b are the same whatever the batch size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers, float64; torch.randn would change a sample with the batch size."""
    tiny = torch.finfo(torch.float64).tiny  # ndtri(0) is infinite
    numbers: Tensor = torch.special.ndtri(uniform(seed, *shape).clamp_min(tiny))
    return numbers


def multiply_rows(z: Tensor, matrix: Tensor) -> Tensor:  # (B, n), (m, m) -> (B, n)
    """Each row times the matrix of `pad_matrix`, by a sum whose order no other row influences.

    z @ matrix picks its kernel by the number of rows, and a kernel sums by its rows' alignment: the
    last bits of a row would change when others are taken away. This costs 1 to 4 times as much.
    """
    num, length = z.shape
    padded = torch.nn.functional.pad(z, (0, matrix.shape[0] - length))
    return torch.bmm(padded[:, None], matrix.expand(num, -1, -1))[:, 0, :length]


def pad_matrix(matrix: Tensor) -> Tensor:  # (n, n) -> (m, m)
    """The matrix with zeros up to the next multiple of ALIGNED in both directions."""
    missing = -matrix.shape[0] % ALIGNED
    return torch.nn.functional.pad(matrix, (0, missing, 0, missing))


def refuse_oversize(spec: ProblemSpec, constants: int = 0) -> None:
    """Raise KnobError if the states of a solve and `constants` further elements would not fit."""
    elements = STATE_VECTORS * spec.batch_size * spec.num_elements + constants
    size = getattr(spec, "size", None)
    knobs = f"batch_size = {spec.batch_size}" + ("" if size is None else f" and size = {size}")
    what = f"{spec.name} with {knobs}"
    check_fits(elements * spec.torch_dtype.itemsize, spec.torch_device, what)
