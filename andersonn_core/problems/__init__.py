"""Families of fixed-point maps, one a file, and the table of them."""

from __future__ import annotations

from andersonn_core.problems.affine import Affine
from andersonn_core.problems.base import FixedPointMap, Problem, ProblemSpec, SelectableMap
from andersonn_core.problems.bratu import Bratu
from andersonn_core.problems.chandrasekhar import Chandrasekhar
from andersonn_core.problems.convection import ConvectionDiffusion
from andersonn_core.problems.digits_deq import DigitsDEQ
from andersonn_core.problems.lasso import Lasso
from andersonn_core.problems.newton import Newton
from andersonn_core.problems.pagerank import PageRank
from andersonn_core.problems.poisson import Poisson
from andersonn_core.problems.rotation import Rotation
from andersonn_core.problems.sinkhorn import Sinkhorn
from andersonn_core.problems.tanh import Tanh
from andersonn_core.problems.value_iteration import ValueIteration

PROBLEMS: dict[str, type[ProblemSpec]] = {
    "digits_deq": DigitsDEQ,
    "poisson": Poisson,
    "bratu": Bratu,
    "convection": ConvectionDiffusion,
    "tanh": Tanh,
    "affine": Affine,
    "chandrasekhar": Chandrasekhar,
    "lasso": Lasso,
    "value_iteration": ValueIteration,
    "pagerank": PageRank,
    "rotation": Rotation,
    "sinkhorn": Sinkhorn,
    "newton": Newton,
}

__all__ = [
    "PROBLEMS",
    "Affine",
    "Bratu",
    "Chandrasekhar",
    "ConvectionDiffusion",
    "DigitsDEQ",
    "FixedPointMap",
    "Lasso",
    "Newton",
    "PageRank",
    "Poisson",
    "Problem",
    "ProblemSpec",
    "Rotation",
    "SelectableMap",
    "Sinkhorn",
    "Tanh",
    "ValueIteration",
]
