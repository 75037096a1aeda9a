"""Residual polynomials over the complex plane, computed beside the page and kept by spec."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from andersonn_core import SolveSpec
from andersonn_core.cache import Cache
from andersonn_core.polynomial import half_plane, jacobian, mirrored, residual_polynomial
from andersonn_core.problems import ProblemSpec

MOST_ELEMENTS = 4096  # of a state whose polynomial is drawn
MOST_DIFFERENCED = 256  # of a nonlinear map whose Jacobian is taken by differences
EVALUATIONS = 60
WIDTH, HEIGHT = 81, 33  # points of the upper half plane
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Spectrum:
    """|p_k| on a grid and the eigenvalues it has to be small at."""

    magnitude: NDArray[np.float32]  # (K, height, width)
    eigenvalues: NDArray[np.complex128]  # (n,)
    typical: NDArray[np.float64]  # (K,) the median of |p_k| over the eigenvalues
    box: Box  # left, right, bottom, top
    linear: bool


THREAD = ThreadPoolExecutor(1, "spectrum", initializer=torch.set_num_threads, initargs=(1,))
KEPT: Cache[Spectrum] = Cache(32 * 2**20)


def drawable(problem: ProblemSpec, has_spectrum: bool) -> bool:
    """Whether the map is linear with a known spectrum, or small."""
    if "float64" not in problem.dtypes:
        return False
    return problem.num_elements <= (MOST_ELEMENTS if has_spectrum else MOST_DIFFERENCED)


class SpectrumJob:
    """The newest request wins; `done` is called in the thread with what was computed."""

    def __init__(self, done: Callable[[Spectrum], None]) -> None:
        self._done, self._newest, self._lock = done, 0, threading.Lock()

    def request(self, spec: SolveSpec) -> None:
        """Compute, or look up, the polynomial of this solve."""
        with self._lock:
            self._newest += 1
            number = self._newest
        THREAD.submit(self._work, spec, number)

    def cancel(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._newest += 1

    def _work(self, spec: SolveSpec, number: int) -> None:
        if number != self._newest:
            return
        key = (
            spec.problem.replace(batch_size=1, dtype="float64").spec_id,
            spec.problem.seed,
            spec.method.spec_id,
        )
        spectrum = KEPT.get(key)
        if spectrum is None:
            spectrum = compute(spec, lambda: number != self._newest)
            if spectrum is None:
                return
            KEPT.put(key, spectrum)
        if number == self._newest:
            self._done(spectrum)


def compute(spec: SolveSpec, should_stop: Callable[[], bool] = lambda: False) -> Spectrum | None:
    """The polynomial of the first sample's solve in float64; None if stopped or without answer."""
    problem = spec.problem.replace(batch_size=1, dtype="float64", device="cpu").build()
    linear = problem.spectrum is not None
    if problem.spectrum is not None:
        eigenvalues = problem.spectrum.to(torch.complex128)
    else:
        z_star = (
            SolveSpec(
                problem=spec.problem.replace(batch_size=1, dtype="float64", device="cpu"),
                rtol=1e-8,
                max_iter=300,
            )
            .run(should_stop=should_stop)
            .z
        )
        with torch.no_grad():
            slopes = jacobian(problem.f, z_star)
        if not bool(torch.isfinite(slopes).all()):
            return None
        eigenvalues = torch.linalg.eigvals(slopes)
    box = _box(eigenvalues)
    grid = half_plane((box[0], box[1], box[3]), WIDTH, HEIGHT).flatten()
    points = torch.cat((grid, eigenvalues))
    with torch.no_grad():
        values = residual_polynomial(
            problem.f, problem.z0, spec.method, points, EVALUATIONS, should_stop=should_stop
        ).abs()
    if should_stop():
        return None
    magnitude = mirrored(values[:, : len(grid)].reshape(-1, HEIGHT, WIDTH)).float().numpy()
    typical = values[:, len(grid) :].median(1).values.numpy()
    return Spectrum(magnitude, eigenvalues.numpy(), typical, box, linear)


def _box(eigenvalues: torch.Tensor) -> Box:
    """The unit disc and all eigenvalues, with a margin."""
    left = min(-1.1, float(eigenvalues.real.min()) - 0.15)
    right = max(1.25, float(eigenvalues.real.max()) + 0.15)
    top = max(1.1, float(eigenvalues.imag.abs().max()) + 0.15)
    return left, right, -top, top
