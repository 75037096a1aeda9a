"""The weights gamma of the residual least-squares problem min || g - dG^T gamma ||, per sample.

Both back ends scale the columns to unit norm first, so that the ridge is relative and the weights
do not change when the map is scaled (z -> s z). Only the small m x m problem is solved in float64.
"""

from andersonn_core.least_squares.filtering import (
    Filter,
    newest,
    not_aligned,
    well_conditioned,
)
from andersonn_core.least_squares.gram import ScaledGram
from andersonn_core.least_squares.qr import qr_weights
from andersonn_core.least_squares.residual_gram import ResidualGram
from andersonn_core.least_squares.weights import Weights, condition, default_regularization, gain

__all__ = [
    "Filter",
    "ResidualGram",
    "ScaledGram",
    "Weights",
    "condition",
    "default_regularization",
    "gain",
    "newest",
    "not_aligned",
    "qr_weights",
    "well_conditioned",
]
