"""Deep equilibrium layers: an equilibrium as a layer, and gradients through it."""

from andersonn_core.deq.adjoint import AdjointWarning
from andersonn_core.deq.gradients import (
    GRADIENTS,
    GradientSpec,
    Implicit,
    JacobianFree,
    Neumann,
    Phantom,
    Shine,
    Unrolled,
)
from andersonn_core.deq.layer import DEQ, EquilibriumKnobs, Tally

__all__ = [
    "DEQ",
    "GRADIENTS",
    "AdjointWarning",
    "EquilibriumKnobs",
    "GradientSpec",
    "Implicit",
    "JacobianFree",
    "Neumann",
    "Phantom",
    "Shine",
    "Tally",
    "Unrolled",
]
