"""Take the README's pictures of the dashboard in headless Chromium.

    python assets/screenshots.py [crossover.png ...]

Fixed problem, seed, size and theme; only the seconds in the picture depend on the machine. Writes
convergence.png (light), convergence-dark.png, crossover.png and train.png beside this file.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

HERE = Path(__file__).resolve().parent
SIZE: ViewportSize = {"width": 1440, "height": 1090}
SETTLED_MS = 1500  # for fonts, and for the last figure to be painted
DIGITS = "?problem=digits_deq&rtol=1e-05&max_iter=400"
ONE_LESS = f"{DIGITS}&batch_size=15"
EVERY_CELL_MS = 600_000


@contextmanager
def served_lab() -> Iterator[str]:
    """The dashboard in a process of its own; yields its address."""
    command = [sys.executable, "-m", "panel", "serve", "lab/app.py", "--port", "0", "--warm"]
    folder = tempfile.TemporaryDirectory()
    process = subprocess.Popen(
        command, cwd=HERE.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ
        | {"ANDERSON_LAB_TRAININGS": folder.name, "ANDERSON_LAB_SWEEPS": f"{folder.name}/sweeps"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"running at: (http://\S+)", line):
                yield found[1]
                return
        raise SystemExit("the dashboard did not start")
    finally:
        process.terminate()
        process.wait()
        folder.cleanup()


def chromium() -> str:
    """Where Chromium is; ends the program without one."""
    names = ("chromium", "chromium-browser", "chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        raise SystemExit("the pictures need Chromium on the PATH (Debian: apt install chromium)")
    return found


@contextmanager
def blank_page(size: ViewportSize) -> Iterator[Page]:
    """A page of headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser.new_page(viewport=size)
        browser.close()


def photograph(html: str, size: ViewportSize, path: Path) -> None:
    """Write a picture of a page of Bokeh's figures."""
    with blank_page(size) as page:
        page.set_content(html)
        page.locator(".bk-Figure").first.wait_for()
        page.wait_for_timeout(500)
        page.screenshot(path=path)


def convergence(page: Page) -> None:
    """Wait until the page has settled on sixteen digits."""
    answer = page.locator(".lab-answer p:not(.stale p)")
    answer.wait_for(timeout=120_000)
    # The page is there: only now does a solve not share the processor with its loading.
    page.get_by_label("batch size B", exact=True).press("ArrowRight")
    answer.filter(has_text="16 digits").wait_for(timeout=120_000)
    page.locator("h1").click()  # which takes the focus from the slider
    page.get_by_label("evaluation", exact=True).wait_for()
    page.locator(".lab-tiles .tile").first.wait_for()


def crossover(page: Page) -> None:
    """Wait until every cell of both maps is computed."""
    page.get_by_text(re.compile(r"^\d+ cells")).wait_for(timeout=EVERY_CELL_MS)


def train(page: Page) -> None:
    """Train for two epochs and move the window on the way."""
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_text(re.compile("After 1 epoch")).wait_for(timeout=EVERY_CELL_MS)
    page.locator("input[type=range][aria-label='window m']:visible").press("ArrowRight")
    page.get_by_text(re.compile("Finished")).wait_for(timeout=EVERY_CELL_MS)
    page.locator("h1").last.click()


def sweeps(page: Page) -> None:
    """Wait until the first sweep of an empty store has run."""
    page.get_by_text("48 trials; all converged").wait_for(timeout=EVERY_CELL_MS)


PICTURES = {
    "convergence.png": (ONE_LESS, convergence),
    "convergence-dark.png": (f"{ONE_LESS}&theme=dark", convergence),
    "crossover.png": (f"{DIGITS}&batch_size=16&page=Crossover", crossover),
    "train.png": ("?page=Train&train=epochs=2", train),
    "sweeps.png": (f"{DIGITS}&batch_size=16&page=Sweeps", sweeps),
}


def main(names: Sequence[str]) -> None:
    """Take the pictures with these names, or all."""
    with served_lab() as url:
        for name in names or PICTURES:
            query, settle = PICTURES[name]
            with blank_page(SIZE) as page:
                page.goto(url + query)
                settle(page)
                page.wait_for_timeout(SETTLED_MS)
                page.wait_for_load_state("networkidle")
                page.screenshot(path=HERE / name)


if __name__ == "__main__":
    main(sys.argv[1:])
