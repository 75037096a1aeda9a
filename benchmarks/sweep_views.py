"""How fast the views of a sweep open and answer a brush: `python benchmarks/sweep_views.py`.

A made-up sweep of 15 windows x 10 mixings x 8 batch sizes x 28 seeds x 30 repeats (1,008,000
trials), in memory. Headless Chromium and the server share this machine's cores. Opening: from a
click in a page that stands (as on the name of a page of the lab) until heat map, scatter and
parallel coordinates are drawn with their trials; by its link: the same from an empty browser tab.
A brush: from the release of the mouse until the last of these three has been drawn anew; the curves
of the selection, which a store has to be asked for, follow.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
OPENINGS, BRUSHES, PAUSE = 3, 10, 0.6
WINDOWS, MIXINGS, BATCHES = np.arange(1, 16), np.arange(1, 11) / 10, 2 ** np.arange(8)
SEEDS, REPEATS = 28, 30
CELLS, POINTS, LINES = "cells of the sweep", "picture of the points", "picture of the lines"

# Where a view's frame is, and when it has drawn what a change of its data brought.
HOOK = """
(names) => {
  const lab = window.lab = {started: null, times: {}, plots: {}}, seen = new Set();
  const walk = (view) => {
    if (!view || seen.has(view)) return;
    seen.add(view);
    for (const name of names) {
      const mine = view.model?.renderers?.find((each) => each.data_source?.name === name);
      if (mine && view._actual_paint) hook(name, view, mine.data_source);
    }
    for (const child of [...(view.children?.() ?? []), ...(view.child_views ?? [])]) walk(child);
  };
  const hook = (name, view, source) => {
    let changed = false;
    lab.plots[name] = view;
    source.properties.data.change.connect(() => { changed = true; });
    const paint = view._actual_paint;
    view._actual_paint = function (...given) {
      const result = paint.apply(this, given);
      if (changed && lab.started !== null) lab.times[name] ??= performance.now() - lab.started;
      changed = false;
      return result;
    };
  };
  for (const view of Bokeh.index) walk(view);
  window.addEventListener('pointerup', (event) => {
    lab.started = event.timeStamp; lab.times = {};
  }, true);
  return Object.keys(lab.plots).length === names.length;
}
"""
FRAME = """
(name) => {
  const view = window.lab.plots[name];
  view.el.scrollIntoView({block: 'nearest'});
  const box = view.el.getBoundingClientRect();
  const frame = view.frame.bbox;
  return [box.x + frame.x, box.y + frame.y, frame.width, frame.height];
}
"""
# Looked at in every frame: the first in which all three have been drawn with their trials.
OPENED = """
(names) => {
  const look = () => {
    const models = [...(window.Bokeh?.documents[0]?.all_models ?? [])];
    const sources = names.map((name) => models.find((model) => model.name === name));
    const known = sources.every((source) => source && source.data.x.length > 0);
    if (known && Bokeh.documents[0].is_idle) window.opened ??= performance.now();
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}
"""

CLICKED = """
() => window.addEventListener('pointerup', (event) => { window.clicked = event.timeStamp }, true)
"""


def trials() -> pd.DataFrame:
    """A made-up sweep with all the ways to end."""
    rng = np.random.default_rng(0)
    axes = (WINDOWS, MIXINGS, BATCHES, np.arange(SEEDS), np.arange(REPEATS))
    window, mixing, batch, seed, repeat = (
        each.ravel() for each in np.meshgrid(*axes, indexing="ij")
    )
    count = len(window)
    level = 8 + 120 * np.exp(-window / 3) + 30 * (1 - mixing) ** 2 + 1.2 * np.abs(window - 8)
    evaluations = np.round(level * rng.lognormal(0, 0.12, count)).clip(4, 400)
    status, chance = np.full(count, "CONVERGED", object), rng.uniform(size=count)
    status[(mixing > 0.9) & (window <= 2)] = "DIVERGED"
    status[chance < 0.01] = "STALLED"
    status[(mixing < 0.2) & (chance < 0.7)] = "MAX_ITER"
    status[chance > 0.997] = "FAILED"
    evaluations[status == "MAX_ITER"] = 400
    evaluations[status == "FAILED"] = np.nan
    cost = 2e-4 + 1.5e-5 * batch * (1 + window / 10)
    return pd.DataFrame(
        {
            "method.window": window, "method.mixing": mixing, "problem.batch_size": batch,
            "seed": seed, "repeat": repeat, "row": np.arange(count), "status": status,
            "num_evals": evaluations, "seconds": evaluations * cost * rng.lognormal(0, 0.08, count),
            "relative_residual": 10 ** rng.uniform(-6, -5, count), "device": "made up", "code": "0",
        }
    )  # fmt: skip


# -- the server -----------------------------------------------------------------------------------


def serve(port: int) -> None:
    """Serve the views with everything compiled, as a server that has been asked once has it."""
    import panel as pn
    import panel_material_ui as pmui

    pn.extension()
    from lab.gate import Gate
    from lab.pauses import spare_imports
    from lab.shell import frame as page
    from lab.sweeps import raster
    from lab.sweeps.sheet import Sheet
    from lab.sweeps.views import SweepViews
    from lab.theme import palette

    frame = trials()
    started = time.perf_counter()
    while not raster.prepare():
        time.sleep(0.01)
    print(f"datashader ready after {time.perf_counter() - started:.1f} s", flush=True)
    evaluations = frame["num_evals"].to_numpy()

    def curves(rows: Sequence[int], most: int) -> pd.DataFrame:
        counts = np.nan_to_num(evaluations[list(rows)[:most]]).astype(int)
        number = np.concatenate([np.arange(1, count + 1) for count in counts])
        row = np.repeat(list(rows)[:most], counts)
        level = 1e-6 ** (number / np.repeat(counts, counts))
        return pd.DataFrame(
            {"row": row, "evaluation": number, "seconds": number * 1e-3, "level": level}
        )

    def views(schedule: Any) -> SweepViews:
        made = SweepViews(palette(False), curves, print, schedule)
        made.open(Sheet(frame, ["method.window", "method.mixing", "problem.batch_size"]))
        return made

    def linked() -> Any:
        schedule = Gate(pn.state.curdoc)
        made = page(views(schedule), print, header=[])
        schedule.shut()
        return made

    def standing() -> Any:
        schedule, body = Gate(pn.state.curdoc), pn.Column(sizing_mode="stretch_width")
        button = pmui.Button(label="Sweeps")
        button.on_click(lambda _: body.append(views(schedule)))
        schedule.shut()
        return page(pn.Column(button, body), print, header=[])

    spare_imports()
    pn.serve(
        {"linked": linked, "standing": standing}, port=port, address="127.0.0.1", show=False,
        websocket_origin=[f"127.0.0.1:{port}"],
    )  # fmt: skip


@contextmanager
def server() -> Iterator[str]:
    """Start it on a free port; gives its address."""
    free = [sys.executable, "setup_env.py", "--free-port", "5116"]
    port = subprocess.run(free, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, __file__, "--serve", port], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(lambda: _answers(url), "the server did not start", 180)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def _wait(done: Callable[[], Any], sentence: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"sweep_views: {sentence}.")
        time.sleep(0.02)


# -- the visitor ----------------------------------------------------------------------------------


def linked(browser: Any, url: str) -> float:
    """Seconds from an empty tab until the views are drawn."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.add_init_script(f"({OPENED})({[CELLS, POINTS, LINES]})")
    page.goto(f"{url}/linked", wait_until="commit")
    page.wait_for_function("() => window.opened", timeout=60_000)
    seconds = float(page.evaluate("() => window.opened")) / 1e3
    page.context.close()
    return seconds


def opening(browser: Any, url: str) -> tuple[float, Any]:
    """Seconds from a click in a page that stands until the views are drawn, and the page."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(f"{url}/standing", wait_until="networkidle")
    time.sleep(2.0)  # until the page is ready for events
    page.evaluate(f"({OPENED})({[CELLS, POINTS, LINES]})")
    page.evaluate(CLICKED)
    page.get_by_role("button", name="Sweeps").click()
    page.wait_for_function("() => window.opened", timeout=60_000)
    return float(page.evaluate("() => window.opened - window.clicked")) / 1e3, page


def brush(page: Any, name: str, box: tuple[float, float, float, float]) -> float:
    """Drag a box (parts of the frame) in a view; milliseconds until all three are drawn anew."""
    x, y, width, height = page.evaluate(FRAME, name)
    left, right, top, bottom = box
    page.mouse.move(x + left * width, y + top * height)
    page.mouse.down()
    for part in (0.5, 1.0):
        page.mouse.move(
            x + (left + part * (right - left)) * width, y + (top + part * (bottom - top)) * height
        )
    page.mouse.up()
    _wait(
        lambda: page.evaluate("() => Object.keys(window.lab.times).length") == 3,
        f"a brush in the view of {name} was not answered",
    )
    return float(max(page.evaluate("() => Object.values(window.lab.times)")))


BOXES: dict[str, Callable[[int], tuple[float, float, float, float]]] = {
    CELLS: lambda k: (0.1 + 0.02 * k, 0.5 + 0.02 * k, 0.2, 0.7),
    POINTS: lambda k: (0.1, 0.4 + 0.03 * k, 0.55, 0.95),
    LINES: lambda k: (0.08, 0.12, 0.3, 0.6 + 0.02 * k),
}


def brushes(page: Any, count: int) -> dict[str, list[float]]:
    """Milliseconds of brushes in each of the three views."""
    _wait(lambda: page.evaluate(HOOK, [CELLS, POINTS, LINES]), "the page shows no views")
    time.sleep(3.0)  # until the page is ready for events
    times: dict[str, list[float]] = {}
    for name, box in BOXES.items():
        times[name] = []
        for number in range(count):
            times[name].append(brush(page, name, box(number)))
            time.sleep(PAUSE)
        page.get_by_role("button", name="Clear selection").click()
        time.sleep(2 * PAUSE)
    return times


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which this part of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def row(what: str, value: float, unit: str, most: float) -> bool:
    """Print a figure beside its target; whether it was met."""
    met = value <= most
    print(f"{what:<58} {value:>7.3g} {unit:<3} <= {most:g}   {'ok' if met else 'MISSED'}")
    return met


def main() -> int:
    """Measure, print, and say whether all targets were met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return 0
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), *CHROMIUM))), None)
    if path is None:
        raise SystemExit("sweep_views: needs Chromium (Debian and Ubuntu: apt install chromium).")
    print(f"{os.cpu_count()} cores shared with Chromium; load before: {os.getloadavg()[0]:.1f}")
    with sync_playwright() as playwright, server() as url:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        seconds = []
        for _ in range(1 + OPENINGS):  # the first fills the caches of server and browser
            each, page = opening(browser, url)
            seconds.append(each)
            if len(seconds) <= OPENINGS:
                page.context.close()
        links = [linked(browser, url) for _ in range(OPENINGS)]
        row("a million trials: opening by its link, median", statistics.median(links), "s", 3.0)
        met = row("a million trials: opening, median", statistics.median(seconds[1:]), "s", 2.0)
        every = brushes(page, BRUSHES)
        for name, times in every.items():
            row(f"brush in the {name}: median", statistics.median(times), "ms", 300)
        together = [each for times in every.values() for each in times]
        met &= row("a brush anywhere: median", statistics.median(together), "ms", 300)
        met &= row("a brush anywhere: 95 %", quantile(together, 0.95), "ms", 300)
        browser.close()
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
