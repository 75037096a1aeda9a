"""A ring of differences of residuals and of plain steps.

With g = f(z) - z, the ring holds dg_j = g_{j+1} - g_j and du_j = dz_j + mixing dg_j, the difference
of two plain steps z + mixing g: the step z + mixing g - dU^T gamma reads it once. All samples store
into the same slot at the same evaluation; which columns count is the least-squares problem's
business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from andersonn_core.arrays import Counts, Flags, Floats
from andersonn_core.kernels.residual import checked, measure
from andersonn_core.kernels.rows import Rows, host


class Previous(NamedTuple):
    """What the next difference is taken from, and how many older ones will count beside it."""

    z: Tensor  # (B, n)
    g: Tensor  # (B, n)
    older: Counts  # (B,) at most


class Taken(NamedTuple):
    """What came with a residual whose difference lies in the slot that is filled next."""

    counted: Counts  # (B,) columns that were read
    row: Floats  # (B, m)
    rhs: Floats  # (B, m)
    lengths: Floats  # (B,)


@dataclass
class DifferenceWindow:
    """Up to m differences of each sample."""

    rows: Rows
    mixing: float
    du: Tensor  # (m, B, n)
    dg: Tensor  # (m, B, n)
    stored: Counts  # (m,) the evaluation at which each slot was filled, -1 before
    count: Counts  # (B,) the newest so many differences of a sample count
    slot: int = -1  # filled last
    taken: Taken | None = None  # of the difference that `append` takes next
    nothing: ClassVar[int] = 0  # differences in an empty ring

    def __post_init__(self) -> None:
        self._du, self._dg = self.rows.view(self.du), self.rows.view(self.dg)

    @classmethod
    def like(cls, z: Tensor, size: int, mixing: float, rows: Rows) -> DifferenceWindow:  # (B, n)
        """An empty window of `size` differences for states of this shape."""
        batch, n = z.shape
        # Zeros, since the columns that do not count are multiplied by 0.
        return cls(
            rows=rows,
            mixing=mixing,
            du=z.new_zeros(size, batch, n),
            dg=z.new_zeros(size, batch, n),
            stored=np.full(size, -1),
            count=np.zeros(batch, np.int64),
        )

    @property
    def size(self) -> int:
        """m, the number of slots."""
        return self.stored.size

    @property
    def columns(self) -> Tensor:  # (m, B, n)
        """What the least-squares problem combines."""
        return self.dg

    def residuals(self, z: Tensor) -> tuple[Tensor, Tensor]:  # (B, n) each
        """Memory for the newest residual and the one before."""
        return z.new_empty(z.shape), z.new_empty(z.shape)

    def measure(
        self, z: Tensor, f_z: Tensor, own: Tensor, previous: Previous | None = None
    ) -> tuple[Tensor, tuple[Floats, Floats]]:  # (B, n) each -> (B, n), (B,), (B,)
        """The newest residual, in the caller's memory, ||g|| and the scale of f(z).

        Given the previous point, the difference goes where `append` will find it, over the oldest,
        and its products come with it: points read again would cost a pass.
        """
        self.taken = None
        if previous is None:
            return own, measure(self.rows, z, f_z, own)
        slot, count = (self.slot + 1) % self.size, np.minimum(previous.older + 1, self.size)
        points = z, previous.z, own, previous.g
        rings = self._du, self._dg
        row, rhs, lengths, norms = self.rows.append(rings, slot, count, self.mixing, points, f_z)
        self.taken = Taken(count, row, rhs, lengths)
        return own, checked(self.rows, norms, f_z, own)

    def keep_newest(self, samples: Flags | slice, count: int = 0) -> None:  # (B,)
        """Of what these samples have stored only so many differences count any more."""
        self.count[samples] = np.minimum(self.count[samples], count)

    def append(
        self, z: Tensor, g: Tensor, last_z: Tensor, last_g: Tensor, now: int
    ) -> tuple[Floats, Floats, Floats | None]:  # (B, n) each -> (B, m), (B, m), (B,)
        """Store the newest differences over the oldest, where `measure` has not done so.

        Returns their `products`, and in slot 0 also ||dz||.
        """
        self.slot = slot = (self.slot + 1) % self.size
        self.stored[slot] = now
        self.count = np.minimum(self.count + 1, self.size)
        if self.taken is None:
            rings, points = (self._du, self._dg), (z, last_z, g, last_g)
            row, rhs, lengths, _ = self.rows.append(rings, slot, self.count, self.mixing, points)
        else:
            count, row, rhs, lengths = self.taken
            if np.count_nonzero(self.count < count):  # some went after the measurement
                age = (slot - np.arange(self.size)) % self.size
                row[age >= self.count[:, None]] = rhs[age >= self.count[:, None]] = 0.0
        self.taken = None
        return row, rhs, None if slot else lengths

    def replace(
        self, places: Tensor, z: Tensor, g: Tensor, last_z: Tensor, last_g: Tensor
    ) -> None:  # (A,), (B, n) each
        """Store newer differences of some samples over their newest, in the same slot."""
        dg = g[places] - last_g[places]
        self.dg[self.slot, places] = dg
        self.du[self.slot, places] = (z[places] - last_z[places]).add_(dg, alpha=self.mixing)

    def products(self, g: Tensor) -> tuple[Floats, Floats]:  # (B, n) -> (B, m), (B, m)
        """The inner products of all columns with the newest one, and with g."""
        return self.rows.products(self._dg, self.slot, self.count, g)

    def project(self, gamma: Floats) -> None:  # (B, m)
        """Take gamma's combination of the older columns off the newest one, in place."""
        for ring, columns in ((self.du, self._du), (self.dg, self._dg)):
            newest = ring[self.slot]
            self.rows.mix(columns, self.slot, self.count, gamma, newest, start=newest)

    def erase(self, samples: Flags) -> None:  # (B,)
        """What is not finite in these samples' newest differences becomes zero: it would spread."""
        places = torch.from_numpy(np.flatnonzero(samples)).to(self.du.device)
        for ring in (self.du, self.dg):
            ring[self.slot, places] = ring[self.slot, places].nan_to_num(0.0, 0.0, 0.0)

    def step(
        self, z: Tensor, f_z: Tensor, g: Tensor, gamma: Floats, out: Tensor
    ) -> None:  # (B, n) each, (B, m)
        """Out = z + mixing g - dU^T gamma."""
        start, moved = (f_z, None) if self.mixing == 1.0 else (z, g)
        self.rows.mix(self._du, self.slot, self.count, gamma, out, start, moved, self.mixing)

    def predict(self, g: Tensor, gamma: Floats) -> Tensor:  # (B, n), (B, m) -> (B, n)
        """G - dG^T gamma: on an affine map the residual at z - dZ^T gamma."""
        left = torch.empty_like(g)
        self.rows.mix(self._dg, self.slot, self.count, gamma, left, start=g)
        return left

    def cross(self, places: Tensor) -> Floats:  # (A,) -> (A, m, m)
        """DG dU^T of some samples, over the elements that are here."""
        du, dg = (of_samples(ring, places) for ring in (self.du, self.dg))
        return host(torch.bmm(dg, du.mT))

    def moves(self, places: Tensor) -> Floats:  # (A,) -> (A, m (m + 1) / 2)
        """DZ dZ^T - mixing^2 dG dG^T of some samples, over the elements that are here.

        Lower triangles; the other term is the least-squares problem's.
        """
        du = of_samples(self.du, places)
        return without_gram(self.cross(places), host(torch.bmm(du, du.mT)), self.mixing)

    def fold(
        self, weights: Floats, places: Tensor
    ) -> tuple[Counts, Floats]:  # (A, k, m), (A,) -> (k,), (A, k, m)
        """Combine the columns of some samples in place, as `combine` does."""
        self.count[places.cpu().numpy()] = weights.shape[1]
        return combine((self.du, self.dg), self.slot, weights, places)

    def select(self, indices: Tensor) -> DifferenceWindow:  # (A,)
        """The window of some samples."""
        places: Counts = indices.cpu().numpy()
        return DifferenceWindow(
            self.rows,
            self.mixing,
            self.du[:, indices],
            self.dg[:, indices],
            self.stored.copy(),
            self.count[places],
            self.slot,
        )


def of_samples(ring: Tensor, places: Tensor) -> Tensor:  # (m, B, n), (A,) -> (A, m, n)
    """The columns of some samples; of all of them without a copy."""
    return (ring if len(places) == ring.shape[1] else ring[:, places]).transpose(0, 1)


def without_gram(
    gu: Floats, uu: Floats, mixing: float
) -> Floats:  # (A, m, m) each -> (A, m (m + 1) / 2)
    """The lower triangles of dU dU^T - mixing (dG dU^T + dU dG^T), from dG dU^T and dU dU^T."""
    rows, columns = np.tril_indices(gu.shape[1])
    triangles: Floats = (uu - mixing * (gu + gu.transpose(0, 2, 1)))[:, rows, columns]
    return triangles


def combine(
    rings: tuple[Tensor, Tensor], slot: int, weights: Floats, places: Tensor
) -> tuple[Counts, Floats]:  # (m, B, n) each, (A, k, m), (A,) -> (k,), (A, k, m)
    """Replace the columns of some samples by combinations of them.

    They lie in the slots that are overwritten last. Returns these slots, and the weights as they
    were applied: rounded to the rings' type.
    """
    k, size = weights.shape[1:]
    slots: Counts = (slot - k + 1 + np.arange(k)) % size
    factors = torch.from_numpy(weights).to(rings[0])
    for ring in rings:
        write(ring, slots, places, torch.bmm(factors, of_samples(ring, places)))
    return slots, host(factors)


def write(ring: Tensor, slots: Counts, places: Tensor, values: Tensor) -> None:
    """Put values (A, k, n) of some samples into slots (k,) of a ring (m, B, n)."""
    if len(places) < ring.shape[1]:
        ring[torch.from_numpy(slots).to(ring.device)[:, None], places] = values.transpose(0, 1)
    else:
        for slot, column in zip(slots.tolist(), values.unbind(1), strict=True):
            ring[slot] = column
