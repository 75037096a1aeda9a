"""One evaluation of the cell with a tape, and what it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Cut(Protocol):
    """A map on rows whose input's tensors are handed in: z (B, n), leaves -> (B, n)."""

    def __call__(self, z: Tensor, leaves: Sequence[Tensor]) -> Tensor:
        """Evaluate f."""
        ...

    def select(self, indices: Tensor) -> Cut:  # (A,)
        """The map of some samples."""
        ...

    @property
    def half(self) -> bool:
        """Whether it computes in half precision."""
        ...


def leaf(tensor: Tensor) -> Tensor:
    """The same values, the start of a graph."""
    return tensor.detach().requires_grad_()


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
        (product,) = self.gradients([self.z], u, create_graph)
        return torch.zeros_like(u) if product is None else product

    def gradients(
        self, inputs: Sequence[Tensor], u: Tensor, create_graph: bool = False
    ) -> tuple[Tensor | None, ...]:  # (B, n)
        """(df/dp)^T u for each p of `inputs`; None where f does not depend on it."""
        if not self.f_z.requires_grad:
            return (None,) * len(inputs)
        with hooks_of_others(inputs):
            return torch.autograd.grad(
                self.f_z, inputs, u, retain_graph=True, create_graph=create_graph, allow_unused=True
            )

    def parameters(self, others: Sequence[Tensor]) -> list[Tensor]:
        """The leaves that the graph of f(z) ends in, apart from z and `others`.

        Parameters are found wherever the cell holds them: in modules or in a closure.
        """
        known = {id(tensor) for tensor in (self.z, *others)}
        # only nodes that gather a leaf's gradient have one
        leaves = (getattr(node, "variable", None) for node in nodes(self.f_z))
        return [leaf for leaf in leaves if leaf is not None and id(leaf) not in known]


@dataclass
class TapedMap:
    """f with a tape, which is kept: where the solve's last evaluation used it, no other is made.

    f gets leaves in place of `known`, tensors that may have long graphs of their own.
    """

    f: Cut
    known: Sequence[Tensor]
    leaves: Sequence[Tensor] = ()
    tape: Tape | None = None

    def __call__(self, z: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """Evaluate f."""
        # a copy: the solver may go on in the memory of z
        return self._record(z.clone()).f_z.detach()

    def at(self, z: Tensor) -> Tape:  # (B, n)
        """The tape at z."""
        if self.tape is not None and torch.equal(self.tape.z, z):
            return self.tape
        return self._record(z)

    def _record(self, z: Tensor) -> Tape:  # (B, n)
        leaves = self.leaves = [leaf(tensor) for tensor in self.known]
        self.tape = Tape.record(lambda point: self.f(point, leaves), leaf(z))
        return self.tape


@dataclass
class Products:
    """J^T u and (df/dp)^T u for some p, by one tape; those of the last `both` are kept."""

    tape: Tape
    inputs: Sequence[Tensor]  # p
    kept: tuple[Tensor, tuple[Tensor | None, ...]] | None = None

    def both(self, u: Tensor) -> Tensor:  # (B, n) -> (B, n)
        """J^T u, and the others beside it, for little more."""
        product, *found = self.tape.gradients([self.tape.z, *self.inputs], u)
        self.kept = u.clone(), tuple(found)
        return torch.zeros_like(u) if product is None else product

    def at(self, u: Tensor) -> tuple[Tensor | None, ...]:  # (B, n)
        """(df/dp)^T u."""
        if self.kept is not None and torch.equal(self.kept[0], u):
            return self.kept[1]
        return self.tape.gradients(self.inputs, u)


def nodes(tensor: Tensor) -> Iterator[Any]:
    """The nodes of a tensor's graph, each once."""
    seen, stack = set(), [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            stack += [following for following, _ in node.next_functions]


@contextmanager
def hooks_of_others(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Leave out the hooks of these tensors: the outer graph calls them with the whole gradient."""
    kept = [(hooks, dict(hooks)) for hooks in map(_hooks, tensors) if hooks]
    for hooks, _ in kept:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, before in kept:
            hooks.update(before)


def _hooks(tensor: Tensor) -> dict[int, Any] | None:
    hooks: dict[int, Any] | None = tensor._backward_hooks
    return hooks
