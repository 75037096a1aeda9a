"""What can end a sweep that its trials are not to blame for."""

from __future__ import annotations


class EngineError(RuntimeError):
    """An engine is gone; what was done is in the store, and the same call goes on from there."""
