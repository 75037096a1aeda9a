"""The Gram matrix of residual differences and its factor, a column at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Flags, Floats
from andersonn_core.compiling import prepare
from andersonn_core.least_squares.filtering import Filter
from andersonn_core.least_squares.weights import Weights


def compiled_loops() -> Any:
    """The module of the loops; its first call takes as long as they take to compile or load."""
    from andersonn_core.least_squares import loops

    prepare(loops.__name__)
    return loops


@dataclass
class ScaledGram:
    """A = D dG dG^T D + ridge I, D = diag(dG dG^T)^(-1/2), and its factor, a column at a time.

    The factor is kept inverted: T A T^T = I on the columns that are used, and zero elsewhere. A new
    column borders it; when it overwrites one in use, the factor is made anew by Cholesky.
    `precision` is the rounding error of the type in which the inner products were accumulated:
    squared pivots below it are failures.
    """

    matrix: Floats  # (B, m, m); rows and columns that are not used are those of the identity
    inverse: Floats  # (B, m, m) T
    scale: Floats  # (B, m) D, zero for columns that are not used
    pivots: Floats  # (B, m) 1 for columns that are not used
    ridge: float
    precision: float

    def __post_init__(self) -> None:
        self._loops = compiled_loops()
        self._everyone = np.ones(len(self.scale), np.bool_)
        self._problem = self.matrix, self.inverse, self.scale, self.pivots

    @classmethod
    def of(cls, batch: int, size: int, ridge: float, precision: float) -> ScaledGram:
        """No columns yet."""
        matrix = np.broadcast_to(np.eye(size), (batch, size, size)).copy()
        scale = np.zeros((batch, size))
        return cls(matrix, np.zeros_like(matrix), scale, np.ones_like(scale), ridge, precision)

    @property
    def used(self) -> Flags:  # (B, m)
        """The columns that the next solution may use."""
        return self.scale > 0

    def forget(self, samples: Flags | Counts | slice) -> None:  # (B,) or (A,)
        """Use none of these samples' columns any more."""
        self.matrix[samples] = np.eye(self.matrix.shape[1])
        self.inverse[samples] = self.scale[samples] = 0.0
        self.pivots[samples] = 1.0

    def restart(self, samples: Flags | slice) -> None:  # (B,)
        """Keep what the next difference needs: no column."""
        self.forget(samples)

    def combinations(self, places: Counts, weights: Floats) -> Floats:  # (A,), (A, k, m)
        """Weights (A, k, m) whose absolute values sum to one.

        The rounding of such a combination is that of a column.
        """
        scaled: Floats = weights / np.abs(weights).sum(2, keepdims=True)
        return scaled

    def fold(
        self, places: Counts, slots: Counts, weights: Floats
    ) -> Flags:  # (A,), (k,), (A, k, m) -> (A,)
        """Of these samples use only combinations of their columns, which lie in `slots` now.

        Returns whose have usable inner products, Y dG dG^T Y^T; the others' problems are not
        changed.
        """
        products = combined(self.differences(places).inner(), weights)
        fine = usable(products)
        self._replace(places[fine], slots, products[fine])
        return fine

    def _replace(self, places: Counts, slots: Counts, products: Floats) -> None:  # (A,), (k,)
        """Of these samples use only the columns in `slots`, with inner products (A, k, k)."""
        self.forget(places)
        scale = 1 / np.sqrt(products.diagonal(axis1=1, axis2=2))
        scaled = products * scale[:, :, None] * scale[:, None, :] + self.ridge * np.eye(len(slots))
        block = places[:, None, None], slots[:, None], slots
        self.matrix[block] = scaled
        self.scale[places[:, None], slots] = scale
        samples = np.zeros(len(self.scale), np.bool_)
        samples[places] = True
        self.factor(samples, np.arange(self.scale.shape[1]))

    def inner(self) -> Floats:  # (B, m, m)
        """DG dG^T, without the ridge, of the columns in use; zero for others."""
        length = np.where(self.used, 1 / np.where(self.used, self.scale, 1.0), 0.0)
        products: Floats = self.matrix - self.ridge * np.eye(length.shape[1])
        products *= length[:, :, None] * length[:, None, :]
        return products

    def differences(self, places: Counts) -> ScaledGram:  # (A,)
        """The problems of some samples: their columns are differences already."""
        return self.select(torch.from_numpy(places))

    def keep_only(self, used: Flags) -> None:  # (B, m)
        """Forget single columns."""
        samples: Flags = np.logical_or.reduce(self.used & ~used, axis=1)
        self.factor(samples, np.arange(used.shape[1]), used)

    def store(
        self, slot: int, row: Floats, samples: Flags | None, stored: Counts
    ) -> Flags | None:  # (B, m), (B,), (m,) -> (B,)
        """Take the inner products of the column in `slot` with all stored ones, for `samples`.

        While a sample's matrix has no factor, its oldest column (smallest `stored`) is dropped.
        Returns which samples lost a column: a dependent one, or this one if it is zero or not
        finite.
        """
        storing = self._everyone if samples is None else np.ascontiguousarray(samples)
        lost, failed = np.empty((2, len(storing)), np.bool_)
        rules = self.ridge, self.precision
        self._loops.store(*self._problem, slot, row, storing, *rules, lost, failed)
        if np.count_nonzero(failed):
            lost |= self.factor(failed, stored)
        return lost if np.count_nonzero(lost) else None

    def factor(
        self, samples: Flags, stored: Counts, used: Flags | None = None
    ) -> Flags:  # (B,), (m,), (B, m) -> (B,)
        """T anew by Cholesky, of no other columns than `used`; who lost more of them."""
        lost, taken = np.empty_like(samples), self.used if used is None else used
        self._loops.factor(*self._problem, taken, samples, stored, self.precision, lost)
        return lost

    def solve(self, rhs: Floats, columns: Filter | None = None) -> Weights:  # (B, m)
        """The weights gamma = D y with A y = D dG g: y = T^T (T D dG g).

        With a filter, of the columns that it takes; the others are kept for later.
        """
        taken = None if columns is None else self._fewer(columns)
        if taken is not None:
            part = self.select(torch.arange(len(taken)))
            part.keep_only(taken)
            return part.solve(rhs)
        gamma, removed = np.empty_like(rhs), np.empty(len(rhs))
        self._loops.solve(self.inverse, self.scale, rhs, self.ridge, gamma, removed)
        return Weights(gamma, removed, self.used, self.pivots.copy(), None)

    def _fewer(self, columns: Filter) -> Flags | None:  # (B, m)
        """What a filter takes; None if that is everything in use."""
        used = self.used
        taken = columns(self.matrix, used)
        return taken if (taken != used).any() else None

    def select(self, indices: Tensor) -> ScaledGram:  # (A,)
        """The problems of some samples."""
        places = indices.cpu().numpy()
        return ScaledGram(
            self.matrix[places],
            self.inverse[places],
            self.scale[places],
            self.pivots[places],
            self.ridge,
            self.precision,
        )

    def put(self, places: Counts, part: ScaledGram) -> None:  # (A,)
        """Take back the problems of some samples."""
        for name in ("matrix", "inverse", "scale", "pivots"):
            getattr(self, name)[places] = getattr(part, name)


def combined(products: Floats, weights: Floats) -> Floats:  # (A, m, m), (A, k, m) -> (A, k, k)
    """The inner products of combinations, from those of what is combined."""
    found: Floats = weights @ products @ weights.transpose(0, 2, 1)
    return found


def usable(products: Floats) -> Flags:  # (A, k, k) -> (A,)
    """Whose combinations have neither under- nor overflowed."""
    square = products.diagonal(axis1=1, axis2=2)
    fine: Flags = np.logical_and.reduce(np.isfinite(products).all(2) & (square > 0), axis=1)
    return fine
