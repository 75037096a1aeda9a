"""The dashboard: live pages on what andersonn_core computes."""

from __future__ import annotations

from typing import Any

__all__ = ["explore"]


def __getattr__(name: str) -> Any:
    """Import `explore` when it is first asked for: it brings Panel and Bokeh."""
    if name == "explore":
        from lab.explore import explore

        globals()[name] = explore  # the import has put the module of the same name there
        return explore
    raise AttributeError(f"module 'lab' has no attribute {name!r}")
