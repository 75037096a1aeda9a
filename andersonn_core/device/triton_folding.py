"""A deflated restart in Triton's language: what a window says of the map, kept in a few columns.

For the theorem see `methods.deflation`. All programs of a sample that need not do anything end at
once: the host can't know who restarts.
"""

import triton
import triton.language as tl

from andersonn_core.device.buffers import KNOBS
from andersonn_core.device.triton_small import (
    cholesky,
    diagonal,
    forward,
    identity,
    order_of,
    own_products,
    rotated,
    summed,
    times,
)
from andersonn_core.methods.deflation import NOISE as _NOISE
from andersonn_core.methods.keepers import GROWTH as _GROWTH
from andersonn_core.results import RUNNING as _RUNNING
from andersonn_core.results import Event

RUNNING = tl.constexpr(_RUNNING)
RESTART = tl.constexpr(int(Event.RESTART))
DEFLATE = tl.constexpr(int(Event.DEFLATE))
INF = tl.constexpr(float("inf"))
MIXING = tl.constexpr(KNOBS.index("mixing"))
RIDGE = tl.constexpr(KNOBS.index("ridge"))
PRECISION = tl.constexpr(KNOBS.index("precision"))
GROWTH = tl.constexpr(_GROWTH)
NOISE = tl.constexpr(_NOISE)


@triton.jit(do_not_specialize=["parts", "tiles"])
def iterate_products(
    du, dg, scale, status, count, sums, knobs,
    n, batch, parts, tiles,
    m: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A run of blocks of one sample: its part of dZ dZ^T, dZ = dU - mixing dG."""
    part, b = tl.program_id(0) % parts, tl.program_id(0) // parts
    j = tl.arange(0, M)
    if (tl.load(status + b) == RUNNING) & (tl.load(count + b) >= m):
        kind = sums.dtype.element_ty
        mixing = tl.load(knobs + MIXING).to(kind)
        used = tl.load(scale + b * m + j, mask=j < m, other=0.0) > 0
        ring = tl.cast(batch, tl.int64) * n  # elements of a slot
        total = tl.zeros((M, M), tl.float64)
        for tile in range(tiles):
            i = (part.to(tl.int64) * tiles + tile) * BLOCK + tl.arange(0, BLOCK)
            places = j[:, None].to(tl.int64) * ring + b.to(tl.int64) * n + i[None, :]
            taken = used[:, None] & (i < n)[None, :]
            plain = tl.load(du + places, mask=taken, other=0.0).to(kind)
            changed = tl.load(dg + places, mask=taken, other=0.0).to(kind)
            total += own_products(plain - mixing * changed, m, M)
        out = sums + (b.to(tl.int64) * parts + part) * m * m + j[:, None] * m + j[None, :]
        tl.store(out, total.to(kind), mask=(j < m)[:, None] & (j < m)[None, :])


@triton.jit
def slow_rows(
    whole, lengths, products, precision, kept: tl.constexpr, m: tl.constexpr, M: tl.constexpr
):  # fmt: skip
    """Combinations of unit columns as rows, where each comes in order, and whether they are fine.

    With A = L L^T: the rows Q^T L^-1 for the eigenvectors Q of L^-1 D (dZ dZ^T) D L^-T.
    """
    used = lengths > 0
    lower, _ = cholesky(whole, 0.0, m, M)
    half = forward(lower, lengths[:, None] * products * lengths[None, :], m, M)
    inner = forward(lower, tl.trans(half), m, M)
    finite = tl.min(tl.where(tl.abs(inner) < INF, 1, 0)) > 0  # 0 for NaN
    fine = finite & (tl.sum(used.to(tl.int32)) > kept)
    inner = tl.where(fine, 0.5 * (inner + tl.trans(inner)), 0.0)
    values, rows = rotated(inner, forward(lower, identity(M), m, M), M)
    order = order_of(tl.where(used, values, -INF), M)
    certain = precision * tl.sum(rows * rows, 1) < NOISE
    fine = fine & (tl.min(tl.where((order < kept) & (certain == 0), 0, 1)) > 0)
    return rows, order, fine


@triton.jit(do_not_specialize=["parts"])
def directions(
    sums, weights, event, matrix, scale, count, status, evals, knobs,
    parts,
    kept: tl.constexpr, m: tl.constexpr, M: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The weights of one sample's slow combinations, as `slow_directions` finds them.

    The combinations' own matrix and scale replace those of the columns.
    """
    b = tl.program_id(0)
    j = tl.arange(0, M)
    spent = (tl.load(status + b) == RUNNING) & (tl.load(count + b) >= m)
    fine = spent
    if spent:
        inside = (j < m)[:, None] & (j < m)[None, :]
        within = matrix + b.to(tl.int64) * m * m
        places = within + j[:, None] * m + j[None, :]
        whole = tl.where(inside, tl.load(places, mask=inside, other=0.0), identity(M))
        lengths = tl.load(scale + b * m + j, mask=j < m, other=0.0)
        used = lengths > 0
        ridge = tl.load(knobs + RIDGE) * identity(M)
        products = summed(sums, b, parts, used, m, M, CHUNK)
        precision = tl.load(knobs + PRECISION)
        rows, order, fine = slow_rows(whole, lengths, products, precision, kept, m, M)
        chosen = (order < kept) & fine
        slots = (tl.load(evals + b) - 2 + m - (kept - 1) + order) % m  # the newest one's is last
        rows = rows * lengths[None, :]
        rows = (rows / tl.sum(tl.abs(rows), 1)[:, None]).to(weights.dtype.element_ty)
        out = weights + (b.to(tl.int64) * kept + order[:, None]) * m + j[None, :]
        tl.store(out, rows, mask=chosen[:, None] & (j < m)[None, :])
        rows = rows.to(tl.float64) / tl.where(used, lengths, 1.0)[None, :]  # as they are applied
        rows = tl.where(chosen[:, None] & used[None, :], rows, 0.0)
        products = times(times(rows, whole - ridge, m, M), tl.trans(rows), m, M)
        square = diagonal(products, M)
        usable = tl.min(tl.where(tl.abs(products) < INF, 1, 0)) > 0
        usable = usable & (tl.min(tl.where(chosen & (square <= 0), 0, 1)) > 0) & fine
        unit = 1 / tl.sqrt(tl.where(square > 0, square, 1.0))
        scaled = products * unit[:, None] * unit[None, :] + ridge
        tl.debug_barrier()  # no thread may write what another has yet to read
        tl.store(places, identity(M), mask=inside)
        tl.store(scale + b * m + j, tl.zeros((M,), tl.float64), mask=j < m)
        tl.debug_barrier()  # over it
        chosen = chosen & usable
        both = chosen[:, None] & chosen[None, :]
        tl.store(within + slots[:, None] * m + slots[None, :], scaled, mask=both)
        tl.store(scale + b * m + slots, unit, mask=chosen)
        tl.store(count + b, tl.where(usable, kept, 0))
    events = tl.where(spent, RESTART, 0) + tl.where(fine, DEFLATE, 0)
    tl.store(event + b, events.to(tl.int16))


@triton.jit
def combine(
    ring, factors, used, slots, at, inside, stride,
    kept: tl.constexpr, K: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Put combinations of a block of one sample's columns into slots (K,); factors (K, M).

    Columns that are not used are not read.
    """
    j, r = tl.arange(0, M), tl.arange(0, K)
    places = ring + j[:, None].to(tl.int64) * stride + at[None, :]
    columns = tl.load(places, mask=used[:, None] & inside[None, :], other=0.0).to(factors.dtype)
    made = tl.zeros((K, BLOCK), factors.dtype)
    for k in range(kept):
        weight = tl.sum(tl.where((r == k)[:, None], factors, 0.0), 0)
        one = tl.sum(columns * weight[:, None], 0)
        made = tl.where((r == k)[:, None], one[None, :], made)
    tl.debug_barrier()  # no thread may write what another has yet to read
    out = ring + slots[:, None].to(tl.int64) * stride + at[None, :]
    tl.store(out, made.to(ring.dtype.element_ty), mask=(r < kept)[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["parts", "tiles"])
def fold(
    du, dg, weights, event, evals,
    n, batch, parts, tiles,
    kept: tl.constexpr, K: tl.constexpr, m: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A run of blocks of one sample: combinations instead of its columns."""
    part, b = tl.program_id(0) % parts, tl.program_id(0) // parts
    if (tl.load(event + b).to(tl.int32) & DEFLATE) != 0:
        j, r = tl.arange(0, M), tl.arange(0, K)
        own = weights + b.to(tl.int64) * kept * m + r[:, None] * m + j[None, :]
        factors = tl.load(own, mask=(r < kept)[:, None] & (j < m)[None, :], other=0.0)
        used = tl.max(tl.abs(factors), 0) > 0
        slots = (tl.load(evals + b) - 2 + m - (kept - 1) + r) % m  # the newest one's is last
        ring = tl.cast(batch, tl.int64) * n  # elements of a slot
        for tile in range(tiles):
            i = (part.to(tl.int64) * tiles + tile) * BLOCK + tl.arange(0, BLOCK)
            at = b.to(tl.int64) * n + i
            combine(du, factors, used, slots, at, i < n, ring, kept, K, M, BLOCK)
            combine(dg, factors, used, slots, at, i < n, ring, kept, K, M, BLOCK)


@triton.jit
def resumed(
    b, residual, event, last_norm, matrix, scale, count, m: tl.constexpr, M: tl.constexpr
):  # fmt: skip
    """Empty one sample's window if its residual grew; RESTART and DEFLATE, before this step."""
    j = tl.arange(0, M)
    events = tl.load(event + b).to(tl.int32)
    grown = (residual > tl.load(last_norm + b) * GROWTH) & (tl.load(count + b) > 0)
    if grown:
        tl.debug_barrier()  # no thread may write what another has yet to read
        own = matrix + b.to(tl.int64) * m * m + j[:, None] * m + j[None, :]
        tl.store(own, identity(M), mask=(j < m)[:, None] & (j < m)[None, :])
        tl.store(scale + b * m + j, tl.zeros((M,), tl.float64), mask=j < m)
        tl.store(count + b, 0)
    return tl.where(grown, RESTART, events)
