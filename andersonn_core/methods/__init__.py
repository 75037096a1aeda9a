"""The methods: one file each, one line each in METHODS."""

from andersonn_core.methods.anderson import Anderson
from andersonn_core.methods.base import MethodSpec, MethodState, StepDiagnostics
from andersonn_core.methods.broyden import Broyden
from andersonn_core.methods.picard import Picard

METHODS: dict[str, type[MethodSpec]] = {
    Picard.name: Picard,
    Anderson.name: Anderson,
    Broyden.name: Broyden,
}

__all__ = [
    "METHODS",
    "Anderson",
    "Broyden",
    "MethodSpec",
    "MethodState",
    "Picard",
    "StepDiagnostics",
]
