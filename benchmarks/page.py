"""How fast the dashboard answers: `make bench-page`, or `python benchmarks/page.py [--quick]`.

Headless Chromium, the server and the solves share this machine's cores, so the figures are
pessimistic. A move is one key press on the window slider; its answer is the first frame, after the
browser has drawn it, in which both curves show a point of their new runs. A drag is by the mouse,
twenty moves a second. The server forgets what it has solved: otherwise forward iteration, which the
window does not change, would be no news.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROBLEMS = {
    "tanh": "problem=tanh",
    "digits, batch 16": "problem=digits_deq&batch_size=16&rtol=1e-05&max_iter=400",
}
WARM, MOVES, DRAG, SOAK, TOGETHER = 20, 60, 100, 200, 40
KEYS = ["ArrowRight"] * 4 + ["ArrowLeft"] * 4  # window 5 -> 9 -> 5
DRAGGED = [6, 7, 8, 9, 8, 7, 6, 5]  # windows
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

# An answer is on the canvas when Bokeh's figure of residual against evaluations has painted both
# methods' lines with at least one point of another run: each line bears its run's name.
HOOK = """
() => {
  const views = new Set();
  const walk = (view) => {
    if (!view || views.has(view)) return;
    views.add(view);
    for (const child of [...(view.children?.() ?? []), ...(view.child_views ?? [])]) walk(child);
  };
  for (const view of Bokeh.index) walk(view);
  const isMedians = (model) => model.data_source?.name === 'medians by evaluation';
  const isPlot = (view) => view._actual_paint && view.model.renderers?.some(isMedians);
  const plot = [...views].find(isPlot);
  if (!plot) return [];
  const source = plot.model.renderers.find(isMedians).data_source;
  const runs = () => {
    const {name, x} = source.data, shown = {};
    for (let i = 0; i < name.length; i++) {
      const [method, run] = name[i].split(' ');
      shown[method] = x[i].length ? run : null;
    }
    return shown;
  };
  const lab = window.lab = {started: null, old: {}, times: {}, frames: 0, changed: false};
  source.properties.data.change.connect(() => { lab.changed = true; });
  const paint = plot._actual_paint;
  plot._actual_paint = function (...given) {
    const result = paint.apply(this, given), now = performance.now();
    if (lab.changed) { lab.changed = false; lab.frames += 1; }
    if (lab.started !== null) for (const [method, run] of Object.entries(runs()))
      if (run !== null && run !== lab.old[method]) lab.times[method] ??= now - lab.started;
    return result;
  };
  window.addEventListener('keydown', (event) => {
    lab.started = event.timeStamp; lab.times = {}; lab.old = runs();
  }, true);
  return Object.keys(runs()).sort();
}
"""


# -- the server -----------------------------------------------------------------------------------


def serve(port: int) -> None:
    """Serve a forgetful dashboard and, at /bench, what its runner has counted."""
    import panel as pn
    import psutil
    from tornado.web import RequestHandler

    from lab import runner

    runner.RESULTS.limit = 0
    runner._goes_on = lambda job, task: False

    class Bench(RequestHandler):
        def get(self) -> None:
            rss = psutil.Process().memory_info().rss
            self.write({"rss": rss, "stop_seconds": list(runner.COUNTS.stop_seconds)})

    pn.serve(
        {"app": str(ROOT / "lab" / "app.py")}, port=port, address="127.0.0.1", show=False,
        extra_patterns=[("/bench", Bench)], websocket_origin=[f"127.0.0.1:{port}"],
    )  # fmt: skip


@dataclass
class Server:
    """A dashboard in a process of its own."""

    url: str

    def counts(self) -> dict[str, Any]:
        """What the runner has counted, and the memory that the server takes."""
        with urllib.request.urlopen(f"{self.url}/bench", timeout=30) as answer:
            return dict(json.load(answer))


@contextmanager
def server() -> Iterator[Server]:
    """Start a dashboard on a free port."""
    free = [sys.executable, "setup_env.py", "--free-port", "5106"]
    port = subprocess.run(free, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    command = [sys.executable, __file__, "--serve", port]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    made = Server(f"http://127.0.0.1:{port}")
    try:
        _wait(lambda: _answers(made), "the server did not start", 120)
        yield made
    finally:
        process.terminate()
        process.wait(20)


def _answers(made: Server) -> bool:
    try:
        return bool(made.counts())
    except OSError:
        return False


def _wait(done: Callable[[], Any], sentence: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"bench-page: {sentence}.")
        time.sleep(0.02)


# -- the visitor ----------------------------------------------------------------------------------


class Visitor:
    """One browser tab on the Convergence page."""

    def __init__(self, browser: Any, url: str) -> None:
        self.page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        self.bytes = 0
        network = self.page.context.new_cdp_session(self.page)
        network.send("Network.enable")
        network.on("Network.loadingFinished", self._loaded)
        self.page.goto(url, wait_until="networkidle")
        self.slider = self.page.get_by_role("slider", name=re.compile("^window")).first
        self.slider.wait_for(timeout=60_000)
        _wait(self._hooked, "the page shows no curves of both methods")
        self.slider.focus()
        self.presses = 0

    def _loaded(self, event: dict[str, Any]) -> None:
        self.bytes += int(event["encodedDataLength"])

    def _hooked(self) -> bool:
        ready = "() => window.Bokeh && Bokeh.documents.length > 0"
        return bool(self.page.evaluate(ready)) and self.page.evaluate(HOOK) == [
            "anderson",
            "picard",
        ]

    def press(self) -> None:
        """One move of the window slider."""
        self.page.keyboard.press(KEYS[self.presses % len(KEYS)])
        self.presses += 1

    def grasp(self) -> Callable[[float], None]:
        """Take the window slider's thumb with the mouse; returns what pulls it to a window."""
        root = self.slider.locator("xpath=ancestor::*[contains(@class, 'MuiSlider-root')]")
        box = root.bounding_box()
        low, high = (float(self.slider.get_attribute(end)) for end in ("min", "max"))

        def pull_to(window: float) -> None:
            x = box["x"] + box["width"] * (window - low) / (high - low)
            self.page.mouse.move(x, box["y"] + box["height"] / 2)

        pull_to(float(self.slider.input_value()))
        self.page.mouse.down()
        return pull_to

    def answer(self) -> float | None:
        """Milliseconds until both curves showed a new point; None if they have not yet."""
        times = self.page.evaluate("() => window.lab.times")
        return max(times.values()) if len(times) == 2 else None

    @property
    def answered(self) -> bool:
        """Whether the last move, if there was one, was answered."""
        return not self.presses or self.answer() is not None

    def move(self) -> float:
        """One move, waited for: milliseconds."""
        self.press()
        _wait(lambda: self.answer() is not None, "a move was not answered")
        return float(self.answer() or 0.0)

    def close(self) -> None:
        """Leave."""
        self.page.context.close()


def latencies(browser: Any, made: Server, query: str, moves: int) -> tuple[list[float], Visitor]:
    """Milliseconds of each move after the warm ones, at about three moves a second."""
    visitor = Visitor(browser, f"{made.url}/app?{query}")
    times = []
    for _ in range(WARM + moves):
        times.append(visitor.move())
        time.sleep(0.25)
    return times[WARM:], visitor


def drag(visitor: Visitor, moves: int) -> tuple[float, float]:
    """Visible updates and moves per second while the mouse pulls the slider without a pause."""
    pull_to = visitor.grasp()
    before, started = visitor.page.evaluate("() => window.lab.frames"), time.perf_counter()
    for number in range(moves):
        pull_to(DRAGGED[number % len(DRAGGED)])
        time.sleep(max(0.0, started + (number + 1) * 0.05 - time.perf_counter()))
    seconds = time.perf_counter() - started
    frames = visitor.page.evaluate("() => window.lab.frames") - before
    visitor.page.mouse.up()
    return frames / seconds, moves / seconds


def together(browser: Any, made: Server, query: str, moves: int) -> list[float]:
    """Milliseconds of the moves of two visitors, each about twice a second, out of step."""
    pair = [Visitor(browser, f"{made.url}/app?{query}") for _ in range(2)]
    random = Random(0)
    due = [0.0, 0.25]
    times, started = [], time.perf_counter()
    for number in range(WARM + moves):
        turn = due.index(min(due))
        visitor = pair[turn]
        time.sleep(max(0.0, started + due[turn] - time.perf_counter()))
        _wait(lambda v=visitor: v.answered, "a move was not answered")
        times += [visitor.answer() or 0.0] if number >= WARM and visitor.presses else []
        visitor.press()
        due[turn] += random.uniform(0.4, 0.6)
    for visitor in pair:
        visitor.close()
    return times


def growth(visitor: Visitor, made: Server, moves: int) -> float:
    """Bytes by which the server grows over so many moves, after as many that warm it up."""
    sizes = []
    for _ in range(2):
        for _ in range(moves):
            visitor.move()
        time.sleep(1.0)
        sizes.append(made.counts()["rss"])
    return float(sizes[1] - sizes[0])


# -- the table ------------------------------------------------------------------------------------


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which this part of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


class Table:
    """Figures beside their targets; `missed` counts the verdicts that are not "ok"."""

    def __init__(self) -> None:
        self.missed = 0

    def row(self, what: str, value: float, unit: str, most: float | None = None,
            least: float | None = None) -> None:  # fmt: skip
        """Print one figure, its target and the verdict."""
        good = (most is None or value <= most) and (least is None or value >= least)
        self.missed += not good
        target = f"<= {most:g}" if most is not None else f">= {least:g}"
        print(
            f"{what:<58} {value:>8.1f} {unit:<5} {target:>8}   {'ok' if good else 'MISSED'}",
            flush=True,
        )


def measure(browser: Any, table: Table, scale: float) -> None:
    """All figures, one after the other."""
    moves = max(5, round(MOVES * scale))
    with server() as made:
        for name, query in PROBLEMS.items():
            times, visitor = latencies(browser, made, query, moves)
            table.row(
                f"{name}: both curves' first new point, median", statistics.median(times), "ms", 120
            )
            table.row(f"{name}: the same, 95 %", quantile(times, 0.95), "ms", 200)
            updates, rate = drag(visitor, round(DRAG * scale))
            table.row(
                f"{name}: visible updates in a drag, {rate:.0f} moves/s", updates, "/s", least=25
            )
            if name == "tanh":
                table.row("weight of the loaded page", visitor.bytes / 2**20, "MiB", 6)
                grown = growth(visitor, made, round(SOAK * scale)) / 2**20
                table.row(
                    f"tanh: server's growth over {round(SOAK * scale)} moves", grown, "MiB", 2
                )
            visitor.close()
        stops = [1e3 * seconds for seconds in made.counts()["stop_seconds"]]
        table.row(
            f"{len(stops)} superseded runs: until stopped, 95 %", quantile(stops, 0.95), "ms", 50
        )
        for name, query in PROBLEMS.items():
            times = together(browser, made, query, round(TOGETHER * scale))
            table.row(f"{name}: two visitors, median", statistics.median(times), "ms", 130)


def main() -> int:
    """Run everything and say how many targets were missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the moves")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return 0
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), *CHROMIUM))), None)
    if path is None:
        raise SystemExit("bench-page: needs Chromium (Debian and Ubuntu: apt install chromium).")
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores shared by Chromium, server and solves; load before: {load:.1f}")
    table = Table()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        measure(browser, table, 0.1 if arguments.quick else 1.0)
        browser.close()
    print(f"{table.missed} of the targets missed" if table.missed else "all targets met")
    return min(table.missed, 1)


if __name__ == "__main__":
    sys.exit(main())
