"""Results by key in one SQLite file: what was swept, each trial's row, its card and its curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from andersonn_core.store.errors import (
    DamagedStoreError,
    NewerStoreError,
    StoreError,
    UnsafePlaceError,
)
from andersonn_core.store.rows import FAILED, Row

if TYPE_CHECKING:
    from andersonn_core.store.store import Store

__all__ = [
    "FAILED",
    "DamagedStoreError",
    "NewerStoreError",
    "Row",
    "Store",
    "StoreError",
    "UnsafePlaceError",
]


def __getattr__(name: str) -> Any:
    """`Store`, with the first use of it: SQLAlchemy and Arrow take half a second to load."""
    if name != "Store":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from andersonn_core.store.store import Store

    return Store
