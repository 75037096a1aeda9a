"""What fits: the memory that a solve takes, the memory that is free, the sizes of the caches."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from andersonn_core.specs import KnobError
from andersonn_core.words import bytes_text

if TYPE_CHECKING:
    from andersonn_core.methods import MethodSpec

_CPU = torch.device("cpu")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")  # a container's own limit, where there is one
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux
_FACTS = ("level", "type", "size")  # of a cache
_KIB, _GIB = 2**10, 2**30
_SUFFIX = {"K": 2**10, "M": 2**20, "G": 2**30}
_BESIDES = 6  # vectors beside the method's: the start, the answer, the map's values


def check_fits(num_bytes: int, device: torch.device, what: str) -> None:
    """Raise KnobError if `num_bytes` are not free on `device`; `what` names the knobs to lower."""
    check_room(num_bytes, available_bytes(device), str(device), what)


def check_room(num_bytes: int, available: int | None, where: str, what: str) -> None:
    """The same, where it is known what is available."""
    if available is not None and num_bytes > available:
        raise KnobError(
            f"{what} would take about {num_bytes / _GIB:.3g} GiB of memory, but {where} has "
            f"{available / _GIB:.3g} GiB available. Lower one of these knobs."
        )


def history_bytes(
    method: MethodSpec, batch: int, n: int, dtype: torch.dtype, part: int | None = None
) -> int:
    """Bytes of the method's workspace for B samples of n elements: memory_vectors(n) B n words.

    Of so many elements in each vector as a rank holds `part` of n.
    """
    held = n if part is None else part
    return method.memory_vectors(n) * batch * held * dtype.itemsize


def solve_bytes(
    method: MethodSpec, batch: int, n: int, dtype: torch.dtype, part: int | None = None
) -> int:
    """Bytes of a whole solve, the driver's vectors included; what the map holds is its own."""
    beside = _BESIDES * batch * (n if part is None else part) * dtype.itemsize
    return history_bytes(method, batch, n, dtype, part) + beside


def memory_line(
    method: MethodSpec,
    batch: int,
    n: int,
    dtype: torch.dtype,
    caches: Mapping[str, int],
    device: torch.device = _CPU,
) -> str:
    """One sentence: "Window 10 at this size: 21 MiB; its history fits into the 32 MiB L3 cache.".

    The amount is that of the whole solve, which the driver compares with the memory free on
    `device`; the history is the method's part of it, compared with `caches` (of `cache_sizes`).
    """
    window, needed = method.largest_window, solve_bytes(method, batch, n, dtype)
    head = f"{f'Window {window}' if hasattr(method, 'window') else method.label} at this size: "
    head += bytes_text(needed)
    free = available_bytes(device)
    if free is not None and needed > free:
        return f"{head}, but {bytes_text(free)} are free: the solve would be refused."
    history = history_bytes(method, batch, n, dtype)
    if not caches:
        return f"{head}."
    fitting = [(name, size) for name, size in caches.items() if history <= size]
    name, size = fitting[0] if fitting else list(caches.items())[-1]
    verb = "fits" if fitting else "does not fit"
    return f"{head}; its history {verb} into the {bytes_text(size)} {name} cache."


def place(working_set: float, caches: Mapping[str, int]) -> str:
    """The smallest cache that holds so many bytes, "L2 cache"; "memory" if none does."""
    fitting = [name for name, size in caches.items() if working_set <= size]
    return f"{fitting[0]} cache" if fitting else "memory"


def cache_sizes() -> dict[str, int]:
    """Bytes of the data caches of the first core, "L1" to "L3"; empty where nobody tells them."""
    found = {}
    for index in sorted(_CACHES.glob("index*")):
        try:
            level, kind, size = ((index / fact).read_text().strip() for fact in _FACTS)
        except OSError:  # some virtual machines leave the size out
            continue
        if kind != "Instruction":
            found[f"L{level}"] = _bytes(size)
    return found


def _bytes(text: str) -> int:
    """Such as 33554432 from "32768K"."""
    return int(text[:-1]) * _SUFFIX[text[-1]] if text[-1] in _SUFFIX else int(text)


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
