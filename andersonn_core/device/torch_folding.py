"""Deflated restarts as torch's operations: the reference for the fused kernels, used on the CPU.

On a GPU `torch.linalg.eigh` reads whether it converged: the host would wait in every step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from andersonn_core.device.buffers import DeviceState, Folding
from andersonn_core.methods.deflation import NOISE
from andersonn_core.methods.keepers import GROWTH
from andersonn_core.results import RUNNING, Event


class TorchFolding:
    """The three kernels that make room; see `Kernels`."""

    def iterate_products(self, state: DeviceState) -> None:
        """The sums are of the iterates' differences themselves: dZ = dU - mixing dG."""
        folding, kind = _folding(state), state.g.dtype
        spent = _spent(state)
        dz = state.du.to(kind).sub(state.dg.to(kind), alpha=state.rules.mixing)
        used = spent[:, None] & (state.scale > 0)
        dz = torch.where(used.T[..., None], dz, 0.0).transpose(0, 1)  # (B, m, n)
        own = torch.bmm(dz, dz.mT)
        folding.sums[:, 0] = torch.where(spent[:, None, None], own, folding.sums[:, 0])

    def directions(self, state: DeviceState) -> None:
        """As `slow_directions` finds them, but for the basis in which q is written."""
        folding, spent = _folding(state), _spent(state)
        weights, fine = _slow_directions(state, folding.sums.double().sum(1))
        fine &= spent
        weights = torch.where(fine[:, None, None], weights.to(folding.weights), folding.weights)
        matrix, scale, usable = _problem(state, weights.double())
        taken = fine & usable
        state.forget(spent)
        state.matrix.copy_(torch.where(taken[:, None, None], matrix, state.matrix))
        state.scale.copy_(torch.where(taken[:, None], scale, state.scale))
        count = torch.where(taken, state.rules.kept, 0).to(state.count.dtype)
        state.count.copy_(torch.where(spent, count, state.count))
        folding.weights.copy_(weights)
        folding.event.copy_(int(Event.RESTART) * spent + int(Event.DEFLATE) * fine)

    def fold(self, state: DeviceState) -> None:
        """All columns at once."""
        folding, kind = _folding(state), state.g.dtype
        fine = (folding.event & int(Event.DEFLATE)) != 0
        used = (folding.weights != 0).any(1) & fine[:, None]  # (B, m)
        places = _kept_slots(state).T, torch.arange(len(fine), device=fine.device)
        for ring in (state.du, state.dg):
            columns = torch.where(used.T[..., None], ring.to(kind), 0.0).transpose(0, 1)
            made = torch.bmm(folding.weights, columns).to(ring.dtype).transpose(0, 1)
            ring[places] = torch.where(fine[:, None], made, ring[places])


def resume(state: DeviceState, going: Tensor, residual: Tensor) -> Tensor:  # (B,) each -> (B,)
    """Empty the windows of those whose residual grew; RESTART and DEFLATE, before this step."""
    folding = _folding(state)
    grown = going & (residual > GROWTH * folding.last_norm) & (state.count > 0)
    state.forget(grown)
    state.count.masked_fill_(grown, 0)
    event = torch.where(grown, int(Event.RESTART), folding.event)
    return torch.where(going, event, 0).to(torch.int16)


def _slow_directions(
    state: DeviceState, lengths: Tensor
) -> tuple[Tensor, Tensor]:  # (B, m, m) -> (B, k, m), (B,)
    """With A = L L^T and dZ dZ^T: y = D L^-T q for the largest q of L^-1 D dZ dZ^T D L^-T.

    Their absolute values sum to one. The second says whose problem had more than k columns and a
    solution that is not made of rounding errors.
    """
    kept, used = state.rules.kept, state.scale > 0
    lower = torch.linalg.cholesky_ex(state.matrix).L
    scaled = state.scale[:, :, None] * lengths * state.scale[:, None]
    half = torch.linalg.solve_triangular(lower, scaled, upper=False)
    matrix = torch.linalg.solve_triangular(lower, half.mT, upper=False)
    fine = torch.isfinite(matrix).all(2).all(1) & (used.sum(1) > kept)
    matrix = torch.where(fine[:, None, None], (matrix + matrix.mT) / 2, 0.0)
    trace = matrix.diagonal(dim1=1, dim2=2).sum(1)
    # What is not used comes last, also where rounding makes an eigenvalue negative.
    matrix = matrix - torch.diag_embed((~used) * (1 + trace[:, None]))
    slow = torch.linalg.eigh(matrix).eigenvectors[:, :, -kept:].flip(2)
    unit = torch.linalg.solve_triangular(lower.mT, slow, upper=True).mT
    certain = (state.rules.precision * (unit**2).sum(2) < NOISE).all(1)
    weights = unit * state.scale[:, None]
    return weights / weights.abs().sum(2, keepdim=True), fine & certain


def _problem(
    state: DeviceState, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:  # (B, k, m) -> (B, m, m), (B, m), (B,)
    """Matrix and scale of combinations of the columns; whose neither under- nor overflow."""
    rules, used = state.rules, state.scale > 0
    eye = torch.eye(rules.window, dtype=torch.float64, device=weights.device)
    parts = weights * torch.where(used, 1 / state.scale, 0.0)[:, None]  # of unit columns
    products = parts @ (state.matrix - rules.ridge * eye) @ parts.mT
    square = products.diagonal(dim1=1, dim2=2)
    usable = (torch.isfinite(products).all(2) & (square > 0)).all(1)
    unit = 1 / square.sqrt()
    scaled = products * unit[:, :, None] * unit[:, None]
    scaled = scaled + rules.ridge * eye[: rules.kept, : rules.kept]
    every = torch.arange(rules.window, device=weights.device)
    chosen = (_kept_slots(state)[..., None] == every).double()  # (B, k, m)
    rest = torch.diag_embed(1 - chosen.sum(1))
    return rest + chosen.mT @ scaled @ chosen, (unit[:, None] @ chosen)[:, 0], usable


def _folding(state: DeviceState) -> Folding:
    assert state.folding is not None, "rules.kept is 0"
    return state.folding


def _spent(state: DeviceState) -> Tensor:  # (B,)
    """Whose window was used in full."""
    return (state.status == RUNNING) & (state.count >= state.rules.window)


def _kept_slots(state: DeviceState) -> Tensor:  # (B, k)
    """The newest k before the next difference is stored: those that are overwritten last."""
    back = torch.arange(state.rules.kept - 1, -1, -1, device=state.evals.device)
    return (state.evals[:, None] - 2 - back).remainder(state.rules.window).long()
