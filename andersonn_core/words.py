"""Numbers as a person reads them, at most three digits with their unit, and as JSON takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

UNKNOWN = "unknown"
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


def seconds_text(seconds: float) -> str:
    """A duration: 0.0213 -> "21.3 ms", 2.5 -> "2.5 s"."""
    if not math.isfinite(seconds):
        return UNKNOWN
    return f"{_short(seconds)} s" if abs(seconds) >= 0.9995 else f"{_short(seconds * 1e3)} ms"


def duration_text(seconds: float) -> str:
    """A time to wait: 48.2 -> "48 s", 130 -> "2 min 10 s", 4000 -> "1 h 7 min"."""
    if not math.isfinite(seconds):
        return UNKNOWN
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


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
    return f"{float(f'{ratio:.3g}'):.{digits}f}x"


def count_text(count: float) -> str:
    """A forecast number of evaluations: 6043.2 -> "6040"."""
    return f"{float(f'{count:.3g}'):.0f}" if math.isfinite(count) else UNKNOWN


def bytes_text(number: float) -> str:
    """An amount of memory in binary units: 33554432 -> "32 MiB", 2.5e9 -> "2.33 GiB"."""
    unit = 0
    while abs(number) >= 999.5 and unit < len(_BINARY) - 1:
        number, unit = number / 1024, unit + 1
    return f"{_short(number)} {_BINARY[unit]}"


def rate_text(rate: float, unit: str) -> str:
    """A rate in billions: (3.1e10, "B/s") -> "31 GB/s"."""
    return f"{_short(rate / 1e9)} G{unit}" if math.isfinite(rate) else UNKNOWN


def percent_text(part: float) -> str:
    """A fraction with two digits: 0.614 -> "61 %", 0.0031 -> "0.31 %"."""
    if not math.isfinite(part):
        return UNKNOWN
    return f"{100 * part:.0f} %" if part >= 0.0995 else f"{100 * part:.2g} %"


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
