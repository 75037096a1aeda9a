"""How much memory is free, and the refusal of a request that would not fit."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from andersonn_core.specs import KnobError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")  # a container's own limit, where there is one
_KIB, _GIB = 2**10, 2**30


def check_fits(num_bytes: int, device: torch.device, what: str) -> None:
    """Raise KnobError if `num_bytes` are not free on `device`; `what` names the knobs to lower."""
    available = available_bytes(device)
    if available is not None and num_bytes > available:
        raise KnobError(
            f"{what} would take about {num_bytes / _GIB:.3g} GiB of memory, but {device} has "
            f"{available / _GIB:.3g} GiB available. Lower one of these knobs."
        )


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can be allocated on `device` now; None where the system does not say."""
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [limit for limit in (_machine_bytes(), _container_bytes()) if limit is not None]
    return min(known, default=None)


def _machine_bytes() -> int | None:
    if _MEMINFO.exists():
        rows = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        if "MemAvailable" in rows:
            return int(rows["MemAvailable"].split()[0]) * _KIB
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _container_bytes() -> int | None:
    try:
        limit = int((_CGROUP / "memory.max").read_text())  # "max" without a limit: ValueError
        return limit - int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
