"""A sweep's trials seen from four sides, with one selection."""

from __future__ import annotations

from lab.sweeps.views import SweepViews

__all__ = ["SweepViews"]
