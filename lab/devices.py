"""CPU against GPU over batch sizes: measured in a process of its own, or shown from recordings.

    python -m lab.devices            the child: reads a request as JSON, writes one timing a line
    python -m lab.devices record     times this machine's devices and writes a recording

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch

from andersonn_core import PROBLEMS, Anderson, KnobError, Picard, SolveSpec
from andersonn_core.runcard import device_name

SCHEMA = 1
BATCH_SIZES = (1, 4, 16, 64, 256, 1024)
EVALUATIONS = 24  # of each timed solve, after a short one that warms up
WARM_UP = 4
MOST_STATE = 2**23  # elements of a batch that is still timed
CHILD_SECONDS = 60.0  # then the child is killed
CHECKOUT = Path(__file__).resolve().parents[1] / "assets" / "recordings"
INSTALLED = Path(__file__).resolve().parent / "recordings"
RECORDED_PROBLEMS = ("digits_deq", "tanh", "poisson", "sinkhorn")

NO_GPU_AND_NO_RECORDING = (
    "No GPU on this machine and no recorded GPU run yet: make gpu-record on one adds it."
)
OCCUPIED = "Another visitor's timing is under way: try again in a few seconds."
TOO_LONG = f"The timing was stopped after {CHILD_SECONDS:.0f} s; what was measured stands."
BROKEN = "The timing stopped before its end; the run itself is not affected."


@dataclass(frozen=True)
class Timing:
    """Median seconds of one evaluation of a batch: the map's, and the method's step."""

    device: str  # as a person calls it: "NVIDIA H200", "Intel Xeon, 1 thread"
    gpu: bool
    method: str
    batch_size: int
    map_seconds: float
    method_seconds: float
    evaluations: int
    clock: str


@dataclass(frozen=True)
class Recording:
    """Timings of a machine that most visitors don't have."""

    device: str
    date: str
    versions: dict[str, str]
    runs: dict[str, tuple[Timing, ...]]  # by problem

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
    found = folder or (CHECKOUT if CHECKOUT.is_dir() else INSTALLED)
    read = [recording for path in sorted(found.glob("*.json")) if (recording := _read(path))]
    return sorted(read, key=lambda recording: recording.date, reverse=True)


def _read(path: Path) -> Recording | None:
    """A recording; None for any other file, so that one bad file spoils nothing."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema"] != SCHEMA:
            return None
        runs = {
            name: tuple(Timing(**row) for row in run["rows"])
            for name, run in record["runs"].items()
        }
        return Recording(record["device"], record["date"], record["versions"], runs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def recorded(problem: str, folder: Path | None = None) -> tuple[list[tuple[str, Timing]], str]:
    """(label, GPU timing) of a problem from all recordings; without any, the honest line."""
    rows = [
        (recording.label, row)
        for recording in recordings(folder)
        for row in recording.runs.get(problem, ())
        if row.gpu
    ]
    if rows:
        return rows, ""
    if recordings(folder):
        label = PROBLEMS[problem].label if problem in PROBLEMS else problem
        return [], f"No GPU on this machine, and the recorded GPU runs do not include {label}."
    return [], NO_GPU_AND_NO_RECORDING


# -- measuring ----------------------------------------------------------------------------------


def plan(spec: SolveSpec) -> list[SolveSpec]:
    """The solves to time: this one at growing batch sizes, on the CPU and on every GPU."""
    found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    most = spec.problem.knobs()["batch_size"].maximum or BATCH_SIZES[-1]
    sizes = [
        size
        for size in BATCH_SIZES
        if size <= most and size * spec.problem.num_elements <= MOST_STATE
    ]
    return [
        spec.replace(
            max_iter=EVALUATIONS, rtol=0.0, atol=0.0, compact=False,
            **{"problem.batch_size": size, "problem.device": device},
        )
        for size in sizes
        for device in found
    ]  # fmt: skip


def measure(spec: SolveSpec) -> Timing:
    """Time one solve after a short one; medians, so that a hiccup does not count."""
    spec.replace(max_iter=WARM_UP).run()
    result = spec.run()
    device = spec.problem.torch_device
    gpu = device.type != "cpu"
    name = device_name(device)
    return Timing(
        device=name if gpu else f"{name}, {torch.get_num_threads()} thread", gpu=gpu,
        method=spec.method.name, batch_size=spec.problem.batch_size,
        map_seconds=float(result.history.map_seconds.median()),
        method_seconds=float(result.history.method_seconds.median()),
        evaluations=result.num_evals, clock=result.history.clock,
    )  # fmt: skip


def timings(specs: Iterable[SolveSpec]) -> Iterator[Timing]:
    """Time each solve that fits; what does not fit is left out."""
    for spec in specs:
        with contextlib.suppress(KnobError, torch.OutOfMemoryError):
            yield measure(spec)


def record(folder: Path = CHECKOUT) -> Path:
    """Time the recorded problems on this machine's devices and write a recording."""
    torch.set_num_threads(1)
    runs: dict[str, Any] = {}
    for name in RECORDED_PROBLEMS:
        base = [SolveSpec(problem=PROBLEMS[name](), method=m) for m in (Picard(), Anderson())]
        rows = list(timings(spec for each in base for spec in plan(each)))
        runs[name] = {"spec": base[1].to_dict(), "rows": [asdict(row) for row in rows]}
    best = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    card = json.loads(plan(base[1])[-1].run().card.to_json())
    head = {"schema": SCHEMA, "device": device_name(best), "date": date.today().isoformat()}
    text = json.dumps(head | {"versions": card["versions"], "card": card, "runs": runs}, indent=1)
    slug = "-".join("".join(c if c.isalnum() else " " for c in head["device"]).lower().split())
    path = folder / f"{slug}-{head['date']}.json"
    path.write_text(text + "\n", encoding="utf-8")
    return path


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
    if sys.argv[1:] == ["record"]:
        if not torch.cuda.is_available():
            raise SystemExit("make gpu-record needs a GPU that torch can use, and found none here.")
        print(record())
    else:
        serve_request()
