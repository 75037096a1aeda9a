"""Parameter sweeps: from one line, on one machine or a cluster, into a store."""

from andersonn_core.sweeps.axes import Between
from andersonn_core.sweeps.plan import Plan
from andersonn_core.sweeps.sweep import Sweep

__all__ = ["Between", "Plan", "Sweep"]
