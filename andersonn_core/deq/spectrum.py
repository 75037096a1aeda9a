"""What the Jacobian of a map says of its solve: spectral radius, 2-norm, predicted rate.

Arnoldi's method on J^T, whose eigenvalues are those of J, gives the spectral radius (Saad,
Numerical Methods for Large Eigenvalue Problems, 2nd ed., 6.2). It sees both values of a complex
pair, where the quotient <v, J v> / <v, v> of a power iteration sees |lambda| cos(angle). The
bidiagonalization of Golub and Kahan gives the 2-norm (Golub and Van Loan, Matrix Computations,
4th ed., 10.4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.linalg import matrix_norm, vector_norm

from andersonn_core.deq.products import JacobianProducts
from andersonn_core.layout import beside_double
from andersonn_core.results import History
from andersonn_core.specs import KnobError, Spec, knob

NEARLY_ZERO = 10  # roundings: what is left of a vector inside the subspace found so far
LOOKS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)  # steps with an estimate


class SpectrumKnobs(Spec):
    """How much to spend on a spectrum."""

    title: ClassVar[str] = "spectrum"

    steps: int = knob(
        64, "Largest number of Krylov vectors per sample.",
        minimum=1, maximum=1000, typical=(8, 128), symbol="k",
    )  # fmt: skip
    rtol: float = knob(
        1e-2, "A sample is done once the estimated relative error is below this.",
        minimum=0.0, maximum=1.0, typical=(1e-4, 1e-1), log=True,
    )  # fmt: skip
    norm: bool = knob(True, "Estimate the 2-norm, too: products with J and J^T at each step.")
    seed: int = knob(
        0, "Seed of the vector that the subspaces grow from.", minimum=0, maximum=2**31 - 1
    )


@dataclass(frozen=True)
class Spectrum:
    """The Jacobian of each sample, seen from Krylov subspaces of at most K vectors.

    float64 on the CPU; NaN for samples whose Jacobian is not finite. The errors are estimates, not
    bounds: a direction that the random start hardly holds stays unseen, and another seed is the
    check.
    """

    spectral_radius: Tensor  # (B,) max |lambda|
    radius_error: Tensor  # (B,) residual of the Ritz pair times the eigenvalue's condition number
    norm: Tensor  # (B,) the largest singular value, approached from below; NaN if not asked for
    norm_error: Tensor  # (B,) residual of the singular triplet
    ritz_values: Tensor  # (B, K) complex128, largest first; NaN beyond a sample's subspace
    converged: Tensor  # (B,) bool: estimated errors within rtol of radius and norm
    num_evals: int  # of f
    num_products: int  # with J or J^T, each on the whole batch

    def rate(self, mixing: float = 1.0) -> Tensor:  # (B,)
        """The factor by which forward iteration shrinks the error per step, in the long run.

        max |1 - mixing + mixing lambda| over the Ritz values; the spectral radius at mixing 1.
        """
        factors = (1 - mixing + mixing * self.ritz_values).abs()
        largest = torch.where(factors.isnan(), -torch.inf, factors).amax(1)
        return torch.where(largest.isinf(), torch.nan, largest)


def spectrum(
    f: Callable[[Any], Any],
    z: Any,  # (B, ...) tensor, or a tuple or dict of them
    *,
    steps: int = 64,
    rtol: float = 1e-2,
    norm: bool = True,
    seed: int = 0,
    **misspelled: Any,
) -> Spectrum:
    """The spectral radius and the 2-norm of J = df/dz at z, sample by sample.

    f is evaluated once; then one product with J^T per step and, for the norm, one with J and one
    with J^T, until each sample is accurate to rtol or `steps` are made. Samples start from the same
    vector and keep the estimate they were done with, so that a result does not depend on the batch.
    f must not mix samples and must be differentiable: give `lambda z: cell(z, x)`, without no_grad.

    Raises KnobError for impossible knobs before f is evaluated; ValueError if f changes the shape,
    dtype or device of z, or gives a value without a derivative.
    """
    knobs = SpectrumKnobs(steps=steps, rtol=rtol, norm=norm, seed=seed, **misspelled)
    products = JacobianProducts(f, z)
    start = _start(products, knobs.seed)
    eps = torch.finfo(products.layout.dtype).eps
    transposed, forward = _Counted(products.transposed), _Counted(products.forward)
    values, radius = _eigenvalues(transposed, start, knobs, eps)
    largest = _Estimate(len(start), knobs.rtol)
    converged = radius.converged
    if knobs.norm:
        _singular_value(forward, transposed, start, largest, knobs.steps, eps)
        converged = converged & largest.converged
    return Spectrum(
        radius.value, radius.error, largest.value, largest.error, values, converged,
        num_evals=1, num_products=transposed.calls + forward.calls,
    )  # fmt: skip


def observed_rate(history: History, last: int = 10) -> Tensor:  # (B,)
    """The geometric mean of ||g_{k+1}|| / ||g_k|| over the last ratios of each sample.

    It compares with `Spectrum.rate` once the solve is linear and above the rounding floor. NaN for
    a sample with fewer than two residuals. Raises KnobError if `last` is not positive.
    """
    if last < 1:
        raise KnobError(f"last = {last} is not allowed: it must be at least 1. The default is 10.")
    end = (history.sample_evals - 1).clamp(min=0)  # (B,)
    begin = (end - last).clamp(min=0)
    first, final = history.residual.gather(0, torch.stack((begin, end)))
    mean = (final / first) ** (1 / (end - begin).double())
    return torch.where(end > begin, mean, torch.nan)


class _Counted:
    """A linear map that counts its uses."""

    def __init__(self, product: Callable[[Tensor], Tensor]) -> None:
        self.product, self.calls = product, 0

    def __call__(self, v: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """One product."""
        self.calls += 1
        return self.product(v)


class _Estimate:
    """A number of each sample with its error, no longer changed once it is accurate."""

    def __init__(self, batch: int, rtol: float) -> None:
        self.value, self.error = torch.full((2, batch), torch.nan, dtype=torch.float64)
        self.rtol = rtol
        self.open = torch.ones(batch, dtype=torch.bool)  # (B,)

    @property
    def converged(self) -> Tensor:  # (B,) bool
        accurate: Tensor = self.error <= self.rtol * self.value
        return accurate

    def settle(self, samples: Tensor, value: Tensor, error: Tensor) -> None:  # (A,) each
        """New numbers for some samples."""
        self.value[samples], self.error[samples] = value, error
        self.open &= ~self.converged


def _start(products: JacobianProducts, seed: int) -> Tensor:  # (B, n)
    layout = products.layout
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(layout.elements, generator=generator, dtype=torch.float64)
    unit: Tensor = (v / vector_norm(v)).to(device=layout.device, dtype=layout.working_dtype)
    return unit.expand(layout.batch, -1)


class _Basis:
    """Orthonormal vectors of each sample; those of a sample that ended are zero from then on."""

    def __init__(self, capacity: int, like: Tensor) -> None:  # (B, n)
        self.vectors = like.new_zeros(like.shape[0], capacity, like.shape[1])
        self.count, self.eps = 0, torch.finfo(like.dtype).eps
        self.scale = like.new_zeros(like.shape[0])  # (B,) the largest product so far
        self.ended = torch.zeros_like(self.scale, dtype=torch.bool)  # (B,)

    def begin(self, start: Tensor) -> None:  # (B, n)
        """The first vector, of length 1."""
        self.vectors[:, 0], self.count = start, 1

    @property
    def newest(self) -> Tensor:  # (B, n)
        newest: Tensor = self.vectors[:, self.count - 1]
        return newest

    def add(self, w: Tensor) -> tuple[Tensor, Tensor]:  # (B, n) -> (B, count), (B,)
        """Append what w has outside the basis; its coefficients inside, and the length outside.

        Gram-Schmidt twice is orthogonal to working precision (Giraud et al., Numer. Math. 101,
        2005). A rest of the size of rounding errors ends the sample: its subspace is invariant.
        """
        known = self.vectors[:, : self.count]
        self.scale = torch.maximum(self.scale, vector_norm(w, dim=1))
        inside = w.new_zeros(w.shape[0], self.count)
        for _ in range(2):
            part = torch.bmm(known, w[:, :, None])[:, :, 0]
            w = w - torch.bmm(part[:, None], known)[:, 0]
            inside = inside + part
        length = vector_norm(w, dim=1)
        self.ended = self.ended | (length <= NEARLY_ZERO * self.eps * self.scale)
        length = torch.where(self.ended, 0, length)
        if self.count < self.vectors.shape[1]:
            unit = torch.where(self.ended[:, None], 0, w / length[:, None])
            self.vectors[:, self.count] = unit
        self.count += 1
        return inside, length


def _look(column: int, steps: int) -> bool:
    """Whether to estimate after this column: eigenvalues at every step would cost too much."""
    return column == steps or column in LOOKS


def _eigenvalues(
    transposed: Callable[[Tensor], Tensor],
    start: Tensor,  # (B, n)
    knobs: SpectrumKnobs,
    eps: float,
) -> tuple[Tensor, _Estimate]:  # (B, k) complex128
    """Arnoldi: H of J^T V = V H + h v e_k^T, until the largest |eigenvalue| is accurate."""
    batch, steps = len(start), min(knobs.steps, start.shape[1])
    basis, radius = _Basis(steps, start), _Estimate(batch, knobs.rtol)
    basis.begin(start)
    hessenberg = beside_double(start.new_zeros(batch, steps + 1, steps)).double()
    depth = torch.zeros(batch, dtype=torch.int64, device=start.device)  # columns in use
    values = torch.full((batch, steps), torch.nan, dtype=torch.complex128)
    for size in range(1, steps + 1):
        depth += ~basis.ended
        inside, length = basis.add(transposed(basis.newest))
        hessenberg[:, :size, size - 1] = beside_double(inside)
        hessenberg[:, size, size - 1] = beside_double(length)
        if _look(size, steps):
            part = hessenberg[:, : size + 1, :size].cpu()
            for samples, used in _groups(radius.open & _finite(part), depth.cpu()):
                square, left_over = part[samples, :used, :used], part[samples, size, size - 1]
                found, errors = _ritz_pairs(square, left_over, eps)
                values[samples, :used] = found
                radius.settle(samples, found[:, 0].abs(), errors[:, 0])
            if not bool((radius.open & _finite(part)).any()):
                break
    return values, radius


def _finite(matrices: Tensor) -> Tensor:  # (B, i, j) -> (B,) bool
    return matrices.isfinite().all(2).all(1)


def _groups(chosen: Tensor, depth: Tensor) -> Iterator[tuple[Tensor, int]]:  # (B,), (B,)
    """Indices of the chosen samples, those of equal depth together."""
    for used in depth[chosen].unique().tolist():
        yield torch.nonzero(chosen & (depth == used))[:, 0], used


def _ritz_pairs(
    hessenberg: Tensor, left_over: Tensor, eps: float
) -> tuple[Tensor, Tensor]:  # (A, k, k), (A,) -> (A, k) complex128, (A, k)
    """Eigenvalues, largest first, each with |residual| times its condition number.

    The residual of the Ritz pair V y is left_over |y_k|, at least a rounding error of J. To first
    order an eigenvalue moves by the residual times 1 / |cos| of the angle between its left and
    right eigenvectors (Golub and Van Loan, 7.2.2).
    """
    values, vectors = torch.linalg.eig(hessenberg)
    order = values.abs().argsort(dim=1, descending=True)
    inverse, singular = torch.linalg.inv_ex(vectors)
    condition = vector_norm(inverse, dim=2)  # the columns of `vectors` have length 1
    condition = torch.where(singular[:, None] > 0, torch.inf, condition)
    rounding = eps * matrix_norm(hessenberg, ord=2)
    residual = left_over[:, None] * vectors[:, -1].abs() + rounding[:, None]
    errors = torch.where(residual == 0, 0, residual * condition)
    return values.gather(1, order), errors.gather(1, order)


def _singular_value(
    forward: Callable[[Tensor], Tensor],
    transposed: Callable[[Tensor], Tensor],
    start: Tensor,  # (B, n)
    largest: _Estimate,
    steps: int,
    eps: float,
) -> None:
    """Golub and Kahan: T of J V = U T, J^T U = V T^T + beta v e_k^T, until ||T||_2 is accurate."""
    batch, steps = len(start), min(steps, start.shape[1])
    right, left = _Basis(steps, start), _Basis(steps, start)
    right.begin(start)
    triangle = beside_double(start.new_zeros(batch, steps, steps)).double()
    for size in range(1, steps + 1):
        inside, length = left.add(forward(right.newest))
        triangle[:, : size - 1, size - 1] = beside_double(inside)
        triangle[:, size - 1, size - 1] = beside_double(length)
        right.ended = right.ended | left.ended
        _, beta = right.add(transposed(left.newest))
        left.ended = right.ended
        if _look(size, steps):
            part, rest = triangle[:, :size, :size].cpu(), beta.cpu().double()
            fine = _finite(part) & rest.isfinite()
            samples = torch.nonzero(largest.open & fine)[:, 0]
            largest.settle(samples, *_singular_pair(part[samples], rest[samples], eps))
            if not bool((largest.open & fine).any()):
                break


def _singular_pair(
    triangle: Tensor, beta: Tensor, eps: float
) -> tuple[Tensor, Tensor]:  # (A, k, k), (A,) -> (A,), (A,)
    """||T||_2 and the residual of its triplet: some singular value of J is as near as that.

    Mostly the largest is nearer by far (Kato and Temple); the sharper estimate would stop too
    early, on the second largest, where the start hardly holds the first.
    """
    left, sizes, _ = torch.linalg.svd(triangle)
    return sizes[:, 0], beta * left[:, -1, 0].abs() + eps * sizes[:, 0]
