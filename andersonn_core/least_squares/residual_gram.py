"""The same problem from the Gram matrix of the residuals themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from andersonn_core.arrays import Counts, Flags, Floats
from andersonn_core.compiling import prepare
from andersonn_core.least_squares.filtering import Filter
from andersonn_core.least_squares.gram import ScaledGram, combined, usable
from andersonn_core.least_squares.weights import Weights


def compiled_loops() -> Any:
    """The module of the loops; its first call takes as long as they take to compile or load."""
    from andersonn_core.least_squares import residual_loops

    prepare(residual_loops.__name__)
    return residual_loops


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

    def __post_init__(self) -> None:
        self._loops = compiled_loops()
        self._everyone = np.ones(len(self.used), np.bool_)

    @classmethod
    def of(cls, batch: int, size: int, ridge: float, precision: float) -> ResidualGram:
        """No residuals yet."""
        used, stored = np.zeros((batch, size), np.bool_), np.full(size, -1)
        return cls(np.zeros((batch, size, size)), used, stored, ridge, precision)

    def forget(self, samples: Flags | Counts | slice) -> None:  # (B,) or (A,)
        """Use none of these samples' residuals any more."""
        self.used[samples] = False

    def restart(self, samples: Flags | slice) -> None:  # (B,)
        """Keep what the next difference needs: the newest residual."""
        newest = self.used[samples, self.slot].copy()
        self.used[samples] = False
        self.used[samples, self.slot] = newest

    def combinations(
        self, places: Counts, weights: Floats
    ) -> Floats:  # (A,), (A, k, m + 1) -> (A, k + 1, m + 1)
        """From those of differences to those of residuals, and the newest residual itself.

        The combinations, of unit norm, are made as long as the newest residual: shorter ones would
        be lost in it.
        """
        newest = np.sqrt(self.products[places, self.slot, self.slot])
        alpha = weights * newest[:, None, None]
        alpha[:, :, self.slot] = 1 - alpha.sum(2)  # no difference has the newest one's place
        itself = np.eye(self.used.shape[1])[None, None, self.slot].repeat(len(places), 0)
        return np.concatenate([alpha, itself], 1)

    def fold(
        self, places: Counts, slots: Counts, weights: Floats
    ) -> Flags:  # (A,), (k + 1,), (A, k + 1, m + 1) -> (A,)
        """Of these samples use only combinations of their residuals, which lie in `slots` now.

        Returns whose have usable inner products; the others' problems are not changed.
        """
        products = combined(self.products[places], weights)
        fine = usable(products)
        self.forget(places[fine])
        self.used[np.ix_(places[fine], slots)] = True
        self.products[np.ix_(places[fine], slots, slots)] = products[fine]
        return fine

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
        storing = self._everyone if samples is None else np.ascontiguousarray(samples)
        lost = np.empty_like(storing)
        self._loops.store(self.products, self.used, slot, row, storing, lost)
        return lost if np.count_nonzero(lost) else None

    def solve(self, rhs: Floats, columns: Filter | None = None) -> Weights:  # (B, m + 1)
        """Weights alpha_j = gamma_j and, for the newest residual, 1 - sum_j gamma_j.

        `used` and `pivots` are those of the differences: the newest has none. A filter sees their
        matrix.
        """
        scaled, target = self._scaled(rhs, self.products, self.used)
        dropped = scaled.factor(self._everyone, self.stored)
        weights = scaled.solve(target, columns)
        weights.gamma[:, self.slot] = 1 - weights.gamma.sum(1)
        weights.dropped = dropped if np.count_nonzero(dropped) else None
        return weights

    def _scaled(
        self, line: Floats, products: Floats, used: Flags
    ) -> tuple[ScaledGram, Floats]:  # (B, m + 1), (B, m + 1, m + 1), (B, m + 1)
        """The problem of the differences from the newest residual, not yet factored."""
        batch, size = used.shape
        part = ScaledGram.of(batch, size, self.ridge, self.precision)
        rhs = np.empty_like(line)
        self._loops.differences(
            products, used, line, self.slot, self.ridge, part.matrix, part.scale, rhs
        )
        return part, rhs

    def differences(self, places: Counts) -> ScaledGram:  # (A,)
        """The factored problems of some samples' differences from the newest residual.

        The oldest residual's slot may hold the next one already: it takes no part.
        """
        used, products = self.used[places], self.products[places]
        used[:, (self.slot + 1) % used.shape[1]] = False
        scaled, _ = self._scaled(products[:, self.slot].copy(), products, used)
        scaled.factor(np.ones(len(places), np.bool_), self.stored)
        return scaled

    def select(self, indices: Tensor) -> ResidualGram:  # (A,)
        """The problems of some samples."""
        places = indices.cpu().numpy()
        taken = self.products[places], self.used[places]
        return ResidualGram(*taken, self.stored, self.ridge, self.precision, self.slot)

    def put(self, places: Counts, part: ResidualGram) -> None:  # (A,)
        """Take back the problems of some samples."""
        self.products[places], self.used[places] = part.products, part.used
