"""The kernels in Triton's language: a program for each sample and run of elements, or each sample.

Shapes are those of `DeviceState`; m columns lie in a block of M, the next power of two. Sums run in
the state's type within a block of n and in float64 over the blocks, in a fixed order: the same
solve has the same bits. Norms are sums of float64 squares, which neither over- nor underflow for
float32 states.
"""

import torch
import triton
import triton.language as tl

from andersonn_core.device.buffers import KNOBS, NUMBERS
from andersonn_core.device.buffers import SQUARES as _SQUARES
from andersonn_core.device.triton_folding import resumed
from andersonn_core.device.triton_small import cholesky, entry, identity, reduced, substitute
from andersonn_core.results import RUNNING as _RUNNING
from andersonn_core.results import Event, Status

RUNNING = tl.constexpr(_RUNNING)
CONVERGED = tl.constexpr(int(Status.CONVERGED))
MAX_ITER = tl.constexpr(int(Status.MAX_ITER))
DIVERGED = tl.constexpr(int(Status.DIVERGED))
NONFINITE = tl.constexpr(int(Status.NONFINITE))
RESTART = tl.constexpr(int(Event.RESTART))
DROP = tl.constexpr(int(Event.DROP))
OVERFLOW = tl.constexpr(int(Event.OVERFLOW))
NAN = tl.constexpr(float("nan"))
INF = tl.constexpr(float("inf"))
LARGEST = tl.constexpr(torch.finfo(torch.float64).max)
SQUARES = tl.constexpr(_SQUARES)
# Where each number is in `DeviceState.knobs`, and each row in the records.
MIXING = tl.constexpr(KNOBS.index("mixing"))
RIDGE = tl.constexpr(KNOBS.index("ridge"))
PRECISION = tl.constexpr(KNOBS.index("precision"))
RTOL = tl.constexpr(KNOBS.index("rtol"))
ATOL = tl.constexpr(KNOBS.index("atol"))
DIVERGENCE = tl.constexpr(KNOBS.index("divergence"))
RELATIVE = tl.constexpr(NUMBERS.index("relative_residual"))
RESIDUAL = tl.constexpr(NUMBERS.index("residual"))
GAIN = tl.constexpr(NUMBERS.index("gain"))
WEIGHT_NORM = tl.constexpr(NUMBERS.index("weight_norm"))
CONDITION = tl.constexpr(NUMBERS.index("condition"))
DEPTH = tl.constexpr(NUMBERS.index("depth"))


@triton.jit
def square(values):
    """The sum of squares, in float64."""
    wide = values.to(tl.float64)
    return tl.sum(wide * wide)


@triton.jit
def is_finite(values):
    """False for NaN, too."""
    return tl.abs(values) < INF


@triton.jit
def too_large(values, MOST: tl.constexpr):
    """How many finite values are beyond the largest number of the type in which they are kept."""
    lost = is_finite(values) & (tl.abs(values) > MOST)
    return tl.sum(tl.where(lost, 1.0, 0.0).to(tl.float64))


@triton.jit
def leave(products, row, rhs, m: tl.constexpr, M: tl.constexpr):
    """The inner products of one part with the newest difference, then with g."""
    j, kind = tl.arange(0, M), products.dtype.element_ty
    tl.store(products + j, row.to(kind), mask=j < m)
    tl.store(products + m + j, rhs.to(kind), mask=j < m)


@triton.jit(do_not_specialize=["parts", "tiles"])
def advance(
    z, last_z, f_z, g, du, dg, scale, status, evals, products, squares, knobs,
    n, batch, parts, tiles,
    PLAIN: tl.constexpr, MOST: tl.constexpr, m: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A run of `tiles` blocks of one sample: g, dg, du, and their sums.

    Columns that the sample does not use are not read.
    """
    part, b = tl.program_id(0) % parts, tl.program_id(0) // parts
    j = tl.arange(0, M)
    running = tl.load(status + b) == RUNNING
    slot = 0
    if not PLAIN:
        slot = (tl.load(evals + b) + m - 1) % m  # the same for all that run
    used = (tl.load(scale + b * m + j, mask=j < m, other=0.0) > 0) & (j != slot)
    mixing = tl.load(knobs + MIXING).to(z.dtype.element_ty)
    row = tl.zeros((M,), tl.float64)
    rhs = tl.zeros((M,), tl.float64)
    of_g = tl.zeros((), tl.float64)
    of_f = tl.zeros((), tl.float64)
    of_dz = tl.zeros((), tl.float64)
    broken = tl.zeros((), tl.float64)
    large = tl.zeros((), tl.float64)
    if running:
        sample = b.to(tl.int64) * n
        ring = tl.cast(batch, tl.int64) * n  # elements of a slot
        for tile in range(tiles):
            i = (part.to(tl.int64) * tiles + tile) * BLOCK + tl.arange(0, BLOCK)
            inside = i < n
            at = sample + i
            here = tl.load(z + at, mask=inside, other=0.0)
            there = tl.load(f_z + at, mask=inside, other=0.0)
            now = there - here
            of_g += square(now)
            of_f += square(there)
            broken += tl.sum(tl.where(is_finite(there), 0.0, 1.0).to(tl.float64))
            if not PLAIN:
                moved = here - tl.load(last_z + at, mask=inside, other=0.0)
                difference = now - tl.load(g + at, mask=inside, other=0.0)
                of_dz += square(moved)
                new = difference.to(dg.dtype.element_ty)
                change = moved + mixing * difference
                tl.store(dg + slot * ring + at, new, mask=inside)
                tl.store(du + slot * ring + at, change.to(du.dtype.element_ty), mask=inside)
                large += too_large(difference, MOST) + too_large(change, MOST)
                taken = used[:, None] & inside[None, :]
                places = dg + j[:, None].to(tl.int64) * ring + at[None, :]
                columns = tl.load(places, mask=taken, other=0.0)
                columns = tl.where((j == slot)[:, None], new[None, :], columns).to(here.dtype)
                row += tl.sum(columns * new.to(here.dtype)[None, :], 1).to(tl.float64)
                rhs += tl.sum(columns * now[None, :], 1).to(tl.float64)
            tl.store(g + at, now, mask=inside)
    out = b * parts + part
    if not PLAIN:
        leave(products + out * 2 * m, row, rhs, m, M)
    tl.store(squares + out * SQUARES, of_g)
    tl.store(squares + out * SQUARES + 1, of_f)
    tl.store(squares + out * SQUARES + 2, of_dz)
    tl.store(squares + out * SQUARES + 3, broken)
    tl.store(squares + out * SQUARES + 4, large)


@triton.jit(do_not_specialize=["parts", "tiles"])
def mix(
    z, last_z, f_z, g, du, gamma, status, evicted, best, out, knobs,
    n, batch, parts, tiles,
    UNDAMPED: tl.constexpr, m: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A run of blocks of one sample: the next iterate, and the best one where it would be lost.

    Columns without weight are not read. The correction is complete before it meets the start.
    """
    part, b = tl.program_id(0) % parts, tl.program_id(0) // parts
    j = tl.arange(0, M)
    going = tl.load(status + b) == RUNNING
    save = tl.load(evicted + b) != 0
    kind = z.dtype.element_ty
    mixing = tl.load(knobs + MIXING).to(kind)
    weights = tl.load(gamma + b * m + j, mask=j < m, other=0.0).to(kind)
    used = weights != 0
    sample = b.to(tl.int64) * n
    ring = tl.cast(batch, tl.int64) * n
    for tile in range(tiles):
        i = (part.to(tl.int64) * tiles + tile) * BLOCK + tl.arange(0, BLOCK)
        inside = i < n
        at = sample + i
        if save:  # before `out`, which may be its memory, is written
            tl.store(best + at, tl.load(last_z + at, mask=inside), mask=inside)
            tl.debug_barrier()  # no thread may write what another has yet to read
        if going:
            places = du + j[:, None].to(tl.int64) * ring + at[None, :]
            columns = tl.load(places, mask=used[:, None] & inside[None, :], other=0.0)
            total = tl.sum(columns.to(kind) * weights[:, None], 0)
            if UNDAMPED:
                value = tl.load(f_z + at, mask=inside, other=0.0) - total
            else:
                now = tl.load(g + at, mask=inside, other=0.0)
                here = tl.load(z + at, mask=inside, other=0.0)
                value = here + (mixing * now - total)
            tl.store(out + at, value, mask=inside)
        else:
            tl.store(out + at, tl.load(z + at, mask=inside), mask=inside)


@triton.jit
def judge(
    b, sums, status, evals, limit, best_score, newest, evicted, knobs, max_iter,
    TINY: tl.constexpr,
):  # fmt: skip
    """The stop tests of a running sample but for a stall, as `Referee` and `Progress` make them.

    Returns its status, how many evaluations it took, ||g|| and ||g|| / ||f(z)||.
    """
    k = tl.arange(0, 8)
    rtol = tl.load(knobs + RTOL)
    residual = tl.sqrt(entry(sums, k, 0))
    scale = tl.sqrt(entry(sums, k, 1))
    scale = tl.where(scale < TINY, TINY, scale)  # NaN stays
    relative = residual / scale
    taken = tl.load(evals + b) + 1
    bound = tl.load(knobs + DIVERGENCE) * residual
    bound = tl.where(bound > LARGEST, LARGEST, bound)
    bound = tl.where(taken == 1, bound, tl.load(limit + b))
    before = tl.load(best_score + b)
    improved = relative < before
    was_newest = tl.load(newest + b) != 0
    met = (residual <= tl.load(knobs + ATOL) + rtol * scale) & (scale < INF)
    finite = is_finite(residual) & is_finite(scale)
    verdict = tl.where(taken >= max_iter, MAX_ITER, RUNNING)
    verdict = tl.where((residual > bound) | (finite == 0), DIVERGED, verdict)
    verdict = tl.where((finite == 0) & (entry(sums, k, 3) > 0), NONFINITE, verdict)
    verdict = tl.where(met, CONVERGED, verdict)
    tl.debug_barrier()  # no thread may write what another has yet to read
    tl.store(status + b, verdict.to(tl.int8))
    tl.store(evals + b, taken)
    tl.store(limit + b, bound)
    tl.store(best_score + b, tl.where(improved, relative, before))
    tl.store(evicted + b, (was_newest & (improved == 0)).to(tl.int8))
    tl.store(newest + b, (improved | met).to(tl.int8))
    return verdict, taken, residual, relative


@triton.jit
def stored(whole, lengths, row, slot, ridge, M: tl.constexpr):
    """The scaled matrix and its scale with the newest column, and whether that is any good."""
    j = tl.arange(0, M)
    square_of_new = entry(row, j, slot)
    good = (square_of_new > 0) & (square_of_new < INF)  # both False for NaN
    unit = tl.where(good, 1.0 / tl.sqrt(tl.where(good, square_of_new, 1.0)), 0.0)
    line = tl.where(lengths > 0, tl.where(good, row * lengths * unit, 0.0), 0.0)
    # Not 1: it rounds as the others do.
    here = tl.where(good, square_of_new * unit * unit + ridge, 1.0)
    line = tl.where(j == slot, here, line)
    whole = tl.where((j == slot)[:, None], line[None, :], whole)
    whole = tl.where((j == slot)[None, :], line[:, None], whole)
    return whole, tl.where(j == slot, unit, lengths), good


@triton.jit
def factored(whole, lengths, slot, least, m: tl.constexpr, M: tl.constexpr):
    """Cholesky's factor, without the oldest columns for which it fails, and how many went."""
    j = tl.arange(0, M)
    age = (slot - j + M * m) % m
    lost = tl.zeros((), tl.int32)
    lower, fine = cholesky(whole, least, m, M)
    while (fine == 0) & (tl.max(lengths) > 0):
        oldest = tl.max(tl.where(lengths > 0, age, -1))
        gone = (lengths > 0) & (age == oldest)
        whole = tl.where(gone[:, None] | gone[None, :], identity(M), whole)
        lengths = tl.where(gone, 0.0, lengths)
        lost += 1
        lower, fine = cholesky(whole, least, m, M)
    return whole, lengths, lower, lost


@triton.jit
def weigh(
    b, slot, row, rhs, large, residual, matrix, scale, gamma, count, numbers, event, knobs, lane,
    events, EMPTIES: tl.constexpr, m: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Gamma of one sample, as `ScaledGram` solves for it; a window that is spent is emptied.

    `numbers` and `event` are this evaluation's, rows of the records lie `lane` apart; `events`
    happened before.
    """
    j = tl.arange(0, M)
    ridge, before = tl.load(knobs + RIDGE), tl.load(count + b)
    inside = (j < m)[:, None] & (j < m)[None, :]
    places = matrix + b.to(tl.int64) * m * m + j[:, None] * m + j[None, :]
    whole = tl.where(inside, tl.load(places, mask=inside, other=0.0), identity(M))
    lengths = tl.load(scale + b * m + j, mask=j < m, other=0.0)
    row = tl.where(large > 0, NAN, row)  # no good, whatever it is
    whole, lengths, good = stored(whole, lengths, row, slot, ridge, M)
    whole, lengths, lower, lost = factored(whole, lengths, slot, tl.load(knobs + PRECISION), m, M)
    used = lengths > 0
    ahead, behind = substitute(lower, tl.where(used, lengths * rhs, 0.0), m, M)
    removed = tl.sum(ahead * ahead) + ridge * tl.sum(behind * behind)
    weights = tl.where(used, behind * lengths, 0.0)
    tl.store(gamma + b * m + j, weights, mask=j < m)
    left = 1.0 - removed / (residual * residual)
    pivots = tl.sum(tl.where(j[:, None] == j[None, :], lower, 0.0), 1)
    largest = tl.max(tl.where(j < m, pivots, 0.0))
    ratio = largest / tl.min(tl.where(j < m, pivots, INF))
    tl.store(numbers + GAIN * lane, tl.sqrt(tl.where(left < 0, 0.0, left)))
    tl.store(numbers + WEIGHT_NORM * lane, tl.sum(tl.abs(weights)))
    tl.store(numbers + CONDITION * lane, ratio * ratio)
    tl.store(numbers + DEPTH * lane, tl.sum(used.to(tl.float64)))
    events += tl.where(good & (lost == 0), 0, DROP) + tl.where(large > 0, OVERFLOW, 0)
    if EMPTIES:
        spent = before >= m
        events += tl.where(spent, RESTART, 0)
        before = tl.where(spent, 0, before)
        full = before + 1 >= m
        whole = tl.where(full, identity(M), whole)
        lengths = tl.where(full, 0.0, lengths)
    tl.store(event, events.to(tl.int16))
    tl.store(count + b, before + 1)
    tl.store(places, whole, mask=inside)
    tl.store(scale + b * m + j, lengths, mask=j < m)


@triton.jit(do_not_specialize=["parts", "max_iter", "rows"])
def solve(
    products, squares, matrix, scale, gamma, count, status, evals, limit, best_score, newest,
    evicted, stretch, numbers, event, knobs, folded, last_norm,
    batch, parts, max_iter, rows,
    PLAIN: tl.constexpr, EMPTIES: tl.constexpr, TINY: tl.constexpr, kept: tl.constexpr,
    m: tl.constexpr, M: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """All small work of one sample, in float64; the last two pointers are those of `Folding`."""
    b = tl.program_id(0)
    j = tl.arange(0, M)
    tl.store(gamma + b * m + j, tl.zeros((M,), tl.float64), mask=j < m)
    if tl.load(status + b) == RUNNING:
        lane = rows.to(tl.int64) * batch
        sums = reduced(squares, b, parts, 0, SQUARES, SQUARES, 8, CHUNK)
        verdict, taken, residual, relative = judge(
            b, sums, status, evals, limit, best_score, newest, evicted, knobs, max_iter, TINY
        )
        place = ((taken - 1) % rows).to(tl.int64) * batch + b
        numbers += place
        tl.store(numbers + RELATIVE * lane, relative)
        tl.store(numbers + RESIDUAL * lane, residual)
        plain = tl.where(verdict == RUNNING, 0.0, NAN).to(tl.float64)
        tl.store(numbers + GAIN * lane, 1.0 + plain)
        tl.store(numbers + WEIGHT_NORM * lane, plain)
        tl.store(numbers + CONDITION * lane, 1.0 + plain)
        tl.store(numbers + DEPTH * lane, plain)
        tl.store(event + place, tl.zeros((), tl.int16))
        if not PLAIN:
            if verdict == RUNNING:
                slot = (taken + m - 2) % m
                large = entry(sums, tl.arange(0, 8), 4)
                row = reduced(products, b, parts, 0, 2 * m, m, M, CHUNK)
                rhs = reduced(products, b, parts, m, 2 * m, m, M, CHUNK)
                if slot == 0:
                    ratio = tl.sqrt(entry(sums, tl.arange(0, 8), 2) / entry(row, j, 0))
                    old = tl.load(stretch + b)
                    wider = (ratio > old) | (old != old)  # the old one may be NaN
                    tl.store(stretch + b, tl.where(wider, ratio, old))
                events = 0
                if kept:
                    events = resumed(b, residual, folded, last_norm, matrix, scale, count, m, M)
                    tl.debug_barrier()  # what was stored is read again
                weigh(
                    b, slot, row, rhs, large, residual, matrix, scale, gamma, count, numbers,
                    event + place, knobs, lane, events, EMPTIES, m, M,
                )  # fmt: skip
        if kept:
            tl.store(last_norm + b, residual)
    else:
        tl.store(evicted + b, tl.zeros((), tl.int8))
