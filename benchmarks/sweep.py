"""What a sweep costs beside its solves, and what its engines gain: `make bench-sweep`.

600 trials of the digits DEQ, in blocks that take turns: one process that only solves, two such
processes at once, a serial sweep, a sweep in two processes. So both gains, the sweep's and that of
two independent processes, are of the same minutes, whatever else the machine does. Then trials of
0.2 s or more, in blocks that take turns between two processes and two Dask workers. Before all that
what a serial sweep takes beside its solves, in CPU time of this process. Promises are checked, and
the numbers go to benchmarks/results/sweep.json with this machine's run card.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from distributed import LocalCluster
from rich.console import Console
from rich.progress import track

from andersonn_core import PROBLEMS, Anderson, SolveSpec, Sweep
from andersonn_core.store import Store
from andersonn_core.sweeps.engines import engine_for
from andersonn_core.sweeps.engines.base import Engine
from andersonn_core.sweeps.session import Session

RESULTS = Path(__file__).parent / "results" / "sweep.json"
BLOCKS = 5
WINDOWS, MIXINGS = range(1, 11), (0.8, 0.9, 1.0)
SHORT = SolveSpec(
    problem=PROBLEMS["digits_deq"](batch_size=8), method=Anderson(), rtol=1e-3, max_iter=100
)
LONG = SHORT.replace(**{"problem.batch_size": 48})
# A process that only solves: the windows and mixings that it is told, after a line on its stdin.
BUSY = """
import sys, torch
from andersonn_core import SolveSpec
torch.set_num_threads(1)
specs = [SolveSpec.from_json(line) for line in open(sys.argv[1])]
problem = specs[0].problem.build()
specs[0].run(problem=problem)
for line in sys.stdin:
    first, step = map(int, line.split())
    for spec in specs[first::step]:
        spec.run(problem=problem)
    print("done", flush=True)
"""


def block_sweep(base: SolveSpec, repeats: int, block: int) -> Sweep:
    """The trials of a block: windows x mixings x repeats, of the block's own seed."""
    axes = {"method.window": WINDOWS, "method.mixing": MIXINGS}
    return Sweep(base, axes, repeats, seeds=[block])


class BusyProcesses:
    """Two processes that solve a block's specs without any sweep, on being told."""

    def __init__(self, base: SolveSpec, repeats: int, folder: Path) -> None:
        specs = [spec.to_json() for _, _, spec in block_sweep(base, repeats, 0).plan.trials()]
        path = folder / "specs.jsonl"
        path.write_text("\n".join(specs))
        command = [sys.executable, "-c", BUSY, str(path)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(2)]
        self.run(2)  # when it has answered, it has imported and solved everything once

    def run(self, count: int) -> float:
        """Seconds of a block shared out among the first `count` of them."""
        start = time.perf_counter()
        for index, process in enumerate(self.processes[:count]):
            process.stdin.write(f"{index} {count}\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        for process in self.processes[:count]:
            process.stdout.readline()  # type: ignore[union-attr]
        return time.perf_counter() - start

    def close(self) -> None:
        """End them."""
        for process in self.processes:
            process.kill()
            process.communicate()


def timed(sweep: Sweep, store: Store, engine: Engine) -> float:
    """Wall seconds of a sweep on an engine that is ready."""
    start = time.perf_counter()
    session = Session(sweep.plan, store, engine)
    session.run(lambda _: None, lambda: False)
    rows = session.frame()
    seconds = time.perf_counter() - start
    assert len(rows) == sweep.total, (len(rows), sweep.total)
    return seconds


def gains(blocks: int, folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Seconds a block of each contender, and the ratios of the promise."""
    repeats = 100 // (len(WINDOWS) * len(MIXINGS)) + 1
    busy = BusyProcesses(SHORT, repeats, folder)
    stack.callback(busy.close)
    serial, processes = engine_for("serial"), stack.enter_context(engine_for("processes", 2))
    stores = {name: stack.enter_context(Store(folder / f"{name}.sqlite")) for name in ("s", "p")}
    for name, engine in (("s", serial), ("p", processes)):  # what is imported, compiled, built once
        timed(block_sweep(SHORT, 1, 1000), stores[name], engine)
    contenders: dict[str, Callable[[int], float]] = {
        "one busy process": lambda block: busy.run(1),
        "two busy processes": lambda block: busy.run(2),
        "serial": lambda block: timed(block_sweep(SHORT, repeats, block), stores["s"], serial),
        "processes": lambda block: timed(
            block_sweep(SHORT, repeats, block), stores["p"], processes
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for block in track(range(blocks), "gains"):
        for name in [*contenders][block % 2 :] + [*contenders][: block % 2]:
            seconds[name].append(contenders[name](block))
    one, two = seconds["one busy process"], seconds["two busy processes"]
    ratios = [b / p for p, b in
              zip(seconds["processes"], two, strict=True)]  # fmt: skip
    return {"trials": blocks * repeats * 30, "seconds": seconds, "ratios": ratios,
            "independent gain": [a / b for a, b in zip(one, two, strict=True)]}  # fmt: skip


def dask_beside_processes(blocks: int, folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Seconds a block of longer trials in two processes and on two Dask workers."""
    cluster = stack.enter_context(
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    )
    engines = {
        "processes": stack.enter_context(engine_for("processes", 2)),
        "dask": stack.enter_context(engine_for(cluster.scheduler_address)),
    }
    stores = {name: stack.enter_context(Store(folder / f"{name}2.sqlite")) for name in engines}
    for name, engine in engines.items():
        timed(Sweep(LONG, {"method.window": range(1, 5)}, seeds=[1000]), stores[name], engine)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for block in track(range(blocks), "Dask"):
        for name in [*engines] if block % 2 else [*engines][::-1]:
            seconds[name].append(timed(block_sweep(LONG, 1, block), stores[name], engines[name]))
    with Store(folder / "dask2.sqlite", read_only=True) as store:
        each = statistics.median(store.members(2)["seconds"])
    pairs = zip(seconds["dask"], seconds["processes"], strict=True)
    return {"seconds": seconds, "seconds of a trial": each, "ratios": [d / p for d, p in pairs]}


def overhead(folder: Path) -> dict[str, Any]:
    """CPU seconds of a serial sweep beside its solves, for each trial."""
    sweep, engine = block_sweep(SHORT, 4, 0), engine_for("serial")
    with Store(folder / "overhead.sqlite") as store:
        timed(block_sweep(SHORT, 1, 1000), store, engine)
        start = time.process_time()
        timed(sweep, store, engine)
        whole = time.process_time() - start
        solves = store.members(2)["seconds"].sum()
    return {"trials": sweep.total, "seconds of a trial": (whole - solves) / sweep.total,
            "seconds of a solve": solves / sweep.total}  # fmt: skip


def spread(values: list[float]) -> str:
    """The median with the smallest and the largest."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def report(found: dict[str, Any], console: Console) -> bool:
    """Print the promises with what was measured; whether all are kept."""
    gain, dask, cost = found["gains"], found["dask"], found["overhead"]
    ratio, beside = statistics.median(gain["ratios"]), statistics.median(dask["ratios"])
    milliseconds = 1e3 * cost["seconds of a trial"]
    lines = [
        (ratio >= 0.85, f"{gain['trials']} trials: processes / two independent processes, "
         f"{spread(gain['ratios'])}; at least 0.85. Two independent ones gain "
         f"{spread(gain['independent gain'])}."),
        (beside <= 1.15 and dask["seconds of a trial"] >= 0.2, "Dask's seconds / those of "
         f"processes, {spread(dask['ratios'])}; at most 1.15, for trials of "
         f"{dask['seconds of a trial']:.2g} s."),
        (milliseconds <= 10, f"a serial trial takes {milliseconds:.2g} ms beside its solve of "
         f"{1e3 * cost['seconds of a solve']:.2g} ms; at most 10 ms."),
    ]  # fmt: skip
    for kept, line in lines:
        console.print(f"{'kept  ' if kept else 'BROKEN'} {line}", highlight=False, soft_wrap=True)
    return all(kept for kept, _ in lines)


def main() -> int:
    """Measure, print, keep."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="blocks of 120 trials")
    parser.add_argument("--to", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        found = {
            "overhead": overhead(folder),  # first: a Dask cluster takes this process's time, too
            "gains": gains(arguments.blocks, folder, stack),
            "dask": dask_beside_processes(max(2, arguments.blocks // 2), folder, stack),
            "card": asdict(SHORT.run().card),
        }
    kept = report(found, Console())
    arguments.to.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
