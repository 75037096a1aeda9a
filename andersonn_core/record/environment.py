"""Whose numbers a recording holds: device, driver, versions, commit."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from pathlib import Path

import torch

from andersonn_core.compiling import UNCOMPILED, has_numba
from andersonn_core.record.settings import Row

LIBRARIES = "torch triton numpy pandas scipy scikit-learn pydantic numba torchdeq".split()
CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE = 10.0  # seconds for a program that tells a version


def environment(device: torch.device) -> Row:
    """Versions of libraries and of the driver, the GPU's memory, and the commit; None: not told."""
    gpu = device.type == "cuda"
    return {
        "libraries": {name: _version(name) for name in LIBRARIES},
        "cuda": torch.version.cuda if gpu else None,
        "driver": _driver(device) if gpu else None,
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory if gpu else None,
        "commit": _said_by("git", "-C", str(CHECKOUT), "rev-parse", "HEAD"),
    }


def notes(device: torch.device) -> list[str]:
    """What a reader has to know about the numbers, in sentences."""
    found = [] if has_numba() else [UNCOMPILED]
    if device.type == "cpu":
        found.append("Recorded on a CPU: there is no GPU in these numbers.")
    return found


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _driver(device: torch.device) -> str | None:
    index = torch.cuda.current_device() if device.index is None else device.index
    options = "--query-gpu=driver_version", "--format=csv,noheader", f"--id={index}"
    return _said_by("nvidia-smi", *options)


def _said_by(*command: str) -> str | None:
    """What a program prints; None where it is missing, fails or takes too long."""
    if not shutil.which(command[0]):
        return None
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
