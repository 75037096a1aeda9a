"""How the Train page answers while it trains: `make bench-page`, after the Convergence page's.

    python -m benchmarks.page_train [--soak MINUTES]

Headless Chromium, the server and the training share this machine's cores. An answer counts when
the browser has it: the first point of a curve, the word "Stopped", the words that acknowledge a
slider, the readings of the digits. Another visitor's Convergence page is measured while a training
is paused and while it runs, in turn; its tab, which is on another machine in truth, shows nothing
then. Memory is the server's resident size while one training runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import page as convergence
from benchmarks.page import ARGUMENTS, CHROMIUM, WARM, Server, Table, Visitor, quantile, server

STARTS, MOVES, ROUNDS, SETTLED = 5, 24, 3, 4
WARM_MINUTES, MINUTES, SAMPLE = 0.5, 2.0, 5.0  # of the memory's measurement; seconds
CHOICES = "train=epochs=100;batch_size=16"
FIRST, STOP, SLIDER = 1500, 500, 200  # targets, ms
SLOWER, GROWTH = 1.3, 1.0  # targets: times, MiB/min

AWAY = "about:blank"
OTHER = {"Pause": "Resume", "Resume": "Pause"}  # what the button says then

# Milliseconds from an event in the page to the first frame in which a condition holds.
CLOCK = """
([type, condition]) => {
  const holds = new Function('return ' + condition)
  window.waited = null
  window.addEventListener(type, (event) => {
    const look = () => {
      if (holds()) window.waited = performance.now() - event.timeStamp
      else requestAnimationFrame(look)
    }
    requestAnimationFrame(look)
  }, {capture: true, once: true})
}
"""
MODEL = "Bokeh.documents[0].get_model_by_name"
FIRST_POINT = f"{MODEL}('lines of loss').data.x.length > 0"
TEXTS = "[...Bokeh.documents[0].all_models].map(m => m.text).filter(t => typeof t == 'string')"
READING = rf"{TEXTS}.map(text => text.match(/evaluation (\d+): read right/)).find(Boolean)?.[1]"


def says(words: str) -> str:
    """The condition that a pane of the page, as the browser has it, holds these words."""
    return f"{TEXTS}.some(text => text.includes('{words}'))"


class Trainee:
    """One browser tab on the Train page."""

    def __init__(self, browser: Any, url: str, choices: str = CHOICES) -> None:
        self.page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        self.page.goto(f"{url}/app?page=Train&{choices}", wait_until="networkidle")
        self.button("Start").wait_for(timeout=60_000)
        self.address = self.page.url  # of the training, once it was looked at
        time.sleep(1.0)

    def button(self, name: str) -> Any:
        """One of the page's buttons."""
        return self.page.get_by_role("button", name=name, exact=True)

    def timed(self, event: str, condition: str, act: Any) -> float:
        """Milliseconds from an event, which `act` causes, until a condition holds."""
        self.page.evaluate(CLOCK, [event, condition])
        act()
        self.page.wait_for_function("() => window.waited !== null", timeout=60_000)
        return float(self.page.evaluate("() => window.waited"))

    def start(self) -> float:
        """Press Start: milliseconds until the first point."""
        fresh = f"{FIRST_POINT} && !{says('Stopped after')}"
        return self.timed("click", fresh, self.button("Start").click)

    def stop(self) -> float:
        """Press Stop: milliseconds until it says so."""
        return self.timed("click", says("Stopped after"), self.button("Stop").click)

    def slide(self, name: str, key: str, condition: str) -> float:
        """One press of a key on a slider."""
        slider = self.page.locator(f"input[type=range][aria-label^='{name}']:visible").first
        slider.focus()
        return self.timed("keydown", condition, lambda: self.page.keyboard.press(key))

    def window(self, number: int) -> float:
        """Move the window: milliseconds until the page acknowledges the new value."""
        up = number % 8 < 4
        slider = self.page.locator("input[type=range][aria-label^='window']:visible").first
        value = int(slider.input_value()) + (1 if up else -1)
        marked = f"{MODEL}('words of loss').data.text.at(-1)?.includes('window {value}')"
        condition = f"({says(f'window {value}')} || {marked})"
        return self.slide("window", "ArrowRight" if up else "ArrowLeft", condition)

    def evaluation(self, number: int) -> float:
        """Move the digits' slider: milliseconds until their readings are those of that moment."""
        key = "ArrowLeft" if number % 8 < 4 else "ArrowRight"
        # not a number foretold: newer readings may move the slider between two keys
        before = self.page.evaluate(f"() => {READING}")
        return self.slide("evaluation", key, f"{READING} !== '{before}'")

    def away(self, name: str) -> None:
        """Press a button, here or after coming back, and look at something else."""
        if self.page.url == AWAY:
            self.back()
        self.button(name).click(timeout=60_000)
        self.button(OTHER[name]).wait_for(timeout=60_000)
        self.address = self.page.url
        self.page.goto(AWAY)

    def back(self) -> None:
        """Look at the training again."""
        self.page.goto(self.address, wait_until="networkidle")

    def close(self) -> None:
        """Leave; the training goes on."""
        self.page.context.close()


def answers(table: Table, trainee: Trainee, starts: int, moves: int) -> None:
    """Start, stop and both kinds of sliders."""
    first, stops = [], []
    for _ in range(starts):
        first.append(trainee.start())
        time.sleep(2.0)
        stops.append(trainee.stop())
        time.sleep(0.5)
    table.row(f"{starts} starts: first point, worst", max(first), "ms", FIRST)
    table.row(f"{starts} stops: until it says so, worst", max(stops), "ms", STOP)
    trainee.start()
    time.sleep(6.0)  # the digits' readings are there
    for name, move in (("window", trainee.window), ("evaluation", trainee.evaluation)):
        times = []
        for number in range(moves):
            times.append(move(number))
            time.sleep(0.3)
        table.row(f"{name} slider while training, median", statistics.median(times), "ms", SLIDER)
        print(f"{'':<4}95 %: {quantile(times, 0.95):.0f} ms", flush=True)


def beside(table: Table, browser: Any, made: Server, trainee: Trainee) -> None:
    """Moves on another visitor's Convergence page, while a training is paused and while it runs."""
    visitor = Visitor(browser, f"{made.url}/app?{convergence.PROBLEMS['tanh']}")
    times: dict[str, list[float]] = {"Pause": [], "Resume": []}
    _moves(visitor, WARM)
    for _ in range(ROUNDS):
        for name, found in times.items():
            trainee.away(name)
            found += _moves(visitor, SETTLED + MOVES // 2)[SETTLED:]
    visitor.close()
    alone, together = map(statistics.median, times.values())
    print(f"{'':<4}another visitor's move alone {alone:.0f} ms, median of {len(times['Pause'])}")
    table.row("the same while a training runs, over alone", together / alone, "x", SLOWER)


def _moves(visitor: Visitor, count: int) -> list[float]:
    times = []
    for _ in range(count):
        times.append(visitor.move())
        time.sleep(0.25)
    return times


def soak(made: Server, minutes: float) -> float:
    """MiB by which the server grows per minute while a training runs."""
    time.sleep(60 * WARM_MINUTES)
    at, sizes, end = [], [], time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        at.append(time.monotonic() / 60)
        sizes.append(made.counts()["rss"] / 2**20)
        time.sleep(SAMPLE)
    print(f"{'':<4}resident size {sizes[0]:.0f} MiB at first, {sizes[-1]:.0f} MiB at last")
    return float(np.polyfit(at, sizes, 1)[0])


def measure(browser: Any, table: Table, minutes: float) -> None:
    """All figures, one after the other."""
    with server() as made:
        warm = Trainee(browser, made.url)
        print(f"{'':<4}first point of the server's first training: {warm.start():.0f} ms")
        time.sleep(3.0)
        warm.stop()
        warm.close()
        trainee = Trainee(browser, made.url)
        answers(table, trainee, STARTS, MOVES)
        beside(table, browser, made, trainee)
        trainee.back()  # its figures follow the training while the memory is watched
        table.row(f"server's growth over {minutes:g} minutes", soak(made, minutes), "MiB/m", GROWTH)
        trainee.close()


def main() -> int:
    """Run everything and say how many targets were missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--soak", type=float, nargs="?", const=30.0, default=MINUTES, metavar="MINUTES",
        help="watch the memory for so long; without a number 30 minutes",
    )  # fmt: skip
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), *CHROMIUM))), None)
    if path is None:
        raise SystemExit("bench-page: needs Chromium (Debian and Ubuntu: apt install chromium).")
    print(f"{os.cpu_count()} cores shared by all; load before: {os.getloadavg()[0]:.1f}")
    table = Table()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        os.environ["ANDERSON_LAB_TRAININGS"] = folder
        os.environ["ANDERSON_LAB_SWEEPS"] = folder
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        measure(browser, table, arguments.soak)
        browser.close()
    print(f"{table.missed} of the targets missed" if table.missed else "all targets met")
    return min(table.missed, 1)


if __name__ == "__main__":
    sys.exit(main())
