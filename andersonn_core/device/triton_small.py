"""Small matrices of one sample in registers, in Triton's language: blocks of M with m in use."""

import triton
import triton.language as tl

SMALL = tl.constexpr(1e-30)  # squared: a sum of squares of rounding errors
SWEEPS = tl.constexpr(24)


@triton.jit
def identity(M: tl.constexpr):
    """The M x M identity."""
    j = tl.arange(0, M)
    return tl.where(j[:, None] == j[None, :], 1.0, 0.0).to(tl.float64)


@triton.jit
def column(matrix, columns, k):
    """Column k of an M x M block."""
    return tl.sum(tl.where(columns == k, matrix, 0.0), 1)


@triton.jit
def entry(values, j, k):
    """Entry k of a block of M."""
    return tl.sum(tl.where(j == k, values, 0.0))


@triton.jit
def cholesky(matrix, least, m: tl.constexpr, M: tl.constexpr):
    """L with L L^T = A, and whether all its squared pivots are at least so large."""
    j = tl.arange(0, M)
    columns = j[None, :]
    left = matrix
    lower = identity(M)
    fine = 1
    for k in range(m):
        below = column(left, columns, k)
        pivot2 = entry(below, j, k)
        fine = tl.where(pivot2 >= least, fine, 0)  # 0 for NaN
        pivot = tl.sqrt(tl.where(pivot2 >= least, pivot2, 1.0))
        tail = tl.where(j > k, below / pivot, 0.0)
        line = tl.where(j == k, pivot, tail)
        lower = tl.where(columns == k, line[:, None], lower)
        left = left - tail[:, None] * tail[None, :]
    return lower, fine


@triton.jit
def substitute(lower, target, m: tl.constexpr, M: tl.constexpr):
    """L^-1 target and L^-T L^-1 target, in blocks of M."""
    j = tl.arange(0, M)
    rows, columns = j[:, None], j[None, :]
    ahead = target
    for k in range(m):
        below = column(lower, columns, k)
        value = entry(ahead, j, k) / entry(below, j, k)
        ahead = tl.where(j == k, value, tl.where(j > k, ahead - below * value, ahead))
    behind = ahead
    for back in range(m):
        k = m - 1 - back
        across = tl.sum(tl.where(rows == k, lower, 0.0), 0)
        value = entry(behind, j, k) / entry(across, j, k)
        behind = tl.where(j == k, value, tl.where(j < k, behind - across * value, behind))
    return ahead, behind


@triton.jit
def reduced(partials, b, parts, first, stride, count: tl.constexpr, C: tl.constexpr,
            CHUNK: tl.constexpr):  # fmt: skip
    """The sums of `count` numbers over a sample's parts, in float64."""
    k = tl.arange(0, C)
    total = tl.zeros((C,), tl.float64)
    for start in range(0, parts, CHUNK):
        part = start + tl.arange(0, CHUNK)
        places = partials + (b.to(tl.int64) * parts + part)[:, None] * stride + first + k[None, :]
        inside = (part < parts)[:, None] & (k < count)[None, :]
        total += tl.sum(tl.load(places, mask=inside, other=0.0).to(tl.float64), 0)
    return total


@triton.jit
def diagonal(matrix, M: tl.constexpr):
    """The diagonal of an M x M block."""
    j = tl.arange(0, M)
    return tl.sum(tl.where(j[:, None] == j[None, :], matrix, 0.0), 1)


@triton.jit
def forward(lower, target, m: tl.constexpr, M: tl.constexpr):
    """L^-1 times an M x M block."""
    j = tl.arange(0, M)
    rows, columns = j[:, None], j[None, :]
    ahead = target
    for k in range(m):
        below = column(lower, columns, k)
        line = tl.sum(tl.where(rows == k, ahead, 0.0), 0) / entry(below, j, k)
        rest = ahead - below[:, None] * line[None, :]
        ahead = tl.where(rows == k, line[None, :], tl.where(rows > k, rest, ahead))
    return ahead


@triton.jit
def own_products(block, count: tl.constexpr, C: tl.constexpr):
    """The inner products of `count` rows of a block of C, in float64; zero for others."""
    rows = tl.arange(0, C)[:, None]
    total = tl.zeros((C, C), tl.float64)
    for k in range(count):
        one = tl.sum(tl.where(rows == k, block, 0.0), 0)
        line = tl.sum(block * one[None, :], 1).to(tl.float64)
        total = tl.where(rows == k, line[None, :], total)
    return total


@triton.jit
def times(left, right, m: tl.constexpr, M: tl.constexpr):
    """The product of two M x M blocks, of which the first m columns and rows are not zero."""
    j = tl.arange(0, M)
    total = tl.zeros((M, M), tl.float64)
    for k in range(m):
        across = tl.sum(tl.where(j[:, None] == k, right, 0.0), 0)
        total += column(left, j[None, :], k)[:, None] * across[None, :]
    return total


@triton.jit
def summed(partials, b, parts, taken, m: tl.constexpr, M: tl.constexpr, CHUNK: tl.constexpr):
    """One sample's m x m sums over its parts, in float64; zero where a column is not taken."""
    j = tl.arange(0, M)
    total = tl.zeros((M, M), tl.float64)
    within = j[:, None] * m + j[None, :]
    inside = taken[:, None] & taken[None, :]
    for start in range(0, parts, CHUNK):
        part = start + tl.arange(0, CHUNK)
        first = (b.to(tl.int64) * parts + part) * m * m
        places = partials + first[:, None, None] + within[None, :, :]
        here = (part < parts)[:, None, None] & inside[None, :, :]
        total += tl.sum(tl.load(places, mask=here, other=0.0).to(tl.float64), 0)
    return total


@triton.jit
def order_of(values, M: tl.constexpr):
    """How many of M values come before each: larger ones, and equal ones on its left."""
    j = tl.arange(0, M)
    mine, others = values[:, None], values[None, :]
    before = (others > mine) | ((others == mine) & (j[None, :] < j[:, None]))
    return tl.sum(before.to(tl.int32), 1)


@triton.jit
def off_diagonal(matrix, M: tl.constexpr):
    """The sum of squares off the diagonal."""
    j = tl.arange(0, M)
    rest = tl.where(j[:, None] == j[None, :], 0.0, matrix)
    return tl.sum(rest * rest)


@triton.jit
def swapped(block, x, axis: tl.constexpr, M: tl.constexpr):
    """Rows (axis 0) or columns (1) of an M x M block, j and j xor x in each other's place."""
    j = tl.arange(0, M)
    index = (j ^ x)[:, None] if axis == 0 else (j ^ x)[None, :]
    return tl.gather(block, tl.broadcast_to(index, M, M), axis)


@triton.jit
def turns(matrix, x, M: tl.constexpr):
    """Cosines and sines (M,) of the rotations that make the entries (j, j xor x) zero.

    A pair's two angles are each other's negative to the last bit: so are the differences of their
    eigenvalues, while both see the sum of both entries.
    """
    j = tl.arange(0, M)
    partner = (j ^ x)[:, None] == j[None, :]
    across = tl.where(partner, matrix, 0.0)
    twice = tl.sum(across + tl.trans(across), 1)
    own = diagonal(matrix, M)
    other = tl.sum(tl.where(partner, own[None, :], 0.0), 1)
    apart = (other - own) / tl.where(twice != 0, twice, 1.0)
    ahead = (apart > 0) | ((apart == 0) & (j < (j ^ x)))
    tangent = tl.where(ahead, 1.0, -1.0) / (tl.abs(apart) + tl.sqrt(1.0 + apart * apart))
    tangent = tl.where(twice != 0, tangent, 0.0)
    cosine = 1.0 / tl.sqrt(1.0 + tangent * tangent)
    return cosine, tangent * cosine


@triton.jit
def rotated(matrix, rows, M: tl.constexpr):
    """A symmetric block's eigenvalues (M,), and Q^T rows for its eigenvectors Q: Jacobi's method.

    A round turns all pairs (j, j xor x) at once; x = 1 ... M - 1 meet every pair (Golub and Van
    Loan, Matrix Computations, 4th ed., section 8.5, there in the order of a tournament). At most 18
    sweeps of blocks of 32 were seen, 8 of blocks of 8.
    """
    sweep = 0
    small = SMALL * M * M * tl.sum(matrix * matrix)
    while (off_diagonal(matrix, M) > small) & (sweep < SWEEPS):
        for x in range(1, M):
            cosine, sine = turns(matrix, x, M)
            matrix = cosine[:, None] * matrix - sine[:, None] * swapped(matrix, x, 0, M)
            matrix = cosine[None, :] * matrix - sine[None, :] * swapped(matrix, x, 1, M)
            rows = cosine[:, None] * rows - sine[:, None] * swapped(rows, x, 0, M)
        sweep += 1
    return diagonal(matrix, M), rows
