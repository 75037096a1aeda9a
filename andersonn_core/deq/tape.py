"""One evaluation of the cell with a tape, and what it depends on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tape:
    """f(z) and what its graph reaches; J = df/dz at z."""

    z: Tensor  # (B, n) a leaf that requires grad
    f_z: Tensor  # (B, n)

    @classmethod
    def record(cls, f: Callable[[Tensor], Tensor], z: Tensor) -> Tape:  # (B, n) -> (B, n); (B, n)
        """Evaluate f once at z, a leaf that requires grad."""
        with torch.enable_grad():
            return cls(z, f(z))

    def transposed(self, u: Tensor, create_graph: bool = False) -> Tensor:  # (B, n) -> (B, n)
        """J^T u, one backward pass through the cell's evaluation."""
        if not self.f_z.requires_grad:
            return torch.zeros_like(u)
        (product,) = torch.autograd.grad(
            self.f_z, self.z, u, retain_graph=True, create_graph=create_graph, allow_unused=True
        )
        return torch.zeros_like(u) if product is None else product

    def gradients(
        self, inputs: Sequence[Tensor], u: Tensor, create_graph: bool = False
    ) -> tuple[Tensor | None, ...]:  # (B, n)
        """(df/dp)^T u for each p of `inputs`; None where f does not depend on it."""
        return torch.autograd.grad(
            self.f_z, inputs, u, retain_graph=True, create_graph=create_graph, allow_unused=True
        )

    def parameters(self, others: Sequence[Tensor]) -> list[Tensor]:
        """The leaves that the graph of f(z) ends in, apart from z and `others`.

        Parameters are found wherever the cell holds them: in modules or in a closure.
        """
        known = {id(tensor) for tensor in (self.z, *others)}
        found, seen = [], set()
        stack = [self.f_z.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            leaf = getattr(node, "variable", None)  # of the nodes that gather a leaf's gradient
            if leaf is not None and id(leaf) not in known:
                found.append(leaf)
            stack += [following for following, _ in node.next_functions]
        return found
