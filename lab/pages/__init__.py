"""One page a file, and the table of them."""

from __future__ import annotations

from lab.pages.convergence import Convergence

PAGES = {"Convergence": Convergence}

__all__ = ["PAGES", "Convergence"]
