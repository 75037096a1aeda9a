"""The dashboard: live pages on what andersonn_core computes."""

from __future__ import annotations

from typing import Any

__all__ = ["explore"]


def __getattr__(name: str) -> Any:
    """Import `explore` when it is first asked for: it brings Panel and Bokeh.

    No module is named like the function: the first import of that module would take its place here.
    """
    if name == "explore":
        from lab.own_map import explore

        return explore
    raise AttributeError(f"module 'lab' has no attribute {name!r}")
