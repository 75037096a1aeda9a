"""The hot loops over the state: residuals, rings of differences, the best iterate."""

from andersonn_core.kernels.progress import Kept, Progress
from andersonn_core.kernels.residual import measure
from andersonn_core.kernels.residual_window import ResidualWindow
from andersonn_core.kernels.rows import Rows, Sums, rows_for
from andersonn_core.kernels.window import DifferenceWindow, Previous

__all__ = [
    "DifferenceWindow", "Kept", "Previous", "Progress", "ResidualWindow", "Rows", "Sums",
    "measure", "rows_for",
]  # fmt: skip
