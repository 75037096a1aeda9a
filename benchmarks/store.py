"""How fast a store of a million rows is read, shown and brushed: `make bench-store`.

The store is `million.py`'s, the dashboard is the real one, on this machine's cores beside headless
Chromium. Opening: from a click on "Sweeps" in a dashboard that stands (of `/app?store=big.sqlite`)
until the heat map of the million is on the canvas; and from the navigation of an empty tab to
`/app?page=Sweeps&store=big.sqlite` until then, beside that to the Convergence page, which is what
the dashboard itself takes. The first visitor finds a server that has imported nothing, the later
ones a server that has read the store. A brush: from the release of the mouse
until heat map, scatter and parallel coordinates have been drawn anew. Then, for a minute, one
driver writes a sweep into a second store and three readers read it: two programs, and the
dashboard with its page open in Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from andersonn_core.store import Store
from benchmarks import minute
from benchmarks.brushing import CELLS, LINES, POINTS, brushes, wait
from benchmarks.million import big_sweep, make
from lab.sweeps.folder import FOLDER_VARIABLE

NAME = "big.sqlite"
ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
OPENINGS, BRUSHES, QUERIES = 5, 10, 200

# Looked at in every frame: when each view had its trials and two more frames had been painted.
DRAWN = """
(names) => {
  window.drawn = {};
  window.since = 0;
  window.addEventListener('pointerup', (event) => { window.since = event.timeStamp; }, true);
  const look = () => {
    const known = window.Bokeh?.documents[0];
    for (const name of names) {
      const source = known?.get_model_by_name(name);
      if (!(name in window.drawn) && source?.data.x.length > 0 && known.is_idle) {
        window.drawn[name] = null;
        const note = () => { window.drawn[name] = performance.now() - window.since; };
        requestAnimationFrame(() => requestAnimationFrame(note));
      }
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}
"""
IDLE = """
() => {
  const look = () => {
    if (window.Bokeh?.documents[0]?.is_idle) window.idle = performance.now();
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}
"""
ALL_DRAWN = "(count) => Object.values(window.drawn).filter((each) => each).length == count"


def answers(url: str) -> bool:
    """Whether a server answers there."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def dashboard(folder: Path) -> Iterator[str]:
    """The dashboard on a free port, as `make lab` starts it."""
    free = [sys.executable, "setup_env.py", "--free-port", "5126"]
    port = subprocess.run(free, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    more = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", FOLDER_VARIABLE: str(folder)}
    command = [sys.executable, "-m", "panel", "serve", "lab/app.py", "--address", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", port], cwd=ROOT, env=os.environ | more, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait(lambda: answers(f"{url}/favicon.ico"), "the server did not start", 120)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def opening(browser: Any, url: str) -> tuple[dict[str, float], Any]:
    """Seconds from the navigation until each view is drawn, and the page."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.add_init_script(f"({DRAWN})({[CELLS, POINTS, LINES]})")
    page.goto(f"{url}/app?page=Sweeps&store={NAME}", wait_until="commit")
    page.wait_for_function(ALL_DRAWN, arg=3, timeout=120_000)
    return {name: ms / 1e3 for name, ms in page.evaluate("() => window.drawn").items()}, page


def clicked(browser: Any, url: str) -> float:
    """Seconds from a click on "Sweeps" in a page that stands until the heat map is drawn."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.add_init_script(f"({DRAWN})({[CELLS, POINTS, LINES]})")
    page.goto(f"{url}/app?store={NAME}", wait_until="networkidle")
    time.sleep(3.0)  # until its first solves have been drawn
    page.get_by_role("link", name="Sweeps").click()
    page.wait_for_function(ALL_DRAWN, arg=3, timeout=120_000)
    seconds = float(page.evaluate("(name) => window.drawn[name]", CELLS)) / 1e3
    page.context.close()
    return seconds


def bare(browser: Any, url: str) -> float:
    """Seconds from the navigation until the Convergence page is drawn."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.add_init_script(f"({IDLE})()")
    page.goto(f"{url}/app", wait_until="commit")
    page.wait_for_function("() => window.idle", timeout=120_000)
    seconds = float(page.evaluate("() => window.idle")) / 1e3
    page.context.close()
    return seconds


def query(path: Path) -> list[float]:
    """Milliseconds of reading the rows of one spec, of another one each time."""
    spec_ids, times = [spec.spec_id for spec in _some(QUERIES)], []
    with Store(path, read_only=True) as store:
        for spec_id in spec_ids:
            started = time.perf_counter()
            found = store.rows(spec_id)
            times.append(1e3 * (time.perf_counter() - started))
            assert len(found) == 840
    return times


def _some(count: int) -> list[Any]:
    plan = big_sweep().plan
    points = list(plan.points())
    return [plan.spec_at(points[k * len(points) // count]) for k in range(count)]


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which this part of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def share() -> float:
    """The part of a core that a busy thread of this program gets at this moment."""
    wall, cpu = time.perf_counter(), time.thread_time()
    while time.perf_counter() < wall + 0.5:
        pass
    return (time.thread_time() - cpu) / (time.perf_counter() - wall)


def row(what: str, value: float, unit: str, most: float | None = None) -> bool:
    """Print a figure, beside its target if it has one; whether it was met."""
    met = most is None or value <= most
    target = "" if most is None else f"<= {most:g}   {'ok' if met else 'MISSED'}"
    print(f"{what:<64} {value:>7.3g} {unit:<3} {target}", flush=True)
    return met


def machine() -> str:
    """What else goes on here."""
    return (
        f"{os.cpu_count()} cores shared with Chromium; load {os.getloadavg()[0]:.1f}, a busy "
        f"thread gets {share():.0%} of a core"
    )


def openings(browser: Any, url: str) -> tuple[bool, Any]:
    """Print how long pages take to open; whether that is soon enough, and the last page."""
    print(machine())
    found, page = opening(browser, url)
    row("opening, the first visitor of a server: heat map", found[CELLS], "s")
    row("  all views", max(found.values()), "s")
    every = []
    for _ in range(OPENINGS):
        page.context.close()
        found, page = opening(browser, url)
        every.append(found)
    heat = statistics.median(found[CELLS] for found in every)
    clicks = statistics.median(clicked(browser, url) for _ in range(OPENINGS))
    met = row("opening by a click in the dashboard: heat map, median", clicks, "s", 3.0)
    met &= row("opening by a link, later visitors: heat map, median", heat, "s", 3.0)
    row("  all views, median", statistics.median(max(f.values()) for f in every), "s")
    others = statistics.median(bare(browser, url) for _ in range(OPENINGS))
    row("  beside it the Convergence page of the same dashboard", others, "s")
    return met, page


def answered(page: Any) -> bool:
    """Print how long brushes take; whether that is soon enough."""
    print(machine())
    every = brushes(page, BRUSHES)
    for name, times in every.items():
        row(f"brush in the {name}: median", statistics.median(times), "ms")
        row("  95 %", quantile(times, 0.95), "ms")
    together: Sequence[float] = [each for times in every.values() for each in times]
    met = row("a brush anywhere: median", statistics.median(together), "ms", 300)
    return met & row("  95 %", quantile(together, 0.95), "ms", 300)


def measure(folder: Path) -> bool:
    """Print all figures of a store; whether all targets were met."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), *CHROMIUM))), None)
    if path is None:
        raise SystemExit("bench-store: needs Chromium (Debian and Ubuntu: apt install chromium).")
    print(machine())
    times = query(folder / NAME)
    met = row("the 840 rows of one spec_id: median of 200", statistics.median(times), "ms", 5.0)
    row("  95 %", quantile(times, 0.95), "ms")
    with sync_playwright() as playwright, dashboard(folder) as url:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        soon, page = openings(browser, url)
        met &= soon
        time.sleep(3.0)
        met &= answered(page)
        page.context.close()
        print("One driver and three readers on one store, for a minute:")
        met &= minute.shared(folder, browser, url)
        browser.close()
    return met


def main() -> int:
    """Make the store, measure, print, and say whether all targets were met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the store here, or use the one there")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as own:
        place = Path(own) if folder is None else folder
        if not (place / NAME).exists():
            started = time.perf_counter()
            make(place / NAME)
            row("making the store", time.perf_counter() - started, "s")
        row(f"{big_sweep().total:,} rows", (place / NAME).stat().st_size / 2**20, "MiB")
        return 0 if measure(place) else 1


if __name__ == "__main__":
    sys.exit(main())
