"""Deep equilibrium layers: the layer, gradients through it, what keeps it stable."""

from andersonn_core.deq.adjoint import AdjointWarning
from andersonn_core.deq.balance import Balance, BalanceReport
from andersonn_core.deq.correction import KeptIterates, correction_loss, intermediate_states
from andersonn_core.deq.dropout import VariationalDropout
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
from andersonn_core.deq.jacobian import jacobian_penalty
from andersonn_core.deq.layer import DEQ, EquilibriumKnobs, Tally
from andersonn_core.deq.spectrum import Spectrum, observed_rate, spectrum

__all__ = [
    "DEQ",
    "GRADIENTS",
    "AdjointWarning",
    "Balance",
    "BalanceReport",
    "EquilibriumKnobs",
    "GradientSpec",
    "Implicit",
    "JacobianFree",
    "KeptIterates",
    "Neumann",
    "Phantom",
    "Shine",
    "Spectrum",
    "Tally",
    "Unrolled",
    "VariationalDropout",
    "correction_loss",
    "intermediate_states",
    "jacobian_penalty",
    "observed_rate",
    "spectrum",
]
