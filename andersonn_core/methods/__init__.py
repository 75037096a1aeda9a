"""The methods: one file each, one line each in METHODS."""

from andersonn_core.methods.anderson import Anderson
from andersonn_core.methods.auto import Auto
from andersonn_core.methods.base import MethodSpec, MethodState, StepDiagnostics
from andersonn_core.methods.broyden import Broyden
from andersonn_core.methods.idr import IDR
from andersonn_core.methods.picard import Picard
from andersonn_core.methods.short_recurrence import ShortRecurrence

METHODS: dict[str, type[MethodSpec]] = {
    Picard.name: Picard,
    Anderson.name: Anderson,
    Auto.name: Auto,
    ShortRecurrence.name: ShortRecurrence,
    IDR.name: IDR,
    Broyden.name: Broyden,
}

__all__ = [
    "IDR",
    "METHODS",
    "Anderson",
    "Auto",
    "Broyden",
    "MethodSpec",
    "MethodState",
    "Picard",
    "ShortRecurrence",
    "StepDiagnostics",
]
