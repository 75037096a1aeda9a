"""One page a file, and the table of them."""

from __future__ import annotations

from lab.pages.convergence import Convergence
from lab.pages.crossover import Crossover

PAGES = {"Convergence": Convergence, "Crossover": Crossover}

__all__ = ["PAGES", "Convergence", "Crossover"]
