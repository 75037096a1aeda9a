"""One page a file, and the table of them."""

from __future__ import annotations

from lab.pages.convergence import Convergence
from lab.pages.crossover import Crossover
from lab.pages.sweeps import Sweeps
from lab.pages.train import Train

PAGES = {"Convergence": Convergence, "Crossover": Crossover, "Train": Train, "Sweeps": Sweeps}

__all__ = ["PAGES", "Convergence", "Crossover", "Sweeps", "Train"]
