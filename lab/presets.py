"""Stories in one click; a test solves each and checks that it is true."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "real: digits": {"problem": "digits_deq", "batch_size": 16, "rtol": 1e-5, "max_iter": 400},
    "Anderson wins": {"problem": "affine", "spectral_radius": 0.99, "size": 200, "max_iter": 2000},
    "forward wins": {"problem": "newton"},
    "watch it diverge": {
        "problem": "affine", "spectrum": "alternating", "spectral_radius": 1.3, "size": 40,
        "window": 20,
    },
    "stiff: Poisson": {"problem": "poisson", "max_iter": 1000},
    "keep slow directions": {
        "problem": "poisson", "dtype": "float64", "window": 10, "restart": "deflated",
        "also": "restart", "rtol": 1e-10, "max_iter": 400,
    },
    "the stubborn digit": {
        "problem": "digits_deq", "training_seed": 1, "seed": 29, "batch_size": 16, "rtol": 1e-4,
        "max_iter": 400, "fallback": False,
    },
}  # fmt: skip
OPENING = PRESETS["real: digits"]
