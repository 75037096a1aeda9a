"""The kernels as torch's operations: the reference, on any device with float64.

Selections are made by torch.where, since 0 times NaN is NaN, and shapes never depend on values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from andersonn_core.device.buffers import DeviceState
from andersonn_core.device.torch_folding import TorchFolding, resume
from andersonn_core.results import RUNNING, Event, Status


class TorchKernels(TorchFolding):
    """Operations on whole tensors; sums are in one part."""

    def parts(self, z: Tensor, window: int) -> int:  # (B, n)
        """One."""
        return 1

    def advance(
        self, state: DeviceState, z: Tensor, last_z: Tensor, f_z: Tensor, plain: bool
    ) -> None:  # (B, n) each
        """G, dg, du and their sums; see `Kernels`."""
        running = (state.status == RUNNING)[:, None]
        g, squares = f_z - z, torch.zeros_like(state.squares[:, 0])
        if not plain:
            dz, dg = z - last_z, g - state.g
            du = dz.add(dg, alpha=state.rules.mixing)
            newest = _slot(state, state.evals + 1), torch.arange(len(z), device=z.device)
            for ring, new in ((state.dg, dg), (state.du, du)):
                ring[newest] = torch.where(running, new.to(ring.dtype), ring[newest])
            squares[:, 2] = _square(dz)
            squares[:, 4] = _too_large(dg, state.dg.dtype) + _too_large(du, state.du.dtype)
            columns = state.dg.to(g.dtype)
            active = ((state.scale > 0) | _here(state, newest[0])) & running
            for row, vector in enumerate((columns[newest], g)):
                sums = _inner(columns, vector)
                state.products[:, 0, row] = torch.where(active, sums, 0.0)
        squares[:, 0], squares[:, 1] = _square(g), _square(f_z)
        squares[:, 3] = (~torch.isfinite(f_z)).sum(1)
        state.squares[:, 0] = torch.where(running, squares, 0.0)
        state.g.copy_(torch.where(running, g, state.g))

    def solve(self, state: DeviceState, plain: bool) -> None:
        """The small work, for all samples at once; see `Kernels`."""
        sums = state.squares.sum(1)
        ran, residual, relative = _judge(state, sums)
        going = state.status == RUNNING
        step = _Step.plain(residual)
        state.gamma.zero_()
        if not plain:
            slot = _slot(state, state.evals)
            row, rhs = state.products.double().sum(1).unbind(1)
            overflowed = going & (sums[:, 4] > 0)
            row = torch.where(overflowed[:, None], torch.nan, row)  # no good, whatever it is
            step = _weights(state, slot, going, row, rhs, residual)
            wider = torch.fmax(state.stretch, (sums[:, 2] / row[:, 0]).sqrt())
            state.stretch.copy_(torch.where(going & (slot == 0), wider, state.stretch))
            step.event += int(Event.OVERFLOW) * overflowed.to(torch.int16)
        if state.folding is not None:
            last = state.folding.last_norm
            last.copy_(torch.where(ran, residual, last))
        _record(state, ran, going, (relative, residual), step)

    def mix(
        self, state: DeviceState, z: Tensor, last_z: Tensor, f_z: Tensor, out: Tensor
    ) -> None:  # (B, n) each
        """One pass for each column; see `Kernels`."""
        state.best.copy_(torch.where(state.evicted[:, None], last_z, state.best))
        total = torch.zeros_like(z)
        for column, weight in zip(state.du, state.gamma.to(z.dtype).T[..., None], strict=True):
            total += torch.where(weight != 0, weight * column.to(z.dtype), 0.0)
        if state.rules.mixing == 1.0:
            step = f_z - total
        else:
            step = z + (state.rules.mixing * state.g - total)
        out.copy_(torch.where((state.status == RUNNING)[:, None], step, z))


@dataclass
class _Step:
    """What the records say of a step, (B,) each."""

    gain: Tensor
    weight_norm: Tensor
    condition: Tensor
    depth: Tensor
    event: Tensor

    @classmethod
    def plain(cls, residual: Tensor) -> _Step:  # (B,)
        """A step without differences."""
        one, zero = torch.ones_like(residual), torch.zeros_like(residual)
        return cls(one, zero, one, zero, zero.to(torch.int16))


def _slot(state: DeviceState, evaluation: Tensor) -> Tensor:  # (B,) -> (B,)
    """Where each sample's newest difference lies: in the same slot for all that run."""
    return (evaluation - 2).remainder(state.rules.window).long()


def _here(state: DeviceState, slot: Tensor) -> Tensor:  # (B,) -> (B, m)
    return torch.arange(state.rules.window, device=slot.device) == slot[:, None]


def _too_large(values: Tensor, kind: torch.dtype) -> Tensor:  # (B, n) -> (B,)
    """How many finite entries are beyond another type's largest number."""
    return (torch.isfinite(values) & (values.abs() > torch.finfo(kind).max)).sum(1)


def _square(values: Tensor) -> Tensor:  # (B, n) -> (B,)
    norms: Tensor = torch.linalg.vector_norm(values, dim=1, dtype=torch.float64)
    return norms.square()


def _inner(columns: Tensor, vector: Tensor) -> Tensor:  # (m, B, n), (B, n) -> (B, m)
    return torch.bmm(vector[:, None, :], columns.permute(1, 2, 0))[:, 0]


# -- the stop tests but for a stall, as `Referee` and `Progress` make them -----------------------


def _judge(state: DeviceState, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # (B, 4)
    """Statuses and the best so far; who ran, ||g|| and ||g|| / ||f(z)||, (B,) each."""
    rules, ran = state.rules, state.status == RUNNING
    residual = sums[:, 0].sqrt()
    scale = sums[:, 1].sqrt().clamp(min=torch.finfo(state.g.dtype).tiny)
    relative = residual / scale
    first = ran & (state.evals == 0)
    largest = torch.finfo(torch.float64).max
    limit = (rules.divergence * residual).clamp(max=largest)
    state.limit.copy_(torch.where(first, limit, state.limit))
    state.evals += ran
    improved = ran & (relative < state.best_score)  # False for NaN
    state.evicted.copy_(state.newest & ran & ~improved)
    state.best_score.copy_(torch.where(improved, relative, state.best_score))
    met = (residual <= rules.atol + rules.rtol * scale) & (scale < torch.inf)
    verdict = _verdict(state, residual, scale, met, sums[:, 3] > 0)
    state.newest.copy_(torch.where(ran, improved | met, state.newest))
    state.status.copy_(torch.where(ran, verdict, state.status))
    return ran, residual, relative


def _verdict(
    state: DeviceState, residual: Tensor, scale: Tensor, met: Tensor, broken: Tensor
) -> Tensor:  # (B,) each
    """A later line outranks those before. A norm may overflow though all entries are finite."""
    finite = torch.isfinite(residual) & torch.isfinite(scale)
    reasons = (
        (state.evals >= state.rules.max_iter, Status.MAX_ITER),
        ((residual > state.limit) | ~finite, Status.DIVERGED),
        (~finite & broken, Status.NONFINITE),
        (met, Status.CONVERGED),
    )
    verdict = torch.full_like(state.status, RUNNING)
    for flags, status in reasons:
        verdict = torch.where(flags, torch.full_like(verdict, status), verdict)
    return verdict


def _record(
    state: DeviceState,
    ran: Tensor,
    going: Tensor,
    judged: tuple[Tensor, Tensor],
    step: _Step,
) -> None:  # (B,) each
    """The newest row, of those that ran."""
    taken = step.gain, step.weight_norm, step.condition, step.depth
    shown = [torch.where(going, values, torch.nan) for values in taken]
    numbers = torch.stack([*judged, *shown])[:, None]  # (6, 1, B)
    event = torch.where(going, step.event, 0)[None]
    place = (state.evals - 1).long().remainder(len(state.records.event))  # (B,)
    for rows, values in ((state.records.numbers, numbers), (state.records.event, event)):
        places = place.expand(values.shape)
        dim = rows.dim() - 2
        old = rows.gather(dim, places)
        rows.scatter_(dim, places, torch.where(ran, values, old))


# -- the least-squares problem, as `ScaledGram` solves it ----------------------------------------


def _weights(
    state: DeviceState, slot: Tensor, going: Tensor, row: Tensor, rhs: Tensor, residual: Tensor
) -> _Step:  # (B,), (B,), (B, m), (B, m), (B,)
    """Store the newest difference, factor, solve for gamma; forget a window that is spent."""
    rules = state.rules
    restarted = going & (state.count >= rules.window) & rules.empties
    event = int(Event.RESTART) * restarted.to(torch.int16)
    if state.folding is not None:
        event = resume(state, going, residual)
    lost = _store(state, slot, going, row)
    lower, dropped = _factor(state, slot, going)
    lost = lost | dropped
    used = state.scale > 0
    target = torch.where(used, state.scale * rhs, 0.0)[..., None]
    ahead = torch.linalg.solve_triangular(lower, target, upper=False)
    behind = torch.linalg.solve_triangular(lower.mT, ahead, upper=True)
    removed = (ahead**2).sum((1, 2)) + rules.ridge * (behind**2).sum((1, 2))
    gamma = torch.where(used & going[:, None], behind[..., 0] * state.scale, 0.0)
    state.gamma.copy_(gamma)
    count = torch.where(restarted, 0, state.count) + 1
    state.count.copy_(torch.where(going, count, state.count))
    pivots = lower.diagonal(dim1=1, dim2=2)
    if rules.empties:
        state.forget(going & (state.count >= rules.window))
    return _Step(
        gain=(1 - removed / residual**2).clamp(min=0.0).sqrt(),
        weight_norm=gamma.abs().sum(1),
        condition=(pivots.amax(1) / pivots.amin(1)) ** 2,
        depth=used.sum(1).double(),
        event=event + int(Event.DROP) * lost.to(torch.int16),
    )


def _store(state: DeviceState, slot: Tensor, going: Tensor, row: Tensor) -> Tensor:
    """Scale a row (B, m) to unit diagonal; whose new column is zero or not finite, (B,)."""
    here = _here(state, slot)
    square = row.gather(1, slot[:, None])[:, 0]
    good = (square > 0) & (square < torch.inf)  # both False for NaN
    unit = torch.where(good, 1 / square.sqrt(), 0.0)
    used = (state.scale > 0) & good[:, None]
    values = torch.where(used, row * state.scale * unit[:, None], 0.0)
    # Not 1: it rounds as the others do.
    diagonal = torch.where(good, square * unit * unit + state.rules.ridge, 1.0)
    values = torch.where(here, diagonal[:, None], values)
    new = here & going[:, None]
    matrix = torch.where(new[:, :, None], values[:, None, :], state.matrix)
    state.matrix.copy_(torch.where(new[:, None, :], values[:, :, None], matrix))
    state.scale.copy_(torch.where(new, unit[:, None], state.scale))
    return going & ~good


def _factor(state: DeviceState, slot: Tensor, going: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky's L (B, m, m) without the oldest columns for which it fails; who lost one (B,).

    Every number of dropped columns is tried at once: which one is taken stays on the device.
    """
    size, device = state.rules.window, state.scale.device
    every = torch.arange(size, device=device)
    age = (slot[:, None] - every).remainder(size)
    kept = age[:, None] < torch.arange(size, -1, -1, device=device)[:, None]  # (B, m + 1, m)
    eye = torch.eye(size, dtype=torch.float64, device=device)
    tried = torch.where(kept[..., None] & kept[:, :, None], state.matrix[:, None], eye)
    lower, failed = torch.linalg.cholesky_ex(tried)  # (B, m + 1, m, m)
    squares = lower.diagonal(dim1=2, dim2=3) ** 2
    fine = (failed == 0) & (squares >= state.rules.precision).all(2)
    first = torch.where(fine, torch.arange(size + 1, 0, -1, device=device), 0).argmax(1)
    taken = first[:, None, None, None]
    keep = torch.take_along_dim(kept, first[:, None, None], 1)[:, 0]  # (B, m)
    dropped = going & ((state.scale > 0) & ~keep).any(1)
    state.scale.copy_(torch.where(keep | ~going[:, None], state.scale, 0.0))
    matrix = torch.take_along_dim(tried, taken, 1)[:, 0]
    state.matrix.copy_(torch.where(going[:, None, None], matrix, state.matrix))
    return torch.take_along_dim(lower, taken, 1)[:, 0], dropped
