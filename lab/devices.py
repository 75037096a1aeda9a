"""CPU against GPU over batch sizes: measured in a process of its own, or shown from recordings.

    python -m lab.devices     the child: reads a request as JSON, writes one timing a line

In the server's process the page and other visitors would disturb the timing, and a device call that
hangs would take the server down with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from andersonn_core import PROBLEMS, SolveSpec
from andersonn_core.record.file import AlteredError, read
from andersonn_core.record.timings import Timing, plan, timings

CHILD_SECONDS = 60.0  # then the child is killed
CHECKOUT = Path(__file__).resolve().parents[1] / "assets" / "recordings"
INSTALLED = Path(__file__).resolve().parent / "recordings"

NO_GPU_AND_NO_RECORDING = (
    "No GPU on this machine and no recorded GPU run yet: make gpu-record on one adds it."
)
OCCUPIED = "Another visitor's timing is under way: try again in a few seconds."
TOO_LONG = f"The timing was stopped after {CHILD_SECONDS:.0f} s; what was measured stands."
BROKEN = "The timing stopped before its end; the run itself is not affected."


@dataclass(frozen=True)
class Recording:
    """Timings of a machine that most visitors don't have."""

    device: str
    date: str
    versions: dict[str, str]
    runs: dict[str, tuple[Timing, ...]]  # by problem

    @property
    def gpu(self) -> bool:
        """Whether it holds any timing on a GPU."""
        return any(row.gpu for rows in self.runs.values() for row in rows)

    @property
    def label(self) -> str:
        """Whose numbers these are, e.g. "recorded on NVIDIA H200, 2026-11-21, torch 2.13.0"."""
        versions = ", ".join(f"{name} {self.versions[name]}" for name in sorted(self.versions))
        return f"recorded on {self.device}, {self.date}, {versions}"


@dataclass(frozen=True)
class TimingNews:
    """What a timing run has to say: all rows so far, whether it ended, a sentence if needed."""

    rows: tuple[Timing, ...] = ()
    done: bool = False
    sentence: str = ""


# -- recordings ---------------------------------------------------------------------------------


def recordings(folder: Path | None = None) -> list[Recording]:
    """The recorded runs that are there and whole, the newest first."""
    return _look(folder)[0]


def _look(folder: Path | None) -> tuple[list[Recording], list[str]]:
    """Recordings, the newest first, and the names of those whose numbers were altered."""
    where = folder or (CHECKOUT if CHECKOUT.is_dir() else INSTALLED)
    found, altered = [], []
    for path in sorted(where.glob("*.json")):
        try:
            found.append(_recording(path))
        except AlteredError:
            altered.append(path.name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # any other file: it spoils nothing
    return sorted(found, key=lambda recording: recording.date, reverse=True), altered


def _recording(path: Path) -> Recording:
    content = read(path)
    runs = {
        name: tuple(Timing(**row) for row in run["rows"]) for name, run in content["runs"].items()
    }
    return Recording(content["device"], content["date"], content["versions"], runs)


def recorded(problem: str, folder: Path | None = None) -> tuple[list[tuple[str, Timing]], str]:
    """(label, GPU timing) of a problem from all recordings, and the honest line, if one is due.

    That is where there are no such timings, and where a recording was refused.
    """
    found, altered = _look(folder)
    rows = [
        (recording.label, row)
        for recording in found
        for row in recording.runs.get(problem, ())
        if row.gpu
    ]
    words = [f"The recording {name} was refused: its numbers were altered." for name in altered]
    if not rows and any(recording.gpu for recording in found):
        label = PROBLEMS[problem].label if problem in PROBLEMS else problem
        words.insert(
            0, f"No GPU on this machine, and the recorded GPU runs do not include {label}."
        )
    elif not rows:
        words.insert(0, NO_GPU_AND_NO_RECORDING)
    return rows, " ".join(words)


# -- the child and its owner --------------------------------------------------------------------


def _kill_late(child: subprocess.Popen[str], late: threading.Event) -> None:
    late.set()
    child.kill()


def serve_request() -> None:
    """The child: solves named on standard input -> one JSON line per timing on standard output."""
    with contextlib.suppress(OSError):
        os.nice(10)  # visitors first
    torch.set_num_threads(1)
    specs = [SolveSpec.from_dict(each) for each in json.load(sys.stdin)]
    for timing in timings([spec for each in specs for spec in plan(each)]):
        print(json.dumps(asdict(timing)), flush=True)


_ONE = threading.Lock()  # one child at a time, whoever asks


@dataclass
class DeviceTimings:
    """One visitor's timing runs; news arrives in `publish` on the document's thread."""

    publish: Callable[[TimingNews], None]
    schedule: Callable[[Callable[[], None]], Any]
    command: Sequence[str] = (sys.executable, "-m", "lab.devices")
    seconds: float = CHILD_SECONDS
    patience: float = 2.0  # seconds in which a run that was just cancelled has to go
    _child: subprocess.Popen[str] | None = field(default=None, init=False)
    _wanted: int = field(default=0, init=False)

    def start(self, specs: Sequence[SolveSpec]) -> None:
        """Time these solves' maps and steps over batch sizes and devices."""
        self.cancel()
        self._wanted += 1
        request = json.dumps([spec.to_dict() for spec in specs])
        thread = threading.Thread(target=self._run, args=(request, self._wanted), daemon=True)
        thread.start()

    def cancel(self) -> None:
        """Stop what is being timed; nothing more is said about it."""
        self._wanted += 1
        child = self._child
        if child is not None:
            child.kill()

    close = cancel

    def _run(self, request: str, number: int) -> None:
        if not _ONE.acquire(timeout=self.patience):
            self._say(number, TimingNews(done=True, sentence=OCCUPIED))
            return
        try:
            self._read_child(request, number)
        finally:
            _ONE.release()

    def _read_child(self, request: str, number: int) -> None:
        if number != self._wanted:
            return
        pipes: dict[str, Any] = dict(
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        root = str(Path(__file__).resolve().parents[1])
        with subprocess.Popen(self.command, text=True, cwd=root, **pipes) as child:
            self._child = child
            late = threading.Event()
            timer = threading.Timer(self.seconds, _kill_late, (child, late))
            timer.daemon = True
            timer.start()
            rows = self._rows(child, request, number)
            code = child.wait()
            timer.cancel()
            self._child = None
        words = TOO_LONG if late.is_set() else BROKEN if code else ""
        self._say(number, TimingNews(tuple(rows), done=True, sentence=words))

    def _rows(self, child: subprocess.Popen[str], request: str, number: int) -> list[Timing]:
        assert child.stdin is not None and child.stdout is not None
        rows: list[Timing] = []
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(request)
            child.stdin.close()
        for line in child.stdout:
            rows.append(Timing(**json.loads(line)))
            self._say(number, TimingNews(tuple(rows)))
        return rows

    def _say(self, number: int, news: TimingNews) -> None:
        """Publish news of the newest request only."""

        def tell() -> None:
            if number == self._wanted:
                self.publish(news)

        with contextlib.suppress(Exception):  # the document is gone
            self.schedule(tell)


if __name__ == "__main__":
    serve_request()
