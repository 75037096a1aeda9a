"""J v and J^T u of a batched map at one point, from a single evaluation of the map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from andersonn_core.layout import StateLayout
from andersonn_core.specs import KnobError


class JacobianProducts:
    """The Jacobian J = df/dz of each sample at z, as two linear maps on rows (B, n).

    f is called once, with the tape on. J^T u is one backward pass through that tape, J v one
    through the tape of u -> J^T u, which is linear (the double-backward trick: it needs no
    forward-mode formula of any layer). Samples that f mixes are not told apart.

    Raises KnobError if z is no state of tensors; ValueError if f changes its shape, dtype or
    device, or gives a value without a tape.
    """

    def __init__(self, f: Callable[[Any], Any], z: Any) -> None:
        """Evaluate f at z (B, ...): a tensor, or a tuple or dict of tensors; NaN is allowed."""
        self.layout = layout = StateLayout.of(_map_leaves(torch.zeros_like, z), batch_dims=1)
        with torch.enable_grad():
            self._rows = layout.pack(z).clone().requires_grad_()  # (B, n)
            value = f(layout.unpack(self._rows))
        layout.check_value(value, layout.batch)
        self._value = _leaves(value, layout.keys)
        self._taped = [leaf.requires_grad for leaf in self._value]
        if not any(self._taped):
            raise ValueError(
                "f(z) has no derivative: it was computed under torch.no_grad() or from a detached "
                "z. Give the map itself, e.g. lambda z: cell(z, x)."
            )
        self._dual: tuple[Tensor, Tensor] | None = None  # u and J^T u with its tape

    def transposed(self, u: Tensor, create_graph: bool = False) -> Tensor:  # (B, n) -> (B, n)
        """J^T u; differentiable in u and in the parameters of f with `create_graph`."""
        with torch.set_grad_enabled(create_graph):
            parts = _leaves(self.layout.unpack(u.to(self.layout.dtype)), self.layout.keys)
        chosen = [
            (leaf, part)
            for leaf, part, taped in zip(self._value, parts, self._taped, strict=True)
            if taped
        ]
        (product,) = torch.autograd.grad(
            [leaf for leaf, _ in chosen],
            self._rows,
            [part for _, part in chosen],
            retain_graph=True,
            create_graph=create_graph,
            materialize_grads=True,
        )
        return product.to(self.layout.working_dtype)

    def forward(self, v: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """J v."""
        if self._dual is None:
            u = torch.zeros_like(self._rows, requires_grad=True)
            self._dual = u, self.transposed(u, create_graph=True)
        u, product = self._dual
        if not product.requires_grad:  # f does not depend on z at all
            return torch.zeros_like(v)
        try:
            (value,) = torch.autograd.grad(
                product, u, v.to(product.dtype), retain_graph=True, materialize_grads=True
            )
        except RuntimeError as error:
            error.add_note(
                "J v needs f to be differentiable twice, which a module after torch.compile is "
                "not: give the module before it, or ask the spectrum for norm=False."
            )
            raise
        return value.to(self.layout.working_dtype)


def _leaves(state: Any, keys: tuple[str, ...] | None) -> list[Tensor]:
    """The tensors of a state in the order of its layout, tapes kept."""
    if keys is not None:
        return [state[key] for key in keys]
    return list(state) if isinstance(state, tuple) else [state]


def _map_leaves(change: Callable[[Tensor], Tensor], state: Any) -> Any:
    leaves = _leaves(state, tuple(state) if isinstance(state, dict) else None)
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        kinds = ", ".join(type(leaf).__name__ for leaf in leaves)
        raise KnobError(f"z must be a torch.Tensor, or a tuple or dict of them, not {kinds}.")
    changed = [change(leaf) for leaf in leaves]
    if isinstance(state, dict):
        return dict(zip(state, changed, strict=True))
    return tuple(changed) if isinstance(state, tuple) else changed[0]
