"""What all tests share: one torch thread, a browser, a running dashboard, and no forgiveness.

The fixtures of the browser tests:
`page`        a fresh browser page that fails the test on a console error, on an uncaught exception
              and on a request to any machine but this one;
`lab_server`  the dashboard in a process of its own, as `make lab` starts it; a traceback in its log
              fails the test that caused it;
`chromium`    the path of the browser, or a skip that says how to get one.

Those of the tests of runs, without a server:
`document`    a document whose callbacks a test runs, with no results known yet;
`lab`         a runner that publishes to it.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import torch

if TYPE_CHECKING:
    from lab_cases import Document
    from playwright.sync_api import Browser, ConsoleMessage, Page

    from lab.runner import Runner

ROOT = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

REQUIRE_BROWSER = "ANDERSON_LAB_REQUIRE_BROWSER"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM_ARGUMENTS = [
    "--headless",
    "--no-sandbox",  # Chromium refuses to run as root with it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NO_CHROMIUM = (
    "browser tests need Chromium or Chrome on the PATH: install it (Debian and Ubuntu: "
    "apt install chromium; macOS: brew install --cask chromium), or name it in CHROMIUM=/path/to/it"
)
TRACEBACK = "Traceback (most recent call last)"
# Bokeh's own race: a page that is left just as the server pings it has lost its session by the time
# that its last message, or its end, is handled (BokehTornado._keep_alive).
LEFT_AT_A_PING = re.compile(
    r'bokeh/server/connection\.py", line \d+, in session\n'
    r"\s+assert self\._session is not None\n(\s+\^+\n)?AssertionError\n"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark browser tests; files with slow tests come first, so that two processes end together.

    In a file browser tests run last: while Playwright's event loop runs in this thread, a test that
    runs a loop of its own would fail.
    """
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
    slow = {item.path for item in items if any(map(item.get_closest_marker, ("browser", "slow")))}
    browser = {item: item.get_closest_marker("browser") is not None for item in items}
    items.sort(key=lambda item: (item.path not in slow, str(item.path), browser[item]))


@pytest.fixture(autouse=True)
def _one_torch_thread_and_no_panel_server_left() -> Iterator[None]:
    yield
    torch.set_num_threads(1)
    if "panel" in sys.modules:
        # A server that a test started in this process has a thread that would keep pytest alive.
        sys.modules["panel"].state.reset()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of an installed Chromium; skip without one, or fail where CI requires it."""
    named = os.environ.get("CHROMIUM", "")
    found = next(filter(None, map(shutil.which, (named, *CHROMIUM_NAMES))), None)
    if found:
        return found
    if os.environ.get(REQUIRE_BROWSER) == "1":
        pytest.fail(f"{REQUIRE_BROWSER}=1, but {NO_CHROMIUM}", pytrace=False)
    pytest.skip(NO_CHROMIUM)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator["Browser"]:
    """One headless browser for the tests of a file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class LabServer:
    """The dashboard, running in a process of its own."""

    process: subprocess.Popen
    log_file: Path
    recordings: Path  # where it looks for recordings: none, if no test puts one there
    sweeps: Path  # the folder of its stores
    url: str = ""
    read_up_to: int = 0

    @property
    def log(self) -> str:
        """Everything that the server has printed."""
        return self.log_file.read_text(errors="replace")

    def new_log(self) -> str:
        """What it printed since last asked; a test that provokes a traceback asks for it."""
        log = self.log
        new, self.read_up_to = log[self.read_up_to :], len(log)
        return new

    def wait_until_it_serves(self, seconds: float = 90.0) -> None:
        """Read the address from the log: port 0 lets the system choose a free one."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            if address := re.search(r"running at: (http://\S+)", self.log):
                self.url = address[1]
                return
            time.sleep(0.05)
        pytest.fail(f"the dashboard did not start; it printed:\n{self.log}", pytrace=False)


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """Start the dashboard as `make lab` does, on a free port; `.url` is its address."""
    folder = tmp_path_factory.mktemp("lab")
    log_file = folder / "server.log"
    recordings = folder / "recordings"
    sweeps = folder / "sweeps"
    recordings.mkdir()
    sweeps.mkdir()
    environment = os.environ | {
        "ANDERSON_LAB_SWEEPS": str(sweeps),
        "ANDERSON_LAB_TRAININGS": str(folder / "trainings"),
        "ANDERSON_LAB_RECORDINGS": str(recordings),
    }
    command = [sys.executable, "-m", "panel", "serve", "lab/app.py"]
    command += ["--address", "127.0.0.1", "--port", "0"]
    with log_file.open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    server = LabServer(process, log_file, recordings, sweeps)
    try:
        server.wait_until_it_serves()
        yield server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    # What was printed after the last test that used the server, e.g. when sessions ended.
    assert tracebacks(server.new_log()) == [], server.log


def tracebacks(log: str) -> list[str]:
    """All but those of a page that was left at a ping."""
    found = log.split(TRACEBACK)[1:]
    return [each for each in found if not LEFT_AT_A_PING.search(each)]


@pytest.fixture(autouse=True)
def _no_traceback_in_the_server_log(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "lab_server" in request.fixturenames:
        new = request.getfixturevalue("lab_server").new_log()
        if tracebacks(new):
            pytest.fail(f"the dashboard's server printed a traceback:\n{new}", pytrace=False)


@dataclass
class PageProblems:
    """What went wrong in a page; a test that expects some of it takes it out of these lists."""

    console: list[str] = field(default_factory=list)
    exceptions: list[str] = field(default_factory=list)
    foreign_requests: list[str] = field(default_factory=list)

    def watch(self, page: "Page") -> None:
        """Listen from before the first navigation."""

        def on_console(message: "ConsoleMessage") -> None:
            if message.type == "error":
                self.console.append(f"{message.text} ({message.location.get('url', '')})")

        def on_request(url: str) -> None:
            address = urlsplit(url)
            if address.scheme in ("http", "https", "ws", "wss") and (
                address.hostname not in ("127.0.0.1", "localhost")
            ):
                self.foreign_requests.append(url)

        page.on("console", on_console)
        page.on("pageerror", lambda error: self.exceptions.append(str(error)))
        page.on("request", lambda request: on_request(request.url))
        page.on("websocket", lambda websocket: on_request(websocket.url))

    def __str__(self) -> str:
        rows = [("console error", row) for row in self.console]
        rows += [("uncaught exception", row) for row in self.exceptions]
        rows += [("request to a foreign host", row) for row in self.foreign_requests]
        return "\n".join(f"{kind}: {row}" for kind, row in rows)


@pytest.fixture
def page_problems() -> PageProblems:
    """The problems that `page` collects, for tests that expect one or that open further pages."""
    return PageProblems()


@pytest.fixture
def page(browser: "Browser", page_problems: PageProblems) -> Iterator["Page"]:
    """A fresh page of 1280 x 900; problems in it fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page_problems.watch(page)
    yield page
    context.close()
    if found := str(page_problems):
        pytest.fail(f"the page had problems:\n{found}", pytrace=False)


@pytest.fixture
def document() -> "Document":
    """A document of its own, and a cache that knows no results."""
    from lab_cases import Document

    from lab.runner import RESULTS

    RESULTS.clear()
    return Document()


@pytest.fixture
def lab(document: "Document") -> Iterator["Runner"]:
    """A runner that publishes to `document`."""
    from lab.runner import Runner

    made = Runner(document.publish, document.add_next_tick_callback)
    yield made
    made.close()


@pytest.fixture(scope="session")
def dask_cluster():
    """The address of a Dask scheduler with two worker processes."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", scheduler_port=0
    ) as cluster:
        yield cluster.scheduler_address
