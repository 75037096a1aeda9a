"""Data sets, one family a file, and the table of their loaders."""

from __future__ import annotations

from andersonn_core.data.digits import Digits, load_digits

DATASETS = {"digits": load_digits}

__all__ = ["DATASETS", "Digits", "load_digits"]
