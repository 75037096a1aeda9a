"""The weights gamma of the residual least-squares problem min || g - dG^T gamma ||, per sample.

Both back ends scale the columns to unit norm first, so that the ridge is relative and the weights
do not change when the map is scaled (z -> s z). Only the small m x m problem is solved in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Flags, Floats


@dataclass
class Weights:
    """A solved least-squares problem."""

    gamma: Floats  # (B, m), zero in columns that were not used
    removed: Floats  # (B,) what the weights take off ||g||^2
    used: Flags  # (B, m) the columns that took part
    pivots: Floats  # (B, m) of the scaled matrix's factor, 1 for unused columns
    dropped: Flags | None  # (B,) lost a column as numerically dependent; None: nobody


def default_regularization(dtype: torch.dtype) -> float:
    """Ten rounding errors of the type in which the Gram matrix was accumulated.

    A ridge below the rounding of the Gram matrix does nothing: six float32 columns that differ by
    1e-4 gave an indefinite matrix with 1e-8 in every one of 50 draws, and never with 1e-6.
    """
    return 10 * torch.finfo(dtype).eps


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

    def forget(self, samples: Flags | slice) -> None:  # (B,)
        """Use none of these samples' columns any more."""
        self.matrix[samples] = np.eye(self.matrix.shape[1])
        self.inverse[samples] = self.scale[samples] = 0.0
        self.pivots[samples] = 1.0

    def restart(self, samples: Flags | slice) -> None:  # (B,)
        """Keep what the next difference needs: no column."""
        self.forget(samples)

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
            self.inverse[places] = inverse * self.used[places][:, :, None]
            self.pivots[places] = pivots
            places = places[failed]
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

    def solve(self, rhs: Floats) -> Weights:  # (B, m)
        """The weights gamma = D y with A y = D dG g: y = T^T (T D dG g)."""
        ahead = np.matvec(self.inverse, rhs * self.scale)
        y = np.vecmat(ahead, self.inverse)
        removed = np.vecdot(ahead, ahead)
        if self.ridge:
            removed += self.ridge * np.vecdot(y, y)
        return Weights(y * self.scale, removed, self.used, self.pivots.copy(), None)

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


@dataclass
class ResidualGram:
    """The inner products G G^T of stored residuals, for weights that sum to one.

    With the newest residual g and the others g_j, min || g - sum_j gamma_j (g - g_j) || has the
    Gram matrix <g, g> - <g, g_i> - <g, g_j> + <g_i, g_j>, made anew in every step.
    """

    products: Floats  # (B, m + 1, m + 1)
    used: Flags  # (B, m + 1)
    stored: Counts  # (m + 1,) larger is newer
    ridge: float
    precision: float
    slot: int = 0  # of the newest residual

    @classmethod
    def of(cls, batch: int, size: int, ridge: float, precision: float) -> ResidualGram:
        """No residuals yet."""
        used, stored = np.zeros((batch, size), np.bool_), np.full(size, -1)
        return cls(np.zeros((batch, size, size)), used, stored, ridge, precision)

    def forget(self, samples: Flags | slice) -> None:  # (B,)
        """Use none of these samples' residuals any more."""
        self.used[samples] = False

    def restart(self, samples: Flags | slice) -> None:  # (B,)
        """Keep what the next difference needs: the newest residual."""
        newest = self.used[samples, self.slot].copy()
        self.used[samples] = False
        self.used[samples, self.slot] = newest

    def keep_only(self, used: Flags) -> None:  # (B, m + 1)
        """Forget single differences: all but the newest residual are one."""
        newest = self.used[:, self.slot].copy()
        self.used &= used
        self.used[:, self.slot] = newest

    def store(
        self, slot: int, row: Floats, samples: Flags | None, stored: Counts
    ) -> Flags | None:  # (B, m + 1), (B,), (m + 1,) -> (B,)
        """Take the inner products of the residual in `slot` with all stored ones, for `samples`.

        Returns whose residual is not finite: it is not used.
        """
        self.slot, self.stored = slot, stored
        good = row[:, slot] < np.inf  # False for NaN
        if np.count_nonzero(good) < len(good):
            row = np.where(good[:, None], row, 0.0)
        self.products[:, slot] = self.products[:, :, slot] = row
        self.used[:, slot] = good if samples is None else good & samples
        lost = ~good if samples is None else ~good & samples
        return lost if lost.any() else None

    def solve(self, rhs: Floats) -> Weights:  # (B, m + 1)
        """Weights alpha_j = gamma_j and, for the newest residual, 1 - sum_j gamma_j.

        `used` and `pivots` are those of the differences: the newest has none.
        """
        slot = self.slot
        line = np.where(self.used[:, slot, None], rhs, 0.0)  # a sum may be NaN where it is not
        rhs = line[:, slot, None] - line
        matrix = rhs[:, :, None] - line[:, None, :] + self.products
        square = matrix.diagonal(axis1=1, axis2=2)
        used = self.used & (square > 0) & self.used[:, slot, None]
        used[:, slot] = False
        scale = np.where(used, 1 / np.sqrt(np.where(used, square, 1.0)), 0.0)
        matrix = matrix * scale[:, :, None] * scale[:, None, :]
        slots = np.arange(len(self.stored))
        matrix[:, slots, slots] = 1.0 + self.ridge * used
        scaled = ScaledGram(
            matrix, np.zeros_like(matrix), scale, np.ones_like(scale), self.ridge, self.precision
        )
        dropped = scaled.factor(np.ones(len(line), np.bool_), self.stored)
        weights = scaled.solve(rhs)
        weights.gamma[:, slot] = 1 - weights.gamma.sum(1)
        weights.dropped = dropped if dropped.any() else None
        return weights

    def select(self, indices: Tensor) -> ResidualGram:  # (A,)
        """The problems of some samples."""
        places = indices.cpu().numpy()
        taken = self.products[places], self.used[places]
        return ResidualGram(*taken, self.stored, self.ridge, self.precision, self.slot)


def condition(pivots: Floats) -> Floats:  # (..., m) -> (...)
    """(largest pivot / smallest pivot)^2, a lower bound of the matrix's condition number."""
    bound: Floats = (pivots.max(-1) / pivots.min(-1)) ** 2
    return bound


def qr_weights(
    dg: Tensor,  # (B, m, n)
    g: Tensor,  # (B, n)
    valid: Flags,  # (B, m), columns that hold a difference
    stored: Counts,  # (m,) larger is newer
    regularization: float,
) -> Weights:
    """Solve the same problem by QR of [dG^T D; sqrt(lambda) I], without squaring its condition.

    Columns enter from the newest to the oldest; one whose pivot vanishes against its own norm is
    dropped, so that dependent columns lose the oldest.
    """
    norms = torch.linalg.vector_norm(dg, dim=2)
    used = torch.from_numpy(valid).to(dg.device) & (norms > 0) & torch.isfinite(norms)
    # Newest first, unused last.
    stamp = torch.from_numpy(stored).to(dg.device).expand_as(norms)
    order = torch.where(used, stamp, -1).argsort(dim=1, descending=True)
    scale = torch.where(used, norms, 1.0)
    columns = torch.where(used[:, :, None], dg / scale[:, :, None], 0.0)
    columns = columns.gather(1, order[:, :, None].expand_as(columns)).mT  # (B, n, m)
    q, r, kept = _reduced_qr(columns, used.gather(1, order), regularization)
    target = torch.cat([g, g.new_zeros(g.shape[0], dg.shape[1])], dim=1)
    # In this orientation a sample's sums do not depend on how many samples there are.
    right = torch.where(kept, torch.bmm(target[:, None, :], q)[:, 0, :].double(), 0.0)
    y_sorted = torch.linalg.solve_triangular(r, right[:, :, None], upper=True)[:, :, 0]
    y = torch.zeros_like(y_sorted).scatter(1, order, torch.where(kept, y_sorted, 0.0))
    taken = torch.zeros_like(kept).scatter(1, order, kept)
    inner = torch.where(taken, torch.linalg.vecdot(dg, g[:, None, :]) / scale, 0.0).double()
    dropped = (torch.from_numpy(valid).to(dg.device) & ~taken).any(1).cpu().numpy()
    return Weights(
        gamma=(y / scale.double()).cpu().numpy(),
        removed=(y * (inner + regularization * y)).sum(1).cpu().numpy(),
        used=taken.cpu().numpy(),
        pivots=r.diagonal(dim1=1, dim2=2).abs().cpu().numpy(),
        dropped=dropped if dropped.any() else None,
    )


def _reduced_qr(columns: Tensor, used: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Thin QR of the columns over sqrt(ridge) I; dropped columns become unit rows of R."""
    batch, _, m = columns.shape
    floor = torch.finfo(columns.dtype).eps * max(columns.shape[1], m)
    kept = used
    while True:
        identity = torch.eye(m, dtype=columns.dtype, device=columns.device).expand(batch, m, m)
        # An unused column becomes a unit column of its own row: it stays orthogonal to all others.
        root = columns.new_full((batch, m), ridge**0.5)
        tail = identity * root.where(kept, 1.0)[:, None, :]
        stacked = torch.cat([columns * kept[:, None, :], tail], dim=1)
        q, r = torch.linalg.qr(stacked)
        small = (r.diagonal(dim1=1, dim2=2).abs() < floor) & kept
        if not bool(small.any()):
            return q, r.double(), kept
        kept = kept & ~small
