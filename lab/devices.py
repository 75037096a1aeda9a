"""CPU against GPU over batch sizes, measured in a process of its own.

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

from andersonn_core import SolveSpec
from andersonn_core.faults import is_device_failure
from andersonn_core.record.timings import Timing, plan, timings

CHILD_SECONDS = 60.0  # then the child is killed
DEVICE_FAILED = 70  # the exit code of a child whose GPU failed

OCCUPIED = "Another visitor's timing is under way: try again in a few seconds."
TOO_LONG = f"The timing was stopped after {CHILD_SECONDS:.0f} s; what was measured stands."
BROKEN = "The timing stopped before its end; the run itself is not affected."
FAILED = (
    "The GPU failed while it was timed; what was measured stands, and runs on the CPU go on. "
    "If it fails again, restart the lab, or the machine."
)


@dataclass(frozen=True)
class TimingNews:
    """What a timing run has to say: all rows so far, whether it ended, a sentence if needed."""

    rows: tuple[Timing, ...] = ()
    done: bool = False
    sentence: str = ""


# -- the child and its owner --------------------------------------------------------------------


def _kill_late(child: subprocess.Popen[str], late: threading.Event) -> None:
    late.set()
    child.kill()


def serve_request() -> int:
    """The child: solves named on standard input -> one JSON line per timing on standard output."""
    with contextlib.suppress(OSError):
        os.nice(10)  # visitors first
    torch.set_num_threads(1)
    specs = [SolveSpec.from_dict(each) for each in json.load(sys.stdin)]
    failed: set[str] = set()
    for spec in (each for one in specs for each in plan(one)):
        if spec.problem.device not in failed:
            failed |= time_one(spec)
    return DEVICE_FAILED if failed else 0


def time_one(spec: SolveSpec) -> set[str]:
    """Print the timing of a solve; the device that failed in it, if one did: others go on."""
    try:
        for timing in timings([spec]):
            print(json.dumps(asdict(timing)), flush=True)
    except RuntimeError as error:
        if not is_device_failure(error):
            raise
        return {spec.problem.device}
    return set()


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
        ends = {0: "", DEVICE_FAILED: FAILED}
        words = TOO_LONG if late.is_set() else ends.get(code, BROKEN)
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
    sys.exit(serve_request())
