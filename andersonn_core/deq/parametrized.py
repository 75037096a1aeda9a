"""torch's parametrized weights (weight norm, spectral norm, any other) within one solve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from andersonn_core.deq.tape import nodes

FUSED = "WeightNormInterfaceBackward"  # the norms count as constants in its second derivative


class _Held(ParametrizationList):
    """A parametrization that was evaluated before; its tensor is `held`."""

    held: Tensor

    def forward(self) -> Tensor:
        return self.held


@contextmanager
def held_weights(cell: nn.Module) -> Iterator[None]:
    """Evaluate each parametrization of the cell once, here, and use that weight inside the block.

    The map is then the same at all evaluations (spectral norm in training mode runs its power
    iteration and so changes the weight at every use), the cost is paid once, and the weight has the
    tape that is on where the block begins, so that evaluations with a tape reach the parameters.
    Blocks may be nested: the outermost holds.

    torch's weight norm has a wrong second derivative with respect to its own parameters (in a plain
    network, too): to ask for it raises RuntimeError.

    `torch.nn.utils.parametrize.cached()` does neither: a first use under no_grad caches a weight
    without gradient, its cache is shared by all threads, and a deep copy of a module gets the
    weights of its original.
    """
    lists = [part for part in cell.modules() if type(part) is ParametrizationList]
    weights = [_guarded(part()) for part in lists]
    try:
        for part, weight in zip(lists, weights, strict=True):
            part.held = weight
            part.__class__ = _Held
        yield
    finally:
        for part in lists:
            part.__class__ = ParametrizationList
            vars(part).pop("held", None)


def _guarded(weight: Tensor) -> Tensor:
    for node in nodes(weight):
        if node.name().startswith(FUSED):
            node.register_prehook(_refuse_twice)
    return weight


def _refuse_twice(_: tuple[Tensor, ...]) -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "torch's weight norm has a wrong second derivative with respect to its own parameters: "
            "remove the parametrization (torch.nn.utils.parametrize.remove_parametrizations) where "
            "create_graph=True."
        )
