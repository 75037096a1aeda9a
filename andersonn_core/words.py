"""Numbers as a person reads them, at most three digits with their unit, and as JSON takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

UNKNOWN = "unknown"


def seconds_text(seconds: float) -> str:
    """A duration: 0.0213 -> "21.3 ms", 2.5 -> "2.5 s"."""
    if not math.isfinite(seconds):
        return UNKNOWN
    return f"{_short(seconds)} s" if abs(seconds) >= 0.9995 else f"{_short(seconds * 1e3)} ms"


def interval_text(low: float, high: float) -> str:
    """A range of durations in one unit: (0.020, 0.023) -> "20 to 23 ms"."""
    upper = seconds_text(high)
    scale = 1.0 if upper.endswith(" s") else 1e3
    return f"{_short(low * scale)} to {upper}"


def ratio_text(ratio: float) -> str:
    """A factor: 2 -> "2.0x", 0.46 -> "0.46x"; two digits are enough to compare costs."""
    if not math.isfinite(ratio):
        return UNKNOWN
    digits = 2 if ratio < 0.995 else 1 if ratio < 9.95 else 0
    return f"{ratio:.{digits}f}x"


def residual_text(residual: float) -> str:
    """A relative residual: 0.62 -> "0.62", 0.0031 -> "3.1e-3", 1e-5 -> "1e-5"."""
    if not math.isfinite(residual):
        return UNKNOWN
    if 0.1 <= residual < 100 or residual == 0:
        return f"{residual:.2g}"
    mantissa, exponent = f"{residual:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def jsonable(value: Any) -> Any:
    """The same value for JSON, which has neither tuples nor NaN nor infinity: these become null."""
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
