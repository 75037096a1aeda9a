"""The hot loops over the history: rings of differences and the best iterate."""

from andersonn_core.kernels.best_iterate import BestIterate
from andersonn_core.kernels.window import DifferenceWindow

__all__ = ["BestIterate", "DifferenceWindow"]
