"""The Gram matrix of residual differences and its factor, a column at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Flags, Floats
from andersonn_core.least_squares.filtering import Filter
from andersonn_core.least_squares.weights import Weights


@dataclass
class ScaledGram:
    """A = D dG dG^T D + ridge I, D = diag(dG dG^T)^(-1/2), and its factor, a column at a time.

    The factor is kept inverted: T A T^T = I on the columns that are used, and zero elsewhere. A new
    column borders it (a dozen calls that do not depend on m); when it overwrites one in use, the
    factor is made anew by Cholesky. `precision` is the rounding error of the type in which the
    inner products were accumulated: pivots below it are failures.
    """

    matrix: Floats  # (B, m, m); rows and columns that are not used are those of the identity
    inverse: Floats  # (B, m, m) T
    scale: Floats  # (B, m) D, zero for columns that are not used
    pivots: Floats  # (B, m) 1 for columns that are not used
    ridge: float
    precision: float

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

    def replace(self, places: Counts, slots: Counts, products: Floats) -> None:  # (A,), (k,)
        """Of these samples use only the columns in `slots`, with inner products (A, k, k)."""
        self.forget(places)
        scale = 1 / np.sqrt(products.diagonal(axis1=1, axis2=2))
        scaled = products * scale[:, :, None] * scale[:, None, :] + self.ridge * np.eye(len(slots))
        block = places[:, None, None], slots[:, None], slots
        self.matrix[block] = scaled
        self.scale[places[:, None], slots] = scale
        factor, info = torch.linalg.cholesky_ex(torch.from_numpy(scaled))
        eye = torch.eye(len(slots), dtype=factor.dtype)
        self.inverse[block] = torch.linalg.solve_triangular(factor, eye, upper=False).numpy()
        self.pivots[places[:, None], slots] = factor.diagonal(dim1=1, dim2=2).numpy()
        if info.any():
            samples = np.zeros(len(self.scale), np.bool_)
            samples[places[info.numpy() > 0]] = True
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
        lost = self.used & ~used
        samples: Flags = np.logical_or.reduce(lost, axis=1)
        self._drop(lost)
        self.factor(samples, np.arange(lost.shape[1]))

    def store(
        self, slot: int, row: Floats, samples: Flags | None, stored: Counts
    ) -> Flags | None:  # (B, m), (B,), (m,) -> (B,)
        """Take the inner products of the column in `slot` with all stored ones, for `samples`.

        While a sample's matrix has no factor, its oldest column (smallest `stored`) is dropped.
        Returns which samples lost a column: a dependent one, or this one if it is zero or not
        finite.
        """
        square = row[:, slot]
        good = (square > 0) & (square < np.inf)  # both False for NaN
        lost = None
        if np.count_nonzero(good) < len(good):
            lost = ~good if samples is None else ~good & samples
            row = np.where(good[:, None], row, 0.0)  # 0 times NaN is NaN
        if samples is not None:
            good &= samples
        everyone = np.count_nonzero(good) == len(good)
        square = square if everyone else np.where(good, square, 1.0)
        scale = 1 / np.sqrt(square)
        corner = square * scale * scale + self.ridge  # not 1: it rounds as the others do
        if not everyone:
            scale, corner = np.where(good, scale, 0.0), np.where(good, corner, 1.0)
        anew = self.scale[:, slot] > 0
        self.scale[:, slot] = 0.0
        column = row * self.scale
        column *= scale[:, None]
        self.scale[:, slot] = scale
        self.matrix[:, slot] = self.matrix[:, :, slot] = column
        self.matrix[:, slot, slot] = corner
        failed = self._border(slot, column, corner, good) | anew
        if np.count_nonzero(failed):
            dropped = self.factor(failed, stored)
            if dropped.any():
                lost = dropped if lost is None else lost | dropped
        return lost

    def _border(
        self, slot: int, column: Floats, corner: Floats, good: Flags
    ) -> Flags:  # (B, m), (B,), (B,) -> (B,)
        """Take one more column into T; returns where that failed: its pivot is below rounding.

        A = [[A', a], [a^T, d]]: with l = T' a and p^2 = d - l^T l the new row of T is
        [-l^T T', 1] / p.
        """
        ahead = np.matvec(self.inverse, column)
        square = corner - np.vecdot(ahead, ahead)
        fine = square >= self.precision  # False for NaN
        taken = fine & good
        if np.count_nonzero(taken) < len(taken):
            square = np.where(taken, square, 1.0)
        pivot = np.sqrt(square)
        line = np.vecmat(ahead, self.inverse)
        line /= -pivot[:, None]
        line[:, slot] = good / pivot
        self.inverse[:, slot] = line
        self.pivots[:, slot] = pivot
        failed: Flags = good & ~fine
        return failed

    def factor(self, samples: Flags, stored: Counts) -> Flags:  # (B,), (m,) -> (B,)
        """T anew by Cholesky; drops the oldest columns until there is one. Who lost a column."""
        dropped = np.zeros_like(samples)
        places, least = np.flatnonzero(samples), self.precision**0.5
        while len(places):
            factor, info = torch.linalg.cholesky_ex(torch.from_numpy(self.matrix[places]))
            pivots = factor.diagonal(dim1=1, dim2=2).numpy()
            # Unused columns have pivot 1, so that a sample without columns never fails.
            failed = (info.numpy() > 0) | ~(pivots.min(1) >= least)  # so that NaN fails, too
            eye = torch.eye(factor.shape[1], dtype=factor.dtype)
            inverse = torch.linalg.solve_triangular(factor, eye, upper=False).numpy()
            self.inverse[places] = np.where(self.used[places][:, :, None], inverse, 0.0)
            self.pivots[places] = pivots
            places = places[failed & self.used[places].any(1)]
            dropped[places] = True
            self._drop(self._oldest(places, stored))
        return dropped

    def _oldest(self, places: Counts, stored: Counts) -> Flags:  # (A,), (m,) -> (B, m)
        """The oldest used column of some samples."""
        age = np.where(self.used[places], stored, np.iinfo(np.int64).max)
        oldest = np.zeros(self.scale.shape, np.bool_)
        oldest[places, age.argmin(1)] = True
        return oldest

    def _drop(self, columns: Flags) -> None:  # (B, m)
        """Make unit rows of single columns; T is made anew by the caller."""
        samples, slots = np.nonzero(columns)
        self.matrix[samples, slots, :] = self.matrix[samples, :, slots] = 0.0
        self.matrix[samples, slots, slots] = 1.0
        self.scale[samples, slots] = 0.0

    def solve(self, rhs: Floats, columns: Filter | None = None) -> Weights:  # (B, m)
        """The weights gamma = D y with A y = D dG g: y = T^T (T D dG g).

        With a filter, of the columns that it takes; the others are kept for later.
        """
        taken = None if columns is None else self._fewer(columns)
        if taken is not None:
            part = self.select(torch.arange(len(taken)))
            part.keep_only(taken)
            return part.solve(rhs)
        ahead = np.matvec(self.inverse, rhs * self.scale)
        y = np.vecmat(ahead, self.inverse)
        removed = np.vecdot(ahead, ahead)
        if self.ridge:
            removed += self.ridge * np.vecdot(y, y)
        return Weights(y * self.scale, removed, self.used, self.pivots.copy(), None)

    def _fewer(self, columns: Filter) -> Flags | None:  # (B, m)
        """What a filter takes; None if that is everything in use."""
        used = self.used
        taken = columns(self.matrix, used)
        return taken if (taken != used).any() else None

    def solve_once(
        self, rhs: Floats, stored: Counts, columns: Filter | None = None
    ) -> Weights:  # (B, m), (m,)
        """The same weights without a factor for later steps, from the matrix alone."""
        factor, info = torch.linalg.cholesky_ex(torch.from_numpy(self.matrix))
        pivots = factor.diagonal(dim1=1, dim2=2).numpy().copy()
        broken = info.any() or not pivots.min(initial=1.0) >= self.precision**0.5
        if broken or (columns is not None and self._fewer(columns) is not None):
            dropped = self.factor(np.ones(len(rhs), np.bool_), stored)
            weights = self.solve(rhs, columns)
            weights.dropped = dropped if dropped.any() else None
            return weights
        target = rhs * self.scale
        y = torch.cholesky_solve(torch.from_numpy(target[:, :, None]), factor).numpy()[:, :, 0]
        removed = np.vecdot(target, y)
        if self.ridge:
            removed += self.ridge * np.vecdot(y, y)
        return Weights(y * self.scale, removed, self.used, pivots, None)

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
