"""Take the README's pictures of the dashboard in headless Chromium.

    python assets/screenshots.py

Fixed problem, seed, size and theme; only the seconds in the picture depend on the machine. Writes
convergence.png (light) and convergence-dark.png beside this file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIZE = {"width": 1440, "height": 1090}
SETTLED_MS = 1500  # for fonts, and for the last figure to be painted
ONE_LESS = "?problem=digits_deq&rtol=1e-05&max_iter=400&batch_size=15"
PICTURES = {"convergence.png": ONE_LESS, "convergence-dark.png": f"{ONE_LESS}&theme=dark"}


@contextmanager
def served_lab() -> Iterator[str]:
    """The dashboard in a process of its own; yields its address."""
    command = [sys.executable, "-m", "panel", "serve", "lab/app.py", "--port", "0", "--warm"]
    process = subprocess.Popen(
        command, cwd=HERE.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
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


def chromium() -> str:
    """Where Chromium is; ends the program without one."""
    names = ("chromium", "chromium-browser", "chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        raise SystemExit("the pictures need Chromium on the PATH (Debian: apt install chromium)")
    return found


def main() -> None:
    """Take all pictures."""
    from playwright.sync_api import sync_playwright

    with served_lab() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for name, query in PICTURES.items():
            page = browser.new_page(viewport=SIZE)
            page.goto(url + query)
            answer = page.locator(".lab-answer p:not(.stale p)")
            answer.wait_for(timeout=120_000)
            # The page is there: only now does a solve not share the processor with its loading.
            page.get_by_label("batch size B", exact=True).press("ArrowRight")
            answer.filter(has_text="16 digits").wait_for(timeout=120_000)
            page.locator("h1").click()  # which takes the focus from the slider
            page.get_by_label("evaluation", exact=True).wait_for()
            page.locator(".lab-tiles .tile").first.wait_for()
            time.sleep(SETTLED_MS / 1e3)
            page.wait_for_load_state("networkidle")
            page.screenshot(path=HERE / name)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
