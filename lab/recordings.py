"""Recordings of machines that most visitors don't have: which are there, whole, and of a GPU.

A recording is shown as it is, with its device, date and versions; nothing in it is computed anew.
One whose numbers were altered, or whose format is another version's, is refused in a sentence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from andersonn_core import PROBLEMS
from andersonn_core.record.crossing import DeviceCrossover
from andersonn_core.record.curves import ResidualCurve
from andersonn_core.record.file import SchemaError, read
from andersonn_core.record.timings import Timing
from andersonn_core.seal import AlteredError

FOLDER_VARIABLE = "ANDERSON_LAB_RECORDINGS"
CHECKOUT = Path(__file__).resolve().parents[1] / "assets" / "recordings"
INSTALLED = Path(__file__).resolve().parent / "recordings"
MOST_READ = 64  # files that are kept as they were read

NO_GPU_AND_NO_RECORDING = (
    "No GPU on this machine and no recorded GPU run yet: make gpu-record on one adds it."
)

R = TypeVar("R")


@dataclass(frozen=True)
class Recording:
    """What was measured on one machine."""

    device: str
    date: str
    versions: Mapping[str, str]  # as they are shown
    runs: Mapping[str, Sequence[Timing]]  # by problem
    curves: Sequence[ResidualCurve]
    crossovers: Sequence[DeviceCrossover]

    @property
    def gpu(self) -> bool:
        """Whether it holds anything of a GPU."""
        timings = [row for rows in self.runs.values() for row in rows]
        return any(row.gpu for row in (*timings, *self.curves, *self.crossovers))

    @property
    def label(self) -> str:
        """Whose numbers these are, e.g. "Recorded on NVIDIA H200, 2026-11-21, torch 2.13.0"."""
        versions = [f"{name} {version}" for name, version in self.versions.items()]
        return ", ".join([f"Recorded on {self.device}", self.date, *versions])

    def gpu_timings(self, problem: str) -> list[Timing]:
        """Timings of a problem on the GPU."""
        return [row for row in self.runs.get(problem, ()) if row.gpu]

    def gpu_curves(self, problem: str) -> list[ResidualCurve]:
        """Curves of a problem on the GPU."""
        return [curve for curve in self.curves if curve.gpu and curve.problem == problem]

    def crossovers_of(self, problem: str) -> list[DeviceCrossover]:
        """Crossovers of a problem on both devices; none where the GPU's are missing."""
        rows = [row for row in self.crossovers if row.problem == problem]
        return rows if any(row.gpu for row in rows) else []


@dataclass(frozen=True)
class Found:
    """The recordings of a folder, the newest first, and a sentence for each that was refused."""

    recordings: Sequence[Recording]
    refused: Sequence[str]

    @property
    def refusals(self) -> str:
        """All of these sentences; empty if there are none."""
        return " ".join(self.refused)

    def newest(
        self, rows: Callable[[Recording], Sequence[R]]
    ) -> tuple[Recording | None, Sequence[R]]:
        """The newest recording that has such rows, and these."""
        for recording in self.recordings:
            if found := rows(recording):
                return recording, found
        return None, ()

    def missing(self, problem: str) -> str:
        """Why there is no recorded GPU run of a problem, for a machine without a GPU."""
        if not any(recording.gpu for recording in self.recordings):
            return NO_GPU_AND_NO_RECORDING
        label = PROBLEMS[problem].label if problem in PROBLEMS else problem
        return f"No GPU on this machine, and the recorded GPU runs do not include {label}."


def folder() -> Path:
    """Where recordings are: named by the environment, else the checkout's or the wheel's."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named).expanduser()
    return CHECKOUT if CHECKOUT.is_dir() else INSTALLED


def look(where: Path | None = None) -> Found:
    """Look into the folder; a file that did not change is not read again."""
    recordings: list[Recording] = []
    refused: list[str] = []
    for path in sorted((where or folder()).glob("*.json")):
        found = _read_anew(path)
        if isinstance(found, Recording):
            recordings.append(found)
        elif found:
            refused.append(found)
    recordings.sort(key=lambda recording: recording.date, reverse=True)
    return Found(recordings, refused)


def _read_anew(path: Path) -> Recording | str:
    """What is in a file now."""
    try:
        stat = path.stat()
    except OSError:
        return ""
    return _read_once(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(MOST_READ)
def _read_once(path: Path, _changed: int, _size: int) -> Recording | str:
    """A recording, the sentence of its refusal, or nothing for any other file."""
    try:
        return recording_of(read(path))
    except AlteredError:
        return f"The recording {path.name} was refused: its numbers were altered."
    except SchemaError as error:
        return f"The recording {path.name} is not shown: {error} Record again."
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""  # it spoils nothing


def recording_of(content: Mapping[str, Any]) -> Recording:
    """The parts of a recording's content that the dashboard shows."""
    sections = content["sections"]
    return Recording(
        device=content["device"],
        date=content["date"],
        versions=_versions(content),
        runs={
            name: [Timing(**row) for row in run["rows"]] for name, run in content["runs"].items()
        },
        curves=[ResidualCurve(**row) for row in sections["curves"]["rows"]],
        crossovers=[DeviceCrossover(**row) for row in sections["crossover"]["rows"]],
    )


def _versions(content: Mapping[str, Any]) -> dict[str, str]:
    """Of what decides how fast a solve is, as far as it was there."""
    around = content["environment"]
    libraries = around["libraries"]
    known = {
        "torch": content["versions"]["torch"],
        "triton": libraries.get("triton"),
        "CUDA": around["cuda"],
        "driver": around["driver"],
    }
    return {name: version for name, version in known.items() if version not in (None, "absent")}
