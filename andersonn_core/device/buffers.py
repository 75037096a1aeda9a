"""What an Anderson step keeps on the device: rings, small matrices, counts, statuses, records.

The host reads nothing of it. All samples that run store at the same evaluation: in the same slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from andersonn_core.results import RUNNING

# The rows of `Records.numbers`, in this order.
NUMBERS = (
    "relative_residual",
    "residual",
    "gain",
    "weight_norm",
    "condition",
    "depth",
)
SQUARES = 5  # numbers that `advance` leaves beside the products
# The numbers of `DeviceState.knobs`, in this order.
KNOBS = ("mixing", "ridge", "precision", "rtol", "atol", "divergence")


@dataclass(frozen=True)
class Rules:
    """What is fixed for a solve; the stop tests are `Referee`'s, without the one for a stall."""

    window: int  # m, at most the elements of a sample; 0: forward iteration
    ridge: float  # added to the Gram matrix of unit diagonal
    precision: float  # a squared pivot below it is a failure
    rtol: float
    max_iter: int
    mixing: float = 1.0
    sliding: bool = False  # no restart when the window is full
    atol: float = 0.0
    divergence: float = float("inf")  # a residual so many times the first ends a sample
    kept: int = 0  # slow directions that a restart keeps, fewer than m; 0: the newest difference

    @property
    def empties(self) -> bool:
        """Whether a window that was used in full is emptied."""
        return not (self.sliding or self.kept)


@dataclass
class Records:
    """A row per evaluation, at evaluation modulo K; NaN, or no event, where there was none.

    A sample has rows for its own evaluations; gain, weights, condition and depth where it went on.
    """

    numbers: Tensor  # (len(NUMBERS), K, B) float64
    event: Tensor  # (K, B) int16, flags of Event

    def __getitem__(self, name: str) -> Tensor:  # (K, B)
        """One of NUMBERS."""
        return self.numbers[NUMBERS.index(name)]


@dataclass
class Folding:
    """What a deflated restart needs beside the rest; for what it keeps see `methods.deflation`."""

    sums: Tensor  # (B, parts, m, m) dZ dZ^T of a full window, a part for each run of elements
    weights: Tensor  # (B, k, m) of the kept combinations, the slowest first; they are in sum 1
    event: Tensor  # (B,) int16 RESTART, perhaps DEFLATE, of who restarts before the next step
    last_norm: Tensor  # (B,) float64 ||g|| of the newest evaluation

    @classmethod
    def of(cls, z: Tensor, rules: Rules, parts: int) -> Self:  # (B, n)
        """Before the first evaluation."""
        batch, m = len(z), rules.window
        return cls(
            sums=z.new_zeros(batch, parts, m, m),
            weights=z.new_zeros(batch, rules.kept, m),
            event=z.new_zeros(batch, dtype=torch.int16),
            last_norm=z.new_full((batch,), torch.inf, dtype=torch.float64),
        )


@dataclass
class DeviceState:
    """Everything that the kernels of one solve share.

    With g = f(z) - z the rings hold dg_j = g_{j+1} - g_j and du_j = dz_j + mixing dg_j. A column
    that its sample does not use (scale 0) may hold anything: no kernel lets it into a sum.
    """

    rules: Rules
    knobs: Tensor  # KNOBS of the rules, float64: as arguments they would be rounded to float32
    g: Tensor  # (B, n) the newest residual
    du: Tensor  # (m, B, n) in the ring's type
    dg: Tensor  # (m, B, n)
    best: Tensor  # (B, n) the best iterate, where that is no longer the newest
    products: Tensor  # (B, parts, 2, m) dG dg_new and dG g, a part for each run of elements
    # (B, parts, SQUARES) float64: ||g||^2, ||f(z)||^2, ||dz||^2; how many entries of f(z) are not
    # finite, how many of the newest differences too large for the ring
    squares: Tensor
    matrix: Tensor  # (B, m, m) float64: see ScaledGram
    scale: Tensor  # (B, m) float64
    gamma: Tensor  # (B, m) float64, zero in columns that are not used
    count: Tensor  # (B,) int32 differences stored since the last restart
    status: Tensor  # (B,) int8 of Status, or RUNNING
    evals: Tensor  # (B,) int32
    limit: Tensor  # (B,) float64 ||g|| above which a sample diverges
    best_score: Tensor  # (B,) float64 the smallest relative residual
    newest: Tensor  # (B,) bool: it is that of the newest iterate
    evicted: Tensor  # (B,) bool: it was the value before the newest: `mix` saves that one
    stretch: Tensor  # (B,) float64 largest ||dz|| / ||dg|| of the differences in slot 0, or NaN
    records: Records
    folding: Folding | None = None  # where restarts keep directions

    @classmethod
    def of(
        cls, z: Tensor, rules: Rules, parts: int, rows: int, ring: torch.dtype | None = None
    ) -> Self:  # (B, n)
        """Before the first evaluation, at `z`, with a history of `rows` evaluations.

        `parts` is what `Kernels.parts` says. Raises ValueError for a window, a ring or a number of
        rows that the kernels do not have.
        """
        batch, n = z.shape
        m, device = rules.window, z.device
        _check(rules, n, rows, z.dtype, ring or z.dtype)

        def full(value: float, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.full(shape, value, dtype=dtype, device=device)

        of_doubles: Any = {"dtype": torch.float64, "device": device}
        numbers = full(torch.nan, len(NUMBERS), rows, batch)
        return cls(
            rules=rules,
            knobs=torch.tensor([getattr(rules, name) for name in KNOBS], **of_doubles),
            g=torch.zeros_like(z),
            du=torch.zeros(m, batch, n, dtype=ring or z.dtype, device=device),
            dg=torch.zeros(m, batch, n, dtype=ring or z.dtype, device=device),
            best=z.clone(),
            products=z.new_zeros(batch, parts, 2, m),
            squares=full(0.0, batch, parts, SQUARES),
            matrix=torch.eye(m, **of_doubles).repeat(batch, 1, 1),
            scale=full(0.0, batch, m),
            gamma=full(0.0, batch, m),
            count=full(0, batch, dtype=torch.int32),
            status=full(RUNNING, batch, dtype=torch.int8),
            evals=full(0, batch, dtype=torch.int32),
            limit=full(torch.inf, batch),
            best_score=full(torch.inf, batch),
            newest=full(False, batch, dtype=torch.bool),
            evicted=full(False, batch, dtype=torch.bool),
            stretch=full(torch.nan, batch),
            records=Records(numbers, full(0, rows, batch, dtype=torch.int16)),
            folding=Folding.of(z, rules, parts) if rules.kept else None,
        )

    def forget(self, samples: Tensor) -> None:  # (B,) bool
        """Use none of these samples' columns any more."""
        eye = torch.eye(self.rules.window, dtype=torch.float64, device=samples.device)
        self.matrix.copy_(torch.where(samples[:, None, None], eye, self.matrix))
        self.scale.masked_fill_(samples[:, None], 0.0)


def _check(rules: Rules, n: int, rows: int, state: torch.dtype, ring: torch.dtype) -> None:
    rings = (torch.float32, torch.bfloat16) if state is torch.float32 else (torch.float64,)
    if state not in (torch.float32, torch.float64) or ring not in rings:
        raise ValueError(
            f"history of {ring} for states of {state}: float64 states have float64 histories, "
            "float32 states float32 or bfloat16; widen other states first."
        )
    if not 0 <= rules.window <= n:
        raise ValueError(
            f"window = {rules.window} is out of range: from 0 to the {n} elements of a sample."
        )
    if rules.kept and (rules.sliding or not 0 < rules.kept < rules.window):
        raise ValueError(
            f"kept = {rules.kept} is out of range: from 1 to window - 1 = {rules.window - 1} for "
            "windows that restart, 0 for others."
        )
    if rows < 1:
        raise ValueError(f"rows = {rows} is out of range: the records take one row or more.")
